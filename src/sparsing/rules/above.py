"""The selection that most rules use: active when the score is strictly above the layer's threshold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparsing.rules.rule import register_selection
from sparsing.rules.scores import cut, is_active

if TYPE_CHECKING:
    import torch


@register_selection("above")
def above(
    value: torch.Tensor, scale: torch.Tensor | None, threshold: float, counted: torch.Tensor
) -> torch.Tensor:
    """`|value| * scale > threshold`, computed as `|value| > threshold / scale`."""
    return is_active(value, cut(threshold, scale))
