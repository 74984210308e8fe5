"""Measures the effect of an L1 penalty on `h` on a nano model: activation ratio against loss, for three seeds.

    OMP_NUM_THREADS=1 python benchmarks/l1_training.py

The preset `nano-0.3M` with ReLU is trained on the standard library for 0.6M tokens, without a penalty and with two
final factors of the progressive schedule (ProSparse, arXiv 2402.13516); nothing else differs. Each model is then
measured on held-out documents: its dense loss, its exact zeros, and PPL-1%. Finished runs stay in a cache, so an
interrupted benchmark resumes. Writes a JSON file and a figure into `results/`.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import CACHE, ROOT, save

from sparsing.base.progress import Progress
from sparsing.measuring._measure import measure
from sparsing.measuring.subject import Subject
from sparsing.models.loading import LoadedModel, load_model
from sparsing.text.corpus import Corpus, load_corpus
from sparsing.text.standard_library import library_documents
from sparsing.training.config_file import read_train_config
from sparsing.training.tokenizer import train_tokenizer
from sparsing.training.tracking import find_checkpoints
from sparsing.training.trainer import train

PRESET = "nano-0.3M"
TOKENS = 614_400
STEPS = TOKENS // 2048
STAGES = (STEPS // 10, STEPS * 6 // 10)
"""The penalty starts with a tenth of its factor, rises to the whole factor until 60% of the steps, then stays."""
FACTORS = (0.0, 1.0, 3.0)
SEEDS = (1, 2, 3)
WINDOW, WINDOWS = 256, 64
"""Tokens per held-out window, and number of windows, spread evenly over the documents: 16,384 tokens in all."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--factors", nargs="+", type=float, default=FACTORS, help="default: %(default)s")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS, help="default: %(default)s")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    runs = [_run(factor, seed) for seed, factor in itertools.product(args.seeds, args.factors)]
    summary = [_summary([run for run in runs if run["factor"] == factor]) for factor in args.factors]
    setting = {"preset": PRESET, "hidden_act": "relu", "tokens": TOKENS, "l1_steps": STAGES}
    path = save("l1_training", {**setting, "summary": summary, "runs": runs})
    _draw(runs, path)
    return 0


def _run(factor: float, seed: int) -> dict[str, Any]:
    """Train and measure one model."""
    folder = CACHE / "l1" / f"{PRESET}-{TOKENS}-factor{factor:g}-seed{seed}"
    overrides: dict[str, Any] = {
        "model.hidden_act": "relu",
        "data.heldout_tokens": 0,
        "tokenizer.path": str(_tokenizer()),
        "training.tokens": TOKENS,
        "training.seed": seed,
        "checkpoints.at": [TOKENS],
        "checkpoints.resume_every": TOKENS // 4,
    }
    if factor:
        overrides |= {"sparser.l1_factors": [factor / 10, factor], "sparser.l1_steps": list(STAGES)}
    began = time.process_time()
    train(read_train_config(preset=PRESET, overrides=overrides), folder, progress=Progress(False))
    loaded = load_model(find_checkpoints(folder)[-1], dtype="float32", device="cpu")
    subject = Subject(loaded, _heldout(loaded))
    zero, ppl = measure(subject, "fat", level=0.0), measure(subject, "cett", ppl_ratio=1.01)
    result = {
        "factor": factor,
        "seed": seed,
        "heldout_loss": float(np.log(ppl.ppl_dense)),
        "nonzero_ratio": zero.activation_ratio,
        "ppl1_activation_ratio": ppl.activation_ratio,
        "ppl1_interval": ppl.activation_ratio_interval,
        "layer_activation_ratio": ppl.layer_activation_ratio,
        "dead_neuron_ratio": sum(zero.dead_neuron_ratio) / len(zero.dead_neuron_ratio),
        "cpu_sec": round(time.process_time() - began, 1),
    }
    print(result, flush=True)
    return result


def _tokenizer() -> Path:
    """Folder of the tokenizer of all runs."""
    folder = CACHE / "l1" / "tokenizer"
    if not (folder / "tokenizer_config.json").exists():
        train_tokenizer(library_documents("train"), 1024, WINDOW, sample_chars=4_000_000).save_pretrained(
            folder
        )
    return folder


def _heldout(loaded: LoadedModel) -> Corpus:
    corpus = load_corpus(
        library_documents("heldout"), loaded.tokenizer, window=WINDOW, name="builtin, held out"
    )
    return corpus.part(np.linspace(0, corpus.n_windows - 2, WINDOWS).round().astype(int))


def _summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean over the seeds, and the standard deviation between them."""
    names = ("heldout_loss", "nonzero_ratio", "ppl1_activation_ratio", "dead_neuron_ratio")
    columns = {name: [run[name] for run in runs] for name in names}
    means = {name: statistics.mean(values) for name, values in columns.items()}
    spread = {
        f"{name}_sd": statistics.stdev(values) if len(values) > 1 else None
        for name, values in columns.items()
    }
    return {"factor": runs[0]["factor"], **means, **spread}


def _draw(runs: list[dict[str, Any]], path: Path) -> None:
    """Draw the held-out loss against both ratios: one point per run, and a line through the means."""
    from sparsing.report.style import MARKERS, PALETTE, new_figure, save_image, styled

    with styled():
        figure = new_figure(
            3.3, "L1 on h: activation ratio against held-out loss", f"{PRESET}, ReLU, {path.stem}"
        )
        panels = figure.subplots(1, 2, sharey=True)
        names = {
            "nonzero_ratio": "share of non-zero gates",
            "ppl1_activation_ratio": "activation ratio at PPL-1%",
        }
        factors = sorted({run["factor"] for run in runs})
        for axes, (name, label) in zip(panels, names.items(), strict=True):
            groups = [[run for run in runs if run["factor"] == factor] for factor in factors]
            means = [(_mean(group, name), _mean(group, "heldout_loss")) for group in groups]
            axes.plot(*zip(*means, strict=True), color="#666666", linewidth=0.8, zorder=1)
            for index, (factor, group) in enumerate(zip(factors, groups, strict=True)):
                look = {"color": PALETTE[index], "marker": MARKERS[index], "linestyle": ""}
                points = [run[name] for run in group], [run["heldout_loss"] for run in group]
                axes.plot(*points, label=f"factor {factor:g}" if factor else "without", **look)
            axes.set_xlabel(label)
        panels[0].set_ylabel("held-out loss, nats per token")
        panels[1].legend()
        save_image(figure, ROOT / "results" / f"{path.stem}.png")


def _mean(runs: list[dict[str, Any]], name: str) -> float:
    return statistics.mean(run[name] for run in runs)


if __name__ == "__main__":
    sys.exit(main())
