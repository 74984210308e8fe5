"""One accelerated feed-forward block: it chooses how each call is computed, and counts the weights that calls read.

The ways to compute a call:
    predicted   the kernel's sparse pass with a predictor
    exact       the kernel's sparse pass without a predictor
    torch       the block's own forward, with the rule applied by hooks
    dense       the kernel with nothing skipped, the baseline
The first three apply the same thresholds, so choosing among them by speed does not change the rule.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

from sparsing.decode.kernels.dispatch import make_kernel
from sparsing.decode.kernels.interface import MAX_TOKENS, RowCounts
from sparsing.decode.kernels.plain import active_mass

if TYPE_CHECKING:
    import torch

    from sparsing.decode.kernels.cuts import Cuts
    from sparsing.decode.kernels.packing import PackedFFN
    from sparsing.decode.predict.quantised import LayerPredictor


_NO_ROWS = RowCounts(gate=0, up=0, down=0)


@dataclasses.dataclass
class BlockReads:
    """Counts of what calls of one block have read."""

    calls: int = 0
    rows: int = 0
    """Number of tokens (rows of `x`) of all calls."""
    neurons: RowCounts = _NO_ROWS
    """Rows of gate, up and down."""
    bytes_read: int = 0
    """Bytes of weights and of the predictor's copy."""
    active_mass: float = 0.0
    """Sum of `neuron_norm` of the active neurons over all tokens; counted only with `check_recall`."""
    predicted_mass: float = 0.0
    """The part of `active_mass` on predicted neurons."""

    @property
    def recall(self) -> float | None:
        """Recall of the predictor; None without `check_recall`."""
        return self.predicted_mass / self.active_mass if self.active_mass else None


class AcceleratedBlock:
    """Computes calls of up to `MAX_TOKENS` rows in the chosen way, larger calls by the block's own forward."""

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
        self._predictor = predictor if check_recall else None  # the kernel keeps its own copy
        self._own_forward = own_forward
        self._exact = make_kernel(packed, cuts)
        self._sparse = self._exact if predictor is None else make_kernel(packed, cuts, predictor)
        self._copy_bytes = 0 if predictor is None else predictor.copy_bytes
        self.best = "exact" if predictor is None else "predicted"
        """The way of the kernel's sparse pass."""
        self.choice: dict[int, str] = {}
        """Number of rows to the chosen way. Numbers that are missing go by `best`."""
        self.seconds: dict[int, dict[str, float]] = {}
        """Number of timed rows to way to median seconds."""
        self.mode = "sparse"
        """`sparse`, `dense` (the kernel, nothing skipped) or `torch` (the model's own code, nothing skipped)."""
        self._reads = BlockReads()

    def ways(self, x: torch.Tensor) -> dict[str, Callable[[], torch.Tensor]]:
        """Every way as a function that computes the output for `x (rows, d_model)`, to be timed."""
        predicted = {"predicted": lambda: self._sparse.sparse(x)} if self._sparse is not self._exact else {}
        return predicted | {
            "exact": lambda: self._exact.sparse(x),
            "torch": lambda: self._own_forward(x[None]),
            "dense": lambda: self._exact.dense(x),
        }

    @property
    def weight_bytes(self) -> int:
        """Bytes of all neurons."""
        return self.packed.d_ff * self.packed.neuron_bytes

    @property
    def copy_bytes(self) -> int:
        """Bytes of the predictor's copy."""
        return self._copy_bytes

    @property
    def signature(self) -> str:
        """Everything besides the machine, the number of rows and the activation ratio that decides its speed."""
        packed = self.packed
        copy = f"{self._copy_bytes} bytes of predictor" if self._copy_bytes else "no predictor"
        return f"block {packed.d_model} x {packed.d_ff} {packed.act} {packed.gate.dtype}, {copy}"

    def tensors(self) -> list[torch.Tensor]:
        """The weights that the kernel reads."""
        weights = (self.packed.gate, self.packed.up, self.packed.down, self.packed.scales)
        return [weight for weight in weights if weight is not None]

    def ratio_on(self, x: torch.Tensor) -> float:
        """The activation ratio on `x (tokens, d_model)`, one token at a time. Resets the counts."""
        self.reset()
        for row in x.split(1):
            self._exact.sparse(row)
        active = self._exact.counts.down
        self.reset()
        return active / (len(x) * self.packed.d_ff)

    def way(self, rows: int) -> str:
        """The way in which a call with this number of rows is computed."""
        if rows > MAX_TOKENS or self.mode == "torch":
            return "torch"
        return "dense" if self.mode == "dense" else self.choice.get(rows, self.best)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Replaces the block's own forward; `x (..., d_model)`."""
        rows = x.numel() // x.shape[-1]
        way = self.way(rows) if not x.requires_grad else "torch"  # kernels have no gradient
        if way == "torch":
            return self._own_forward(x)
        flat = x.reshape(rows, x.shape[-1])
        if self._predictor is not None:
            self._add_recall(flat, self._predictor)
        kernel = self._sparse if way == "predicted" else self._exact
        y = kernel.dense(flat) if way == "dense" else kernel.sparse(flat)
        self._reads.calls += 1
        self._reads.rows += rows
        return y.view(x.shape)

    def add_masked_call(self, active: torch.Tensor) -> None:
        """Count a call that went through the block's own forward, where these neurons were active: `(..., d_ff)`.

        The block's own forward reads all weights. The `down` rows are still counted by the active neurons of any token,
        so that the activation ratio does not depend on the way.
        """
        tokens = active.numel() // active.shape[-1]
        kept = int(active.reshape(tokens, -1).any(0).sum())
        reads = self._reads
        reads.calls += 1
        reads.rows += tokens
        reads.neurons = _total(reads.neurons, RowCounts(self.packed.d_ff, self.packed.d_ff, kept))
        reads.bytes_read += self.weight_bytes

    def reads(self) -> BlockReads:
        """The counts since the last reset, those of the kernels included."""
        kernels = {id(kernel): kernel for kernel in (self._exact, self._sparse)}.values()
        return dataclasses.replace(
            self._reads,
            neurons=_total(self._reads.neurons, *(kernel.counts for kernel in kernels)),
            bytes_read=self._reads.bytes_read + sum(kernel.bytes_read() for kernel in kernels),
        )

    def reset(self) -> None:
        """Set all counts to zero."""
        self._reads = BlockReads()
        for kernel in (self._exact, self._sparse):
            kernel.reset_counts()

    def _add_recall(self, x: torch.Tensor, predictor: LayerPredictor) -> None:
        mass = active_mass(self.packed, x, self._cuts)
        self._reads.active_mass += float(mass.sum())
        self._reads.predicted_mass += float((mass * predictor.predict(x, self.packed.act)).sum())


def _total(*counts: RowCounts) -> RowCounts:
    return RowCounts(*map(sum, zip(*counts, strict=True)))
