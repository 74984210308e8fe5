"""A learned low-rank predictor of one block, as DejaVu has it (Liu et al., arXiv 2310.17157, section 4.1).

`logit = B (A x) + bias` per neuron, `A (rank, d_model)` and `B (d_ff, rank)`: begins at the best rank-`r` map from the
inputs to the gate's pre-activations (least squares), then fits who is active by logistic regression. It is here to be
compared with the quantised copy at equal bytes; no kernel runs it.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from sparsing.decode.kernels.plain import hidden
from sparsing.decode.predict.quantised import GROUP, threshold_for_recall
from sparsing.errors import InputError

if TYPE_CHECKING:
    from sparsing.decode.kernels.cuts import Cuts
    from sparsing.decode.kernels.packing import PackedFFN

STEPS, BATCH = 300, 256
_RATE = 3e-3


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class LowRankPredictor:
    """Two matrices and a bias, held in bfloat16."""

    a: torch.Tensor
    """Shape `(rank, d_model)`."""
    b: torch.Tensor
    """Shape `(d_ff, rank)`."""
    bias: torch.Tensor
    """Shape `(d_ff,)`."""
    cut: torch.Tensor
    """Predicted active above this probability, shape `()`, float32."""

    @property
    def copy_bytes(self) -> int:
        """Bytes that one pass reads."""
        return sum(tensor.numel() * tensor.element_size() for tensor in (self.a, self.b, self.bias))

    def sizes(self, x: torch.Tensor) -> torch.Tensor:
        """Probability that a neuron is active, shape `(tokens, d_ff)`, float32."""
        return torch.sigmoid(x.float() @ self.a.float().T @ self.b.float().T + self.bias.float())

    def predict(self, x: torch.Tensor, act: str) -> torch.Tensor:
        """Which neurons are predicted active, shape `(tokens, d_ff)`, bool; the activation does not matter."""
        return ~(self.sizes(x) <= self.cut)


def fit_low_rank(
    packed: PackedFFN,
    cuts: Cuts,
    x: torch.Tensor,
    *,
    recall: float = 0.995,
    rank: int | None = None,
    seed: int = 0,
) -> LowRankPredictor:
    """Fit on `x`, a sample of the block's inputs, shape `(tokens, d_model)`.

    Args:
        recall: Wanted share of the active neurons' `neuron_norm` on this sample.
        rank: Default: as many bytes as the 4-bit copy of the same block reads.

    Raises:
        InputError: a recall outside (0, 1], a rank below 1, no active neuron.
    """
    if not 0 < recall <= 1:
        raise InputError(f"recall must be in (0, 1], got {recall}; 0.995 is the default")
    rank = equal_bytes_rank(packed, cuts) if rank is None else rank
    if rank < 1:
        raise InputError(f"rank must be at least 1, got {rank}")
    x = x.float()
    mass = hidden(packed, x, cuts).abs() * packed.column_norms()
    made = _fitted(_start(packed, x, min(rank, *x.shape, packed.d_ff)), x, (mass > 0).float(), seed)
    return dataclasses.replace(made, cut=torch.tensor(threshold_for_recall(made.sizes(x), mass, recall)))


def equal_bytes_rank(packed: PackedFFN, cuts: Cuts) -> int:
    """The rank that reads what 4-bit codes and scales of gate, and of up where the rule needs it, read."""
    copies = 1 if packed.zeroing or cuts.gate >= 0 else 2
    copy_bytes = copies * packed.d_ff * -(-packed.d_model // GROUP) * (GROUP // 2 + 2)
    return max(1, (copy_bytes - 2 * packed.d_ff) // (2 * (packed.d_model + packed.d_ff)))


def _start(packed: PackedFFN, x: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`A`, `B`, `bias` of the best map of this rank from the sample to the gate's pre-activations."""
    gate_rows = packed.floats()[0]
    wanted = x @ gate_rows.T  # (tokens, d_ff)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        b = torch.svd_lowrank(wanted, rank, niter=4)[2]  # (d_ff, rank), orthonormal columns
    scale = 1 / wanted.std().clamp_min(1e-12)
    return b.T @ gate_rows * scale, b, torch.zeros(packed.d_ff)


def _fitted(
    start: tuple[torch.Tensor, torch.Tensor, torch.Tensor], x: torch.Tensor, active: torch.Tensor, seed: int
) -> LowRankPredictor:
    """Logistic regression from `start`; every neuron's bias begins at its frequency on the sample."""
    frequency = active.mean(0).clamp(1e-3, 1 - 1e-3)
    a, b, bias = start[0], start[1], torch.logit(frequency)
    generator = torch.Generator().manual_seed(seed)
    with torch.inference_mode(False), torch.enable_grad():
        weights = [part.clone().requires_grad_() for part in (a, b, bias)]
        optimizer = torch.optim.Adam(weights, lr=_RATE)
        rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
        for _ in range(STEPS):
            rows = torch.randint(len(x), (min(BATCH, len(x)),), generator=generator)
            logits = x[rows] @ weights[0].T @ weights[1].T + weights[2]
            optimizer.zero_grad()
            F.binary_cross_entropy_with_logits(logits, active[rows]).backward()
            optimizer.step()
            rates.step()
    a, b, bias = (part.detach().to(torch.bfloat16) for part in weights)
    return LowRankPredictor(a=a, b=b, bias=bias, cut=torch.zeros(()))
