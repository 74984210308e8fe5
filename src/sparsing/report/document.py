"""The contents of a report page: cards of the first screen, sections of charts and tables, panels, provenance.

`build_document` lays out saved results and computes nothing new; `page.py` writes the document as one HTML file.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, TypeVar

from sparsing.report import measurement_tables as tables
from sparsing.report import order_tables, savings_tables
from sparsing.report.answers import answer, main_measurement
from sparsing.report.benchmark_section import benchmark_card, benchmark_section
from sparsing.report.cautions import measurement_cautions
from sparsing.report.chart import Chart, is_interval
from sparsing.report.charts.law_charts import law_views, laws_charts
from sparsing.report.charts.measurement_charts import panel_charts
from sparsing.report.charts.neuron_charts import corpus_curves, corpus_scatter, token_scatters
from sparsing.report.charts.rule_charts import frontier_charts, measures_chart
from sparsing.report.charts.training_charts import training_charts, training_series, two_measures
from sparsing.report.labels import model_label
from sparsing.report.neuron_view import neuron_view
from sparsing.report.page_parts import Card, Document, Explorer, Origin, PageTable, Panel, Section
from sparsing.report.saved_results import Runs, StudyFolder
from sparsing.report.text_view import text_view

if TYPE_CHECKING:
    from sparsing.base.provenance import Provenance
    from sparsing.evaluation.outcome import Evaluation
    from sparsing.measuring.frontier import RuleComparison
    from sparsing.measuring.measurement import HeldOut, Measurement
    from sparsing.neurons.study import NeuronStudy

_T = TypeVar("_T")
ALL_MEASUREMENTS = "All measurements"
MOST_ANSWERS = 4
"""Sentences under the title; more models have cards only."""
TEXT_BYTES = 900_000
"""Size of all text views of a page. A large model's view takes 0.3 MB; the main measurements come first."""


def build_document(runs: Runs, *, title: str | None = None) -> Document:
    """The page of these results.

    Args:
        title: Heading of the page; by default it names the model.
    """
    results = list(runs.measurements)
    series = training_series(results)
    studies = _by_model(runs.studies, [study.numbers for study in runs.studies])
    evaluations = _by_model(runs.evaluations, runs.evaluations)
    sections = [benchmark_section(evaluations), *_result_sections(runs, series)]
    if studies:  # importing the comparison of studies loads torch
        sections.append(_neuron_section(studies))
    sections.sort(key=lambda section: section.title == ALL_MEASUREMENTS)  # the large table comes last
    carded = _card_measurements(results, series)
    panels = _panel_order(results)
    first = model_label(panels[0].provenance) if panels else ""
    benchmark_cards = [benchmark_card(name, evaluation) for name, evaluation in evaluations.items()]
    return Document(
        title=title or _page_title(runs, series),
        answers=[answer(result) for result in carded[:MOST_ANSWERS]],
        cards=[
            *(_measurement_card(result) for result in carded),
            *(card for card in benchmark_cards if card is not None),
        ],
        sections=[section for section in sections if section.tables or section.charts],
        panels=_panels(panels, several=len(_group_by_model(results)) > 1),
        explorers=[
            Explorer(label=name, data=neuron_view(study.numbers, study.neurons, share=1 / len(studies)))
            # the explorer opens on the model of the first panel
            for name, study in sorted(studies.items(), key=lambda item: item[0] != first)
        ],
        origins=_origins(runs),
    )


def _page_title(runs: Runs, series: Mapping[str, Sequence[Measurement]]) -> str:
    earlier = {model_label(result.provenance) for run in series.values() for result in run[:-1]}
    models = [name for name in dict.fromkeys(map(model_label, _provenances(runs))) if name not in earlier]
    if len(models) == 1:
        return f"Activation sparsity of {models[0]}"
    checkpoints = (
        f" and {len(earlier)} earlier checkpoint{'s' if len(earlier) > 1 else ''}" if earlier else ""
    )
    if not models:
        return "Laws of activation sparsity"
    return f"Activation sparsity of {len(models)} models{checkpoints}"


