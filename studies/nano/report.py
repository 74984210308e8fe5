"""Write the study's page, `README.md` with its figures, from the finished cells.

    python studies/nano/report.py

Every number on the page is computed here from `results/*.json`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import figures
from cells import CELLS, EARLY, HERE, LATE, SCALES, SEEDED, SHAPES, TOKENS, WINDOW, WINDOWS, CellResult
from findings import (
    ACTS,
    LAST,
    LEVEL,
    WARM,
    Finding,
    evaluate_findings,
    last_loss,
    last_ratio,
    load_cells,
    seed_spread,
)

from sparsing.base.results import write_text
from sparsing.models.paper_shapes import PRESETS
from sparsing.report.style import save_image
from sparsing.training.config import TrainConfig
from sparsing.training.config_file import read_train_config

FIGURES = {
    "along_training": "Activation ratio along training",
    "against_loss": "Activation ratio against held-out loss",
    "width_against_depth": "Width against depth",
    "against_scale": "Ratio at the end by scale",
    "losses": "Training loss",
}

LOSSES = 10
"""Last points of the training curve over which the final training loss is the mean."""


def main() -> None:
    os.chdir(Path(__file__).resolve().parents[2])
    cells = load_cells()
    if not cells:
        raise SystemExit("no cell is finished; run `python studies/nano/run.py` first")
    for name in FIGURES:
        path = HERE / f"{name}.png"
        if name in available_figures(cells):
            save_image(getattr(figures, name)(list(cells.values())), path)
        else:
            path.unlink(missing_ok=True)
    write_text(HERE / "README.md", page(cells))
    print(f"written: {HERE / 'README.md'} from {len(cells)} of {len(CELLS)} cells")


def available_figures(cells: dict[str, CellResult]) -> list[str]:
    """Names of the figures that the finished cells allow; a figure that compares presets needs two of them."""
    finished = {cell.preset for cell in cells.values()}
    compared = {"width_against_depth": SHAPES, "against_scale": SCALES}
    return [name for name in FIGURES if name not in compared or len(finished & set(compared[name])) > 1]


def page(cells: dict[str, CellResult]) -> str:
    """The whole page as Markdown."""
    findings = evaluate_findings(cells)
    missing = [cell.name for cell in CELLS if cell.name not in cells]
    return (
        "\n\n".join(
            [
                "# The miniature study",
                _lead(cells, missing),
                "## The four findings",
                _summary(findings),
                *(_section(finding) for finding in findings),
                "## Cells",
                _table(list(cells.values())),
                _seeds(cells),
                "## Figures",
                "\n\n".join(f"![{FIGURES[name]}]({name}.png)" for name in available_figures(cells)),
                "## How it was made",
                _method(cells),
            ]
        )
        + "\n"
    )


def _lead(cells: dict[str, CellResult], missing: list[str]) -> str:
    unfinished = (
        f" The answers below leave out the unfinished cells: {', '.join(missing)}." if missing else ""
    )
    sizes = sorted({round(cell.num_parameters / 1e6, 2) for cell in cells.values()})
    span = " to ".join(f"{size:.2f}M" for size in dict.fromkeys((sizes[0], sizes[-1])))
    return (
        f"This study repeats the experiments of *Sparsing Law* with models of {span} parameters. Each model is trained"
        f" on {TOKENS:,} tokens of Python's standard library. The paper's smallest model has"
        f" {PRESETS['0.1B'].parameters / 1e6:.0f}M parameters, so a finding that shows up here supports the paper, and"
        " a finding that does not may depend on the scale. A cell is one training run;"
        f" {len(cells)} of {len(CELLS)} cells are finished.{unfinished}\n\n"
        "This page is written by `python studies/nano/report.py` from `results/*.json`."
    )


def _summary(findings: Sequence[Finding]) -> str:
    rows = [f"| {finding.title} | **{finding.answer}** |" for finding in findings]
    return "\n".join(["| finding | at nano scale |", "|---|---|", *rows])


def _section(finding: Finding) -> str:
    lines = "\n".join(f"- {line}" for line in finding.lines) or "- no cell is finished"
    missing = f"\n\nUnfinished cells: {', '.join(finding.missing)}." if finding.missing else ""
    return f"### {finding.title}: {finding.answer}\n\n{finding.claim}\n\n*Rule.* {finding.rule}\n\n{lines}{missing}"


def _table(cells: Sequence[CellResult]) -> str:
    head = "| cell | shape | parameters | CETT | final ratio | held-out loss | training loss | minutes |"
    rows = [
        f"| {c.name} | {c.d_model}x{c.n_layers} | {c.num_parameters:,} | {c.track.level:.3g} |"
        f" {last_ratio(c):.2%} | {last_loss(c):.3f} | {sum(c.loss[-LOSSES:]) / LOSSES:.3f} |"
        f" {(c.train_sec + c.track_sec) / 60:.0f} |"
        for c in cells
    ]
    note = (
        f"Final ratio and held-out loss are means of the last {LAST} points, the training loss is the mean of the last"
        f" {LOSSES} points of its curve. Minutes are those of the session that completed the cell, on a machine with"
        " other load."
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
    deviation = "" if math.isnan(spread) else f" Standard deviation, ReLU: {100 * spread:.2f} points."
    return (
        "Final ratio by seed: " + " ".join(lines) + deviation if lines else "No preset has a second seed yet."
    )


def _method(cells: dict[str, CellResult]) -> str:
    provenance = next(iter(cells.values())).track.provenance
    config = read_train_config(preset=CELLS[0].preset, overrides=CELLS[0].overrides())
    versions = ", ".join(f"{name} {version}" for name, version in provenance.versions.items())
    return f"""```
python studies/nano/run.py   # or `make study`; resumes after an interruption
python studies/nano/report.py
```

