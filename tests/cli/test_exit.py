"""How a command ends: signals, closed or full outputs, names that the terminal cannot show."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import sparsing.cli
from sparsing.cli import _common, main

WAITS = """
import signal, sys, time
import sparsing.cli
# the tests may run as a background job of a shell, which ignores SIGINT and hands that down
signal.signal(signal.SIGINT, signal.default_int_handler)
import sparsing.cli.models as command
def run(args):
    print("started", flush=True)
    time.sleep(60)
command.run = run
sys.exit(sparsing.cli.main(["models"]))
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_with_its_status_and_one_sentence(number, status):
    with subprocess.Popen(
        [sys.executable, "-c", WAITS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == status
    assert (
        errors == "interrupted; finished work is saved; rerun the same command to resume: sparsing models\n"
    )


def test_the_handler_of_the_caller_is_restored():
    before = signal.getsignal(signal.SIGTERM)
    assert main(["models", "--json"]) == 0
    assert signal.getsignal(signal.SIGTERM) is before


def sparsing_models(redirection: str) -> subprocess.CompletedProcess:
    command = f"{sys.executable} -m sparsing train --list-presets {redirection}"
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, check=False
    )


def test_a_pipe_whose_reader_has_gone():
    done = sparsing_models("| true")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_closed_stdout():
    done = sparsing_models(">&-")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_stdout():
    done = sparsing_models("> /dev/full")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "No space left" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_names_with_markup_and_control_characters_are_printed_as_they_are(capsys):
    name = "a[/red][bold]b\x1b[31m\x07" + os.fsdecode(b"\xff")
    sparsing.cli._accept_any_text()
    _common.print_table(f"title {name}", [name, "x"], [[name, "1"]])
    printed = capsys.readouterr().out
    assert printed.count(r"a[/red][bold]b\x1b[31m\x07\udcff") == 3
    assert "\x1b" not in printed


def test_an_unexpected_error_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr("sparsing.cli.models.run", lambda args: {}["key"])
    with pytest.raises(KeyError):
        main(["models"])
