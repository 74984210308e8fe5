"""What a rule looks at: a size per neuron, from `gate` or `h`, plain or weighted by the column of `down_proj`.

`gate` and `h` are `|gate|` and `|h|`; `neuron_norm` is `|h_i| * ||W[:, i]||_2`, the size of what neuron `i`
adds to the output (CETT, ReLU2 Wins). A score is `|value| * scale`, so a cut of the score at `t` is a cut
of `|value|` at `t / scale`: one comparison per neuron, in one place, for every stage.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

from sparsing.base.registry import Registry

if TYPE_CHECKING:
    import torch

    from sparsing.sites.site import FFNSite


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """A size per neuron."""

    name: str
    value: Literal["gate", "h"]
    """Which activation it is made of."""
    weighted: bool
    """True when multiplied by `||W[:, i]||_2`."""

    def scale(self, site: FFNSite) -> torch.Tensor | None:
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


def is_active(value: torch.Tensor, cut: torch.Tensor | float) -> torch.Tensor:
    """Active means strictly above, so a cut at 0 drops exact zeros only. Shape of `value`, bool."""
    size = value.abs()
    # beside a half float a cut that is a number would be rounded to its few digits
    return (size.float() if size.dtype.itemsize < 4 else size) > cut
