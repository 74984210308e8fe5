"""The contents of a report page: what stands on the first screen, the tables, the charts, where it comes from.

Built from saved results alone. `page.py` writes it as one HTML file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, TypeVar

from sparsing.report import measurement_tables as tables
from sparsing.report.across_charts import (
    frontier_chart,
    law_charts,
    measures_chart,
    training_charts,
    training_series,
)
from sparsing.report.benchmark_parts import benchmark_card, benchmark_section
from sparsing.report.cautions import cautions
from sparsing.report.labels import model_label
from sparsing.report.neuron_charts import corpus_curves, corpus_scatter, distance_table, token_scatters
from sparsing.report.neuron_view import neuron_view
from sparsing.report.parts import Card, Document, Explorer, Panel, Section, Table
from sparsing.report.run_charts import run_charts
from sparsing.report.saved_results import Runs, Study
from sparsing.report.style import is_interval
from sparsing.report.text_view import text_view

if TYPE_CHECKING:
    from sparsing.base.provenance import Provenance
    from sparsing.evaluation.outcome import Evaluation
    from sparsing.measuring.measurement import Measurement
    from sparsing.neurons.study import NeuronStudy

_T = TypeVar("_T")
TEXT_BYTES = 900_000
"""Texts on the page, token by token, those of the main measurements first; a large model's is 0.3 MB each."""


def build_document(runs: Runs, *, title: str | None = None) -> Document:
    """Lay out these results."""
    results = list(runs.measurements)
    series = training_series(results)
    studies = _named(runs.studies, [study.numbers for study in runs.studies])
    evaluations = _named(runs.evaluations, runs.evaluations)
    return Document(
        title=title or _title(runs),
        cards=[
            *(_card(result) for result in _headliners(results, series)),
            *(card for name, one in evaluations.items() if (card := benchmark_card(name, one))),
        ],
        sections=[
            section
            for section in (
                benchmark_section(evaluations),
                *_sections(runs, series),
                *([_neurons(studies)] if studies else []),  # comparing studies needs torch
            )
            if section.tables or section.charts
        ],
        panels=_panels(_inside(results), several=len(_models(results)) > 1),
        explorers=[
            Explorer(label=name, data=neuron_view(study.numbers, study.neurons, share=1 / len(studies)))
            for name, study in studies.items()
        ],
        origins=_origins(runs),
    )


def _title(runs: Runs) -> str:
    models = list(dict.fromkeys(model_label(origin) for origin in _provenances(runs)))
    if len(models) == 1:
        return f"Activation sparsity of {models[0]}"
    return f"Activation sparsity of {len(models)} models" if models else "Laws of activation sparsity"


def _models(results: Sequence[Measurement]) -> dict[str, list[Measurement]]:
    """Measurements by model."""
    found: dict[str, list[Measurement]] = {}
    for result in results:
        found.setdefault(result.provenance.model, []).append(result)
    return found


def _headliners(results: Sequence[Measurement], series: dict[str, list[Measurement]]) -> list[Measurement]:
    """One measurement per model; of checkpoints along training the last one only."""
    earlier = {run_result.provenance.model for run in series.values() for run_result in run[:-1]}
    return [_main(found) for model, found in _models(results).items() if model not in earlier]


def _main(results: Sequence[Measurement]) -> Measurement:
    """PPL-1%, else what else was searched for, else the first one."""
    found = [result for result in results if result.target_ppl_ratio is not None]
    paper = [r for r in found if r.rule == "cett" and abs((r.target_ppl_ratio or 0) - 1.01) < 1e-9]
    return (paper or found or list(results))[0]


def _inside(results: Sequence[Measurement]) -> list[Measurement]:
    """The main measurement of each model first, so that the page opens on it; then the others."""
    mains = [_main(found) for found in _models(results).values()][::-1]  # the last checkpoint first
    return mains + [result for result in results if not any(result is main for main in mains)]


def _card(result: Measurement) -> Card:
    interval = result.activation_ratio_interval
    known = interval is not None and is_interval(interval)
    return Card(
        model=model_label(result.provenance),
        name=result.name,
        figure=f"{100 * result.activation_ratio:.1f}%",
        interval=f"95% interval {100 * interval[0]:.1f} to {100 * interval[1]:.1f}%" if known else "",  # pyright: ignore
        sentence=f"of the feed-forward neurons are active per token, at {_change(result.ppl_ratio)} perplexity",
        gains=_gains(result),
        cautions=cautions(result),
    )


def _change(ppl_ratio: float) -> str:
    return f"{100 * abs(ppl_ratio - 1):.2f}% {'higher' if ppl_ratio >= 1 else 'lower'}"


def _gains(result: Measurement) -> list[tuple[str, str]]:
    held = result.heldout
    gains = [("neurons that can be skipped", tables.percent(1 - result.activation_ratio, 1))]
    if (weights := result.weights) is not None:
        sparse = weights.sparse_bytes(result.activation_ratio)
        gains += [
            ("weights read per decoded token, dense", tables.size(weights.total_bytes)),
            ("the same, sparse, at best", tables.size(sparse)),
            (
                "ceiling of the speed-up, the active ones known for free",
                f"{weights.speedup_ceiling(result.activation_ratio):.2f}x",
            ),
        ]
    gains.append(("perplexity, dense to sparse", f"{result.ppl_dense:.3f} to {result.ppl_sparse:.3f}"))
    if held is not None:
        gains.append(("perplexity on held-out tokens", _change(held.ppl_ratio)))
    gains.append(("tokens measured", f"{result.num_tokens:,}"))
    return gains