def _group_by_model(results: Sequence[Measurement]) -> dict[str, list[Measurement]]:
    groups: dict[str, list[Measurement]] = {}
    for result in results:
        groups.setdefault(result.provenance.model, []).append(result)
    return groups


def _card_measurements(
    results: Sequence[Measurement], series: Mapping[str, Sequence[Measurement]]
) -> list[Measurement]:
    """One measurement per model; of checkpoints along training only the last."""
    earlier = _earlier_models(series)
    groups = _group_by_model(results)
    return [main_measurement(group) for model, group in groups.items() if model not in earlier]


def _panel_order(results: Sequence[Measurement]) -> list[Measurement]:
    """The main measurement of each model, the last checkpoint first, so that the page opens on it; then the others."""
    mains = [main_measurement(group) for group in _group_by_model(results).values()][::-1]
    return mains + [result for result in results if not any(result is main for main in mains)]


def _measurement_card(result: Measurement) -> Card:
    bounds = result.activation_ratio_interval
    interval = ""
    if bounds is not None and is_interval(bounds):
        interval = f"95% interval {100 * bounds[0]:.1f} to {100 * bounds[1]:.1f}%"
    return Card(
        model=model_label(result.provenance),
        name=result.name,
        figure=f"{100 * result.activation_ratio:.1f}%",
        interval=interval,
        sentence=f"of the feed-forward neurons are active per token, at {_ppl_change(result.ppl_ratio)} perplexity",
        gains=_gains(result),
        cautions=measurement_cautions(result),
    )


def _ppl_level(ppl_ratio: float) -> str:
    return f"PPL-{100 * (ppl_ratio - 1):.4g}%"


def _held_out(heldout: HeldOut) -> str:
    bounds = heldout.ppl_ratio_interval
    spread = ""
    if bounds is not None and is_interval(bounds):
        spread = f" [{100 * (bounds[0] - 1):+.2f}, {100 * (bounds[1] - 1):+.2f}]"
    return f"{_ppl_change(heldout.ppl_ratio)}{spread}"


def _ppl_change(ppl_ratio: float) -> str:
    return f"{100 * abs(ppl_ratio - 1):.2f}% {'higher' if ppl_ratio >= 1 else 'lower'}"


def _gains(result: Measurement) -> list[tuple[str, str]]:
    gains = [("neurons that can be skipped", tables.percent(1 - result.activation_ratio, 1))]
    if (weights := result.weights) is not None:
        sparse = weights.sparse_bytes(result.activation_ratio)
        ceiling = weights.speedup_ceiling(result.activation_ratio)
        gains += [
            ("weights read per decoded token, dense", tables.size(weights.total_bytes)),
            ("the same, sparse, at best", tables.size(sparse)),
            ("ceiling of the speed-up, active neurons known at no cost", f"{ceiling:.2f}x"),
        ]
    gains.append(("perplexity, dense to sparse", f"{result.ppl_dense:.3f} to {result.ppl_sparse:.3f}"))
    if result.heldout is not None:
        gains.append(("perplexity on held-out tokens", _held_out(result.heldout)))
    gains.append(("tokens measured", f"{result.num_tokens:,}"))
    return gains


