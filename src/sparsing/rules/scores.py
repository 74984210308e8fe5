"""Scores: the sizes of neurons by which rules select, and the comparison that defines an active neuron.

The scores `gate` and `h` are `|gate|` and `|h|`. `neuron_norm` is `|h_i| * ||W[:, i]||_2`, the norm of the vector that
neuron `i` adds to the output of the block (CETT, ReLU2 Wins). Every score is `|value| * scale`, so cutting the score at
`t` means cutting `|value|` at `t / scale`. All stages make this one comparison per neuron by calling `is_active`.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

from sparsing.base.registry import Registry

if TYPE_CHECKING:
    import torch

    from sparsing.sites.site import Site, SiteKind
    from sparsing.sites.tap import Rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """A size per neuron: `|value| * scale`."""

    name: str
    """Name in the registry and in saved thresholds."""
    value: Literal["gate", "h"]
    """The activation from which the score is computed."""
    weighted: bool
    """True if the score is multiplied by `||W[:, i]||_2`."""
    kinds: tuple[SiteKind, ...] = ("ffn", "expert")
    """Kinds of site on which the score is defined."""

    @property
    def needs_gate(self) -> bool:
        """True if the score is computed from `gate`, so that a tap must hook the activation."""
        return self.value == "gate"

    def value_of(self, gate: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        """The activation from which the score is computed: `gate` or `h`."""
        return gate if self.needs_gate else h

    def scale(self, site: Site) -> torch.Tensor | None:
        """Factor per neuron, shape `(d_ff,)` or `(n_experts, d_ff)`, float32; None stands for 1."""
        return site.column_norms() if self.weighted else None


SCORES: Registry[Score] = Registry("score")
"""Scores by name."""
for _score in (
    Score(name="gate", value="gate", weighted=False),
    Score(name="h", value="h", weighted=False),
    Score(name="neuron_norm", value="h", weighted=True),
):
    SCORES.register(_score.name, _score)


def sizes(value: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
    """The score `|value| * scale` in float32, shape `(..., d_ff)`; `scale=None` stands for 1."""
    size = value.detach().float().abs()
    return size if scale is None else size * scale


def cut(threshold: torch.Tensor | float, scale: torch.Tensor | None) -> torch.Tensor | float:
    """The cut of `|value|` that cuts the score at `threshold`: `threshold / scale`, inf where `scale` is 0.

    Args:
        threshold: A number, or one per expert, shape `(n_experts, 1)`.
    """
    if scale is None:
        return threshold
    # inf also for threshold 0, where 0 / 0 would be NaN: a neuron with a zero column is never active
    return (threshold / scale).masked_fill(scale == 0, float("inf"))


def row_scale(scale: torch.Tensor | None, rows: Rows) -> torch.Tensor | None:
    """The factor of each neuron of each row, given that of the site; shape `(d_ff,)` or `(rows, d_ff)`.

    A neuron of a routed expert adds `weight * h_i * W[:, i]` to the output, so its factor contains the routing weight.
    """
    if rows.routing is None or scale is None:
        return scale
    return rows.routing.scaled(scale)


def row_cut(cut: torch.Tensor | float, rows: Rows) -> torch.Tensor | float:
    """The cut of `|value|` of each row, given the `cut` of the site; broadcasts to `(rows, d_ff)`."""
    if rows.routing is None or isinstance(cut, (int, float)):
        return cut
    limit = cut[rows.routing.expert]
    # a cut that is not the same for all neurons has been divided by the scale of a neuron, see `row_scale`
    return limit if limit.shape[-1] == 1 else limit / rows.routing.weight.detach().float().abs()[:, None]


def is_above(size: torch.Tensor, threshold: torch.Tensor | float) -> torch.Tensor:
    """Whether the size is strictly above the threshold, the definition of active. Shape of `size`, bool."""
    return size > threshold


def is_active(value: torch.Tensor, cut: torch.Tensor | float) -> torch.Tensor:
    """Whether `|value|` is strictly above the cut. A cut at 0 drops exact zeros only. Shape of `value`, bool."""
    size = value.abs()
    # PyTorch would round a cut given as a Python number to the dtype of a half-precision tensor
    return is_above(size.float() if size.dtype.itemsize < 4 else size, cut)
