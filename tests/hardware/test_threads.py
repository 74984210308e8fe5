"""One number of threads for torch and Numba: where it comes from, and that it comes back."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from sparsing.errors import InputError
from sparsing.hardware.threads import available_threads, set_threads, use_threads


@pytest.mark.parametrize(
    ("setting", "expected"), [("3", 3), ("2,1", 2), ("", None), ("0", None), ("x", None)]
)
def test_the_environment_rules(setting, expected, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", setting)
    assert available_threads() == (expected or len(os.sched_getaffinity(0)))


def test_numbers_below_1_are_refused():
    with pytest.raises(InputError, match="at least 1, got 0"):
        set_threads(0)


def test_both_libraries_follow_and_return():
    numba = pytest.importorskip("numba", reason="the CPU kernels need numba")
    numba.get_num_threads()  # the first call starts Numba's threads, which changes the number of torch
    before = torch.get_num_threads()
    with use_threads(1):
        assert (torch.get_num_threads(), numba.get_num_threads()) == (1, 1)
    assert torch.get_num_threads() == before


SCRIPT = """
import sys
from sparsing.hardware.threads import set_threads, use_threads
print(set_threads(int(sys.argv[1]) if sys.argv[1:] else None), end=" ")
import torch, numba
with use_threads(torch.get_num_threads()):  # starts Numba's threads, which changed torch's number
    print(torch.get_num_threads(), numba.get_num_threads())
"""


@pytest.mark.parametrize(("given", "environment", "expected"), [([], "1", "1 1 1"), (["1"], "2", "1 1 1")])
def test_a_new_process_uses_what_is_set(given, environment, expected):
    pytest.importorskip("numba", reason="the CPU kernels need numba")
    variables = {k: v for k, v in os.environ.items() if k != "NUMBA_NUM_THREADS"} | {
        "OMP_NUM_THREADS": environment
    }
    command = [sys.executable, "-c", SCRIPT, *given]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected
