"""The score of a guess. A score near it says nothing about a model, or about the effect of sparsity on it."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sparsing.evaluation.tasks.loading import LoadedTask


def chance_of(task: LoadedTask, limit: int | None = None) -> float | None:
    """Accuracy of a guess among the options: the mean of `1 / options` over items.

    Args:
        task: The loaded task.
        limit: Items of each part that are run; None for all.

    Returns: A fraction; None if an answer is not one of given options.
    """
    if any(part.OUTPUT_TYPE != "multiple_choice" for part in task.parts):
        return None
    options = [
        len(part.doc_to_choice(document))
        for part in task.parts
        for document in itertools.islice(part.eval_docs, limit)
    ]
    return sum(1 / number for number in options) / len(options)
