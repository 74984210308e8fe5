"""GRIFFIN: one set of neurons per sequence, chosen from the prompt and kept for the tokens after it.

Dong et al. 2024 ("Prompt-prompted Adaptive Structured Pruning for Efficient LLM Generation", arXiv:2404.01365). The
scores of each prompt token are divided by their L2 norm. The statistic of a neuron is the L2 norm of its divided scores
over the prompt tokens, and the share `k` of the neurons with the largest statistics stays. The prompt itself is dense.

In a pass over a corpus, the first half of each window is the prompt. In `generate`, the prompt is the forward of more
than one token. To count only tokens after the prompt, let windows overlap by half (`--stride` half of `--window`).
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, cast

from sparsing.rules.order_statistics import largest
from sparsing.rules.rule import KeepsShare, Reach, register_rule
from sparsing.rules.selections import PromptSelection, register_selection

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from sparsing.rules.curves import Curves


@register_rule
class Griffin(KeepsShare):
    """Active when among the `k * d_ff` neurons that are largest over the prompt."""

    name = "griffin"
    score = "h"
    selection = "griffin"
    usual_exponent = 1.2

    def reach(self, curves: Curves) -> Reach:
        # neurons that are not among the largest of the prompt may be large later, so most neurons are needed
        return dataclasses.replace(super().reach(curves), start=0.05)

    def squared_errors(self, level: float, curves: Curves) -> NDArray[np.float64] | None:
        return None  # a set drops neurons that are large at later tokens, which no threshold does


@register_selection
class FromPrompt(PromptSelection):
    """The `round(share * d_ff)` neurons with the largest statistics over the prompt, at least one."""

    name = "griffin"

    def choose(self, size: torch.Tensor, number: float, prompt: torch.Tensor) -> torch.Tensor:
        # PyTorch does not annotate the parameters of `norm`
        norm = (
            cast("Any", size).norm(dim=-1, keepdim=True).clamp_min(1e-30)
        )  # a token may have scores of 0 only
        statistic = ((size / norm) * prompt[..., None]).square().sum(1)  # (windows, d_ff)
        return largest(statistic, max(1, round(number * size.shape[-1])))

    def prompt_of(self, real: torch.Tensor) -> torch.Tensor:
        half = (real.sum(-1, keepdim=True) + 1) // 2
        return real & (real.cumsum(-1) <= half)