def _result_sections(runs: Runs, series: Mapping[str, Sequence[Measurement]]) -> list[Section]:
    results = runs.measurements
    frontiers, tables_of_rules, orders = [], [], []
    for comparison in runs.comparisons:
        model = model_label(comparison.provenance)
        frontiers += frontier_charts(comparison.points, model=model)
        header, rows = tables.frontier(comparison)
        tokens = f" on {comparison.num_tokens:,} tokens" if comparison.num_tokens else ""
        source = "with 95% intervals where the level was searched for, else interpolated"
        caption = f"Activation ratio at a cost in perplexity{tokens}, {model}; {source}"
        caption += f"; {note}" if (note := tables.frontier_note(comparison)) else ""
        tables_of_rules.append(PageTable(caption=caption, header=header, rows=rows))
        orders += _order_tables(comparison, model)
    return [
        Section(
            title="Rules compared",
            note="The activation ratio of each rule at the same cost in perplexity, on the same tokens.",
            charts=frontiers,
            tables=tables_of_rules,
            folded_title="Rank of the rules with the probability of each order, and overlap of their active sets",
            folded=orders,
        ),
        Section(title="Along training", note=two_measures(series), charts=training_charts(series)),
        Section(title="Laws", charts=[*laws_charts(runs.laws), *_law_views(runs)]),
        Section(
            title=ALL_MEASUREMENTS,
            tables=[_summary_table(results)] if results else [],
            charts=_measure_charts(results, series),
        ),
    ]


def _order_tables(comparison: RuleComparison, model: str) -> list[PageTable]:
    """Rank of the rules by each measure at each cost, and the overlap of their active sets."""
    made = [
        (
            f"Rank by {one.measure} at {order_tables.cost(one)}, {model}",
            order_tables.order(one),
        )
        for one in comparison.orders
    ]
    if comparison.overlap is not None:
        cost = _ppl_level(comparison.overlap.target_ppl_ratio)
        caption = f"Overlap of active sets (Jaccard) on dense inputs at {cost}, {model}"
        made.append((caption, order_tables.overlap(comparison.overlap)))
    return [PageTable(caption=caption, header=header, rows=rows) for caption, (header, rows) in made]


def _measure_charts(
    results: Sequence[Measurement], series: Mapping[str, Sequence[Measurement]]
) -> list[Chart]:
    """The measures of all models; earlier checkpoints are drawn along training."""
    earlier = _earlier_models(series)
    last = [result for result in results if result.provenance.model not in earlier]
    return [measures_chart(last)] if len(last) > 1 else []


def _earlier_models(series: Mapping[str, Sequence[Measurement]]) -> set[str]:
    """The models of all checkpoints but the last of each run."""
    return {result.provenance.model for run in series.values() for result in run[:-1]}


def _law_views(runs: Runs) -> list[Chart]:
    """The views of every law, each with the name of its series in the title."""
    return [
        dataclasses.replace(chart, title=f"{chart.title}: {law.name}")
        for law in runs.laws
        for chart in law_views(law)
    ]


def _summary_table(results: Sequence[Measurement]) -> PageTable:
    header, rows = tables.summary(results)
    models = [model_label(result.provenance) for result in results]
    if len(set(models)) > 1:
        header = ["model", *header]
        rows = [[model, *row] for model, row in zip(models, rows, strict=True)]
    return PageTable(caption="Ratios with 95% intervals over windows", header=header, rows=rows)


def _panels(results: Sequence[Measurement], *, several: bool) -> list[Panel]:
    """One panel per measurement; text views are added until `TEXT_BYTES` are used."""
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
                tables=[
                    PageTable(caption="Layer by layer", header=header, rows=rows),
                    *_expert_tables(result),
                    *_savings_tables(result),
                ],
                charts=list(panel_charts(result).values()),
                text=text if fits else None,
            )
        )
    return panels


def _expert_tables(result: Measurement) -> list[PageTable]:
    if not result.experts:
        return []
    header, rows = tables.experts(result)
    return [PageTable(caption="Routed experts", header=header, rows=rows)]


def _savings_tables(result: Measurement) -> list[PageTable]:
    if result.savings is None:
        return []
    named = {
        result.savings.counting_rule: savings_tables.weights,
        "Neurons read in groups of neighbours, as they lie and sorted by frequency": savings_tables.groups,
        "Neurons read by consecutive tokens together, as in speculative decoding; neighbours overlap by"
        f" {result.savings.neighbour_jaccard.mean():.1%} (Jaccard)": savings_tables.unions,
    }
    tables_of = ((caption, table(result.savings)) for caption, table in named.items())
    return [PageTable(caption=caption, header=header, rows=rows) for caption, (header, rows) in tables_of]


