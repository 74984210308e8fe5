"""SCAP: thresholds by quantile on the distance from the mode, to which inactive neurons are set.

Chua et al. 2024 ("Post-Training Statistical Calibration for Higher Activation Sparsity", arXiv:2412.07174). With the
mode `m` of a site, `y = W (h - m) + W m`. The second part is a constant of the site. The first part has more values
near 0 than `h` if the mode of `h` is not 0, as after GELU without a gate. A mode of 0 gives the rule `quantile`. The
paper cuts the inputs of `up_proj` and `gate_proj` too, which is `scap:x_centred`.
"""

from __future__ import annotations

from sparsing.rules.named.quantile import Quantile
from sparsing.rules.rule import register_rule


@register_rule
class SCAP(Quantile):
    """Active when `|h - mode|` is above the quantile of its layer."""

    name = "scap"
    score = "h_centred"
