"""Turns the results of an lm-eval run into scores: the metrics of each part, and one value per item for pairing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsing.base.extras import install_command
from sparsing.errors import InputError
from sparsing.evaluation.outcome import PartOutcome, TaskScore

if TYPE_CHECKING:
    from sparsing.evaluation.tasks.loading import LoadedTask


def part_outcome(name: str, results: dict[str, Any]) -> PartOutcome:
    """Number of items and metrics of one task of lm-eval."""
    metrics = {
        key: float(value)
        for key, value in results["results"][name].items()
        if "," in key and "_stderr," not in key and isinstance(value, (int, float, np.number))
    }
    return PartOutcome(name=name, num_items=results["n-samples"][name]["effective"], metrics=metrics)


def columns_of(name: str, parts: Sequence[PartOutcome]) -> list[tuple[str, str, list[PartOutcome]]]:
    """The scores of a task without columns in the paper's tables: title, metric, and the parts that report it first.

    The parts of a group may have different metrics; then there is one score per metric.

    Raises:
        InputError: if a part reports no number.
    """
    by_metric: dict[str, list[PartOutcome]] = {}
    for part in parts:
        by_metric.setdefault(first_metric(part), []).append(part)
    if len(by_metric) == 1:
        return [(name, metric, own) for metric, own in by_metric.items()]
    return [(f"{name}, {metric.partition(',')[0]}", metric, own) for metric, own in by_metric.items()]


def first_metric(part: PartOutcome) -> str:
    """The first reported `metric,filter` of a part, for tasks without columns in the paper's tables.

    Raises:
        InputError: if the task reports no number.
    """
    if not part.metrics:
        raise InputError(f"task {part.name} reports no number, so there is no score to compare; leave it out")
    return next(iter(part.metrics))


def score_of(title: str, metric: str, parts: Sequence[PartOutcome], results: dict[str, Any]) -> TaskScore:
    """One metric over all parts, weighted by their items, with the value of each item.

    Raises:
        InputError: if a part does not report the metric.
    """
    missing = [part.name for part in parts if metric not in part.metrics]
    if missing:
        raise InputError(
            f"{missing[0]} does not report {metric!r}, so this version of lm-eval is not supported;"
            f" install a supported one with {install_command('eval')}"
        )
    total = sum(part.num_items for part in parts)
    value = sum(part.metrics[metric] * part.num_items for part in parts) / total
    if len(parts) == 1:
        value = parts[0].metrics[metric]  # multiplying and dividing could change the last digit
    name, _, filter_name = metric.partition(",")
    values = [
        sample.get(name)
        for part in parts
        for sample in _sorted_samples(part.name, results)
        if sample["filter"] == filter_name
    ]
    # Items of a corpus metric such as a perplexity are tuples; they cannot be paired.
    is_plain = all(isinstance(item, (bool, int, float, np.number, np.bool_)) for item in values)
    items = np.array(values, dtype=np.float64) if is_plain and len(values) == total else None
    return TaskScore(title=title, metric=metric, value=value, items=items)


def item_lines(task: LoadedTask, results: dict[str, Any]) -> Iterator[str]:
    """lm-eval's samples as lines of JSON, part by part in the order of the items."""
    for part in task.parts:
        for sample in _sorted_samples(part.task_name, results):
            line = {"part": part.task_name, **sample}
            yield json.dumps(line, default=_to_plain, ensure_ascii=False) + "\n"


def _sorted_samples(part: str, results: dict[str, Any]) -> list[dict[str, Any]]:
    """The samples of a part in the order of its items. Several processes return them in another order."""
    return sorted(results["samples"][part], key=lambda sample: sample["doc_id"])


def _to_plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else str(value)
