"""Runs a program that a model wrote: in a process of its own, confined by the Linux kernel.

No network, no other process, no signal to another, no file outside an empty folder (Landlock, seccomp), no
environment, and limits on processor and wall time, memory, files. `confined.py` is what the process runs; it
confines itself before it sees the program, so nothing is left to undo afterwards. Linux 5.13 or newer.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sparsing.errors import SparsityError

_CHILD = Path(__file__).with_name("confined.py")
_LOOK_EVERY_SEC = 0.02


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What one program may use."""

    cpu_sec: int = 5
    """Processor time, start of the interpreter included."""
    wall_sec: float = 15.0
    """Time on the clock, for programs that wait."""
    memory_bytes: int = 2**30
    """Address space."""
    file_bytes: int = 2**23
    """All files together, and each one."""
    open_files: int = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a program ended."""

    passed: bool
    """True when it ran to its last line."""
    reason: str
    """`passed`, the name of the exception, or the limit that ended it."""


def run_program(program: str, limits: Limits | None = None) -> Outcome:
    """Run Python source to its end or to a limit.

    A program passes when its last line was reached: leaving early, with whatever status, is a failure.

    Raises:
        SparsityError: this system cannot confine a process; the program was not run.
    """
    limits = limits or Limits()
    token = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="sparsing-run-") as folder:
        reader, writer = os.pipe()
        try:
            process = _start(folder, writer, limits)
            os.close(writer)
            _send(process, json.dumps([token, program]).encode())
            ended = _wait(process, Path(folder), limits)
            said = _said(reader)
        finally:
            os.close(reader)
    if said.startswith("unconfined:"):
        raise SparsityError(
            f"generated code is not run: {said.partition(':')[2].strip()}; it is confined by Landlock and seccomp"
            " (Linux 5.13 or newer, x86-64 or arm64). Leave out the tasks that execute code"
        )
    if said == token and not ended:
        return Outcome(passed=True, reason="passed")
    exception = said.removeprefix("failed: ") if said.startswith("failed: ") else ""
    return Outcome(passed=False, reason=ended or exception or _status(process.returncode))


def _start(folder: str, writer: int, limits: Limits) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-I", str(_CHILD), str(writer), json.dumps(dataclasses.asdict(limits))],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env={},
        pass_fds=(writer,),
        start_new_session=True,
    )


def _send(process: subprocess.Popen, data: bytes) -> None:
    assert process.stdin is not None
    for step in (lambda stdin: stdin.write(data), lambda stdin: stdin.close()):
        with contextlib.suppress(BrokenPipeError):  # it could not confine itself and has said so
            step(process.stdin)


def _wait(process: subprocess.Popen, folder: Path, limits: Limits) -> str:
    """Wait for the end; returns the limit that had to end it, empty when it ended by itself."""
    deadline = time.monotonic() + limits.wall_sec
    ended = ""
    while not ended:
        try:
            process.wait(_LOOK_EVERY_SEC)
            break
        except subprocess.TimeoutExpired:
            if time.monotonic() > deadline:
                ended = "time"
            elif _size(folder) > limits.file_bytes:
                ended = "files"
    if ended:
        process.kill()
        process.wait()
    return ended


def _size(folder: Path) -> int:
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(Path(path) / name).st_blocks * 512
            except FileNotFoundError:
                continue
    return total


def _said(reader: int) -> str:
    """The one line that the process left, read without waiting: it may have filled the pipe."""
    ready, _, _ = select.select([reader], [], [], 0)
    return os.read(reader, 300).decode("utf-8", "replace") if ready else ""


def _status(code: int) -> str:
    if code == -signal.SIGXCPU:
        return "time"
    if code == -signal.SIGXFSZ:
        return "files"
    return f"killed by signal {-code}" if code < 0 else "left before its last line"
