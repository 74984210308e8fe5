"""Selections: they turn the scores of a site and one number into the active set of each token.

A selection is an object that knows its own properties, so that no other module has to compare names. This module
defines `Above`, a threshold per site. Other selections are defined in `named/`, beside the rule that uses them.
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
        """The active set, shape of `value`, bool. Its entries at padding tokens are arbitrary.

        Args:
            value: Activations, shape `(windows, tokens, d_ff)`. The score is `|value| * scale`.
            scale: Factor per neuron, shape `(d_ff,)`; None stands for 1.
            number: The rule's number for this site.
            real: Which tokens are not padding, shape `(windows, tokens)`, bool.
        """


SELECTIONS: Registry[Selection] = Registry("selection")
"""Selections by name."""
S = TypeVar("S", bound=Selection)


def register_selection(selection: type[S]) -> type[S]:
    """Class decorator that registers an instance of a selection under its name.

    Raises:
        ValueError: If another selection has the name.
    """
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
