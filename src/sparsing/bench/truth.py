"""What the plain PyTorch version says of a contestant: its error, the true ratio, what its predictor finds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from sparsing.decode.kernels.cuts import no_cuts
from sparsing.decode.kernels.plain import hidden
from sparsing.decode.predict.quantised import recall_of

if TYPE_CHECKING:
    from sparsing.bench.engines import Contestant
    from sparsing.decode.kernels.packing import PackedFFN

_TOKENS = 8
"""Tokens on which outputs are compared: as many as a call takes."""


class Truth:
    """The block on the inputs of every ratio, computed once.

    Args:
        pools: Wanted ratio to inputs, shape `(tokens, d_model)`; None for the dense.
    """

    def __init__(self, packed: PackedFFN, pools: Mapping[float | None, torch.Tensor]):
        self._act, self._pools, self._norms = packed.act, pools, packed.column_norms()
        cuts, down = no_cuts(packed.d_ff), packed.floats()[2]
        self._h = {ratio: hidden(packed, pool, cuts) for ratio, pool in pools.items()}
        self._outputs = {ratio: h[:_TOKENS] @ down for ratio, h in self._h.items()}

    def quality(self, line: Contestant) -> dict[str, float]:
        """Fields of `FFNLine` on what is active, what was predicted, and how near the output is."""
        pool, h, found = self._pools[line.ratio], self._h[line.ratio], {}
        if line.ffns_per_call == 1:  # a whole model's output is no block's
            wanted, tokens = self._outputs[line.ratio], pool[:_TOKENS]
            got = line.calls[0](tokens).float()
            found["output_error"] = float((got - wanted).norm() / wanted.norm())
        if line.dense:
            return found
        found["active_ratio"] = float((h != 0).float().mean())
        if line.predictor is not None:
            named = line.predictor.predict(pool, self._act)
            found["predicted_ratio"] = float(named.float().mean())
            found["recall"] = recall_of(named, h.abs() * self._norms)
        return found
