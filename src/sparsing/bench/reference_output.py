"""Checks the engines of a block benchmark against plain PyTorch in float32.

`ReferenceOutput` computes the block once on the inputs of every activation ratio. `judge` then compares an engine
with it: the error of its output, the true activation ratio, and the recall of its predictor.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from sparsing.decode.kernels.cuts import no_cuts
from sparsing.decode.kernels.plain import hidden
from sparsing.decode.predict.quantised import recall_of

if TYPE_CHECKING:
    from sparsing.bench.engines import Engine
    from sparsing.decode.kernels.packing import PackedFFN

_TOKENS = 8
"""Tokens on which outputs are compared: the most that one call of a kernel takes."""


@dataclasses.dataclass(frozen=True)
class EngineQuality:
    """How exact one engine is; the fields are those of `BlockTiming`, and None where they do not apply."""

    output_error: float | None
    active_ratio: float | None
    predicted_ratio: float | None
    recall: float | None


class ReferenceOutput:
    """The output of one block by plain PyTorch, for the inputs of every activation ratio.

    Args:
        packed: The block; its weights are converted to float32.
        inputs: Requested activation ratio to inputs, shape `(tokens, d_model)`. Dense engines use the key None.
    """

    def __init__(self, packed: PackedFFN, inputs: Mapping[float | None, torch.Tensor]):
        self._act, self._inputs, self._norms = packed.act, inputs, packed.column_norms()
        cuts, down = no_cuts(packed.d_ff), packed.floats()[2]
        self._h = {ratio: hidden(packed, x, cuts) for ratio, x in inputs.items()}
        self._outputs = {ratio: h[:_TOKENS] @ down for ratio, h in self._h.items()}

    def judge(self, engine: Engine) -> EngineQuality:
        """Compare the engine's first layer and its predictor with the reference. Calls the engine once."""
        x, h, predictor = self._inputs[engine.ratio], self._h[engine.ratio], engine.predictor
        error = predicted = recall = None
        if engine.blocks_per_call == 1:  # an engine that runs a whole model has no output of one block
            expected = self._outputs[engine.ratio]
            error = float((engine.calls[0](x[:_TOKENS]).float() - expected).norm() / expected.norm())
        if predictor is not None:
            selected = predictor.predict(x, self._act)
            predicted, recall = float(selected.float().mean()), recall_of(selected, h.abs() * self._norms)
        active = None if engine.dense else float((h != 0).float().mean())
        return EngineQuality(error, active, predicted, recall)
