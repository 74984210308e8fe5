"""Runs a program that dies with its parent and may be limited in memory: `python -m sparsing.scale.bounded_child`.

A worker of a sweep that is killed must not leave its run behind, since the run holds the lock of its folder. The
program is started through this module because Python code between fork and exec can deadlock in a process with threads.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1


def bounded_command(command: Sequence[str], memory_gb: float | None) -> list[str]:
    """The command that runs `command` below this process, with at most `memory_gb` (1e9 bytes) of data."""
    limit = 0 if memory_gb is None else round(memory_gb * 1e9)
    return [sys.executable, "-m", "sparsing.scale.bounded_child", str(os.getpid()), str(limit), *command]


def main(arguments: Sequence[str]) -> None:
    """Sets both limits and becomes the program."""
    parent, limit, *command = arguments
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(parent):  # it died before the signal was set
            sys.exit(1)
    if int(limit):
        with contextlib.suppress(ValueError):  # the limit of this process is lower already
            # address space would count the files that torch maps, so data only
            resource.setrlimit(resource.RLIMIT_DATA, (int(limit), int(limit)))
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
