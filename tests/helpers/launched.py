"""Runs commands in one or several processes as `torchrun` does, without importing everything again for each of them.

`python launched.py` imports the package once. It then reads a request per line from stdin, forks the processes of the
request, and prints their exit statuses and what they printed.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any


class Launcher:
    """Starts the process that forks; use it in a `with` block."""

    def __enter__(self) -> Launcher:
        source = Path(__file__).resolve().parents[2] / "src"
        env = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(source)}
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, text=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(self, processes: int, *argv: object, prelude: str = "") -> list[tuple[int, str]]:
        """Exit status and output (stdout and stderr) of each process.

        Args:
            argv: Arguments of the command `sparsing`.
            prelude: Python code that every process runs first; `RANK` is its number.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {"processes": processes, "argv": [str(word) for word in argv], "prelude": prelude}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return [tuple(pair) for pair in json.loads(self._process.stdout.readline())]


def variables(rank: int, processes: int, port: int = 29500) -> dict[str, str]:
    """The environment variables that `torchrun` sets for a process on a single machine."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return {name: str(value) for name, value in place.items()}


def _answer(request: dict[str, Any]) -> list[tuple[int, str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(request["processes"]):
        read, write = os.pipe()
        child = os.fork()
        if not child:
            os.close(read)
            _be(rank, port, write, request)
        os.close(write)
        children.append((child, read))
    results = []
    for child, read in children:
        with os.fdopen(read, encoding="utf-8", errors="replace") as output:
            text = output.read()
        results.append((os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text))
    return results


def _be(rank: int, port: int, write: int, request: dict[str, Any]) -> None:
    """Becomes a process of the command."""
    for number, name in enumerate(("stdout", "stderr"), 1):
        os.dup2(write, number)
        setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", closefd=False))
    if request["processes"] > 1:
        os.environ |= variables(rank, request["processes"], port)
    from sparsing.cli import main

    status = 1
    try:
        exec(request["prelude"], {"RANK": rank})
        status = main(request["argv"])
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    for line in sys.stdin:
        sys.stdout.write(json.dumps(_answer(json.loads(line))) + "\n")
        sys.stdout.flush()
