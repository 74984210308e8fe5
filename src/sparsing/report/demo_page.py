"""The page that `sparsing demo` ends with: both models along training, rules compared, a look inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sparsing.report import tables
from sparsing.report.compare_figures import along_training, ppl_against_ratio
from sparsing.report.page import Block, Heading, Note, Picture, Table, write_index
from sparsing.report.run_page import cautions, headline, pictures, provenance
from sparsing.report.style import save

if TYPE_CHECKING:
    from sparsing.compare import Comparison
    from sparsing.measurement import Measurement


def training_table(series: Mapping[str, Sequence[Measurement]]) -> tables.Rows:
    """One row per checkpoint of every model."""
    header = [
        "model",
        "trained on",
        "activation ratio at PPL-1% [95%]",
        "ppl ratio",
        "held out",
        "perplexity",
    ]
    rows = []
    for name, measurements in series.items():
        for result in measurements:
            held = result.heldout
            rows.append(
                [
                    name,
                    f"{(result.provenance.train_tokens or 0) / 1e6:.2f}M tokens",
                    f"{tables.percent(result.activation_ratio)} {tables.interval(result.activation_ratio_interval)}",
                    f"{result.ppl_ratio:.5f}",
                    f"{held.ppl_ratio:.5f}" if held else "-",
                    f"{result.ppl_dense:.3f}",
                ]
            )
    return header, rows


def write_demo_page(
    folder: Path, series: Mapping[str, Sequence[Measurement]], comparisons: Mapping[str, Comparison]
) -> Path:
    """Draw what spans several measurements and write `index.html`; pictures of the last ones are there already."""
    save(along_training(series), folder, "along_training")
    header, rows = training_table(series)
    last = {name: measurements[-1] for name, measurements in series.items()}
    blocks: list[Block] = [
        Note(
            text="Two small models, trained by this project on Python's standard library, measured on the part of"
            " it that they never saw. One has ReLU, one SiLU; all else is the same."
        ),
        *(Note(text=f"{name.upper()}, {headline(result)}") for name, result in last.items()),
        *(Note(text=text) for text in dict.fromkeys(cautions([*last.values()]))),
        Heading(text="Along training"),
        Picture(
            path="along_training.png", caption="Activation ratio at PPL-1% and loss against training tokens"
        ),
        Table(caption="Every checkpoint", header=header, rows=rows),
    ]
    for name, comparison in comparisons.items():
        save(ppl_against_ratio(comparison.points), folder / name, "ppl_against_ratio")
        header, rows = tables.frontier(comparison)
        picture = Picture(path=f"{name}/ppl_against_ratio.png", caption="Perplexity against activation ratio")
        blocks += [
            Heading(text=f"Rules compared: {name}"),
            picture,
            Table(
                caption="Activation ratio at a cost in perplexity (lower is sparser)",
                header=header,
                rows=rows,
            ),
        ]
    for name, result in last.items():
        header, rows = tables.layers(result)
        blocks += [Heading(text=f"Inside the {name} model"), *pictures(folder, folder / name / "last")]
        blocks.append(Table(caption=f"{name}, layer by layer", header=header, rows=rows))
    blocks += provenance(next(iter(last.values())))
    return write_index(folder, "Activation sparsity: the built-in demo", blocks)
