"""Write the study's page from the cells that are there: `README.md` and its pictures, no number typed by hand.

python studies/nano/report.py
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import figures
from cells import CELLS, EARLY, HERE, LATE, SCALES, SEEDED, SHAPES, TOKENS, WINDOW, WINDOWS, CellResult
from findings import ACTS, LAST, LEVEL, WARM, Finding, find, last_loss, last_ratio, load_cells, seed_spread

from sparsing.base.results import write_text
from sparsing.models.paper_shapes import PRESETS
from sparsing.report.style import save_image
from sparsing.training.config import TrainConfig
from sparsing.training.config_file import read_train_config

PICTURES = {
    "along_training": "Activation ratio along training",
    "against_loss": "Activation ratio against held-out loss",
    "width_against_depth": "Width against depth",
    "against_scale": "Ratio at the end by scale",
    "losses": "Training loss",
}

LOSSES = 10
"""Points of the training curve that a mean at its end is over."""


def main() -> None:
    os.chdir(Path(__file__).resolve().parents[2])
    cells = load_cells()
    if not cells:
        raise SystemExit("no cell is finished; run `python studies/nano/run.py` first")
    for name in PICTURES:
        path = HERE / f"{name}.png"
        if name in drawn(cells):
            save_image(getattr(figures, name)(list(cells.values())), path)
        else:
            path.unlink(missing_ok=True)
    write_text(HERE / "README.md", page(cells))
    print(f"written: {HERE / 'README.md'} from {len(cells)} of {len(CELLS)} cells")


def drawn(cells: dict[str, CellResult]) -> list[str]:
    """Pictures for which there are cells: one that compares needs two to compare."""
    there = {cell.preset for cell in cells.values()}
    compared = {"width_against_depth": SHAPES, "against_scale": SCALES}
    return [name for name in PICTURES if name not in compared or len(there & set(compared[name])) > 1]


def page(cells: dict[str, CellResult]) -> str:
    """The whole page."""
    found = find(cells)
    missing = [cell.name for cell in CELLS if cell.name not in cells]
    return (
        "\n\n".join(
            [
                "# The miniature study",
                _lead(cells, missing),
                "## The four findings",
                _summary(found),
                *(_section(finding) for finding in found),
                "## Cells",
                _table(list(cells.values())),
                _seeds(cells),
                "## Pictures",
                "\n\n".join(f"![{PICTURES[name]}]({name}.png)" for name in drawn(cells)),
                "## How it was made",
                _method(cells),
            ]
        )
        + "\n"
    )


def _lead(cells: dict[str, CellResult], missing: list[str]) -> str:
    there = (
        "All cells are finished."
        if not missing
        else f"{len(missing)} cells are missing, and the answers are those of the rest: {', '.join(missing)}."
    )
    sizes = sorted({round(cell.num_parameters / 1e6, 2) for cell in cells.values()})
    span = " to ".join(f"{size:.2f}M" for size in dict.fromkeys((sizes[0], sizes[-1])))
    return (
        f"The study of *Sparsing Law* in models of {span} parameters, trained on"
        f" {TOKENS:,} tokens of Python's standard library each. The paper's smallest model has"
        f" {PRESETS['0.1B'].parameters / 1e6:.0f}M: what shows up here supports the paper, what does not may be the"
        f" scale. {len(cells)} of {len(CELLS)} cells are finished. {there}\n\n"
        "This page is written by `python studies/nano/report.py` from `results/*.json`."
    )


def _summary(found: Sequence[Finding]) -> str:
    rows = [f"| {finding.title} | **{finding.answer}** |" for finding in found]
    return "\n".join(["| finding | at nano scale |", "|---|---|", *rows])


def _section(finding: Finding) -> str:
    lines = "\n".join(f"- {line}" for line in finding.lines) or "- no cell yet"
    waiting = f"\n\nStill to come: {', '.join(finding.waiting)}." if finding.waiting else ""
    return f"### {finding.title}: {finding.answer}\n\n{finding.claim}\n\n*Rule.* {finding.rule}\n\n{lines}{waiting}"


def _table(cells: Sequence[CellResult]) -> str:
    head = "| cell | shape | parameters | CETT | ratio at the end | held-out loss | training loss | minutes |"
    rows = [
        f"| {c.name} | {c.d_model}x{c.n_layers} | {c.num_parameters:,} | {c.track.level:.3g} |"
        f" {last_ratio(c):.2%} | {last_loss(c):.3f} | {sum(c.loss[-LOSSES:]) / LOSSES:.3f} |"
        f" {(c.train_sec + c.track_sec) / 60:.0f} |"
        for c in cells
    ]
    note = (
        f"Ratio and held-out loss: mean of the last {LAST} points; training loss: of the last {LOSSES} points of its"
        " curve. Minutes: of the session that ended the cell, on a"
        " machine that had other work."
    )
    return "\n".join([head, "|---|---|---|---|---|---|---|---|", *rows]) + f"\n\n{note}"


def _seeds(cells: dict[str, CellResult]) -> str:
    lines = []
    for act, name in ACTS.items():
        seeds = [c for c in cells.values() if (c.preset, c.hidden_act) == (SEEDED, act)]
        ratios = ", ".join(f"{last_ratio(c):.2%} (seed {c.seed})" for c in seeds)
        if len(seeds) > 1:
            lines.append(f"{SEEDED}, {name}: {ratios}.")
    spread = seed_spread(cells)
    known = "" if math.isnan(spread) else f" Standard deviation, ReLU: {100 * spread:.2f} points."
    return "Seeds at one point: " + " ".join(lines) + known if lines else "No seed is repeated yet."


def _method(cells: dict[str, CellResult]) -> str:
    provenance = next(iter(cells.values())).track.provenance
    config = read_train_config(preset=CELLS[0].preset, overrides=CELLS[0].overrides())
    versions = ", ".join(f"{name} {version}" for name, version in provenance.versions.items())
    return f"""```
python studies/nano/run.py --jobs 2   # or `make study`: goes on where it was cut off
python studies/nano/report.py
```

