"""From what lm-eval returns for a run to scores: numbers of each part, and one value per item for pairing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsing.errors import InputError
from sparsing.evaluation.outcome import PartOutcome, Score

if TYPE_CHECKING:
    from sparsing.evaluation.tasks.loading import LoadedTask


def part_outcome(name: str, results: dict[str, Any]) -> PartOutcome:
    """Items and metrics of one task of the harness."""
    metrics = {
        key: float(value)
        for key, value in results["results"][name].items()
        if "," in key and "_stderr," not in key and isinstance(value, (int, float, np.number))
    }
    return PartOutcome(name=name, num_items=results["n-samples"][name]["effective"], metrics=metrics)


def first_metric(part: PartOutcome) -> str:
    """`metric,filter` that a task without a column of its own is judged by.

    Raises:
        InputError: it reports no number.
    """
    if not part.metrics:
        raise InputError(f"task {part.name} reports no number; it has no score to compare")
    return next(iter(part.metrics))


def score_of(title: str, metric: str, parts: Sequence[PartOutcome], results: dict[str, Any]) -> Score:
    """One metric over all parts, weighted by their items, with the value of each item.

    Raises:
        InputError: a part does not report it.
    """
    missing = [part.name for part in parts if metric not in part.metrics]
    if missing:
        raise InputError(f"{missing[0]} does not report {metric!r}; this version of lm-eval is not supported")
    total = sum(part.num_items for part in parts)
    value = sum(part.metrics[metric] * part.num_items for part in parts) / total
    if len(parts) == 1:
        value = parts[0].metrics[metric]  # multiplying and dividing could change the last digit
    name, _, chosen = metric.partition(",")
    values = [
        sample.get(name)
        for part in parts
        for sample in sorted(results["samples"][part.name], key=lambda one: one["doc_id"])
        if sample["filter"] == chosen
    ]
    plain = all(isinstance(one, (bool, int, float, np.number, np.bool_)) for one in values)
    items = np.array(values, dtype=np.float64) if plain and len(values) == total else None
    return Score(title=title, metric=metric, value=value, items=items)


def item_lines(task: LoadedTask, results: dict[str, Any]) -> Iterator[str]:
    """The harness's samples as lines of JSON, part by part in the order of the items."""
    for part in task.parts:
        for sample in sorted(results["samples"][part.task_name], key=lambda one: one["doc_id"]):
            yield json.dumps({"part": part.task_name, **sample}, default=_plain, ensure_ascii=False) + "\n"


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else str(value)
