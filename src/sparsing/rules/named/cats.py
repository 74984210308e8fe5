"""CATS: a threshold per layer on the output of the activation function, by quantile.

Lee et al. 2024 ("CATS: Contextually-Aware Thresholding for Sparsity in Large Language Models", arXiv:2404.08763). The
gate is computed in full. Then `up_proj` and `down_proj` are computed for the active neurons only.
"""

from __future__ import annotations

from sparsing.rules.named.quantile import Quantile
from sparsing.rules.rule import register_rule


@register_rule
class CATS(Quantile):
    """Active when `|gate|` is above the quantile of its layer."""

    name = "cats"
    score = "gate"
