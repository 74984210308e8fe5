"""One feed-forward block of a model while it is accelerated: which way takes a call, and what has been read.

Ways: `predicted` and `exact` are the kernel's sparse pass with and without a predictor, `torch` is the block's own
forward with the rule applied by hooks. All keep to the thresholds, so a choice by speed does not change what the
rule says. `dense` is the kernel with nothing skipped, the baseline.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

from sparsing.decode.kernels.dispatch import MAX_TOKENS, make_kernel
from sparsing.decode.kernels.plain import hidden

if TYPE_CHECKING:
    import torch

    from sparsing.decode.kernels.cuts import Cuts
    from sparsing.decode.kernels.packing import PackedFFN
    from sparsing.decode.predict.quantised import LayerPredictor


@dataclasses.dataclass
class Read:
    """What decoding has read of one block's neurons."""

    calls: int = 0
    rows: int = 0
    """Tokens: rows of `x`, summed over calls."""
    neurons: list[int] = dataclasses.field(default_factory=lambda: [0, 0, 0])
    """Rows of gate, up and down."""
    bytes_read: int = 0
    """Of weights and of the predictor's copy."""
    active_mass: float = 0.0
    """`neuron_norm` of the active neurons, summed over tokens; kept where recall is asked for."""
    predicted_mass: float = 0.0
    """The part of it on predicted neurons."""

    @property
    def recall(self) -> float | None:
        """None where it was not asked for."""
        return self.predicted_mass / self.active_mass if self.active_mass else None


class FastBlock:
    """Takes calls of up to `MAX_TOKENS` rows by the chosen way, all others by the block's own forward."""

    def __init__(
        self,
        packed: PackedFFN,
        cuts: Cuts,
        predictor: LayerPredictor | None,
        own_forward: Callable[[torch.Tensor], torch.Tensor],
        *,
        check_recall: bool = False,
    ):
        self.packed, self._cuts = packed, cuts
        self._predictor = predictor if check_recall else None  # the kernel has a copy of its own
        self._own_forward = own_forward
        self._exact = make_kernel(packed, cuts)
        self._sparse = self._exact if predictor is None else make_kernel(packed, cuts, predictor)
        self._copy_bytes = 0 if predictor is None else predictor.copy_bytes
        self.best = "exact" if predictor is None else "predicted"
        """The way of the kernel's sparse pass."""
        self.choice: dict[int, str] = {}
        """Rows at once -> way; what is not in it goes by `best`."""
        self.seconds: dict[int, dict[str, float]] = {}
        """Timed rows at once -> way -> median seconds."""
        self.mode = "sparse"
        """`sparse`, `dense` (the kernel, nothing skipped) or `torch` (the model's own code, nothing skipped)."""
        self._read = Read()

    def ways(self, x: torch.Tensor) -> dict[str, Callable[[], torch.Tensor]]:
        """Every way, ready to be timed on `x (rows, d_model)`."""
        predicted = {"predicted": lambda: self._sparse.sparse(x)} if self._sparse is not self._exact else {}
        return predicted | {
            "exact": lambda: self._exact.sparse(x),
            "torch": lambda: self._own_forward(x[None]),
            "dense": lambda: self._exact.dense(x),
        }

    @property
    def weight_bytes(self) -> int:
        """Bytes of all its neurons."""
        return self.packed.d_ff * self.packed.neuron_bytes

    @property
    def copy_bytes(self) -> int:
        """Bytes of the predictor's copy."""
        return self._copy_bytes

    @property
    def signature(self) -> str:
        """What decides its speed beside the machine, the number of rows and the activation ratio."""
        packed = self.packed
        copy = f"{self._copy_bytes} bytes of predictor" if self._copy_bytes else "no predictor"
        return f"block {packed.d_model} x {packed.d_ff} {packed.act} {packed.gate.dtype}, {copy}"

    def tensors(self) -> list[torch.Tensor]:
        """The weights it reads."""
        weights = (self.packed.gate, self.packed.up, self.packed.down, self.packed.scales)
        return [weight for weight in weights if weight is not None]

    def ratio_on(self, x: torch.Tensor) -> float:
        """Activation ratio on `x (tokens, d_model)`, token by token."""
        self.reset()
        for row in x.split(1):
            self._exact.sparse(row)
        active = int(self._exact.counts[2])
        self.reset()
        return active / (len(x) * self.packed.d_ff)

    def way(self, rows: int) -> str:
        """How a call of so many rows is taken."""
        if rows > MAX_TOKENS or self.mode == "torch":
            return "torch"
        return "dense" if self.mode == "dense" else self.choice.get(rows, self.best)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """In place of the block's own; `x (..., d_model)`."""
        rows = x.numel() // x.shape[-1]
        way = self.way(rows) if not x.requires_grad else "torch"  # kernels have no gradient
        if way == "torch":
            return self._own_forward(x)
        flat = x.reshape(rows, x.shape[-1])
        if self._predictor is not None:
            self._add_recall(flat, self._predictor)
        kernel = self._sparse if way == "predicted" else self._exact
        y = kernel.dense(flat) if way == "dense" else kernel.sparse(flat)
        self._read.calls += 1
        self._read.rows += rows
        return y.view(x.shape)

    def masked(self, active: torch.Tensor) -> None:
        """A call of few rows went through the block's own forward, with these neurons active: `(..., d_ff)`."""
        rows = active.numel() // active.shape[-1]
        read = self._read
        read.calls += 1
        read.rows += rows
        kept = int(active.reshape(rows, -1).any(0).sum())
        for matrix, count in enumerate((self.packed.d_ff, self.packed.d_ff, kept)):
            read.neurons[matrix] += count
        read.bytes_read += self.weight_bytes

    def read(self) -> Read:
        """Everything since the last reset."""
        kernels = {id(kernel): kernel for kernel in (self._exact, self._sparse)}.values()
        counts = [self._read.neurons, *(kernel.counts for kernel in kernels)]
        return dataclasses.replace(
            self._read,
            neurons=[sum(int(count) for count in matrix) for matrix in zip(*counts, strict=True)],
            bytes_read=self._read.bytes_read + sum(kernel.bytes_read() for kernel in kernels),
        )

    def reset(self) -> None:
        self._read = Read()
        for kernel in (self._exact, self._sparse):
            kernel.reset_counts()

    def _add_recall(self, x: torch.Tensor, predictor: LayerPredictor) -> None:
        mass = hidden(self.packed, x, self._cuts).abs() * self.packed.column_norms()
        self._read.active_mass += float(mass.sum())
        self._read.predicted_mass += float((mass * predictor.predict(x, self.packed.act)).sum())
