"""Selections: they turn the scores of a site and one number into the active set of each token.

A selection is an object that knows its own properties, so that no other module has to compare names. This module
defines `Above`, a threshold per site. Other selections are defined in `named/`, beside the rule that uses them.
"""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, ClassVar, TypeVar

from sparsing.base.registry import Registry
from sparsing.rules.scores import is_above, scores_of

if TYPE_CHECKING:
    import torch


class Selection(abc.ABC):
    """Turns the scores of a site into its active set."""

    name: ClassVar[str]
    """Name in saved thresholds."""
    is_threshold: ClassVar[bool] = False
    """True if a neuron is active exactly when its score is above the site's number. Kernels need this."""
    takes_signs: ClassVar[bool] = True
    """False if scores must not be negative: thresholds cut magnitudes, and sums of magnitudes are masses."""
    per_token: ClassVar[bool] = True
    """True if the active set of a token depends on no other token. Evaluation needs this."""
    from_prompt: ClassVar[bool] = False
    """True if the active set is chosen from a prompt, which stays dense, and is kept for the tokens after it.

    The neurons are then known before a token is computed, so all weights of the inactive neurons can be skipped.
    Such a selection has the method `choose` of `PromptSelection`."""

    @abc.abstractmethod
    def active(self, size: torch.Tensor, number: float, real: torch.Tensor) -> torch.Tensor:
        """The active set, shape of `size`, bool. Its entries at padding tokens are arbitrary.

        A neuron of size 0 may be active: the mask leaves out neurons whose value is exactly zero.

        Args:
            size: Scores, shape `(windows, tokens, d_ff)`, float32.
            number: The rule's number for this site.
            real: Which tokens are not padding, shape `(windows, tokens)`, bool.
        """


class PromptSelection(Selection):
    """A selection that chooses one set of neurons per window from the first tokens of the window."""

    per_token = False
    from_prompt = True

    @abc.abstractmethod
    def choose(self, size: torch.Tensor, number: float, prompt: torch.Tensor) -> torch.Tensor:
        """The set of each window, shape `(windows, d_ff)`, bool.

        Args:
            size: Scores, shape `(windows, tokens, d_ff)`, float32.
            number: The rule's number for this site.
            prompt: Which tokens belong to the prompt, shape `(windows, tokens)`, bool.
        """

    @abc.abstractmethod
    def prompt_of(self, real: torch.Tensor) -> torch.Tensor:
        """Which tokens of a window are its prompt, same shape as `real`, bool. Windows are padded at the end."""

    def active(self, size: torch.Tensor, number: float, real: torch.Tensor) -> torch.Tensor:
        prompt = self.prompt_of(real)
        return self.choose(size, number, prompt)[:, None] | prompt[..., None]


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


def cuts_blocks(on: str, select: str) -> bool:
    """True if a neuron of a feed-forward block is active exactly when `|gate|` or `|h|` is above a cut.

    The decoding kernels and the predictors need this.

    Args:
        on: Name of a score, or of the scores of a joint rule.
        select: Name of a selection.
    """
    (score, *others) = scores_of(on)
    is_plain = score.value in ("gate", "h") and not score.centred and "ffn" in score.kinds
    return SELECTIONS[select].is_threshold and is_plain and not others


@register_selection
class Above(Selection):
    """Active when the score is strictly above the threshold of the site."""

    name = "above"
    is_threshold = True
    takes_signs = False

    def active(self, size: torch.Tensor, number: float, real: torch.Tensor) -> torch.Tensor:
        return is_above(size, number)
