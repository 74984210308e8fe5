"""Sends objects between processes: pickles over torch.distributed, with the parts of a model as names.

Every process has the model itself, so a pickle names the modules and sites of the model, and holds no weights. A tensor
on a GPU arrives on the GPU of the receiver.
"""

from __future__ import annotations

import dataclasses
import datetime
import io
import pickle
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist
from torch import nn

from sparsing.sites.site import Site

if TYPE_CHECKING:
    from sparsing.models.loading import LoadedModel

_first_device = 0
_group: Any = None


def connect(first_device: int) -> None:
    """Connects the processes that `torchrun` started; all of them must call this.

    Args:
        first_device: Index of the first GPU of this process. Tensors are sent with the distance of their GPU from it.
    """
    global _first_device, _group
    _first_device = first_device
    if not dist.is_initialized():
        dist.init_process_group()
    distributed: Any = dist  # its functions are annotated in part
    _group = distributed.new_group(
        backend="gloo"
    )  # the group of a command that has made one may have NCCL only


def send(value: Any, to: int, patience_sec: float) -> None:
    """Sends an object to another process.

    Raises:
        RuntimeError: If the other process has ended, or does not receive the object in time.
    """
    data = torch.frombuffer(bytearray(Pickled.of(value, None).data), dtype=torch.uint8)
    for part in (torch.tensor([len(data)]), data):
        _wait(dist.isend(part, to, group=_group), patience_sec)


def receive(sender: int, patience_sec: float) -> Any:
    """The next object from another process.

    Raises:
        RuntimeError: If the other process has ended, or sends nothing in time.
    """
    length = torch.zeros(1, dtype=torch.int64)
    _wait(dist.irecv(length, sender, group=_group), patience_sec)
    data = torch.empty(int(length), dtype=torch.uint8)
    _wait(dist.irecv(data, sender, group=_group), patience_sec)
    return Pickled(data.numpy().tobytes()).value(None)


def _wait(work: Any, patience_sec: float) -> None:
    work.wait(datetime.timedelta(seconds=patience_sec))


@dataclasses.dataclass(frozen=True)
class Pickled:
    """An object as bytes."""

    data: bytes

    @classmethod
    def of(cls, value: Any, loaded: LoadedModel | None) -> Pickled:
        """Pickles an object.

        Args:
            loaded: The model whose parts are pickled as names.
        """
        file = io.BytesIO()
        _Pickler(file, loaded).dump(value)
        return cls(file.getvalue())

    def value(self, loaded: LoadedModel | None) -> Any:
        """The object, with the parts of this model in place of names."""
        return _Unpickler(io.BytesIO(self.data), loaded).load()


class _Pickler(pickle.Pickler):
    """Writes modules, sites of blocks and the tokenizer as names."""

    def __init__(self, file: io.BytesIO, loaded: LoadedModel | None):
        super().__init__(file, protocol=5)
        # the annotations of `named_modules` are incomplete
        model = None if loaded is None else cast("Any", loaded.model)
        named: list[tuple[str, nn.Module]] = [] if model is None else list(model.named_modules())
        self._modules = {id(module): path for path, module in named}
        self._tokenizer = None if loaded is None else loaded.tokenizer

    def persistent_id(self, obj: Any) -> tuple[str, str] | None:
        if isinstance(obj, nn.Module):
            if id(obj) not in self._modules:
                raise pickle.PicklingError(f"{type(obj).__name__} is no part of the model")
            return "module", self._modules[id(obj)]
        if isinstance(obj, Site) and obj.kind != "linear_input":
            return "site", obj.name
        return ("tokenizer", "") if obj is self._tokenizer and obj is not None else None

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, torch.Tensor):
            return NotImplemented
        index = obj.device.index - _first_device if obj.device.type == "cuda" else None
        values = obj.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return _tensor, (values, obj.dtype, tuple(obj.shape), obj.device.type, index)


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, loaded: LoadedModel | None):
        super().__init__(file)
        self._loaded = loaded

    def persistent_load(self, pid: tuple[str, str]) -> Any:
        kind, name = pid
        assert self._loaded is not None
        if kind == "module":
            return self._loaded.model.get_submodule(name)
        if kind == "site":
            return next(site for site in self._loaded.sites if site.name == name)
        return self._loaded.tokenizer


def _tensor(
    values: bytes, dtype: torch.dtype, shape: tuple[int, ...], device: str, index: int | None
) -> torch.Tensor:
    """A tensor from its bytes."""
    flat = torch.frombuffer(bytearray(values), dtype=dtype) if values else torch.empty(0, dtype=dtype)
    place = torch.device(device) if index is None else torch.device(device, index + _first_device)
    return flat.reshape(shape).to(place)
