"""What the tests of evaluation share: a real model, real items, and lm-eval or a skip."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sparsing.evaluation.outcome import DENSE, Level
from sparsing.rules.thresholds import Thresholds


@pytest.fixture(scope="session")
def bench(shared) -> Path:
    """The folder with items of the fourteen tasks."""
    if not (shared / "bench").is_dir():
        pytest.skip("needs the benchmark items in shared/bench")
    return shared / "bench"


@pytest.fixture(scope="session")
def read_jsonl():
    """`read_jsonl(path)`: the objects of a file, one a line."""
    return lambda path: [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


@pytest.fixture(scope="session")
def stories_folder(shared) -> Path:
    """A trained model of five layers, 260 thousand parameters and 512 positions."""
    folder = shared / "models" / "stories260K"
    if not folder.is_dir():
        pytest.skip("needs the model shared/models/stories260K")
    return folder


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
def lm_eval():
    return pytest.importorskip("lm_eval", reason="needs lm-eval: pip install 'sparsing[eval]'")


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