def _by_model(items: Sequence[_T], results: Sequence[NeuronStudy] | Sequence[Evaluation]) -> dict[str, _T]:
    """The items by the model of their results, with a number added where a model has several."""
    named: dict[str, _T] = {}
    for item, result in zip(items, results, strict=True):
        name = model_label(result.provenance)
        named[name if name not in named else f"{name} ({len(named) + 1})"] = item
    return named


def _neuron_section(studies: Mapping[str, StudyFolder]) -> Section:
    numbers = {name: study.numbers for name, study in studies.items()}
    charts: list[Chart] = []
    study_tables = []
    for name, study in numbers.items():
        scatter = corpus_scatter(name, study)
        charts += [corpus_curves(name, study), *([scatter] if scatter else [])]
        header, rows = tables.neurons(study)
        study_tables.append(PageTable(caption=f"Neurons by corpus: {name}", header=header, rows=rows))
    words = {name: study.words() for name, study in studies.items()} if len(studies) > 1 else {}
    header, rows = tables.study_distances(numbers)
    if rows:
        caption = "Distances between corpora and between models"
        study_tables.append(PageTable(caption=caption, header=header, rows=rows))
    return Section(
        title="Neurons by corpus",
        note="A neuron is active where it is above the threshold of its layer. The model runs dense.",
        charts=[*charts, *token_scatters(numbers, words)],
        tables=study_tables,
    )


def _provenances(runs: Runs) -> list[Provenance]:
    studies = [study.numbers for study in runs.studies]
    results = (*runs.measurements, *runs.comparisons, *studies, *runs.evaluations)
    return [result.provenance for result in results]


def _origins(runs: Runs) -> list[Origin]:
    """One entry per command that was run."""
    commands: dict[str, list[Provenance]] = {}
    for provenance in _provenances(runs):
        commands.setdefault(provenance.command, []).append(provenance)
    return [
        Origin(
            title=_origin_title(command, provenances),
            table=_origin_table(provenances),
            command=command,
        )
        for command, provenances in commands.items()
    ]


def _origin_title(command: str, provenances: Sequence[Provenance]) -> str:
    """The name of the command, where it is one of this package, and the models."""
    models = ", ".join(dict.fromkeys(model_label(provenance) for provenance in provenances))
    name = re.search(r"\bsparsing (\w[\w-]*)", command)
    return f"{name[1]}: {models}" if name else models


def _origin_table(provenances: Sequence[Provenance]) -> PageTable:
    first = provenances[0]
    models = dict.fromkeys(_model_line(provenance) for provenance in provenances)
    texts = dict.fromkeys(
        f"{PurePath(provenance.corpus).name}, {provenance.num_tokens:,} tokens"
        for provenance in provenances
        if provenance.corpus
    )
    hashes = dict.fromkeys(provenance.corpus_sha256 for provenance in provenances)
    rows = [
        ["model", "\n".join(models)],
        ["text", "\n".join(texts)],
        ["tokens' SHA-256", "\n".join(hashes)],
        ["machine", f"{first.platform}, {first.device}, {first.dtype}"],
        ["versions", ", ".join(f"{name} {version}" for name, version in first.versions.items())],
        ["made", first.created],
    ]
    return PageTable(caption="Provenance", header=["what", "value"], rows=[row for row in rows if row[1]])


def _model_line(provenance: Provenance) -> str:
    parts = [
        provenance.model,
        f"revision {provenance.revision}" if provenance.revision else "",
        provenance.model_type,
        f"{provenance.num_parameters:,} parameters" if provenance.num_parameters else "",
        f"trained on {provenance.train_tokens:,} tokens" if provenance.train_tokens else "",
    ]
    return ", ".join(part for part in parts if part)
