"""Runs a program that a model wrote, in a process of its own that the Linux kernel confines.

The program has no network, no environment and no file outside an empty folder. It can start no other process and send
no signal (Landlock, seccomp). Processor time, wall time, memory and files are limited. The process runs `confined.py`,
which confines itself before it runs the program; the confinement ends with the process. Needs Linux 5.13 or newer.
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
_POLL_SEC = 0.02
"""How often the size of the files and the wall time are checked."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of one program."""

    cpu_sec: int = 5
    """Processor time, including the start of the interpreter."""
    wall_sec: float = 15.0
    """Wall time; it ends programs that wait and use no processor."""
    memory_bytes: int = 2**30
    """Address space."""
    file_bytes: int = 2**23
    """Size of each file, and of all files together."""
    open_files: int = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProgramEnd:
    """How a program ended."""

    passed: bool
    """True if the program ran to its last line."""
    reason: str
    """`passed`, the name of the exception, or the limit that ended the program."""


def run_program(program: str, limits: Limits | None = None) -> ProgramEnd:
    """Run Python source to its end or to a limit.

    A program passes if it reaches its last line. A program that exits early fails, whatever its exit status.

    Args:
        limits: None for the default limits.

    Raises:
        SparsityError: if this system cannot confine a process; the program was not run.
    """
    limits = limits or Limits()
    token = secrets.token_hex(16)  # the program does not know it, so it cannot claim to have passed
    with tempfile.TemporaryDirectory(prefix="sparsing-run-") as folder:
        reader, writer = os.pipe()
        try:
            process = _start(folder, writer, limits)
            os.close(writer)
            _send(process, json.dumps([token, program]).encode())
            ended = _wait(process, Path(folder), limits)
            report = _read_report(reader)
        finally:
            os.close(reader)
    if report.startswith("unconfined:"):
        raise SparsityError(
            f"generated code is not run: {report.partition(':')[2].strip()}; its confinement needs Landlock and"
            " seccomp (Linux 5.13 or newer, x86-64 or arm64). Leave out the tasks that execute code"
        )
    if report == token and not ended:
        return ProgramEnd(passed=True, reason="passed")
    exception = report.removeprefix("failed: ") if report.startswith("failed: ") else ""
    return ProgramEnd(passed=False, reason=ended or exception or _describe_status(process.returncode))


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
        with contextlib.suppress(BrokenPipeError):  # the process has ended already; its report says why
            step(process.stdin)


def _wait(process: subprocess.Popen, folder: Path, limits: Limits) -> str:
    """Wait for the end of the process, and kill it at a limit.

    Returns: The limit, `time` or `files`; empty if the process ended by itself.
    """
    deadline = time.monotonic() + limits.wall_sec
    ended = ""
    while not ended:
        try:
            process.wait(_POLL_SEC)
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
    """Bytes that the files below `folder` take on the disk."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(Path(path) / name).st_blocks * 512
            except FileNotFoundError:  # the program has deleted the file in the meantime
                continue
    return total


def _read_report(reader: int) -> str:
    """The line that the process wrote to the pipe; empty if there is none.

    Reads without waiting and not to the end: a process that the limits ended wrote nothing, and a program may fill
    the pipe.
    """
    ready, _, _ = select.select([reader], [], [], 0)
    return os.read(reader, 300).decode("utf-8", "replace") if ready else ""


def _describe_status(code: int) -> str:
    """The reason for the end of a process that left no report, from its exit status."""
    if code == -signal.SIGXCPU:
        return "time"
    if code == -signal.SIGXFSZ:
        return "files"
    return f"killed by signal {-code}" if code < 0 else "left before its last line"
