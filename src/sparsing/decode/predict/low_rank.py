"""A learned low-rank predictor of one block, as in DejaVu (Liu et al., arXiv 2310.17157, section 4.1).

The logit of each neuron is `B (A x) + bias` with `A (rank, d_model)` and `B (d_ff, rank)`. Training starts at the best
rank-`r` map from the inputs to the gate before its activation (least squares), and continues with logistic regression
on which neurons are active. No kernel runs this predictor; it is compared with the quantised copy at equal bytes.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from sparsing.decode.kernels.cuts import gate_decides
from sparsing.decode.kernels.plain import above_cut, active_mass
from sparsing.decode.predict.quantised import DEFAULT_RECALL, GROUP, check_recall, threshold_for_recall
from sparsing.errors import InputError

if TYPE_CHECKING:
    from sparsing.decode.kernels.cuts import Cuts
    from sparsing.decode.kernels.packing import PackedFFN

STEPS, BATCH = 300, 256
"""Steps of logistic regression, and tokens of each."""
_LEARNING_RATE = 3e-3


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class LowRankPredictor:
    """Two matrices and a bias in bfloat16."""

    a: torch.Tensor
    """Shape `(rank, d_model)`."""
    b: torch.Tensor
    """Shape `(d_ff, rank)`."""
    bias: torch.Tensor
    """Shape `(d_ff,)`."""
    cut: torch.Tensor
    """A neuron is predicted active above this probability, shape `()`, float32."""

    @property
    def copy_bytes(self) -> int:
        """Bytes of the matrices and the bias, all of which one pass reads."""
        return sum(tensor.numel() * tensor.element_size() for tensor in (self.a, self.b, self.bias))

    def sizes(self, x: torch.Tensor) -> torch.Tensor:
        """The probability that each neuron is active, shape `(tokens, d_ff)`, float32."""
        return torch.sigmoid(x.float() @ self.a.float().T @ self.b.float().T + self.bias.float())

    def predict(self, x: torch.Tensor, act: str) -> torch.Tensor:
        """Which neurons are predicted active, shape `(tokens, d_ff)`, bool. `act` is not used."""
        return above_cut(self.sizes(x), self.cut)


def fit_low_rank(
    packed: PackedFFN,
    cuts: Cuts,
    x: torch.Tensor,
    *,
    recall: float = DEFAULT_RECALL,
    rank: int | None = None,
    seed: int = 0,
) -> LowRankPredictor:
    """Fit on `x`, a sample of the block's inputs, shape `(tokens, d_model)`.

    Args:
        recall: Wanted share of the active neurons' `neuron_norm` on predicted neurons, on this sample.
        rank: Rank of the two matrices. By default they have as many bytes as the 4-bit copy of the same block.

    Raises:
        InputError: if `recall` is outside (0, 1], `rank` is below 1, or no neuron is active on the sample.
    """
    check_recall(recall)
    rank = equal_bytes_rank(packed, cuts) if rank is None else rank
    if rank < 1:
        raise InputError(f"rank must be at least 1, got {rank}")
    x = x.float()
    mass = active_mass(packed, x, cuts)
    start = _least_squares(packed, x, min(rank, *x.shape, packed.d_ff))
    predictor = _regress(*start, x, (mass > 0).float(), seed)
    cut = threshold_for_recall(predictor.sizes(x), mass, recall)
    return dataclasses.replace(predictor, cut=torch.tensor(cut))


def equal_bytes_rank(packed: PackedFFN, cuts: Cuts) -> int:
    """The rank at which a low-rank predictor has as many bytes as the 4-bit copy of the block, and at least 1."""
    copies = 1 if gate_decides(packed, cuts) else 2
    copy_bytes = copies * packed.d_ff * -(-packed.d_model // GROUP) * (GROUP // 2 + 2)
    return max(1, (copy_bytes - 2 * packed.d_ff) // (2 * (packed.d_model + packed.d_ff)))


def _least_squares(packed: PackedFFN, x: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`A` and `B` of the best map of this rank from the sample to the gate before its activation, up to a factor."""
    gate_rows = packed.floats()[0]
    wanted = x @ gate_rows.T  # (tokens, d_ff)
    with torch.random.fork_rng(devices=[]):  # svd_lowrank draws from the global generator
        torch.manual_seed(0)
        b = torch.svd_lowrank(wanted, rank, niter=4)[2]  # (d_ff, rank), orthonormal columns
    # scaled so that logits start with a standard deviation near 1
    scale = 1 / wanted.std().clamp_min(1e-12)
    return b.T @ gate_rows * scale, b


def _regress(
    a: torch.Tensor, b: torch.Tensor, x: torch.Tensor, active: torch.Tensor, seed: int
) -> LowRankPredictor:
    """Fit `active (tokens, d_ff)` by logistic regression from `a` and `b`; the cut of the result is not set.

    The bias of each neuron starts at the logit of its frequency on the sample.
    """
    bias = torch.logit(active.mean(0).clamp(1e-3, 1 - 1e-3))
    generator = torch.Generator().manual_seed(seed)
    # the caller may be in inference mode, in which no gradient exists
    with torch.inference_mode(False), torch.enable_grad():
        weights = [part.clone().requires_grad_() for part in (a, b, bias)]
        optimizer = torch.optim.Adam(weights, lr=_LEARNING_RATE)
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
