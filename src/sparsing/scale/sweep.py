"""`run_sweep`: runs cells on Ray, on this machine or on a cluster, and survives cells and workers that fail.

Each cell is a task of Ray. A cell that fails is tried again. A cell that runs out of memory is tried again with twice
the memory, so Ray places it on a node that has so much. A cell whose worker or node died is tried again too. What still
fails is reported and does not stop the others. A cell that is done is never run again, because its record says so.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sparsing.base.extras import install_command
from sparsing.errors import InputError
from sparsing.scale.cell import CRASHED, DONE, FAILED, OUT_OF_MEMORY, Cell, CellRecord
from sparsing.scale.run_cell import run_cell, with_more_memory

if TYPE_CHECKING:
    from types import ModuleType

MAX_CRASHES = 20
"""Deaths of workers after which a cell is given up: it may be the cell that kills them."""
_WAIT_SEC = 1.0


class View(Protocol):
    """What shows a sweep while it runs."""

    def started(self, cell: Cell, attempt: int) -> None: ...
    def ended(self, cell: Cell, record: CellRecord, again: bool) -> None: ...
    def refresh(self) -> None: ...


def run_sweep(
    cells: Sequence[Cell], view: View, *, address: str | None = None, retries: int = 2
) -> list[CellRecord]:
    """Runs the cells that are not done yet. Returns the records of all cells, in their order.

    Args:
        address: Address of a Ray cluster, e.g. `auto` or `ray://head:10001`; None starts Ray on this machine. All
            nodes need the same file system below the folder of the sweep, and the same version of this package.
        retries: Further attempts of a cell that failed.

    Raises:
        InputError: If Ray is not installed, or if a cell asks for more than any node has.
    """
    records = {cell.name: record for cell in cells if (record := cell.finished())}
    left = [cell for cell in cells if cell.name not in records]
    if left:
        with _ray(address) as ray:
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            records |= _Queue(ray, nodes, left, view, retries, done=set(records)).run()
    return [records[cell.name] for cell in cells]


@contextlib.contextmanager
def _ray(address: str | None) -> Generator[ModuleType]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # the package sends nothing to anybody
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise InputError(f"a sweep needs Ray: {install_command('scale')}") from error
    local: dict[str, Any] = (
        {"num_cpus": _usable_cores(), "include_dashboard": False} if address is None else {}
    )
    ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **local)
    try:
        # Ray prints about dead workers on stdout, which belongs to results
        with contextlib.redirect_stdout(sys.stderr):
            yield ray
    finally:
        ray.shutdown()


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Queue:
    """The cells that wait and those that run."""

    def __init__(
        self,
        ray: Any,
        nodes: Sequence[dict[str, float]],
        cells: Sequence[Cell],
        view: View,
        retries: int,
        *,
        done: set[str],
    ):
        self._ray, self._nodes, self._view, self._retries = ray, nodes, view, retries
        self._waiting = list(cells)
        self._running: dict[Any, Cell] = {}
        self._attempts = dict.fromkeys((cell.name for cell in cells), 0)
        self._failures, self._crashes = dict(self._attempts), dict(self._attempts)
        self._done = done
        self._records: dict[str, CellRecord] = {}
        for cell in cells:
            if not self._places(cell):
                raise InputError(
                    f"cell {cell.name!r} asks for {_asked(cell)}, and no node has that much ({_has(nodes)}); lower"
                    " cpus, gpus or memory_gb under [run]"
                )

    def run(self) -> dict[str, CellRecord]:
        while self._waiting or self._running:
            self._submit()
            if not self._running:
                self._give_up_waiting()
                break
            ended, _ = self._ray.wait(list(self._running), timeout=_WAIT_SEC)
            for task in ended:
                self._end(self._running.pop(task), task)
            self._view.refresh()
        return self._records

    def _submit(self) -> None:
        """Starts cells that need nothing more, as many as the nodes can run at once."""
        for cell in list(self._waiting):
            if len(self._running) >= self._places(cell):
                break
            if not self._done.issuperset(cell.needs):
                continue
            self._waiting.remove(cell)
            self._attempts[cell.name] += 1
            options = {"num_cpus": cell.cpus, "num_gpus": cell.gpus, "max_retries": 0, "max_calls": 1}
            if cell.memory_gb is not None:
                options["memory"] = _memory_bytes(cell)
            task = self._ray.remote(**options)(run_cell)
            attempt = self._attempts[cell.name]
            self._running[task.remote(cell, attempt, Path.cwd())] = cell
            self._view.started(cell, attempt)

    def _places(self, cell: Cell) -> int:
        """How many such cells the nodes can run at once."""
        wanted = {"CPU": cell.cpus, "GPU": cell.gpus, "memory": _memory_bytes(cell)}
        return sum(
            min(int(node.get(name, 0) / amount) for name, amount in wanted.items() if amount)
            for node in self._nodes
        )

    def _end(self, cell: Cell, task: Any) -> None:
        try:
            record: CellRecord = self._ray.get(task)
        except (
            self._ray.exceptions.RayTaskError
        ) as error:  # an exception of `run_cell` itself, e.g. a full disk
            record = self._record(cell, FAILED, f"{type(error.cause).__name__}: {error.cause}")
        except (
            self._ray.exceptions.OutOfMemoryError
        ) as error:  # Ray ends a worker when its node has no memory left
            record = self._record(cell, OUT_OF_MEMORY, _first_line(error))
        except self._ray.exceptions.RayError as error:
            record = self._record(cell, CRASHED, f"the worker process died: {_first_line(error)}")
        again = self._again(cell, record.outcome)
        self._view.ended(cell, record, again is not None)
        if again is not None:
            self._waiting.append(again)
        else:
            self._records[cell.name] = record
            if record.outcome == DONE:
                self._done.add(cell.name)

    def _again(self, cell: Cell, outcome: str) -> Cell | None:
        """The cell as it will be tried again; None if it is done or given up."""
        if outcome == CRASHED:
            self._crashes[cell.name] += 1
            return cell if self._crashes[cell.name] < MAX_CRASHES else None
        if outcome == OUT_OF_MEMORY:
            return with_more_memory(cell, self._most_memory(cell) / 1e9)
        if outcome == FAILED:
            self._failures[cell.name] += 1
            return cell if self._failures[cell.name] <= self._retries else None
        return None

    def _give_up_waiting(self) -> None:
        """The cells that wait for a cell that failed."""
        for cell in self._waiting:
            missing = ", ".join(name for name in cell.needs if name not in self._done)
            record = self._record(cell, FAILED, f"not run, because it needs {missing}")
            self._view.ended(cell, record, False)
            self._records[cell.name] = record

    def _most_memory(self, cell: Cell) -> float:
        """Bytes of the largest node that has the cores and GPUs of the cell."""
        return max(
            node.get("memory", 0)
            for node in self._nodes
            if node.get("CPU", 0) >= cell.cpus and node.get("GPU", 0) >= cell.gpus
        )

    def _record(self, cell: Cell, outcome: str, message: str) -> CellRecord:
        return CellRecord(
            name=cell.name,
            labels=cell.labels,
            identity=cell.identity,
            outcome=outcome,
            attempts=self._attempts[cell.name],
            wall_sec=0.0,
            host="",
            message=message,
        )


def _memory_bytes(cell: Cell) -> int:
    return round((cell.memory_gb or 0) * 1e9)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else repr(error)


def _asked(cell: Cell) -> str:
    memory = "" if cell.memory_gb is None else f", {cell.memory_gb:g} GB"
    return f"{cell.cpus:g} cores, {cell.gpus:g} GPUs{memory}"


def _has(nodes: Sequence[dict[str, float]]) -> str:
    return "; ".join(
        f"{node.get('CPU', 0):g} cores, {node.get('GPU', 0):g} GPUs, {node.get('memory', 0) / 1e9:.1f} GB"
        for node in nodes
    )
