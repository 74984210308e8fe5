"""What the tests of evaluation share: a trained model, a level at which it is sparse, and a suite on real items."""

from __future__ import annotations

import pytest

from sparsing.evaluation.level import Level
from sparsing.evaluation.outcome import DENSE
from sparsing.rules.thresholds import Thresholds


@pytest.fixture(scope="session")
def stories(stories_folder):
    from sparsing.models.loading import load_model

    return load_model(stories_folder, device="cpu")


@pytest.fixture(scope="session")
def sparse_level() -> Level:
    """About 45% active on stories260K, enough to change answers."""
    thresholds = Thresholds(
        rule="cett", level=0.5, on="neuron_norm", values=(0.12, 0.12, 0.15, 0.2, 0.25), target_ppl_ratio=None
    )
    return Level(name="cett 0.5", thresholds=thresholds)


@pytest.fixture(scope="session")
def levels(sparse_level) -> list[Level]:
    return [Level(name=DENSE), sparse_level]


@pytest.fixture(scope="session")
def make_suite(lm_eval, stories, bench):
    """`make_suite(folder, tasks, limit=...)`: a suite on stories260K with local items, and its tasks."""
    from sparsing.evaluation.suite import Suite
    from sparsing.evaluation.tasks.loading import TaskLoader

    def make(folder, tasks, *, allow_code_execution=False, max_gen_toks=8, **options):
        loader = TaskLoader(
            task_data=bench, allow_code_execution=allow_code_execution, max_gen_toks=max_gen_toks
        )
        named = loader.check(tasks)
        return Suite(stories, loader, folder=folder, **{"limit": 6, **options}), named

    return make
