"""Chooses the kernels of a device: Numba's on a CPU, Triton's on a CUDA GPU.

Each backend needs a package that is an optional extra; the package is imported when the first kernel is made.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from sparsing.base.extras import install_command
from sparsing.errors import InputError

if TYPE_CHECKING:
    from sparsing.decode.kernels.cuts import Cuts
    from sparsing.decode.kernels.interface import Kernel
    from sparsing.decode.kernels.packing import PackedFFN
    from sparsing.decode.predict.quantised import LayerPredictor


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Backend:
    """Where the kernels of one kind of device are."""

    package: str
    extra: str
    """The extra of this package that installs `package`."""
    module: str
    class_name: str


_BACKENDS = {
    "cpu": _Backend(
        package="numba", extra="cpu", module="sparsing.decode.kernels.cpu.block", class_name="CpuFFN"
    ),
    "cuda": _Backend(
        package="triton", extra="gpu", module="sparsing.decode.kernels.gpu.block", class_name="TritonFFN"
    ),
}
"""Kind of device to backend."""


def make_kernel(packed: PackedFFN, cuts: Cuts, predictor: LayerPredictor | None = None) -> Kernel:
    """The kernel of a block, for the device that holds its weights. Raises as `check_kernels`, and as
    `LayerPredictor.check_fits`.
    """
    if predictor is not None:
        predictor.check_fits(packed.d_ff, packed.gate.shape[1])
    return _kernel_class(packed.gate.device.type)(packed, cuts, predictor)


def check_kernels(device: str) -> None:
    """Check that kernels exist for this kind of device (`cpu`, `cuda`).

    Raises:
        InputError: if no kernels exist for the device, or their package is not installed.
    """
    _kernel_class(device)


def _kernel_class(device: str) -> Any:
    backend = _BACKENDS.get(device)
    if backend is None:
        raise InputError(
            f"there are no decoding kernels for device {device!r}; load the model on {' or '.join(_BACKENDS)}"
        )
    if importlib.util.find_spec(backend.package) is None:
        raise InputError(
            f"the decoding kernels for {device} need {backend.package}: {install_command(backend.extra)}"
        )
    return getattr(importlib.import_module(backend.module), backend.class_name)
