"""What guessing scores: a result near it says nothing of a model, nor of what sparsity does to it."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sparsing.evaluation.tasks.loading import LoadedTask

_CHOICES_RIGHT = ("acc", "acc_norm", "acc_bytes")
"""Metrics of the harness that count right choices."""


def chance_of(task: LoadedTask, limit: int | None = None) -> float | None:
    """Accuracy of a guess among the options: the mean of `1 / options` over items.

    Args:
        limit: Items of each part that are run; None for all.

    Returns: a fraction; None where an answer is not one of given options.
    """
    if any(part.OUTPUT_TYPE != "multiple_choice" for part in task.parts):
        return None
    options = [
        len(part.doc_to_choice(document))  # pyright: ignore[reportAttributeAccessIssue]
        for part in task.parts
        for document in itertools.islice(part.eval_docs, limit)
    ]
    return sum(1 / number for number in options) / len(options)


def counts_right_choices(metric: str) -> bool:
    """Whether chance is the floor of this `metric,filter` of the harness."""
    return metric.partition(",")[0] in _CHOICES_RIGHT
