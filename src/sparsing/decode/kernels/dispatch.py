"""Which kernels serve a device: Numba's on CPU, Triton's on CUDA; each is an extra that is asked for by name."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any, Protocol

from sparsing.errors import InputError

if TYPE_CHECKING:
    import torch

    from sparsing.decode.kernels.cuts import Cuts
    from sparsing.decode.kernels.packing import PackedFFN
    from sparsing.decode.predict.quantised import LayerPredictor

MAX_TOKENS = 8
"""Rows of `x` that one call of a kernel takes; beyond, a matrix product is faster."""
_KERNELS = {
    "cpu": ("numba", "sparsing.decode.kernels.cpu.block", "CpuFFN"),
    "cuda": ("triton", "sparsing.decode.kernels.gpu.block", "TritonFFN"),
}
"""Device -> package it needs, module, class."""


class Kernel(Protocol):
    """What the kernels of all devices offer for one block."""

    @property
    def counts(self) -> Any:
        """Rows of gate, up and down read since the last reset, shape `(3,)`."""
        ...

    def sparse(self, x: torch.Tensor) -> torch.Tensor: ...
    def dense(self, x: torch.Tensor) -> torch.Tensor: ...
    def bytes_read(self) -> int: ...
    def reset_counts(self) -> None: ...


def make_kernel(packed: PackedFFN, cuts: Cuts, predictor: LayerPredictor | None = None) -> Kernel:
    """The kernel of a block on the device of its weights. Raises as `check_kernels`."""
    return _kernel_class(packed.gate.device.type)(packed, cuts, predictor)


def check_kernels(device: str) -> None:
    """Raise InputError where no kernel serves this kind of device, or its package is not installed."""
    _kernel_class(device)


def _kernel_class(device: str) -> Any:
    if device not in _KERNELS:
        raise InputError(f"no decoding kernels for {device!r}; load the model on {' or '.join(_KERNELS)}")
    package, module, name = _KERNELS[device]
    if importlib.util.find_spec(package) is None:
        extra = "cpu" if device == "cpu" else "gpu"
        raise InputError(f"the kernels for {device} need {package}: pip install 'sparsing[{extra}]'")
    return getattr(importlib.import_module(module), name)


def set_cpu_threads(threads: int) -> int:
    """Let the CPU kernels run on so many threads (at most what Numba was started with); returns what it was."""
    import numba

    before = numba.get_num_threads()
    numba.set_num_threads(max(1, min(threads, numba.config.NUMBA_NUM_THREADS)))  # pyright: ignore
    return before
