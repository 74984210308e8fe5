"""Several processes (`torchrun`) share the passes of one command: the first one leads, the others compute batches.

    torchrun --nproc-per-node 4 -m sparsing measure ...

The first process runs the command as if it were alone: it alone reads the text, searches, writes and prints. The other
processes load the same models and wait in `lead` for batches. `run_pass` hands each of them the next batch, and adds
the totals of the batches in the order of the corpus. The sums are therefore those of one process.

Start reading at `lead` and `Others`. `messages.py` says how objects are sent.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import socket
import time
import warnings
import weakref
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from sparsing.base.launched import local_rank, num_local_processes, num_processes, rank
from sparsing.errors import ProcessError
from sparsing.measuring.batch_size import is_out_of_memory
from sparsing.measuring.messages import Pickled, connect, receive, send
from sparsing.models.identity import identify

if TYPE_CHECKING:
    from sparsing.models.loading import LoadedModel

T = TypeVar("T")
Digests = dict[str, str]
"""What `identify` returns."""

LEAST_PATIENCE_SEC = 300.0
"""A process that needs longer than this for a batch, and `TIMES_SLOWER` times as long as the first one, is given up."""
TIMES_SLOWER = 20
LOADING_SEC = 3600.0
"""Longest time that a process may need to load a model after the first process has loaded it."""
_FOREVER_SEC = 1e8
_FAREWELL_SEC = 5.0


def lead(run: Callable[[], T], *, models: Sequence[LoadedModel] = ()) -> T:
    """Runs a command in the first process, while the other processes compute the batches that it hands them.

    Args:
        run: The command; only the first process calls it.
        models: Models that every process has loaded already.

    Returns: What `run` returns, in every process.

    Raises:
        ProcessError: In the first process, if another process failed, ended or stopped.
        SystemExit: In the other processes, if `run` raised an exception.
    """
    global _leader
    if num_processes() == 1 or _leader is not None:
        return run()
    if not models:
        _hide_devices_of_others()
    connect(local_rank() if models else 0)
    if rank() > 0:
        with _quiet():
            return _Worker(models).serve()
    _leader = _Leader(models)
    value: Any = _Failed()
    try:
        value = run()
        return value
    finally:
        _leader.dismiss(value)
        _leader = None


def load_everywhere(load: Callable[..., LoadedModel], *args: Any, **options: Any) -> LoadedModel:
    """`load(*args, **options)`, in all processes of the command at the same time."""
    if _leader is None:
        return load(*args, **options)
    _leader.tell_all(_Load(load, args, options, tuple(_leader.alive())))
    loaded = load(*args, **options)
    _leader.register(loaded)
    return loaded


class Others:
    """The other processes, as a pass in the first process sees them. There are none without `torchrun`."""

    def __init__(self, loaded: LoadedModel, *, shared: bool):
        """Args:
        shared: False if the pass must run in one process.
        """
        self._loaded = loaded
        self._leader = _leader if shared and _leader is not None and _leader.has(loaded) else None
        self.count = 0 if self._leader is None else num_processes() - 1
        self._busy: list[int] = []
        self._begin = 0.0

    def open(self, make: Callable[..., Callable[[Any], Any]], *args: Any) -> None:
        """Lets every other process call `make(*args)`, which returns the function that computes an item."""
        if self._leader is not None:
            # replies to items that were handed out when the first process had no memory for its own
            self._leader.replies(self._busy, 0.0)
            self._busy = []
            self._leader.open(self._loaded, (make, args))

    def send(self, items: Sequence[Any]) -> None:
        """Hands out items, at most `count`, one to each process."""
        self._begin = time.monotonic()
        for number, item in enumerate(items, 1):
            assert self._leader is not None
            self._leader.tell(number, _Compute(item))
            self._busy.append(number)

    def receive(self) -> list[Any]:
        """What the processes computed, in the order of the items.

        Raises:
            ProcessError: If a process failed, ended, or needs far longer than this process needed for its own item.
            torch.OutOfMemoryError: If the memory of another process did not suffice.
        """
        if self._leader is None:
            return []
        replies = self._leader.replies(self._busy, time.monotonic() - self._begin)
        self._busy = []
        if short := [reply for reply in replies if isinstance(reply, _OutOfMemory)]:
            raise torch.OutOfMemoryError(short[0].text)
        return replies


def _hide_devices_of_others() -> None:
    """Gives each process of a machine its own share of the GPUs, so that `cuda` and `--device auto` mean this share."""
    if torch.cuda.is_initialized() or not (count := torch.cuda.device_count()):
        return
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = listed.split(",") if listed else [str(index) for index in range(count)]
    share = max(1, count // num_local_processes())
    begin = local_rank() * share % count
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(devices[begin : begin + share])


@dataclasses.dataclass(frozen=True)
class _Load:
    """Message: load a model."""

    load: Callable[..., LoadedModel]
    args: tuple[Any, ...]
    options: dict[str, Any]
    alive: tuple[int, ...]
    """Numbers of the models that the first process has in memory; others are dropped before."""


@dataclasses.dataclass(frozen=True)
class _Open:
    """Message: a pass begins."""

    number: int
    """Number of the model."""
    digests: dict[int, Digests]
    """Digests of the models that the first process has in memory, by their number."""
    call: Pickled
    """The function that makes the computing function, and its arguments."""


@dataclasses.dataclass(frozen=True)
class _Compute:
    """Message: compute this item and reply."""

    item: Any


@dataclasses.dataclass(frozen=True)
class _End:
    """Message: the command has ended with this value."""

    value: Any


class _Failed:
    """The value of a command that raised an exception."""


@dataclasses.dataclass(frozen=True)
class _Reply:
    """Reply: what the process computed."""

    value: Any


@dataclasses.dataclass(frozen=True)
class _Trouble:
    """Reply: the process could not compute the item."""

    text: str


class _OutOfMemory(_Trouble):
    """Reply: the memory of the process did not suffice; a smaller batch may fit."""


class _Leader:
    """The first process of a command with several processes."""

    def __init__(self, models: Sequence[LoadedModel]):
        self._numbers = range(1, num_processes())
        self._models: dict[int, weakref.ref[Any]] = {}
        """The models by their number. They are not kept in memory by this."""
        self._digests: dict[int, Digests] = {}
        self._loading = False
        self._names = {number: f"process {number} of {num_processes()}" for number in self._numbers}
        for number in self._numbers:
            host, process = self._receive(number, LOADING_SEC)
            self._names[number] += f" (host {host}, pid {process})"
        for loaded in models:
            self.register(loaded)

    def register(self, loaded: LoadedModel) -> None:
        """Gives a model the next number. All processes register their models in the same order."""
        number = len(self._digests)
        self._models[number], self._digests[number] = weakref.ref(loaded.model), identify(loaded)
        self._loading = True

    def _number_of(self, loaded: LoadedModel) -> int | None:
        return next((n for n, model in self._models.items() if model() is loaded.model), None)

    def has(self, loaded: LoadedModel) -> bool:
        """Whether the other processes have this model."""
        return self._number_of(loaded) is not None

    def alive(self) -> dict[int, Digests]:
        """Digests of the models that this process has in memory, by their number."""
        return {n: self._digests[n] for n, model in self._models.items() if model() is not None}

    def open(self, loaded: LoadedModel, call: Any) -> None:
        """Lets every other process make the function that computes the items of a pass."""
        number = self._number_of(loaded)
        assert number is not None
        self.tell_all(_Open(number, self.alive(), Pickled.of(call, loaded)))

    def tell_all(self, message: Any) -> None:
        """Sends a message to every other process."""
        for number in self._numbers:
            self.tell(number, message)

    def tell(self, number: int, message: Any) -> None:
        """Sends a message to one process."""
        try:
            send(message, number, LOADING_SEC)
        except RuntimeError as error:
            raise self._lost(number, error) from None

    def replies(self, numbers: Sequence[int], own_sec: float) -> list[Any]:
        """What these processes computed, in their order; `_OutOfMemory` where the memory did not suffice.

        Args:
            own_sec: Seconds that this process needed for its own item.
        """
        patience = LOADING_SEC if self._loading else max(LEAST_PATIENCE_SEC, TIMES_SLOWER * own_sec)
        replies = [self._receive(number, patience) for number in numbers]
        self._loading = self._loading and not numbers
        for number, reply in zip(numbers, replies, strict=True):
            if type(reply) is _Trouble:
                raise ProcessError(f"{self._names[number]}: {reply.text}")
        return [reply.value if isinstance(reply, _Reply) else reply for reply in replies]

    def dismiss(self, value: Any) -> None:
        """Ends the work of the other processes."""
        for number in self._numbers:
            with contextlib.suppress(RuntimeError):  # a process that has ended needs no farewell
                send(_End(value), number, _FAREWELL_SEC)

    def _receive(self, number: int, patience_sec: float) -> Any:
        try:
            return receive(number, patience_sec)
        except RuntimeError as error:
            raise self._lost(number, error) from None

    def _lost(self, number: int, error: RuntimeError) -> ProcessError:
        reason = str(error).splitlines()[0]
        what = "does not answer" if "timed out" in reason.lower() else "has ended"
        return ProcessError(
            f"{self._names[number]} {what}; finished windows are saved, and the same command continues, also with"
            f" another number of processes ({reason})"
        )


class _Worker:
    """A process other than the first one. Its errors go into its next reply."""

    def __init__(self, models: Sequence[LoadedModel]):
        self._models: dict[int, LoadedModel] = {}
        self._digests: dict[int, Digests] = {}
        self._not_loaded: dict[int, _Trouble] = {}
        """Why a model is missing, by its number."""
        self._compute: Callable[[Any], Any] | None = None
        self._trouble: _Trouble | None = None
        for loaded in models:
            self._register(loaded)

    def serve(self) -> Any:
        """Computes what the first process asks for. Returns the value of the command."""
        try:
            send((socket.gethostname(), os.getpid()), 0, LOADING_SEC)
            while not isinstance(message := receive(0, _FOREVER_SEC), _End):
                if isinstance(message, _Compute):
                    send(self._computed(message.item), 0, _FOREVER_SEC)
                else:
                    self._prepare(message)
        except RuntimeError:  # the first process has ended without a farewell
            raise SystemExit(1) from None
        if isinstance(message.value, _Failed):
            raise SystemExit(0)  # the first process prints the error and has its exit status
        return message.value

    def _register(self, loaded: LoadedModel) -> None:
        number = len(self._digests)
        self._models[number], self._digests[number] = loaded, identify(loaded)

    def _prepare(self, message: _Load | _Open) -> None:
        """Loads a model, or begins a pass."""
        self._compute = self._trouble = None
        alive = message.alive if isinstance(message, _Load) else message.digests
        self._models = {number: loaded for number, loaded in self._models.items() if number in alive}
        if isinstance(message, _Load):
            self._load(message)
            return
        try:
            for number, digests in message.digests.items():
                self._compare(number, digests)
            make, args = message.call.value(self._models[message.number])
            self._compute = make(*args)
        except Exception as error:
            self._trouble = _trouble(error)

    def _load(self, message: _Load) -> None:
        number = len(self._digests)
        try:
            self._register(message.load(*message.args, **message.options))
        except Exception as error:
            # the next pass asks for the model
            self._digests[number], self._not_loaded[number] = {}, _trouble(error)

    def _computed(self, item: Any) -> _Reply | _Trouble:
        """What the function of the pass makes of an item."""
        if self._compute is None:
            return self._trouble or _Trouble("no pass has begun")
        try:
            return _Reply(self._compute(item))
        except Exception as error:
            return _trouble(error)

    def _compare(self, number: int, digests: Digests) -> None:
        """Raises ProcessError if a model was not loaded or differs from that of the first process."""
        if number in self._not_loaded:
            raise ProcessError(f"a model was not loaded here: {self._not_loaded[number].text}")
        own = self._digests[number]
        if differing := [name for name, digest in digests.items() if own[name] != digest]:
            raise ProcessError(
                f"{self._models[number].name!r} has another {differing[0]} here than in the first process; copy the"
                " same checkpoint to all machines"
            )


def _trouble(error: Exception) -> _Trouble:
    text = str(error) if isinstance(error, ProcessError) else f"{type(error).__name__}: {error}"
    return _OutOfMemory(text) if is_out_of_memory(error) else _Trouble(text)


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """Prints and logs nothing inside the block."""
    logging.disable(logging.CRITICAL)
    try:
        with (
            Path(os.devnull).open("w", encoding="utf-8") as nowhere,
            contextlib.redirect_stdout(nowhere),
            contextlib.redirect_stderr(nowhere),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


_leader: _Leader | None = None
