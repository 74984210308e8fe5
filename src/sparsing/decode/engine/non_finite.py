"""Finds where the values of an engine became NaN or infinite: the first token, and the first layer of that token.

An engine looks at its logits only, since a NaN of an earlier token that has any effect reaches them through attention.
After a NaN was found, the tokens are decoded again, and the bad token once with every number of layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from sparsing.decode.engine.state import State
from sparsing.errors import NonFiniteError

_WAY_OUT = (
    "The file has a broken weight, or a key or value exceeds 65504, the largest float16, in which they are kept."
    " Measure the file (`sparsing measure` names the layer in float32), decode the checkpoint itself with --dtype"
    " float32, or convert it again"
)


def non_finite_token_error(
    run: Callable[[int, int], None], state: State, tokens: Sequence[int]
) -> NonFiniteError:
    """The error that names token and layer.

    Args:
        run: Decodes a token at a position, without logits.
        state: State of the engine; its number of layers is changed in between.
        tokens: Ids of all tokens from position 0 on.
    """
    layers = int(state.records["n_layers"][0])

    def is_finite(token: int, position: int) -> bool:
        run(token, position)
        return bool(np.isfinite(state.arrays["x"][0]).all())

    place = "the logits are"
    position = next((at for at, token in enumerate(tokens) if not is_finite(token, at)), len(tokens) - 1)
    try:
        for count in range(1, layers + 1):
            state.set(n_layers=count)
            if not is_finite(tokens[position], position):
                place = f"the output of layer {count - 1} (blk.{count - 1}) is"
                break
    finally:
        state.set(n_layers=layers)
    return NonFiniteError(f"token {position} of {len(tokens)}: {place} NaN or infinite. {_WAY_OUT}")
