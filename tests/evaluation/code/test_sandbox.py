"""A generated program runs to its end or to a limit, and reaches nothing outside its namespace.

The attacks are those of a program that wants to harm the harness or the machine. Each must have no effect outside.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sparsing.errors import SparsityError
from sparsing.evaluation.code.sandbox import Limits, run_program

SHORT = Limits(cpu_sec=1, wall_sec=3.0)


@pytest.fixture(scope="module", autouse=True)
def _confinable():
    try:
        run_program("")
    except SparsityError as error:
        pytest.skip(f"needs bubblewrap: {error}")


def test_a_program_that_ends_passes():
    program = "import math, collections, heapq, re, threading\nassert math.gcd(6, 4) == 2\nprint('x' * 10**6)"
    assert run_program(program).passed


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("assert 1 == 2", "AssertionError"),
        ("def f(:", "SyntaxError"),
        ("import sys; sys.exit(0)", "SystemExit"),
        ("import os; os._exit(0)", "left before its last line"),
        ("def f(): f()\nf()", "RecursionError"),
        ("x = bytearray(3 << 30)", "MemoryError"),
    ],
)
def test_a_program_that_does_not_reach_its_end_fails(program, reason):
    outcome = run_program(program, SHORT)
    assert not outcome.passed
    assert outcome.reason == reason


@pytest.mark.parametrize(
    "program",
    [
        "while True: pass",
        "import time\ntime.sleep(60)",
        "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass",
    ],
)
def test_time_is_limited(program):
    assert not run_program(program, SHORT).passed


@pytest.mark.parametrize(
    "program",
    [
        "import os\nwhile True: os.fork()",
        "import threading, time\nfor _ in range(5000): threading.Thread(target=time.sleep, args=(60,)).start()",
        "import subprocess\nsubprocess.run(['bash', '-c', ':(){ :|:& };:'], check=True)\nwhile True: pass",
        "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\nos.kill(-1, signal.SIGKILL)\nassert False",
        "import socket\nsocket.create_connection(('1.1.1.1', 80), 1)",
        "open('/etc/passwd').read()",
        "open('/proc/self/environ').read()",
        "open('/dev/shm/escaped', 'w')",
        "open('/escaped', 'w')",
        "open('/usr/escaped', 'w')",
        "import os\nos.symlink('/etc/passwd', 'x')\nopen('x').read()",
        "import os\nos.link('/usr/bin/env', 'x')",
        "import os\nos.chroot('.')",
        "import os\nos.setuid(0)",
        "import os\nos.nice(-5)",
        "import os\nos.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))",
        "import os\nos.mknod('x', 0o20666, os.makedev(1, 1))",
        "import os, sys\nos.chmod(sys.executable, 0o777)",
        "import os, sys\nos.utime(sys.executable, (0, 0))",
        "import os, sys\nos.truncate(os.path.realpath(sys.executable), 0)",
        "import os, sys\nos.setxattr(sys.executable, 'user.x', b'x')",
        "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (100, 100))",
        "import time\ntime.clock_settime(time.CLOCK_REALTIME, 0)",
        "import socket\nsocket.sethostname('x')",
        "import ctypes\nassert ctypes.CDLL(None).ptrace(16, 1, 0, 0) == 0",
        "import ctypes\nassert ctypes.CDLL(None).mount(b'none', b'/tmp', b'tmpfs', 0, 0) == 0",
        "import os, fcntl, signal\nfcntl.fcntl(0, fcntl.F_SETOWN, os.getppid() + 100)\nassert False",
    ],
)
def test_no_way_out(program):
    assert not run_program(program, SHORT).passed


def test_the_harness_is_not_visible():
    """No process of the machine can be found, so none can be signalled, traced or rescheduled."""
    program = f"""
import os
assert os.getpid() < 10 and os.getppid() <= 1
for call in (os.getsid, os.getpgid, os.sched_getaffinity, lambda pid: os.kill(pid, 0)):
    try:
        call({os.getpid()})
    except ProcessLookupError:
        continue
    raise AssertionError(call)
"""
    assert run_program(program).reason == "passed"


def test_system_v_objects_are_its_own():
    program = """