- Shapes: {len(SCALES)} scales at a width-depth ratio of {config.model.d_model / config.model.n_layers:g}
  ({", ".join(SCALES)}), ReLU and SiLU; {len(SHAPES)} shapes of one size, ReLU
  ({", ".join(SHAPES)}); {SEEDED} with three seeds (`sparsing train --list-presets`).
- Training: {_training(config)}
- Text: `sparsing.text.standard_library`, about one document in twenty held out by a digest of its name.
- Measuring: {len(EARLY) + len(LATE)} checkpoints per run on {WINDOWS} held-out windows ({WINDOWS * WINDOW:,} tokens,
  the same for all) in float32; one CETT per run, found on its last {LAST} checkpoints jointly at PPL-1%, used for all
  (`sparsing track`). Intervals of single points are over windows, 95%.
- Fits: `sparsing.laws`, {LEVEL:.0%} profile-likelihood intervals with correlated neighbours; points from {WARM:,}
  tokens on.
- Versions: {versions}; {provenance.platform}."""


def _training(config: TrainConfig) -> str:
    """What all cells have in common."""
    model, training = config.model, config.training
    return (
        f"{'muP' if model.parametrization == 'mup' else model.parametrization} with `dim_model_base`"
        f" {model.dim_model_base}, peak rate {training.lr:g}, {training.tokens:,} tokens in steps of"
        f" {training.batch_tokens:,}, windows of {model.context}, AdamW {training.beta1:g}/{training.beta2:g}, weight"
        f" decay {training.weight_decay:g}, clip {training.clip:g}; the rate warms up over {training.warmup:.0%} of the"
        f" steps and then stays (decay {training.decay:.0%}), so all points after that lie in the stable phase of"
        f" WSD. Matrix products in {training.precision}, weights in float32. One tokenizer of {model.vocab_size:,}"
        " entries."
    )


if __name__ == "__main__":
    main()
