"""Several processes give the files of one process, bit for bit, and a process that fails, dies or hangs is named."""

from __future__ import annotations

import json
import re
import shutil
import textwrap
from pathlib import Path

import pytest

from sparsing.demo import MODELS
from sparsing.measuring.measurement import Measurement

from ..helpers.launched import Launcher
from ..helpers.scripts import load_script

MODEL = MODELS / "relu" / "tokens-10.2M"
SETTINGS = ("--window", "64", "--batch-size", "2", "--max-tokens", "800", "--no-figures", "--quiet")
COUNTED = """
import pathlib, sparsing.measuring.passes as passes
real = passes._BatchOfPass.__call__
def counting(self, batch):
    with pathlib.Path({folder!r}, str(RANK)).open("a") as file:
        file.write(f"{{batch.span.start}}\\n")
    return real(self, batch)
passes._BatchOfPass.__call__ = counting
"""
FAILING = """
import itertools, os, signal, sparsing.measuring.journal, sparsing.measuring.processes as processes
import sparsing.measuring.passes as passes
sparsing.measuring.journal.SAVE_EVERY_SEC = 0.0
processes.LEAST_PATIENCE_SEC = processes.TIMES_SLOWER = 1.0
real, numbers = passes._BatchOfPass.__call__, itertools.count(1)
def failing(self, batch):
    if RANK == 1 and next(numbers) == 5:
        {what}
    return real(self, batch)
passes._BatchOfPass.__call__ = failing
"""


