"""Tests of sweeps on Ray: failures, memory, workers that are killed at random, and resumption."""

from __future__ import annotations

import contextlib
import json
import random
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pandas
import psutil
import pytest

from sparsing import cli
from sparsing.demo import checkpoints
from sparsing.scale.cell import CRASHED, DONE, FAILED, OUT_OF_MEMORY, Cell, CellRecord
from sparsing.scale.sweep import _Queue, run_sweep

ray_exceptions = pytest.importorskip("ray.exceptions", reason="sweeps need Ray: pip install '.[scale]'")


class Events:
    """Collects what happens in a sweep."""

    def __init__(self) -> None:
        self.log: list[tuple[str, str, bool]] = []

    def started(self, cell: Cell, attempt: int) -> None:
        self.log.append((cell.name, f"attempt {attempt}", False))

    def ended(self, cell, record, again: bool) -> None:
        self.log.append((cell.name, record.outcome, again))

    def refresh(self) -> None: ...

    def of(self, name: str) -> list[str]:
        return [event for cell, event, _ in self.log if cell == name]


def make_cell(folder: Path, name: str, program: str, **options) -> Cell:
    return Cell(
        name=name,
        labels={"model": name},
        folder=folder / name,
        commands=((sys.executable, "-c", program),),
        **options,
    )


def test_failures_are_retried_and_reported_and_stop_no_other_cell(tmp_path: Path):
    """One cell always fails, one fails once, one needs more memory than it asks for, one waits for the first."""
    once = f"import os, sys; p = {str(tmp_path / 'flag')!r}; n = os.path.exists(p); open(p, 'w'); sys.exit(not n)"
    cells = [
        make_cell(tmp_path, "fails", "import sys; sys.exit('never')"),
        make_cell(tmp_path, "waits", "pass", needs=("fails",)),
        make_cell(tmp_path, "once", once),
        make_cell(tmp_path, "large", "bytearray(900_000_000)", memory_gb=0.3),
        make_cell(tmp_path, "good", "pass"),
        make_cell(tmp_path, "after", "pass", needs=("good", "large")),
    ]
    events = Events()
    records = {record.name: record for record in run_sweep(cells, events, retries=1)}
    assert {name: record.outcome for name, record in records.items()} == {
        "fails": FAILED,
        "waits": FAILED,
        "once": DONE,
        "large": DONE,
        "good": DONE,
        "after": DONE,
    }
    assert records["fails"].attempts == 2
    assert records["fails"].message == "never"
    assert "needs fails" in records["waits"].message
    assert events.of("once") == ["attempt 1", FAILED, "attempt 2", DONE]
    assert events.of("large") == [
        *("attempt 1", OUT_OF_MEMORY, "attempt 2", OUT_OF_MEMORY, "attempt 3", DONE)
    ]
    # what is done is not run again
    again = Events()
    run_sweep(cells, again, retries=0)
    assert {name for name, _, _ in again.log} == {"fails", "waits"}


class FakeRay:
    """Runs each task at once, or raises what the test wants; for clusters and failures that no test can make."""

    exceptions = ray_exceptions

    def __init__(self, *outcomes: Exception | str):
        self._outcomes, self._tasks, self.memory = list(outcomes), list[tuple[Cell, int]](), list[float]()

    def remote(self, **options):
        self.memory.append(options.get("memory", 0))
        return lambda _: SimpleNamespace(remote=self._start)

    def _start(self, cell: Cell, attempt: int, workdir: Path) -> int:
        self._tasks.append((cell, attempt))
        return len(self._tasks) - 1

    def wait(self, tasks, timeout):
        return tasks, []

    def get(self, task):
        if isinstance(outcome := self._outcomes.pop(0), Exception):
            raise outcome
        cell, attempt = self._tasks[task]
        fields = {"name": cell.name, "labels": cell.labels, "identity": "", "host": "", "wall_sec": 0.0}
        return CellRecord(**fields, outcome=outcome, attempts=attempt)


def run_queue(ray: FakeRay, nodes: list[dict[str, float]], *cells: Cell) -> list[CellRecord]:
    records = _Queue(ray, nodes, cells, Events(), 1, done=set()).run()
    return [records[cell.name] for cell in cells]


def test_an_exception_in_a_worker_is_a_failure_with_its_message_and_no_crash(tmp_path: Path):
    error = ray_exceptions.RayTaskError("run_cell", "Traceback ...", OSError(28, "No space left on device"))
    ray = FakeRay(error, error)
    (record,) = run_queue(ray, [{"CPU": 1.0}], make_cell(tmp_path, "cell", "pass"))
    assert (record.outcome, record.attempts) == (FAILED, 2)
    assert record.message == "OSError: [Errno 28] No space left on device"


