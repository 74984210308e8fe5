"""Scores: the size of a neuron that a rule looks at, from `gate` or `h`, plain or times a column norm.

`gate` and `h` are `|gate|` and `|h|`. `neuron_norm` is `|h_i| * ||W[:, i]||_2`, the norm of what neuron `i`
adds to the output of the block (CETT, ReLU2 Wins). Every score is `|value| * scale`, so a cut of the score at
`t` is a cut of `|value|` at `t / scale`: one comparison per neuron, in `is_active`, for every stage.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

from sparsing.base.registry import Registry

if TYPE_CHECKING:
    import torch

    from sparsing.sites.layouts import SiteKind
    from sparsing.sites.site import Site


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """A size per neuron."""

    name: str
    value: Literal["gate", "h"]
    """The activation that the score is made of."""
    weighted: bool
    """True if the score is multiplied by `||W[:, i]||_2`."""
    kinds: tuple[SiteKind, ...] = ("ffn",)
    """Kinds of site on which the score is defined."""

    @property
    def needs_gate(self) -> bool:
        """True if the score is made of `gate`."""
        return self.value == "gate"

    def value_of(self, gate: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        """The one of the two activations that the score is made of."""
        return gate if self.needs_gate else h

    def scale(self, site: Site) -> torch.Tensor | None:
        """Factor per neuron, shape `(d_ff,)`, float32; None stands for 1."""
        return site.column_norms() if self.weighted else None


SCORES: Registry[Score] = Registry("score")
for _score in (
    Score(name="gate", value="gate", weighted=False),
    Score(name="h", value="h", weighted=False),
    Score(name="neuron_norm", value="h", weighted=True),
):
    SCORES.register(_score.name, _score)


def sizes(value: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
    """`|value| * scale` in float32, shape `(..., d_ff)`."""
    size = value.detach().float().abs()
    return size if scale is None else size * scale


def cut(threshold: float, scale: torch.Tensor | None) -> torch.Tensor | float:
    """The cut of `|value|` that cuts the score at `threshold`: `threshold / scale`, inf where `scale` is 0."""
    if scale is None:
        return threshold
    return (threshold / scale).masked_fill(scale == 0, float("inf"))


def is_above(size: torch.Tensor, threshold: torch.Tensor | float) -> torch.Tensor:
    """The one comparison behind every active set: strictly above. Shape of `size`, bool."""
    return size > threshold


def is_active(value: torch.Tensor, cut: torch.Tensor | float) -> torch.Tensor:
    """Whether `|value|` is above the cut, so that a cut at 0 drops exact zeros only. Shape of `value`, bool."""
    size = value.abs()
    # PyTorch would round a cut that is a Python number to the few digits of a half-precision tensor
    return is_above(size.float() if size.dtype.itemsize < 4 else size, cut)