- Shapes: {len(SCALES)} scales at a width-depth ratio of {config.model.d_model / config.model.n_layers:g}
  ({", ".join(SCALES)}), ReLU and SiLU; {len(SHAPES)} shapes of one size, ReLU
  ({", ".join(SHAPES)}); {SEEDED} with three seeds (`sparsing train --list-presets`).
- Training: {_training(config)}
- Text: Python's standard library (`sparsing.text.standard_library`). About one document in twenty is held out; a digest
  of its name decides.
- Measuring: {len(EARLY) + len(LATE)} checkpoints per run on the same {WINDOWS} held-out windows
  ({WINDOWS * WINDOW:,} tokens) in float32. Each run has one CETT for all of its checkpoints, found jointly on its last
  {LAST} checkpoints at PPL-1% (`sparsing track`). Intervals of single points are 95% intervals over windows.
- Fits: `sparsing.laws`, {LEVEL:.0%} profile-likelihood intervals that account for correlated neighbours; points from
  {WARM:,} tokens on.
- Versions: {versions}; {provenance.platform}."""


def _training(config: TrainConfig) -> str:
    """The training settings that all cells share."""
    model, training = config.model, config.training
    return (
        f"{'muP' if model.parametrization == 'mup' else model.parametrization} with `dim_model_base`"
        f" {model.dim_model_base}, peak learning rate {training.lr:g}, {training.tokens:,} tokens in steps of"
        f" {training.batch_tokens:,}, windows of {model.context}, AdamW {training.beta1:g}/{training.beta2:g}, weight"
        f" decay {training.weight_decay:g}, clip {training.clip:g}. The learning rate warms up over"
        f" {training.warmup:.0%} of the steps and then stays constant"
        f" (decay {training.decay:.0%}), so all later points lie in the stable phase of"
        f" WSD. Matrix products in {training.precision}, weights in float32. One tokenizer of {model.vocab_size:,}"
        " entries."
    )


if __name__ == "__main__":
    main()