def test_a_worker_that_ray_ends_for_memory_gets_more_memory(tmp_path: Path):
    ray = FakeRay(ray_exceptions.OutOfMemoryError("no memory"), DONE)
    (record,) = run_queue(ray, [{"CPU": 1.0, "memory": 4e9}], make_cell(tmp_path, "cell", "", memory_gb=1))
    assert record.outcome == DONE
    assert ray.memory == [1e9, 2e9]


def test_a_cell_with_a_gpu_gets_no_more_memory_than_the_nodes_with_gpus_have(tmp_path: Path):
    """Otherwise no node could run it, and it would keep all cells behind it from running."""
    nodes = [{"CPU": 4.0, "GPU": 1.0, "memory": 8e9}, {"CPU": 4.0, "memory": 64e9}]
    cells = [
        make_cell(tmp_path, "gpu", "", gpus=1, memory_gb=5),
        make_cell(tmp_path, "after", "", needs=("first",)),
        make_cell(tmp_path, "first", ""),
    ]
    records = run_queue(FakeRay(OUT_OF_MEMORY, DONE, DONE, OUT_OF_MEMORY), nodes, *cells)
    assert [record.outcome for record in records] == [OUT_OF_MEMORY, DONE, DONE]


def test_a_cell_may_take_the_whole_memory_of_a_node_whatever_its_bytes(tmp_path: Path):
    """The memory in GB times 1e9 is not always the number of bytes again."""
    rng = random.Random(0)
    for _ in range(300):
        memory = float(rng.randrange(10**9, 10**12))
        ray = FakeRay(OUT_OF_MEMORY, DONE)
        (record,) = run_queue(ray, [{"CPU": 1.0, "memory": memory}], make_cell(tmp_path, "cell", ""))
        assert record.outcome == DONE
        assert ray.memory == [0, memory]


def kill_workers(count: int, seed: int, stop: threading.Event) -> list[int]:
    """Kills `count` workers of Ray that run a cell, at random moments. Returns the killed processes."""
    rng, killed = random.Random(seed), []
    while len(killed) < count and not stop.is_set():
        time.sleep(rng.uniform(0.5, 4))
        workers = []
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):  # it has ended meanwhile
                if "run_cell" in "".join(process.cmdline()[:1]) and process.children():
                    workers.append(process)
        if workers:
            victim = rng.choice(workers)
            victim.kill()
            killed.append(victim.pid)
    return killed


@pytest.mark.slow
def test_twenty_workers_are_killed_and_every_cell_is_done_once(tmp_path: Path):
    """24 measurements of the demo models; the table equals that of an undisturbed sweep."""
    text = (Path(cli.__file__).parent / "measure.py").read_text() * 3
    for part in range(4):
        (tmp_path / f"text{part}.txt").write_text(text[part * 3000 :])
    texts = "\n".join(f'part{part} = "{tmp_path}/text{part}.txt"' for part in range(4))
    (tmp_path / "sweep.toml").write_text(
        f"models = {json.dumps([str(checkpoints(name)[-1]) for name in ('relu', 'silu')])}\n"
        f'rules = ["cett", "fat", "top_k"]\n[texts]\n{texts}\n'
        "[measure]\nmax_tokens = 2000\nwindow = 128\nno_figures = true\nbatch_size = 8\n[run]\ncpus = 1\n"
    )
    command = ["sweep", str(tmp_path / "sweep.toml"), "--quiet"]
    stop, killed = threading.Event(), []
    killer = threading.Thread(target=lambda: killed.extend(kill_workers(20, 7, stop)))
    killer.start()
    try:
        assert cli.main([*command, "-o", str(tmp_path / "disturbed")]) == 0
    finally:
        stop.set()
        killer.join()
    assert len(killed) == 20
    assert cli.main([*command, "-o", str(tmp_path / "calm")]) == 0
    disturbed, calm = (
        pandas.read_parquet(tmp_path / name / "sweep.parquet") for name in ("disturbed", "calm")
    )
    assert len(calm) == 24
    assert disturbed["attempts"].max() > 1
    varying = ["attempts", "wall_sec"]
    pandas.testing.assert_frame_equal(
        disturbed.drop(columns=varying), calm.drop(columns=varying), check_exact=True
    )
    # each cell ran to its end once: one record per folder, and no temporary file is left
    cells = list((tmp_path / "disturbed" / "cells").iterdir())
    assert len(cells) == len([cell for cell in cells if (cell / "cell.json").exists()]) == 24
    assert not list((tmp_path / "disturbed").rglob("*.partial"))


def test_a_cell_that_kills_its_worker_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sparsing.scale.sweep.MAX_CRASHES", 2)
    program = "import os, signal, time; os.kill(os.getppid(), signal.SIGKILL); time.sleep(30)"
    (record,) = run_sweep([make_cell(tmp_path, "killer", program)], Events())
    assert record.outcome == CRASHED
    assert record.attempts == 2
