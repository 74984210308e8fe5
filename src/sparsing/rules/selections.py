"""Selections: how scores and one number per site become the active set of each token.

A selection is an object that knows its own properties, so that no other module has to compare names. `Above`,
a threshold per site, is here. Other selections are defined beside the rule that uses them, in `named/`.
"""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, ClassVar, TypeVar

from sparsing.base.registry import Registry
from sparsing.rules.scores import cut, is_active

if TYPE_CHECKING:
    import torch


class Selection(abc.ABC):
    """Turns the scores of a site into its active set."""

    name: ClassVar[str]
    """Name in saved thresholds."""
    is_threshold: ClassVar[bool] = False
    """True if a neuron is active exactly when its score is above the site's number. Kernels need this."""
    per_token: ClassVar[bool] = True
    """True if the active set of a token depends on no other token. Generation needs this."""

    @abc.abstractmethod
    def active(
        self, value: torch.Tensor, scale: torch.Tensor | None, number: float, real: torch.Tensor
    ) -> torch.Tensor:
        """The active set, shape of `value`, bool. What it says about padding does not matter.

        Args:
            value: Activations, shape `(windows, tokens, d_ff)`. The score is `|value| * scale`.
            scale: Factor per neuron, shape `(d_ff,)`; None stands for 1.
            number: The rule's number for this site.
            real: Which tokens are no padding, shape `(windows, tokens)`, bool.
        """


SELECTIONS: Registry[Selection] = Registry("selection")
S = TypeVar("S", bound=type[Selection])


def register_selection(selection: S) -> S:
    """Register a selection under its name."""
    SELECTIONS.register(selection.name, selection())
    return selection


@register_selection
class Above(Selection):
    """Active when `|value| * scale > threshold`, computed as `|value| > threshold / scale`."""

    name = "above"
    is_threshold = True

    def active(
        self, value: torch.Tensor, scale: torch.Tensor | None, number: float, real: torch.Tensor
    ) -> torch.Tensor:
        return is_active(value, cut(number, scale))
