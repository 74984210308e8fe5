"""The state of an engine as one record of numbers and addresses, which is what compiled code takes.

Numba passes each array as seven values, and compiles a function with a hundred arrays for a minute. A record is one
pointer. Every field is an int64 or a float32; a field for an array holds its address. `State` keeps the arrays alive.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    Array = np.ndarray[Any, Any]

INTS = (
    *("threads", "n_layers", "n_heads", "n_kv_heads", "head_dim", "d_model", "d_ff", "vocab_size", "context"),
    *("gated", "act", "neox", "rope_pairs"),
    "out_size",  # d_model rounded up to whole groups of the copy of down
    "bias_size",  # longest bias of a layer
    "code_bytes",  # bytes of an input in the form that dot products take
    "cache_size",  # tokens of the cache with padding
    *("give_way", "half_dot", "to_half", "softmax", "silu"),  # functions of ggml and the system, as addresses
)
"""Sizes, and functions by address."""
SCALES = (
    *("norm_eps", "embedding_scale", "residual_scale", "logit_scale", "attention_scale"),
    *("attention_cap", "logit_cap"),
)
ARRAYS = (
    # the model
    "embedding",  # fields of the matrix, int64 (NUM_FIELDS,)
    "head",  # the same
    "matrices",  # int64 (layers, 7, NUM_FIELDS)
    "norms",  # float32 (layers, 2, d_model)
    "post_norms",  # float32 (layers, 2, d_model), or no address
    "head_norms",  # float32 (layers, 2, head_dim), or no address
    "output_norm",  # float32 (d_model,)
    "biases",  # float32 (layers, 7, bias_size), or no address
    "windows",  # int64 (layers,): tokens that a layer attends to, 0 for all
    "rope_of",  # int64 (layers,): number of the rotary table of a layer
    "rope",  # float32 (tables, context, rope_pairs, 2): cosine and sine
    # the rule
    "ways",  # int64 (layers,): DENSE or SPARSE
    "gate_cuts",  # float32 (layers,): cut of |act(gate)|, negative to keep all
    "h_cuts",  # float32 (layers, d_ff): cut of |h|, negative to keep all
    "gate_decides",  # int64 (layers,): 1 if the gate alone makes neurons inactive
    "rows",  # int64 (layers, NUM_PLACES): places of the rows of neurons
    # earlier tokens, float16 bits
    "keys",  # (layers, n_kv_heads, cache_size, head_dim)
    "values",  # (layers, n_kv_heads, head_dim, cache_size)
    # results that all threads read after a barrier, float32
    "qkv",  # queries, keys and values of the token, one after the other
    "heads",  # outputs of the attention heads
    "out",  # (d_model,)
    "gates",  # (d_ff,)
    "h",  # (d_ff,)
    "parts",  # (threads, out_size): each thread's part of the output of a sparse block
    "logits",  # (vocab_size,)
    # buffers of each thread
    "x",  # float32 (threads, d_model): the residual stream, the same in every thread
    "normed",  # float32 (threads, d_model)
    "codes",  # uint8 (threads, 2, code_bytes): inputs in the form that dot products take
    "scores",  # float32 (threads, cache_size): attention scores of one head
    "head_buffer",  # float32 (threads, 2, head_dim): query and key of one head
    "half",  # uint16 (threads, cache_size): a query, or the weights of the values, in float16
    "chunk_values",  # float32 (threads, 3, CHUNK + 4): values of the neurons of two lists; products of a chunk
    "chunk_neurons",  # int64 (threads, 2, CHUNK + 4): neurons of two lists
    # counts, added to by every call
    "rows_read",  # int64 (threads, layers, 3): rows of gate, up and down
    "cycles",  # int64 (layers, 2): cycles of the first thread in attention and feed-forward
    "head_cycles",  # int64 (1,)
    # barriers
    "arrivals",  # int64 (8,): arrivals so far, in the first place
    "passed",  # int64 (threads, 8): barriers that each thread has passed, in the first column
)
"""Arrays by address, with dtype and shape."""
RECORD = np.dtype(
    [(name, np.int64) for name in (*INTS, *ARRAYS)] + [(name, np.float32) for name in SCALES], align=True
)


class State:
    """A record, and the arrays whose addresses it holds."""

    def __init__(self) -> None:
        self.records: Array = np.zeros(1, RECORD)
        """Shape `(1,)`: the argument of compiled functions."""
        self.arrays: dict[str, Array] = {}

    def set(self, **values: float) -> None:
        """Set sizes and scales."""
        for name, value in values.items():
            self.records[name] = value

    def keep(self, **arrays: Array) -> None:
        """Set arrays. An array without elements gets the address 0."""
        for name, array in arrays.items():
            assert array.flags.c_contiguous, name
            self.arrays[name] = array
            self.records[name] = array.ctypes.data if array.size else 0
