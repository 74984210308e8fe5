"""Measures what a predictor reads and what it costs in perplexity, by kind, bits and recall, at PPL-1%.

    python benchmarks/predictors.py
    python benchmarks/predictors.py --model CHECKPOINT --text FILE   # prints only, saves no result

Thresholds and predictors are calibrated on the first half of the text and evaluated on the second half. The bytes
ratio is the bytes of the predictor's copy and of the predicted neurons, over the bytes of all neurons.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from _common import save, text_file

from sparsing.decode.predict.effect import predictor_effect
from sparsing.decode.predict.predictor import PredictorKind, calibrate_predictor
from sparsing.demo import DEMO_ACTIVATIONS, checkpoints
from sparsing.measuring.subject import Subject
from sparsing.models.loading import LoadedModel, load_model
from sparsing.rules import make_rule
from sparsing.text.corpus import load_corpus, split_holdout

RECALLS = (0.99, 0.995, 0.998, 0.999)
KINDS: tuple[tuple[PredictorKind, int], ...] = (("quantised", 4), ("quantised", 8), ("low_rank", 16))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="checkpoint folder or name on the hub (default: the built-in models)")
    parser.add_argument("--text", help="text file (default: text of the standard library)")
    args = parser.parse_args()
    text = args.text or str(text_file(300_000))
    models = [args.model] if args.model else [str(checkpoints(act)[-1]) for act in DEMO_ACTIVATIONS]
    rows = [row for model in models for row in _rows(load_model(model, dtype="float32", device="cpu"), text)]
    if not args.model:
        save("predictors", {"what": (__doc__ or "").splitlines()[0], "rows": rows})


def _rows(loaded: LoadedModel, text: str) -> list[dict[str, Any]]:
    """One row per kind of predictor, width and recall."""
    window = min(256, loaded.model.config.max_position_embeddings)
    corpus = load_corpus(text, loaded.tokenizer, window=window, max_tokens=40_000)
    corpus, heldout = split_holdout(corpus, 0.5)
    assert heldout is not None, "the text is long enough to be split"
    subject = Subject(loaded, corpus, scores=["neuron_norm"])
    rule = make_rule("cett")
    thresholds = subject.thresholds(rule, subject.search(rule, 1.01).level, 1.01)
    rows = []
    for kind, bits in KINDS:
        for recall in RECALLS:
            began = time.perf_counter()
            predictor = calibrate_predictor(
                loaded, corpus, thresholds, kind=kind, bits=4 if kind == "low_rank" else bits, recall=recall
            )
            seconds = time.perf_counter() - began
            row = {
                "model": "/".join(loaded.name.split("/")[-2:]),
                "act": loaded.model.config.hidden_act,
                "kind": kind,
                "bits": bits,
                "recall_wanted": recall,
                "recall": predictor.mean_recall,
                "activation_ratio": sum(r.activation_ratio for r in predictor.reports)
                / len(predictor.reports),
                "predicted_ratio": predictor.mean_predicted_ratio,
                "bytes_ratio": predictor.mean_bytes_ratio,
                "fit_sec": seconds,
            }
            effect = predictor_effect(loaded, heldout, predictor)
            row |= {
                "ppl_change": effect.ppl_change,
                "ppl_change_interval": effect.ppl_change_interval,
                "num_tokens": effect.num_tokens,
            }
            rows.append(row)
            print(
                f"{row['act']} {kind} {bits} {recall}: recall {predictor.mean_recall:.4f}, predicted"
                f" {predictor.mean_predicted_ratio:.3f}, bytes {predictor.mean_bytes_ratio:.3f},"
                f" ppl {effect.ppl_change:+.3%} {effect.ppl_change_interval}",
                flush=True,
            )
    return rows


if __name__ == "__main__":
    main()
