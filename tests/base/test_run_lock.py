"""A run folder is locked against other processes, and the lock ends with the process that holds it."""

from __future__ import annotations

import os
import signal
import time

import pytest

from sparsing.base.run_lock import lock_folder
from sparsing.errors import InputError

from ..helpers.launched import variables
from ..helpers.locks import hold


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path):
    folder = tmp_path / "run"
    with hold(folder) as process:
        try:
            with (
                pytest.raises(InputError, match=r"another process is writing into .*run'"),
                lock_folder(folder),
            ):
                pass
        finally:
            os.kill(process.pid, signal.SIGKILL)
    with lock_folder(folder):
        pass


def test_of_several_processes_at_once_one_gets_a_new_folder(tmp_path):
    """Eight processes create, check and lock one folder at the same moment."""
    read, write = os.pipe()
    children = []
    for _ in range(8):
        child = os.fork()
        if not child:
            status = 1
            try:
                os.close(write)
                os.read(read, 1)  # returns for all of them at once, when the last writer has closed the pipe
                with lock_folder(tmp_path / "a" / "b"):
                    time.sleep(0.5)
                status = 0
            except InputError as error:
                status = 2 if "another process is writing" in str(error) else 1
            finally:
                os._exit(status)
        children.append(child)
    os.close(read)
    os.close(write)
    statuses = sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)
    assert statuses == [0] + [2] * 7


def test_one_process_may_lock_twice(tmp_path):
    with lock_folder(tmp_path), lock_folder(tmp_path / "." / "x" / ".."):
        pass


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    (tmp_path / "level" / ".cache").mkdir(parents=True)
    left = [tmp_path / ".a.json.x1.partial", tmp_path / "level" / ".b.partial"]
    kept = [tmp_path / "a.partial", tmp_path / ".a.json", tmp_path / "level" / ".cache" / "x"]
    for path in left + kept:
        path.write_text("x")
    with lock_folder(tmp_path):
        assert not any(path.exists() for path in left)
    assert all(path.exists() for path in kept)


def test_the_files_of_a_process_that_writes_into_a_folder_below_stay(tmp_path):
    """A task of a job array runs a cell, while a sweep in the folder above begins."""
    written = tmp_path / "cells" / "cell" / "cett-ppl-1" / ".measurement.json.x.partial"
    written.parent.mkdir(parents=True)
    with lock_folder(tmp_path / "cells" / "cell"):
        written.write_text("x")
        with lock_folder(tmp_path):
            assert written.exists()
    with lock_folder(tmp_path / "cells" / "cell"):
        assert not written.exists()


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(InputError, match=r"cannot write .*choose another folder"),
        lock_folder(tmp_path / "file" / "x"),
    ):
        pass


def test_only_the_first_process_of_torchrun_locks(tmp_path, monkeypatch):
    with hold(tmp_path) as process:
        try:
            for name, value in variables(1, 2).items():
                monkeypatch.setenv(name, value)
            with lock_folder(tmp_path):
                pass
        finally:
            process.kill()
