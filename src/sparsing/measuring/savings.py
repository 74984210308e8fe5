"""`Savings`: the weights that a rule lets a decoder skip, counted by the token, in groups of neurons and for batches.

The activation ratio alone does not decide whether a kernel can be faster. A kernel reads weights in groups of
neighbouring neurons, and a batch or a speculative step reads the union of the active sets of its tokens. This module
does not import torch, so that a report can be made where torch is not installed.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from sparsing.base.results import Result

Floats = NDArray[np.float64]

GROUP_SIZES = (1, 8, 16, 32, 64, 256)
"""Neurons that are read together."""
UNION_TOKENS = (1, 2, 3, 4, 8)
"""Consecutive tokens whose active sets are united."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Savings(Result):
    """Weights that a token reads under a rule. Arrays have one row per site; ratios are of the neurons of a token."""

    kind = "savings"

    counting_rule: str
    """The rule by which weights are counted, in sentences."""
    dense_parameters: int
    """Weights that a token of the dense model reads."""
    dense_bytes: int
    """Bytes of these weights."""
    neuron_parameters: Floats
    """Weights of all neurons that a token passes at each site, shape `(n_sites,)`."""
    neuron_bytes: Floats
    """Bytes of these weights."""
    after_score: Floats
    """Share of them that is not needed to compute the score of the rule, shape `(n_sites,)`."""
    activation_ratio: Floats
    """Over all tokens of the corpus, shape `(n_sites,)`."""
    num_tokens: int
    """Tokens that the following fields rest on."""
    group_ratio: Floats
    """Share of the groups of neighbouring neurons with an active neuron, shape `(n_sites, len(GROUP_SIZES))`."""
    sorted_group_ratio: Floats
    """The same if the neurons of each site are sorted by how often they are active."""
    union_ratio: Floats
    """Neurons that are active at one of 1, 2, 3, 4, 8 consecutive tokens, shape `(n_sites, len(UNION_TOKENS))`.

    Relative to the neurons that one token passes, so it may exceed 1 for routed experts."""
    neighbour_jaccard: Floats
    """Neurons active at both of two consecutive tokens, divided by those active at one of them, shape `(n_sites,)`."""

    def moved_to(self, activation_ratio: Floats) -> Savings:
        """At other activation ratios of the sites, shape `(n_sites,)`, as near levels of a rule have them.

        A group of n neurons is idle with probability `(1 - ratio) ** m`, where m is n for neurons that are active
        independently, and less for others. Groups and unions keep their m. `neighbour_jaccard` stays.
        """
        before, after = (np.clip(one, 1e-9, 1 - 1e-9) for one in (self.group_ratio[:, 0], activation_ratio))
        power = (np.log1p(-after) / np.log1p(-before))[:, None]

        def moved(share: Floats) -> Floats:
            # unions of routed experts may exceed 1
            return np.where(share < 1, 1 - np.maximum(1 - share, 0) ** power, share)

        return dataclasses.replace(
            self,
            activation_ratio=activation_ratio,
            group_ratio=moved(self.group_ratio),
            sorted_group_ratio=moved(self.sorted_group_ratio),
            union_ratio=moved(self.union_ratio),
        )

    def bytes_read(self, ratio: Floats, *, known: bool) -> float:
        """Bytes that are read if this share of the neurons of each site is read.

        Args:
            ratio: Shape `(n_sites,)`.
            known: Whether the active neurons are known before the block runs, by a perfect predictor. Otherwise the
                weights that the score needs are read in full.
        """
        return float(self.bytes_read_each(ratio[None], known=known)[0])

    def bytes_read_each(self, ratios: Floats, *, known: bool) -> Floats:
        """`bytes_read` for each row of ratios, of shape `(n, n_sites)`; shape `(n,)`."""
        return self._read(ratios, self.dense_bytes, self.neuron_bytes, known)

    def active_parameters(self, *, known: bool) -> float:
        """Weights that a token reads, mean over the tokens of the corpus; see `bytes_read`."""
        ratios = self.activation_ratio[None]
        return float(self._read(ratios, self.dense_parameters, self.neuron_parameters, known)[0])

    def active_bytes(self, *, known: bool) -> float:
        """Bytes of the weights that a token reads, mean over the tokens of the corpus; see `bytes_read`."""
        return self.bytes_read(self.activation_ratio, known=known)

    def _read(self, ratios: Floats, dense: int, of_neurons: Floats, known: bool) -> Floats:
        skippable = of_neurons if known else of_neurons * self.after_score
        return dense - ((1 - ratios) * skippable).sum(-1)
