"""WINA: top-k per token of `|x_j| * ||W[:, j]||`, for the input `x` of every linear.

Chen et al. 2025 ("WINA: Weight Informed Neuron Activation for Accelerating Large Language Model Inference",
arXiv:2505.19427), the score of CETT for linear inputs. The paper's code also takes the sparsity of each linear from
TEAL's greedy budget, which is `teal:x_norm` with thresholds in place of the sort.
"""

from __future__ import annotations

from sparsing.rules.named.top_k import TopK
from sparsing.rules.rule import register_rule


@register_rule
class WINA(TopK):
    """Active when among the `k * width` largest `|x_j| * ||W[:, j]||`."""

    name = "wina"
    score = "x_norm"
