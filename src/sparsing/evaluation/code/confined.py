"""The script that runs one generated program inside the namespaces of bubblewrap.

`sandbox.py` starts it. It gives up the identity of root, sets limits that the program cannot lift, runs the program and
writes to a pipe how it ended. It imports as little as possible, because the program can reach everything that is
imported here.
"""

import json
import os
import resource
import sys


def main() -> None:
    writer, limits = int(sys.argv[1]), json.loads(sys.argv[2])
    with open(0, "rb") as source:
        token, program = json.loads(source.read())
    if os.getuid() == 0:  # limits on processes do not hold for root
        os.setgroups([])
        os.setresgid(limits["user"], limits["user"], limits["user"])
        os.setresuid(limits["user"], limits["user"], limits["user"])
    os.chdir("/tmp/program")  # empty, while /tmp may hold the installation of Python
    _limit(limits)
    nowhere = os.open("/dev/null", os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    os.close(nowhere)
    os.write(writer, b"ready\n")  # from here on the program decides how it ends
    process = os.getpid()
    report = _run(program, token)
    if os.getpid() == process:  # a process that the program has started does not report
        os.write(writer, report.encode()[:300])
    os._exit(0)  # also ends threads of the program, and skips its exit handlers


def _run(program: str, token: str) -> str:
    """The token if the program reached its last line, else the reason why not."""
    try:
        exec(compile(program, "program.py", "exec"), {"__name__": "__main__"})
    except BaseException as error:  # SystemExit too: a program that exits early fails
        return f"failed: {type(error).__name__}"
    return token


def _limit(limits: dict) -> None:
    seconds = limits["cpu_sec"]
    # The soft limit sends SIGXCPU, which a program may ignore. The hard limit kills.
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    for kind, most in (
        (resource.RLIMIT_AS, limits["memory_bytes"]),
        (resource.RLIMIT_NPROC, limits["tasks"]),
        (resource.RLIMIT_NOFILE, limits["open_files"]),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (most, most))


if __name__ == "__main__":
    main()
