"""A generated program runs to its end or to a limit, and reaches nothing outside its folder."""

from __future__ import annotations

import os
import socket
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
        pytest.skip(f"needs Landlock and seccomp: {error}")


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
        "import subprocess\nsubprocess.run(['true'])",
        "import multiprocessing as m\np = m.Process(target=print)\np.start(); p.join()\nassert p.exitcode == 0",
        "import os\nos.execv('/bin/true', ['true'])",
        "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)",
        "import os, signal\nos.kill(-1, signal.SIGKILL)",
        "import socket\nsocket.socket()",
        "import socket\nsocket.socket(socket.AF_UNIX)",
        "import socket\nsocket.socketpair()",
        "import os\nos.listdir(os.path.expanduser('~root'))",
        "open('/etc/passwd').read()",
        "open('/proc/self/environ').read()",
        "open('/proc/1/cmdline').read()",
        "open('/dev/shm/escaped', 'w')",
        "import os\nos.symlink('/etc/passwd', 'x')\nopen('x').read()",
        "import os\nos.link('/etc/passwd', 'x')\nopen('x').read()",
        "import os\nos.chdir('/')\nopen('escaped', 'w')",
        "import os\nos.chroot('.')",
        "import os\nos.chmod('/tmp', 0o777)",
        "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (100, 100))",
        "import os\nos.memfd_create('x')",
        "import ctypes\nassert ctypes.CDLL(None).ptrace(16, 1, 0, 0) == 0",
        "import ctypes\nassert ctypes.CDLL(None).unshare(0x10000000) == 0",
    ],
)
def test_no_way_out(program):
    assert not run_program(program, SHORT).passed


def test_a_fork_is_refused_and_not_only_detected():
    program = """
import os
for _ in range(50):
    try:
        os.fork()
    except PermissionError:
        continue
    raise SystemExit
"""
    assert run_program(program).passed


def test_the_home_folder_cannot_be_read(tmp_path, monkeypatch):
    """The program cannot open a file that this process can read."""
    secret = tmp_path / "secret"
    secret.write_text("token")
    for path in (secret, Path(__file__).resolve()):
        assert path.read_text()
        assert run_program(f"open({str(path)!r}).read()").reason == "PermissionError"
    assert run_program(f"import os; os.listdir({str(tmp_path)!r})").reason == "PermissionError"
    assert run_program(f"open({str(tmp_path / 'new')!r}, 'w')").reason == "PermissionError"
    assert list(tmp_path.iterdir()) == [secret]


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


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run_program("import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()")
    assert list(tmp_path.iterdir()) == []


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


def test_a_system_that_cannot_confine_runs_nothing(tmp_path, monkeypatch):
    child = tmp_path / "confined.py"
    child.write_text("import os, sys\nos.write(int(sys.argv[1]), b'unconfined: no Landlock')\nos._exit(3)\n")
    monkeypatch.setattr("sparsing.evaluation.code.sandbox._CHILD", child)
    with pytest.raises(SparsityError, match="not run: no Landlock"):
        run_program("x" * 10**6)