@pytest.fixture(scope="module")
def launcher():
    with Launcher() as started:
        yield started


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(Path(textwrap.__file__).read_text(encoding="utf-8"), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A training run of two checkpoints."""
    folder = tmp_path_factory.mktemp("runs") / "relu"
    for name in ("tokens-8.19M", "tokens-10.2M"):
        shutil.copytree(MODELS / "relu" / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def differences():
    """`differences(one, other)`: what `scripts/compare_results.py` finds, and files that only one folder has."""
    module = load_script("scripts/compare_results.py")

    def compare(one, other):
        names = [{path.relative_to(folder) for path in folder.rglob("*")} for folder in (one, other)]
        assert names[0] == names[1]
        return module.main(one, other)

    return compare


@pytest.fixture(scope="module")
def measure(text, tiny_checkpoint):
    """Arguments of a short `measure`."""
    return ["measure", tiny_checkpoint, "--text", text, "--level", "0.2", *SETTINGS]


@pytest.fixture(scope="module")
def alone(launcher, measure, tmp_path_factory):
    """The folder of `measure` in one process."""
    folder = tmp_path_factory.mktemp("alone") / "out"
    ((status, output),) = launcher.run(1, *measure, "-o", folder)
    assert status == 0, output
    return folder


def test_measure_with_three_processes(launcher, measure, alone, tmp_path, differences):
    command = [*measure, "-o", tmp_path / "out"]
    outcomes = launcher.run(3, *command, prelude=COUNTED.format(folder=str(tmp_path)))
    assert [status for status, _ in outcomes] == [0, 0, 0], outcomes
    assert "CETT 0.2" in outcomes[0][1]
    assert [output for _, output in outcomes[1:]] == ["", ""]  # one process prints
    assert differences(alone, tmp_path / "out") == 0
    saved = json.loads((tmp_path / "out" / "cett-0.2" / "measurement.json").read_text())
    assert saved["provenance"]["processes"] == 3
    # each of the others computed every third batch of every pass
    computed = [[int(line) for line in (tmp_path / name).read_text().split()] for name in "12"]
    assert len(computed[0]) > 5
    assert {window // 2 % 3 for window in computed[0]} == {1}
    assert {window // 2 % 3 for window in computed[1]} == {2}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) for n in ("measure", "compare", "neurons", "track")]
)
def test_other_commands_with_two_processes(name, launcher, text, tiny_checkpoint, run, tmp_path, differences):
    what = {
        "neurons": [tiny_checkpoint],
        "measure": [MODEL],
        "compare": [MODEL],
        "track": [run, "--last", "2"],
    }
    settings = SETTINGS if name == "neurons" else [*SETTINGS, "--max-tokens", "5000"]
    for processes in (1, 2):
        command = [name, *what[name], "--text", text, *settings, "-o", tmp_path / str(processes)]
        outcomes = launcher.run(processes, *command)
        assert [status for status, _ in outcomes] == [0] * processes, outcomes
    assert differences(tmp_path / "1", tmp_path / "2") == 0


def _fail(launcher, measure, folder, what):
    """Runs two processes of which the second one fails; returns what the first one prints."""
    (status, output), (_, other) = launcher.run(2, *measure, "-o", folder, prelude=FAILING.format(what=what))
    assert status == 2, output
    assert other == ""
    assert "Traceback" not in output
    return output


def test_a_killed_process_is_named_and_any_number_of_processes_resumes(
    launcher, measure, alone, tmp_path, differences
):
    output = _fail(launcher, measure, tmp_path / "out", "os.kill(os.getpid(), signal.SIGKILL)")
    assert re.search(r"process 1 of 2 \(host \S+, pid \d+\) has ended; finished windows are saved", output)
    assert list((tmp_path / "out" / ".journal").rglob("*.safetensors"))
    resumed = launcher.run(3, *measure, "-o", tmp_path / "out")
    assert [status for status, _ in resumed] == [0, 0, 0], resumed
    assert differences(alone, tmp_path / "out") == 0


def test_an_exception_in_another_process_is_told(launcher, measure, tmp_path):
    output = _fail(launcher, measure, tmp_path, "raise ValueError('a wheel came off')")
    assert re.search(r"process 1 of 2 \(host \S+, pid \d+\): ValueError: a wheel came off", output)


@pytest.mark.slow
def test_a_process_that_stops_is_given_up(launcher, measure, tmp_path):
    what = "import time; time.sleep(4)"
    output = _fail(launcher, measure, tmp_path, what)
    assert re.search(r"process 1 of 2 \(host \S+, pid \d+\) does not answer", output)


def test_memory_that_runs_out_in_another_process_halves_the_batch(launcher, measure, alone, tmp_path):
    what = "raise MemoryError"
    outcomes = launcher.run(2, *measure, "-o", tmp_path / "out", prelude=FAILING.format(what=what))
    assert [status for status, _ in outcomes] == [0, 0], outcomes
    assert "do not fit into the memory" in outcomes[0][1]
    one, two = (
        Measurement.load(path / "cett-0.2" / "measurement.json") for path in (alone, tmp_path / "out")
    )
    # smaller batches round differently, but every token counts once
    assert two.num_tokens == one.num_tokens
    assert two.layer_activation_ratio == pytest.approx(one.layer_activation_ratio, abs=1e-3)
    assert two.cett_dense_inputs == pytest.approx(one.cett_dense_inputs, rel=1e-3)


def test_another_checkpoint_on_another_machine_is_refused(launcher, text, run, tmp_path):
    (status, output), _ = launcher.run(
        2,
        *["measure", MODEL, "--text", text, "--level", "0.2", *SETTINGS, "-o", tmp_path],
        prelude=f"""
import sparsing.models.loading as loading
real = loading.load_model
def load_model(name, **options):
    return real({str(run / "tokens-8.19M")!r} if RANK else name, **options)
loading.load_model = load_model
""",
    )
    assert status == 2
    assert "has another weights here than in the first process" in output


def test_a_model_that_another_process_cannot_load_is_told(launcher, measure, tmp_path):
    """For example because the checkpoint is not on its machine."""
    (status, output), _ = launcher.run(
        2,
        *measure,
        "-o",
        tmp_path,
        prelude="""
import sparsing.models.loading as loading
from sparsing.errors import InputError
real = loading.load_model
def load_model(name, **options):
    if RANK:
        raise InputError("no such folder")
    return real(name, **options)
loading.load_model = load_model
""",
    )
    assert status == 2
    assert re.search(r"process 1 of 2 .*: a model was not loaded here: InputError: no such folder", output)
