"""Checks muP: does the best learning rate stay the same when the width grows? Compares the standard parametrization.

    python benchmarks/mup.py

Trains two-layer models of three widths for a few steps at a series of learning rates. A coordinate check also records
the mean absolute output of each part over the first steps. Finished runs stay in the cache, so the command resumes. It
takes a few minutes on a free core.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import numpy as np
import torch
from _common import CACHE, ROOT, save
from matplotlib.figure import Figure
from transformers import TrainerCallback

from sparsing.report.style import MARKERS, PALETTE, new_figure, plain_numbers, save_image, styled
from sparsing.training.config import TrainConfig
from sparsing.training.config_file import read_train_config
from sparsing.training.trainer import train

WIDTHS = (64, 128, 256)
LADDER = tuple(0.00125 * 2**i for i in range(8))
SEEDS = (1, 2)
STEPS = 200
COORDINATE_WIDTHS = (64, 128, 256, 512)
COORDINATE_STEPS = 4
KINDS = {"mup": ("muP", 0.1), "standard": ("standard parametrization", 0.02)}
"""Name of the parametrization to its title and initial standard deviation; 0.02 is the usual value."""


def make_config(kind: str, width: int, lr: float, seed: int, steps: int) -> TrainConfig:
    """A run of a two-layer model of this width, with heads of size 32 and 1,024 tokens per step."""
    shape = {"d_model": width, "n_layers": 2, "n_heads": width // 32, "vocab_size": 1024, "context": 128}
    model = {**shape, "parametrization": kind, "init_std": KINDS[kind][1], "dim_model_base": 64}
    training = {
        "lr": lr,
        "seed": seed,
        "tokens": steps * 1024,
        "batch_tokens": 1024,
        "warmup": 0.1,
        "decay": 0.2,
    }
    rest = {"training.precision": "bfloat16", "data.heldout_tokens": 32768, "checkpoints.at": [steps * 1024]}
    tables = {"model": model, "training": training}
    return read_train_config(
        overrides={f"{table}.{key}": v for table, keys in tables.items() for key, v in keys.items()} | rest
    )


def run(name: str, config: TrainConfig, callbacks: tuple[TrainerCallback, ...] = ()) -> list[dict[str, Any]]:
    """Train in the cache. All runs share the tokenizer and the token files of the first run."""
    folder = CACHE / "mup" / name
    shared = CACHE / "mup" / "text"
    for part in ("tokenizer", "tokens.bin", "tokens.json", "heldout.bin", "heldout.json"):
        if (shared / part).exists() and not (folder / part).exists():
            folder.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if (shared / part).is_dir() else shutil.copy)(shared / part, folder / part)
    curve = train(config, folder, callbacks=callbacks)
    for path in [*folder.glob("tokens.*"), *folder.glob("heldout.*"), folder / "tokenizer"]:
        if not (shared / path.name).exists():
            shared.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if path.is_dir() else shutil.copy)(path, shared / path.name)
    return curve


def final_loss(kind: str, width: int, lr: float) -> float:
    """Held-out loss at the end of the run, mean over seeds; infinite if training diverged."""
    losses = []
    for seed in SEEDS:
        curve = run(f"{kind}-{width}-{lr:g}-{seed}", make_config(kind, width, lr, seed, STEPS))
        losses.append([line["heldout_loss"] for line in curve if "heldout_loss" in line][-1])
    mean = float(np.mean(losses))
    print(f"{kind} {width} lr {lr:g}: {mean:.4f}", flush=True)
    return mean if np.isfinite(mean) else float("inf")


def best_rate(losses: list[float]) -> float:
    """The learning rate at the minimum of the parabola through the best three rates, in log2 of the rate."""
    at = int(np.clip(np.argmin(losses), 1, len(losses) - 2))
    left, middle, right = losses[at - 1 : at + 2]
    bend = left - 2 * middle + right
    shift = 0.5 * (left - right) / bend if np.isfinite(bend) and bend > 0 else 0.0
    return LADDER[at] * 2 ** float(np.clip(shift, -1, 1))


class SizeRecorder(TrainerCallback):
    """Records the mean absolute output of each part in the forward pass of each of the first steps."""

    def __init__(self) -> None:
        self.sizes: list[dict[str, float]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        core = model.model
        parts = {
            f"{part} {i}": layer.get_submodule(part)
            for i, layer in enumerate(core.layers)
            for part in ("self_attn", "mlp")
        }
        for name, module in {
            "embedding": core.embed_tokens,
            **parts,
            "last norm": core.norm,
            "logits": model.lm_head,
        }.items():
            # the model divides the output of the head by `logits_scaling`
            over = model.config.logits_scaling if name == "logits" else 1.0
            module.register_forward_hook(self._keep(name, over))

    def _keep(self, name: str, over: float) -> Any:
        def hook(module: Any, args: Any, output: Any) -> None:
            if torch.is_grad_enabled():
                value = output[0] if isinstance(output, tuple) else output
                self.sizes[-1][name] = float(value.detach().float().abs().mean()) / over

        return hook

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.sizes.append({})


def coordinates(kind: str, width: int) -> list[dict[str, float]]:
    """Mean absolute outputs by part, one dictionary per step."""
    recorder = SizeRecorder()
    name = f"coordinates-{kind}-{width}"
    config = make_config(kind, width, 0.01, 1, COORDINATE_STEPS)
    shutil.rmtree(CACHE / "mup" / name, ignore_errors=True)
    run(name, config, (recorder,))
    return recorder.sizes


@styled()
def rates_figure(losses: dict[str, dict[int, list[float]]], best: dict[str, dict[int, float]]) -> Figure:
    """Loss against the learning rate, one line per width; a dotted line marks the best rate of the width."""
    figure = new_figure(
        3.4, "Held-out loss against the peak learning rate", "dotted: the best rate of each width"
    )
    panels = figure.subplots(1, 2, sharey=True)
    low = min(min(values) for widths in losses.values() for values in widths.values())
    for axes, kind in zip(panels, losses, strict=True):
        for (width, values), colour, marker in zip(losses[kind].items(), PALETTE, MARKERS, strict=False):
            axes.plot(LADDER, values, marker=marker, color=colour, label=f"width {width}")
            axes.axvline(best[kind][width], color=colour, linestyle=":", linewidth=1)
        axes.set_xscale("log", base=2)
        axes.set_xticks(LADDER, [f"{lr:g}" for lr in LADDER])
        axes.tick_params(axis="x", rotation=45)
        axes.set(title=KINDS[kind][0], xlabel="learning rate", ylim=(low - 0.1, low + 2))
    panels[0].set_ylabel("nats per token")
    panels[0].legend()
    return figure


@styled()
def coordinates_figure(sizes: dict[str, dict[int, list[dict[str, float]]]]) -> Figure:
    """Mean absolute output of each part at the first and at the last step, against the width."""
    title = "Coordinate check: mean size of what each part puts out"
    figure = new_figure(
        4.6,
        title,
        f"first forward pass (open) and the one after {COORDINATE_STEPS - 1} steps (full), rate 0.01",
    )
    panels = figure.subplots(2, 3, sharex=True, sharey="col")
    shown = ("mlp 0", "mlp 1", "logits")
    for row, kind in zip(panels, sizes, strict=True):
        for axes, part in zip(row, shown, strict=True):
            for step, fill, colour in ((0, "none", PALETTE[0]), (-1, "full", PALETTE[1])):
                values = [steps[step][part] for steps in sizes[kind].values()]
                axes.plot(list(sizes[kind]), values, marker="o", fillstyle=fill, color=colour)
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            plain_numbers(axes.xaxis)
            plain_numbers(axes.yaxis)
            axes.set_xticks(COORDINATE_WIDTHS)
            axes.set_title(f"{kind}: {part}")
    for axes in panels[1]:
        axes.set_xlabel("width")
    return figure


def growth(sizes: dict[int, list[dict[str, float]]]) -> dict[str, float]:
    """Slope of the log of the mean absolute output against log width, by part; 0 means that the width has no effect."""
    parts = sizes[COORDINATE_WIDTHS[0]][-1]
    logs = np.log(list(sizes))
    return {p: float(np.polyfit(logs, [np.log(s[-1][p]) for s in sizes.values()], 1)[0]) for p in parts}


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    torch.set_num_threads(1)
    losses: dict[str, dict[int, list[float]]] = {kind: {} for kind in KINDS}
    for kind, width in itertools.product(KINDS, WIDTHS):
        losses[kind][width] = [final_loss(kind, width, lr) for lr in LADDER]
    best = {
        kind: {width: best_rate(values) for width, values in widths.items()}
        for kind, widths in losses.items()
    }
    sizes = {kind: {width: coordinates(kind, width) for width in COORDINATE_WIDTHS} for kind in KINDS}
    result = {
        "steps": STEPS,
        "tokens_per_step": 1024,
        "seeds": SEEDS,
        "learning_rates": LADDER,
        "heldout_loss": losses,
        "best_learning_rate": best,
        "best_rate_moves_by": {
            kind: max(b[width] for width in WIDTHS) / min(b[width] for width in WIDTHS)
            for kind, b in best.items()
        },
        "size_against_width": {kind: growth(by_width) for kind, by_width in sizes.items()},
        "coordinates": sizes,
    }
    path: Path = save("mup", result)
    save_image(rates_figure(losses, best), path.with_suffix(".png"))
    save_image(
        coordinates_figure(sizes), path.with_name(path.stem.replace("mup", "mup-coordinates") + ".png")
    )
    print(f"pictures beside it in {ROOT.name}/results")


if __name__ == "__main__":
    main()
