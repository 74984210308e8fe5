"""The skip modes of the kernels: which rows of `gate`, `up` and `down` one call reads. Shared by the CPU and the GPU.

The kernels receive a mode as its number. Numba keeps compiled kernels on disk by the time stamp of the file that
defines the kernel. Delete the `__pycache__` of `kernels/cpu` after a change of a number here. Delete it too after a
record of `cpu/block_kernel.py` is renamed: Numba fails with an AttributeError if a stored kernel names the old record.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from sparsing.decode.kernels.cuts import gate_decides

if TYPE_CHECKING:
    from sparsing.decode.kernels.cuts import Cuts
    from sparsing.decode.kernels.packing import PackedFFN
    from sparsing.decode.predict.quantised import LayerPredictor


class SkipMode(enum.IntEnum):
    """Which rows a kernel reads. The GPU kernels rely on the order: from `BY_GATE` on, the first pass makes a list."""

    DENSE = 0
    """Every row of all three matrices; no neuron is cut. The CPU kernels run `ALL` without cuts instead."""
    ALL = 1
    """Every row of gate and up, and down where `h` is active: for activations that are zero almost nowhere (SiLU)."""
    BY_GATE = 2
    """Every row of gate, up where `act(gate)` is active, and down where `h` is active."""
    PREDICTED = 3
    """Gate and up of the predicted neurons, and down where `h` is active."""


def sparse_mode(packed: PackedFFN, cuts: Cuts, predictor: LayerPredictor | None) -> SkipMode:
    """The mode of a block's sparse calls, which reads the fewest rows for this block, these cuts and this predictor."""
    if predictor is not None:
        return SkipMode.PREDICTED
    return SkipMode.BY_GATE if gate_decides(packed, cuts) else SkipMode.ALL
