"""Makes outcomes of tasks, and evaluations of them, from nothing but the scores of items."""

from __future__ import annotations

import numpy as np

from sparsing.base.provenance import Provenance
from sparsing.evaluation.changes import changes_of
from sparsing.evaluation.model.activity import Activity
from sparsing.evaluation.outcome import DENSE, Evaluation, PartOutcome, TaskOutcome, TaskScore, rows_of


def score(items, title="PIQA", value=None) -> TaskScore:
    items = np.array(items, dtype=float)
    return TaskScore(
        title=title, metric="acc,none", value=items.mean() if value is None else value, items=items
    )


def outcome(level, items, task="piqa", group="commonsense", title="PIQA") -> TaskOutcome:
    sparse = level != DENSE
    return TaskOutcome(
        task=task,
        group=group,
        level=level,
        identity="0",
        shots=0,
        scores=(score(items, title),),
        parts=(PartOutcome(name=task, num_items=len(items), metrics={"acc,none": float(np.mean(items))}),),
        absent=(),
        num_items=len(items),
        prefill=Activity(num_tokens=10, layer_activation_ratio=(0.2, 0.4)) if sparse else None,
        decode=Activity(num_tokens=0, layer_activation_ratio=()) if sparse else None,
        wall_sec=1.5,
    )


def evaluation(*outcomes) -> Evaluation:
    chances = dict.fromkeys((outcome.task for outcome in outcomes), 0.5)
    return Evaluation(
        rows=rows_of(list(outcomes), chances),
        changes=changes_of(outcomes),
        limit=None,
        harness_version="0",
        provenance=Provenance(model="m"),
    )
