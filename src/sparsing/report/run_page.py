"""The page of a `sparsing measure` run: the one figure first, then tables, pictures and where they come from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sparsing.report import tables
from sparsing.report.labels import model_label
from sparsing.report.page import Block, Command, Heading, Note, Picture, Table, write_index

if TYPE_CHECKING:
    from sparsing.measurement import Measurement

CAPTIONS = {
    "layer_ratios": "Activation ratio of each layer, with its 95% interval",
    "layer_thresholds": "Threshold of each layer, and CETT asked for and realised",
    "token_layer_heatmap": "Activation ratio by token and layer, first tokens of the text",
    "neuron_frequency": "How often each neuron is active, sorted",
    "neuron_frequency_log": "The same, with the rare neurons spread out",
    "position_ratios": "Activation ratio by position in the window",
    "calibration_curves": "What the calibration pass has learned: CETT and ratio against threshold",
}


def write_run_page(folder: Path, results: Sequence[Measurement]) -> Path:
    """Write `index.html` for these measurements of one model, whose pictures lie in `folder/<slug>/`."""
    first = results[0]
    blocks: list[Block] = [Note(text=headline(first)), *(Note(text=text) for text in cautions(results))]
    header, rows = tables.summary(results)
    blocks.append(Table(caption="All that was measured, on the same tokens", header=header, rows=rows))
    for result in results:
        shown = pictures(folder, folder / result.slug)
        if shown:
            header, rows = tables.layers(result)
            blocks += [Heading(text=result.name), *shown]
            blocks.append(Table(caption=f"{result.name}, layer by layer", header=header, rows=rows))
    blocks += provenance(first)
    return write_index(folder, f"Activation sparsity of {model_label(first.provenance)}", blocks)


def headline(result: Measurement) -> str:
    """The one figure, in a sentence."""
    interval = result.activation_ratio_interval
    doubt = f" (95% interval {100 * interval[0]:.2f} to {100 * interval[1]:.2f}%)" if interval else ""
    cost = f"at {100 * (result.ppl_ratio - 1):.2f}% higher perplexity"
    return (
        f"{result.name}: {tables.percent(result.activation_ratio)} of the feed-forward neurons{doubt} are active"
        f" per token {cost}; {tables.percent(1 - result.activation_ratio)} can be skipped."
    )


def cautions(results: Sequence[Measurement]) -> list[str]:
    """What weakens the figures; empty when nothing does."""
    first, notes = results[0], []
    if first.num_tokens < 10_000:
        notes.append(f"Caution: only {first.num_tokens:,} tokens were measured; 10,000 or more are advised.")
    if first.n_windows < 10:
        notes.append(
            f"Caution: intervals rest on {first.n_windows} windows; give more text or a smaller --window."
        )
    for result in results:
        if not result.converged:
            notes.append(f"Caution: {result.name} met ppl_ratio {result.ppl_ratio:.5f}, not its target.")
        if not result.monotone:
            notes.append(f"Caution: perplexity is not monotone in the level of {result.name}.")
    return notes


def pictures(folder: Path, of: Path) -> list[Picture]:
    """The pictures of one measurement that are there, in reading order."""
    found = {path.stem: path for path in of.glob("*.png")}
    return [
        Picture(path=found[name].relative_to(folder), caption=caption)
        for name, caption in CAPTIONS.items()
        if name in found
    ]


def provenance(result: Measurement) -> list[Block]:
    """Where the figures come from, and the command that makes them again."""
    where, cost = result.provenance, result.cost
    versions = ", ".join(f"{name} {version}" for name, version in where.versions.items())
    rows = [
        ["model", where.model],
        ["revision", where.revision],
        ["type", f"{where.model_type}, {where.num_parameters:,} parameters, {where.dtype} on {where.device}"],
        ["trained on", f"{where.train_tokens:,} tokens" if where.train_tokens else None],
        ["text", f"{where.corpus}, {where.num_tokens:,} tokens in {result.n_windows} windows"],
        ["tokens' SHA-256", where.corpus_sha256],
        ["cost", f"{cost.forward_passes:.1f} passes over the text, {cost.wall_sec:.1f} s"],
        ["versions", versions],
        ["made", where.created],
    ]
    return [
        Heading(text="Where this comes from"),
        Table(caption="Provenance", header=["what", "value"], rows=[row for row in rows if row[1]]),
        Note(text="To make it again:"),
        Command(text=where.command),
    ]