def _sections(runs: Runs, series: dict[str, list[Measurement]]) -> list[Section]:
    results = runs.measurements
    frontiers = [
        Table(
            caption=f"Activation ratio at a cost in perplexity, {model_label(comparison.provenance)}",
            header=header,
            rows=rows,
        )
        for comparison in runs.comparisons
        for header, rows in [tables.frontier(comparison)]
    ]
    return [
        Section(
            title="Rules compared",
            note="What each rule keeps at the same cost in perplexity, on the same tokens.",
            charts=[frontier_chart(comparison) for comparison in runs.comparisons],
            tables=frontiers,
        ),
        Section(title="Along training", charts=training_charts(series)),
        Section(title="Laws", charts=law_charts(runs.laws)),
        Section(
            title="All measurements",
            tables=[_summary(results)] if results else [],
            charts=[measures_chart(results)] if len(results) > 1 else [],
        ),
    ]


def _summary(results: Sequence[Measurement]) -> Table:
    header, rows = tables.summary(results)
    models = [model_label(result.provenance) for result in results]
    if len(set(models)) > 1:
        header, rows = ["model", *header], [[m, *row] for m, row in zip(models, rows, strict=True)]
    return Table(caption="Ratios with 95% intervals over windows", header=header, rows=rows)


def _panels(results: Sequence[Measurement], *, several: bool) -> list[Panel]:
    left, panels = TEXT_BYTES, []
    for result in results:
        header, rows = tables.layers(result)
        text = text_view(result)
        size = len(json.dumps(text))
        fits = size <= left
        left -= size if fits else 0
        panels.append(
            Panel(
                label=f"{model_label(result.provenance)}: {result.name}" if several else result.name,
                table=Table(caption="Layer by layer", header=header, rows=rows),
                charts=list(run_charts(result).values()),
                text=text if fits else None,
            )
        )
    return panels


def _named(items: Sequence[_T], results: Sequence[NeuronStudy] | Sequence[Evaluation]) -> dict[str, _T]:
    """Items by the model of their results, numbered where a model has several."""
    found: dict[str, _T] = {}
    for item, result in zip(items, results, strict=True):
        name = model_label(result.provenance)
        found[name if name not in found else f"{name} ({len(found) + 1})"] = item
    return found


def _neurons(studies: Mapping[str, Study]) -> Section:
    """The study of neurons by corpus and between models."""
    numbers = {name: study.numbers for name, study in studies.items()}
    charts = []
    for name, study in numbers.items():
        charts += [corpus_curves(name, study), corpus_scatter(name, study)]
    words = {name: study.words() for name, study in studies.items()} if len(studies) > 1 else {}
    made = [
        Table(caption=f"Neurons by corpus: {name}", header=header, rows=rows)
        for name, study in numbers.items()
        for header, rows in [tables.neurons(study)]
    ]
    header, rows = distance_table(numbers)
    if rows:
        made.append(Table(caption="How far apart firing is", header=header, rows=rows))
    return Section(
        title="Neurons by corpus",
        note="When a neuron is active is decided by thresholds learned on dense inputs; the model runs dense.",
        charts=[*(chart for chart in charts if chart is not None), *token_scatters(numbers, words)],
        tables=made,
    )


def _provenances(runs: Runs) -> list[Provenance]:
    studies = [study.numbers for study in runs.studies]
    results = (*runs.measurements, *runs.comparisons, *studies, *runs.evaluations)
    return [result.provenance for result in results]


def _origins(runs: Runs) -> list[tuple[str, Table, str]]:
    """One entry per command that was run."""
    commands: dict[str, list[Provenance]] = {}
    for origin in _provenances(runs):
        commands.setdefault(origin.command, []).append(origin)
    return [(_origin_name(origins), _origin_table(origins), command) for command, origins in commands.items()]


def _origin_name(origins: Sequence[Provenance]) -> str:
    return ", ".join(dict.fromkeys(model_label(origin) for origin in origins))


def _origin_table(origins: Sequence[Provenance]) -> Table:
    first = origins[0]
    models = dict.fromkeys(_model_line(origin) for origin in origins)
    texts = dict.fromkeys(f"{PurePath(o.corpus).name}, {o.num_tokens:,} tokens" for o in origins if o.corpus)
    rows = [
        ["model", "\n".join(models)],
        ["text", "\n".join(texts)],
        ["tokens' SHA-256", "\n".join(dict.fromkeys(origin.corpus_sha256 for origin in origins))],
        ["machine", f"{first.platform}, {first.device}, {first.dtype}"],
        ["versions", ", ".join(f"{name} {version}" for name, version in first.versions.items())],
        ["made", first.created],
    ]
    return Table(caption="Provenance", header=["what", "value"], rows=[row for row in rows if row[1]])


def _model_line(origin: Provenance) -> str:
    parts = [origin.model, f"revision {origin.revision}" if origin.revision else "", origin.model_type]
    parts.append(f"{origin.num_parameters:,} parameters" if origin.num_parameters else "")
    parts.append(f"trained on {origin.train_tokens:,} tokens" if origin.train_tokens else "")
    return ", ".join(part for part in parts if part)
