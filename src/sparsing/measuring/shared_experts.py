"""CETT of routed and shared experts together: the error of the output of a mixture-of-experts block.

Such a block adds the output of its shared expert to that of its routed experts. Some blocks multiply either part by a
factor per token, for example by a sigmoid of a linear map. The factors are found from the output of the block, as the
least-squares solution of `block = a * routed + s * shared` for each token, so no model class has to be known.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from sparsing.measuring.cett import norm, relative_error
from sparsing.sites.site import Site

FIT_ERROR = 0.02
"""A block whose output is not a sum of both parts, up to this relative error at any token, has no joint CETT."""


@dataclasses.dataclass(frozen=True, eq=False)
class OutputParts:
    """The output of one site in one batch, shapes `(tokens, d_model)`."""

    dropped: list[torch.Tensor]
    """Output of the neurons that each of several thresholds drops."""
    output: torch.Tensor
    """Output of the site, with the bias."""
    bias: torch.Tensor | None
    """The part of `output` that the bias gave."""

    @property
    def of_neurons(self) -> torch.Tensor:
        """Output without the bias."""
        return self.output if self.bias is None else self.output - self.bias


def find_shared(sites: Sequence[Site]) -> dict[int, int]:
    """Index of the routed experts of each block that has one shared expert, to the index of the shared expert."""
    found: dict[int, int] = {}
    for index, site in enumerate(sites):
        beside = [
            i
            for i, one in enumerate(sites)
            if one.name.startswith(f"{site.block}.") and i != index and one.kind != "linear_input"
        ]
        if site.kind == "expert" and len(beside) == 1 and sites[beside[0]].d_model == site.d_model:
            found[index] = beside[0]
    return found


def joint_error(routed: OutputParts, shared: OutputParts, block: torch.Tensor) -> list[torch.Tensor]:
    """CETT per token of both parts together for each of the thresholds, shape `(tokens,)`; NaN if the block's output
    is not a sum of both.

    Args:
        block: Output of the block, shape `(tokens, d_model)`.
    """
    a, s = _factors(routed.output, shared.output, block)
    rest = norm(a * routed.output + s * shared.output - block)
    # written so that NaN counts as a failure
    failed = ~(rest <= FIT_ERROR * norm(block)).all()
    full = norm(a * routed.of_neurons + s * shared.of_neurons)
    return [
        relative_error(norm(a * one + s * other), full).masked_fill(failed, torch.nan)
        for one, other in zip(routed.dropped, shared.dropped, strict=True)
    ]


def _factors(
    first: torch.Tensor, second: torch.Tensor, total: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """`a` and `s` of `total = a * first + s * second` per token, shape `(tokens, 1)`; 1 where both are parallel."""

    def dot(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (x.double() * y.double()).sum(-1, keepdim=True)

    ff, fs, ss = dot(first, first), dot(first, second), dot(second, second)
    ft, st = dot(first, total), dot(second, total)
    determinant = ff * ss - fs * fs
    known = determinant > 1e-9 * ff * ss
    a = torch.where(known, (ft * ss - st * fs) / determinant, 1.0)
    s = torch.where(known, (st * ff - ft * fs) / determinant, 1.0)
    return a.to(first.dtype), s.to(first.dtype)
