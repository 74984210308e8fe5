"""Compares the perplexity of a GGUF file between Hugging Face, llama.cpp and the package's own engine.

    python benchmarks/gguf_quality.py model.gguf --text wikitext2_test.txt --tokens 4096
    python benchmarks/gguf_quality.py model.gguf --text book.txt --thresholds thresholds.json

Every engine computes the loss of the same tokens in the same windows, one token at a time. Hugging Face runs the
dequantised weights in float32, so the difference to it is the error of the other engines' arithmetic. With thresholds,
the masked Hugging Face model is the reference of the sparse engine. Intervals are two standard errors of the mean
difference of the losses, token by token.
"""

from __future__ import annotations

import argparse
import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from _common import save

from sparsing.decode.engine import GgufEngine, open_engine
from sparsing.decode.engine.rule import sparse_rule
from sparsing.decode.engine.vocabulary import Vocabulary
from sparsing.models.loading import load_model
from sparsing.rules.mask import sparsify
from sparsing.rules.thresholds import read_thresholds

if TYPE_CHECKING:
    from sparsing.rules.thresholds import Thresholds

    Logits = Callable[[Sequence[int]], np.ndarray[Any, Any]]
    """Logits after every token of a window, shape `(tokens, vocab_size)`."""

HF, MASKED, LLAMA_CPP = "Hugging Face", "Hugging Face, masked", "llama.cpp"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="GGUF file")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--thresholds", type=Path)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--reference", type=Path, help="checkpoint in place of the dequantised file")
    args = parser.parse_args()
    with Vocabulary(args.model) as vocabulary:
        ids = vocabulary.encode(args.text.read_text("utf-8")[: 12 * args.tokens])[: args.tokens]
    windows = [ids[n : n + args.window] for n in range(0, len(ids) - args.window + 1, args.window)]
    thresholds = read_thresholds(args.thresholds) if args.thresholds else None
    found, rows = {}, {}
    for name, logits in engines(args.model, args.reference or args.model, args.window, thresholds):
        found[name] = np.concatenate([losses(logits(window), window) for window in windows])
        rows[name] = row(found, name)
        print(name, rows[name], flush=True)
    settings = {"file": args.model.name, "tokens": len(windows) * args.window, "window": args.window}
    save("gguf_quality", settings | {"rows": rows}, args.model.stem)


def row(found: dict[str, np.ndarray[Any, Any]], name: str) -> dict[str, Any]:
    """Perplexity, and by how much it is above that of the reference, in percent."""
    reference = MASKED if "sparse" in name else HF
    difference = found[name] - found[reference]
    error = 200 * float(difference.std()) / math.sqrt(difference.size)
    return {
        "ppl": math.exp(float(found[name].mean())),
        "reference": reference,
        "above_percent": 100 * math.expm1(float(difference.mean())),
        "interval_percent": error,
    }


def engines(
    path: Path, reference: Path, context: int, thresholds: Thresholds | None
) -> Iterator[tuple[str, Logits]]:
    """Every engine in turn, loaded one after the other."""
    sparse = False
    for name, logits in hugging_face(reference, thresholds):
        sparse = sparse or name == MASKED
        yield name, logits
    with llama_cpp(path, context) as logits:
        yield LLAMA_CPP, logits
    for parts, name in ((False, "own engine"), (True, "own engine, inputs in two parts")):
        with open_engine(path, context=context, two_part_inputs=parts) as engine:
            yield name, own(engine)
            if sparse:
                engine.rule = sparse_rule(engine.arch, engine.weights, thresholds)
                yield f"{name}, sparse", own(engine)


def hugging_face(path: Path, thresholds: Thresholds | None) -> Iterator[tuple[str, Logits]]:
    """The dense model, and the masked one if there are thresholds or the activation has exact zeros."""
    loaded = load_model(path, dtype="float32", device="cpu")

    def logits(ids: Sequence[int]) -> np.ndarray[Any, Any]:
        with torch.inference_mode():
            return loaded.model(torch.tensor([list(ids)])).logits[0].numpy()

    yield HF, logits
    if thresholds is not None:
        with sparsify(loaded.model, thresholds):
            yield MASKED, logits
    elif loaded.model.config.hidden_act == "relu":
        yield MASKED, logits  # skipping exact zeros changes nothing


def own(engine: GgufEngine) -> Logits:
    """The logits of the package's own engine."""

    def logits(ids: Sequence[int]) -> np.ndarray[Any, Any]:
        engine.rewind()
        return engine.read(ids, all_logits=True)

    return logits


@contextlib.contextmanager
def llama_cpp(path: Path, context: int) -> Iterator[Logits]:
    """The logits of llama.cpp, token by token."""
    from llama_cpp import Llama  # pyright: ignore[reportMissingImports] - optional extra `bench`

    threads = torch.get_num_threads()
    model = Llama(str(path), n_ctx=context, n_threads=threads, n_threads_batch=threads, verbose=False)

    def logits(ids: Sequence[int]) -> np.ndarray[Any, Any]:
        model.reset()
        rows = []
        for token in ids:
            model.eval([token])
            rows.append(np.ctypeslib.as_array(model._ctx.get_logits(), (model.n_vocab(),)).copy())
        return np.stack(rows)

    with contextlib.closing(model):
        yield logits


def losses(logits: np.ndarray[Any, Any], ids: Sequence[int]) -> np.ndarray[Any, Any]:
    """Loss of each token but the first, float64."""
    rows = torch.from_numpy(logits[:-1]).double()
    return torch.nn.functional.cross_entropy(rows, torch.tensor(list(ids[1:])), reduction="none").numpy()


if __name__ == "__main__":
    main()
