"""Scores: the sizes of neurons by which rules select, and the comparison that defines an active neuron.

On feed-forward blocks:

- `gate`: `|gate|`, the output of the activation function
- `pre_gate`: the input of the activation function, with its sign
- `up`: `|up|`, the output of `up_proj`
- `h`: `|h|`, the input of `down_proj`
- `neuron_norm`: `|h_i| * ||W[:, i]||_2`, the norm of the vector that neuron `i` adds to the output (CETT, ReLU2 Wins)
- `h_centred`: `|h - mode|`, the distance from the mode of the layer (SCAP)

On the input `x` of any linear, `x`, `x_norm` and `x_centred` are as `h`, `neuron_norm` and `h_centred` (TEAL, WINA).

Every score but `pre_gate` is `|value - centre| * scale`, so cutting the score at `t` means cutting `|value - centre|`
at `t / scale`. All stages make this one comparison per neuron by calling `is_active`. Two scores joined by `+`, such as
`neuron_norm+x`, belong to a joint rule: the first for the feed-forward blocks, the second for the attention inputs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from sparsing.base.registry import Registry
from sparsing.errors import InputError
from sparsing.rules.flags import above

if TYPE_CHECKING:
    import torch

    from sparsing.sites.site import Site, SiteKind
    from sparsing.sites.tap import Extra, Rows

Part = Literal["gate", "up", "down", "input"]
"""Weights of one neuron: its row of `gate_proj` or `up_proj`, its column of `down_proj`, or a column of any linear."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """A size per neuron: `|value - centre| * scale`."""

    name: str
    """Name in the registry and in saved thresholds."""
    value: Literal["gate", "h", "up", "pre_gate"]
    """The activation from which the score is computed: an attribute of `Rows`."""
    weighted: bool = False
    """True if the score is multiplied by `||W[:, i]||_2`."""
    signed: bool = False
    """True if the score is the value itself and not its magnitude."""
    centred: bool = False
    """True if the score is the distance from a centre per site, to which inactive neurons are set instead of to 0."""
    kinds: tuple[SiteKind, ...] = ("ffn", "expert")
    """Kinds of site on which the score is defined."""
    skips: tuple[Part, ...] = ("down",)
    """Weights of an inactive neuron that need not be read, although the score has to be computed first."""

    @property
    def needs_gate(self) -> bool:
        """True if the score is computed from `gate`, so that a tap must hook the activation."""
        return self.value == "gate"

    @property
    def extra(self) -> frozenset[Extra]:
        """Further activations that a tap must read for this score."""
        return frozenset({self.value}) if self.value in ("up", "pre_gate") else frozenset()

    def value_of(self, rows: Rows) -> torch.Tensor:
        """The activation from which the score is computed, shape `(rows, d_ff)`.

        Raises:
            InputError: If the site has no such activation, because its block has no gate.
        """
        value = getattr(rows, self.value)
        if value is None:
            raise InputError(
                f"score {self.name!r} needs a feed-forward block with gate_proj and up_proj, and this model's blocks"
                " have no gate; choose the score gate, h or neuron_norm"
            )
        return value

    def scale(self, site: Site) -> torch.Tensor | None:
        """Factor per neuron, shape `(d_ff,)` or `(n_experts, d_ff)`, float32; None stands for 1."""
        return site.column_norms() if self.weighted else None

    def sizes(self, value: torch.Tensor, scale: torch.Tensor | None, centre: float = 0.0) -> torch.Tensor:
        """The score in float32, shape `(..., d_ff)`; `scale=None` stands for 1."""
        if self.signed:
            return value.detach().float()
        return sizes(value - centre if self.centred else value, scale)


SCORES: Registry[Score] = Registry("score")
"""Scores by name."""
_LINEAR: tuple[SiteKind, ...] = ("linear_input",)
for _score in (
    Score(name="gate", value="gate", skips=("up", "down")),
    Score(name="pre_gate", value="pre_gate", kinds=("ffn",), signed=True, skips=("up", "down")),
    Score(name="up", value="up", kinds=("ffn",), skips=("gate", "down")),
    Score(name="h", value="h"),
    Score(name="h_centred", value="h", centred=True, kinds=("ffn",)),
    Score(name="neuron_norm", value="h", weighted=True),
    Score(name="x", value="h", kinds=_LINEAR, skips=("input",)),
    Score(name="x_centred", value="h", centred=True, kinds=_LINEAR, skips=("input",)),
    Score(name="x_norm", value="h", weighted=True, kinds=_LINEAR, skips=("input",)),
):
    SCORES.register(_score.name, _score)


def scores_of(names: str) -> tuple[Score, ...]:
    """The scores of a name such as `gate`, or of a joint name such as `neuron_norm+x`.

    Raises:
        InputError: If a score is unknown, or if two of the scores are defined on the same kind of site.
    """
    scores = tuple(SCORES[name] for name in names.split("+"))
    kinds = [kind for score in scores for kind in score.kinds]
    if len(set(kinds)) < len(kinds):
        raise InputError(
            f"the scores {names!r} are for the same kind of site; a joint rule has one score for feed-forward blocks"
            " and one for linear inputs, e.g. neuron_norm+x"
        )
    return scores


def cuts_inputs(names: str) -> bool:
    """Whether one of the scores is defined on inputs of linears, not only on neurons of feed-forward blocks."""
    return any("linear_input" in score.kinds for score in scores_of(names))


def score_for(scores: Sequence[Score], site: Site) -> Score:
    """The one of these scores that is defined on the site.

    Raises:
        InputError: If none is.
    """
    for score in scores:
        if site.kind in score.kinds:
            return score
    names = "+".join(score.name for score in scores)
    raise InputError(f"score {names!r} is not defined on {site.name!r}; choose a rule with another score")


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
    # a number over a tensor would be the number times a reciprocal, which is rounded twice
    number = scale.new_full((), threshold) if isinstance(threshold, (int, float)) else threshold
    return (number / scale).masked_fill(scale == 0, float("inf"))


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
    # a cut that is not the same for all neurons has been divided by the scale of a neuron, see `row_scale`
    return cut.index_select(0, rows.routing.expert) if cut.shape[-1] == 1 else rows.routing.divided(cut)


def is_above(size: torch.Tensor, threshold: torch.Tensor | float) -> torch.Tensor:
    """Whether the size is strictly above the threshold, the definition of active. Shape of `size`, bool."""
    return above(size, threshold)


def is_active(value: torch.Tensor, cut: torch.Tensor | float) -> torch.Tensor:
    """Whether `|value|` is strictly above the cut. A cut at 0 drops exact zeros only. Shape of `value`, bool."""
    size = value.abs()
    # PyTorch would round a cut given as a Python number to the dtype of a half-precision tensor
    return is_above(size.float() if size.dtype.itemsize < 4 else size, cut)