import ctypes
libc = ctypes.CDLL(None)
assert libc.shmget(4711, 4096, 0o1666) >= 0
assert libc.msgget(4711, 0o1666) >= 0
"""
    run_program(program)
    if shutil.which("ipcs") is None:
        pytest.skip("needs ipcs")
    listed = subprocess.run(["ipcs"], capture_output=True, text=True, check=True).stdout
    assert f"0x{4711:08x}" not in listed


def test_nothing_of_the_machine_can_be_read_or_even_found(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("token")
    for path in (secret, Path(__file__).resolve(), Path("/etc/passwd"), Path.home() / ".bashrc"):
        for call in ("open(p).read()", "os.stat(p)"):
            assert run_program(f"import os\np = {str(path)!r}\n{call}").reason in {
                "FileNotFoundError",
                "PermissionError",
            }
    assert run_program(f"open({str(tmp_path / 'new')!r}, 'w')").reason == "FileNotFoundError"
    assert list(tmp_path.iterdir()) == [secret]


def test_escape_codes_do_not_reach_the_terminal(capfd):
    program = "import os, sys\nprint('\\x1b[31m')\nsys.stderr.write('\\x1b]0;title')\nos.write(2, b'\\x07')"
    assert run_program(program).passed
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_processes_of_a_program_end_with_it():
    marker = f"sleep {20_000 + os.getpid()}"
    run_program(f"import subprocess\nsubprocess.Popen({marker.split()!r})")
    run_program(f"import subprocess\nsubprocess.run({marker.split()!r})", SHORT)
    wait_until(lambda: not running(marker))


def test_a_forked_process_does_not_report():
    program = "import os\nif os.fork() == 0: raise KeyError\nos.wait()"
    assert run_program(program).reason == "passed"


def test_a_program_ends_when_the_harness_is_killed():
    marker = f"sleep {10_000 + os.getpid()}"
    program = f"import subprocess\nsubprocess.run({marker.split()!r})"
    code = f"from sparsing.evaluation.code.sandbox import run_program\nrun_program({program!r})"
    with subprocess.Popen([sys.executable, "-c", code]) as harness:
        wait_until(lambda: running(marker))
        harness.kill()
    wait_until(lambda: not running(marker))


def running(command: str) -> bool:
    """Whether a process with this command line exists."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:  # the process has ended
            continue
        if line.replace(b"\0", b" ").strip() == command.encode():
            return True
    return False


def wait_until(holds) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_no_secret_in_the_environment(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    program = "import os\nassert 'HF_TOKEN' not in os.environ\nassert 'HOME' not in os.environ"
    assert run_program(program).passed


def test_a_listening_server_is_not_reached():
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        port = server.getsockname()[1]
        program = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 1)"
        assert not run_program(program, SHORT).passed
        with pytest.raises(TimeoutError):
            server.accept()


def test_the_folder_is_empty_and_its_own():
    program = """
import os
assert os.listdir(".") == []
os.mkdir("d")
with open("d/x", "w") as file:
    file.write("1")
assert open("d/x").read() == "1"
os.remove("d/x")
"""
    assert run_program(program).passed


@pytest.mark.parametrize(
    "program",
    [
        "f = open('x', 'wb')\nfor _ in range(10240): f.write(bytes(1 << 20))",
        "for i in range(10240): open(f'x{i}', 'wb').write(bytes(1 << 20))",
        "import os\nos.mkdir('d')\nfor i in range(10240): open(f'd/x{i}', 'wb').write(bytes(1 << 20))",
    ],
)
def test_ten_gigabytes_are_not_written(program):
    before = os.statvfs("/tmp").f_bfree
    assert not run_program(program).passed
    after = os.statvfs("/tmp")
    assert (before - after.f_bfree) * after.f_frsize < 2**30


def test_a_program_cannot_report_that_it_passed():
    program = """
import os
for fd in range(3, 32):
    try:
        os.write(fd, b"passed" * 20)
    except OSError:
        pass
os._exit(0)
"""
    assert not run_program(program).passed


def test_nested_folders_and_many_files_end_with_the_program():
    program = "import os\nfor _ in range(1500):\n    os.mkdir('d')\n    os.chdir('d')"
    before = len(list(Path("/tmp").iterdir()))
    assert run_program(program).passed
    assert len(list(Path("/tmp").iterdir())) <= before + 1


def test_without_bubblewrap_nothing_is_run(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(
        SparsityError, match=r"bubblewrap, which is missing; install it \(apt-get install bubblewrap"
    ):
        run_program("pass")


@pytest.mark.parametrize(
    "script", ["exit 1", "echo 'No permissions to make a namespace' >&2; exit 1", "kill -9 $$"]
)
def test_a_failure_of_the_sandbox_is_never_a_wrong_answer(script, tmp_path, monkeypatch):
    broken = tmp_path / "bwrap"
    broken.write_text(f"#!/bin/sh\n{script}\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(SparsityError, match="is not run, because bubblewrap failed: "):
        run_program("pass")


def test_a_limit_that_no_program_can_live_with_is_an_error():
    """A low limit on open files once scored 0 in silence."""
    with pytest.raises(SparsityError, match="is not run, because bubblewrap failed: "):
        run_program("pass", Limits(open_files=2))


def test_python_may_be_installed_below_tmp(tmp_path, monkeypatch):
    """An empty /tmp hides that of the host, but a virtual environment below /tmp must still be found."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "venv" / "bin" / "python"))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "venv"))
    assert run_program("import os\nassert os.listdir('.') == []\nopen('x', 'w').close()").passed
