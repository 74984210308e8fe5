"""Chooses the faster way for each layer, so that a sparse engine is never slower than the dense one.

Both ways decode the same tokens in turn, and the engine counts the cycles of each layer. A layer stays sparse if the
median over the tokens is clearly lower. Dense layers apply the same rule, so the choice changes no output.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsing.decode.engine.feed_forward import DENSE, SPARSE
from sparsing.decode.engine.token_kernel import FEED_FORWARD
from sparsing.errors import InputError

if TYPE_CHECKING:
    from sparsing.decode.engine._engine import GgufEngine

    Array = np.ndarray[Any, Any]

_GAIN = 0.97
"""A sparse layer must take at most this share of the dense time: a copy of `down` for less is a waste of memory."""
TOKENS = 24
"""Tokens that each way decodes if no sample is given."""


def choose_ways(engine: GgufEngine, sample: Sequence[int] | None = None) -> Array:
    """Time both ways on a sample and keep the faster one for each layer; copies of dense layers are freed.

    The engine must be empty and have a rule with copies, and is empty again afterwards.

    Args:
        sample: Token ids of a text; None takes random ids.

    Returns:
        Sparse time over dense time for each layer, shape `(layers,)`.

    Raises:
        InputError: If the sample is empty.
    """
    ids = random_ids(engine) if sample is None else list(sample)
    ids = ids[: engine.context]
    if not ids:
        raise InputError("the ways of the layers are timed on a sample of at least one token, got none")
    ways, cycles = engine.array("ways"), engine.array("cycles")
    spent = np.empty((2, len(ids), len(ways)))
    # the first token is read twice, to compile and to fill caches
    for position, token in [(0, ids[0]), *enumerate(ids)]:
        for way in (DENSE, SPARSE):
            ways[:] = way
            engine.rewind(position)  # the second way reads the token again, and stays in the cache
            before = cycles[:, FEED_FORWARD].copy()
            engine.read([token])
            spent[way, position] = cycles[:, FEED_FORWARD] - before
    engine.rewind()
    engine.reset_counts()
    dense, sparse = np.median(spent, axis=1)
    ratio = sparse / dense
    ways[:] = SPARSE
    engine.rule.keep_dense([int(layer) for layer in np.flatnonzero(ratio > _GAIN)])
    return ratio


def random_ids(engine: GgufEngine, count: int = TOKENS) -> list[int]:
    """Random token ids from 3 on, since the first ids are usually special tokens."""
    rng = np.random.default_rng(7)
    least = min(3, engine.arch.vocab_size - 1)
    return rng.integers(least, engine.arch.vocab_size, min(count, engine.context)).tolist()
