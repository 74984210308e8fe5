"""Runs a program that a model wrote, in namespaces of its own that bubblewrap makes.

bubblewrap (`bwrap`, a package of every Linux distribution) starts the program with its own processes, network, mounts,
users and System V objects. The program sees the libraries read-only and an empty folder in memory, and nothing else of
the machine. Memory, tasks, files and processor time are limited inside. Wall time is limited from outside, by killing
the whole namespace. Without bubblewrap no program is run.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import secrets
import select
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

from sparsing.errors import SparsityError

_CHILD = Path(__file__).with_name("confined.py")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
_ROOT_LINKS = ("/lib", "/lib32", "/lib64", "/libx32")
_FIRST_USER, _NUM_USERS = 61184, 4336
"""Range of user ids that systemd keeps for short-lived users."""
_READY = "ready\n"
"""Written by `confined.py` when all limits are set, just before the program runs."""
_INSTALL = (
    "install it (apt-get install bubblewrap, dnf install bubblewrap, pacman -S bubblewrap), or leave out the tasks that"
    " execute code"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of one program."""

    cpu_sec: int = 5
    """Processor time of each process, including the start of the interpreter."""
    wall_sec: float = 15.0
    """Wall time; it ends programs that wait and use no processor."""
    memory_bytes: int = 2**30
    """Address space of each process."""
    file_bytes: int = 2**23
    """Size of all files together, which are in memory."""
    tasks: int = 8
    """Processes and threads, with those of bubblewrap."""
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
        SparsityError: if this system cannot confine a process, or the sandbox itself fails; the program was not run.
    """
    limits = limits or Limits()
    token = secrets.token_hex(16)  # the program does not get it, so it cannot simply claim to have passed
    reader, writer = os.pipe()
    try:
        try:
            process = _start(writer, limits)
        finally:
            os.close(writer)
        errors, timed_out = _wait(process, json.dumps([token, program]).encode(), limits.wall_sec)
        report = _read_report(reader)
    finally:
        os.close(reader)
    if not report.startswith(_READY):
        reason = (errors.strip().splitlines() or [_describe_status(process.returncode)])[-1]
        raise SparsityError(
            f"generated code is not run, because bubblewrap failed: {reason}; it needs the right to make namespaces"
            " (sysctl kernel.unprivileged_userns_clone=1; in a container --security-opt seccomp=unconfined)."
            " Leave out the tasks that execute code if this cannot be changed"
        )
    report = report.removeprefix(_READY)
    if timed_out:
        return ProgramEnd(passed=False, reason="time")
    if report == token:
        return ProgramEnd(passed=True, reason="passed")
    exception = report.removeprefix("failed: ") if report.startswith("failed: ") else ""
    return ProgramEnd(passed=False, reason=exception or _describe_status(process.returncode))


@functools.cache
def check_sandbox() -> None:
    """Raises SparsityError if this system cannot confine a program. Called before hours of generation, not after."""
    end = run_program("pass")
    if not end.passed:
        raise SparsityError(f"the sandbox for generated code does not run an empty program ({end.reason})")


def _start(writer: int, limits: Limits) -> subprocess.Popen[bytes]:
    bubblewrap = shutil.which("bwrap")
    if bubblewrap is None:
        raise SparsityError(f"generated code is run only inside bubblewrap, which is missing; {_INSTALL}")
    user = _FIRST_USER + os.getpid() % _NUM_USERS
    numbers = json.dumps({**dataclasses.asdict(limits), "user": user})
    return subprocess.Popen(
        [
            *(bubblewrap, *_namespaces(), *_mounts(limits)),
            *("--", sys.executable, "-I", "/confined.py", str(writer), numbers),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=(writer,),
        start_new_session=True,
    )


def _namespaces() -> list[str]:
    options = ["--unshare-all", "--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL"]
    if os.geteuid() == 0:
        # in a namespace of users, root would stay root for the limit on tasks; `confined.py` changes the user instead
        options[0:1] = [
            "--unshare-ipc",
            "--unshare-pid",
            "--unshare-net",
            "--unshare-uts",
            "--unshare-cgroup-try",
        ]
        options += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    return options


def _mounts(limits: Limits) -> list[str]:
    """The libraries of the system and of Python read-only, some devices, and an empty folder of limited size."""
    # the first mount, because Python itself may be installed below /tmp
    options = ["--perms", "1777", "--size", str(limits.file_bytes), "--tmpfs", "/tmp"]
    bound = sorted({"/usr", os.path.realpath(sys.base_prefix), sys.base_prefix, sys.prefix})
    for folder in sorted({parent for path in bound for parent in Path(path).parents} | {Path("/dev")}):
        if folder == Path("/tmp"):
            continue
        options += [
            "--perms",
            "0755",
            "--dir",
            str(folder),
        ]  # by default only root could enter the folders on the way
    for path in bound:
        options += ["--ro-bind", path, path]
    for path in map(Path, _ROOT_LINKS):
        if path.is_symlink():
            options += ["--symlink", str(path.readlink()), str(path)]
        elif path.exists():
            options += ["--ro-bind", str(path), str(path)]
    for device in _DEVICES:
        options += ["--dev-bind", device, device]
    options += ["--ro-bind", str(_CHILD), "/confined.py", "--perms", "1777", "--dir", "/tmp/program"]
    return [*options, "--remount-ro", "/"]


def _wait(process: subprocess.Popen[bytes], data: bytes, wall_sec: float) -> tuple[str, bool]:
    """Sends the program, and waits for the end of the process or kills its namespace.

    Returns: what bubblewrap wrote to stderr, and whether the time was up.
    """
    ended = threading.Event()
    timer = threading.Timer(wall_sec, lambda: (ended.set(), process.kill()))
    timer.start()
    try:
        _, errors = process.communicate(data)
    finally:
        timer.cancel()
        process.kill()
        process.wait()
    return errors.decode("utf-8", "replace")[:2000], ended.is_set()


def _read_report(reader: int) -> str:
    """What the process wrote to the pipe; empty if it wrote nothing.

    Reads without waiting and not to the end, because a program may fill the pipe.
    """
    ready, _, _ = select.select([reader], [], [], 0)
    return os.read(reader, 400).decode("utf-8", "replace") if ready else ""


def _describe_status(code: int) -> str:
    """The reason for the end of a process that left no report, from the exit status of bubblewrap."""
    number = code - 128 if code > 128 else -code  # bubblewrap ends with 128 + the signal of the program
    if number in (signal.SIGXCPU, signal.SIGKILL):
        return "time"
    return f"killed by signal {number}" if number > 0 else "left before its last line"
