"""The place of a process comes from the variables of a launcher, and only if all of them are set."""

from __future__ import annotations

import pytest

from sparsing.base.launched import local_rank, num_local_processes, num_processes, rank

from ..helpers.launched import variables

LAUNCHED = variables(5, 8)


def place(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> tuple[int, ...]:
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return num_processes(), rank(), num_local_processes(), local_rank()


def test_a_process_that_a_launcher_started(monkeypatch: pytest.MonkeyPatch):
    two_machines = LAUNCHED | {"LOCAL_WORLD_SIZE": "4", "LOCAL_RANK": "1"}
    assert place(monkeypatch, two_machines) == (8, 5, 4, 1)


def test_a_process_alone(monkeypatch: pytest.MonkeyPatch):
    assert place(monkeypatch, {}) == (1, 0, 1, 0)


@pytest.mark.parametrize("missing", ["RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"])
def test_variables_that_a_script_of_a_cluster_sets_for_all_programs(
    missing: str, monkeypatch: pytest.MonkeyPatch
):
    """A cluster may set some of the variables for every program. The command then runs alone and waits for nobody."""
    assert place(monkeypatch, LAUNCHED | {missing: ""}) == (1, 0, 1, 0)
