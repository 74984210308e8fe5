"""`GgufEngine`: a GGUF model that decodes token by token, with one compiled call per token.

    with open_engine("model.gguf", thresholds) as engine:
        logits = engine.read([1, 2, 3])       # of the last token
        logits = engine.read([int(logits.argmax())])

`architecture.py` says what the model computes, `weights.py` where its weights are, `rule.py` which neurons are skipped,
`token_kernel.py` computes a token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sparsing.decode.engine.architecture import ACTS, Architecture, read_architecture
from sparsing.decode.engine.attention import PADDING, fill_turns
from sparsing.decode.engine.ggml import F16, function_address, weight_type
from sparsing.decode.engine.native import GROUP
from sparsing.decode.engine.neuron_rows import CHUNK
from sparsing.decode.engine.non_finite import non_finite_token_error
from sparsing.decode.engine.rule import EngineRule, dense_rule
from sparsing.decode.engine.state import INTS, SCALES, State
from sparsing.decode.engine.threads import Team, yield_address
from sparsing.decode.engine.token_kernel import run_token
from sparsing.decode.engine.weights import TensorTables, read_weights
from sparsing.errors import InputError
from sparsing.models.gguf_file import read_gguf

if TYPE_CHECKING:
    Array = np.ndarray[Any, Any]

DEFAULT_CONTEXT = 2048
"""Tokens of the cache if the caller gives no number and the model allows as many."""


class GgufEngine:
    """A model ready to decode. `open_engine` makes it; `close` or the end of a `with` block ends its threads."""

    def __init__(self, arch: Architecture, weights: TensorTables, *, context: int, threads: int):
        self.arch, self.weights, self.context = arch, weights, context
        self._position = 0
        """Tokens in the cache."""
        self._team = Team(threads)
        self._state = _state(arch, weights, context, threads)
        self._tokens = np.zeros(context, np.int64)  # in the cache, up to `position`
        self.rule = dense_rule(arch)

    @property
    def threads(self) -> int:
        """Number of threads."""
        return self._team.size

    @property
    def rule(self) -> EngineRule:
        """Which neurons are skipped, and how each layer is computed; may be set between tokens."""
        return self._rule

    @rule.setter
    def rule(self, rule: EngineRule) -> None:
        self._rule = rule
        self._state.keep(**rule.arrays)

    @property
    def position(self) -> int:
        """Tokens in the cache; `read` and `rewind` change it."""
        return self._position

    def array(self, name: str) -> Array:
        """An array of the state by its name in `state.py`, e.g. the counts `rows_read` and `cycles`."""
        return self._state.arrays[name]

    def read(self, tokens: Sequence[int], *, all_logits: bool = False) -> Array:
        """Decode tokens behind those in the cache.

        Args:
            tokens: Ids, at least one.
            all_logits: Return the logits after every token, not only after the last.

        Returns:
            Logits, shape `(vocab_size,)` or `(tokens, vocab_size)`, float32.

        Raises:
            InputError: If there are no tokens, an id is not in the vocabulary, or the cache is too short.
            NonFiniteError: If a logit is NaN or all are infinite; the engine is empty then.
        """
        self._check(tokens)
        rows = []
        for n, token in enumerate(tokens):
            wanted = all_logits or n + 1 == len(tokens)
            self._run(int(token), self.position, wanted)
            self._tokens[self.position] = token
            self._position += 1
            if wanted:
                rows.append(self.array("logits").copy())
                self._check_finite(rows[-1])
        return np.stack(rows) if all_logits else rows[0]

    def rewind(self, position: int = 0) -> None:
        """Forget the tokens from `position` on.

        Raises:
            InputError: If fewer tokens are in the cache.
        """
        if not 0 <= position <= self.position:
            raise InputError(
                f"position must be from 0 to {self.position}, the tokens in the cache, got {position}"
            )
        # values of forgotten tokens get weight 0, and 0 * inf is NaN
        self.array("values")[..., position : self._position] = 0
        self._position = position

    def reset_counts(self) -> None:
        """Set the counts of rows and cycles to zero."""
        for name in ("rows_read", "cycles", "head_cycles"):
            self.array(name)[:] = 0

    def close(self) -> None:
        """End the threads."""
        self._team.close()

    def __enter__(self) -> GgufEngine:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _run(self, token: int, position: int, with_logits: bool = False) -> None:
        self._team.run(run_token, token, position, with_logits, self._state.records, keep=self._state)

    def _check_finite(self, logits: Array) -> None:
        if math.isfinite(logits.max()):  # NaN if any logit is
            return
        tokens: list[int] = self._tokens[: self.position].tolist()
        self.rewind()
        try:
            raise non_finite_token_error(self._run, self._state, tokens)
        finally:
            self._position = len(tokens)  # they have been run again
            self.rewind()

    def _check(self, tokens: Sequence[int]) -> None:
        if len(tokens) < 1:
            raise InputError("decoding needs at least one token, got none")
        if bad := [token for token in tokens if not 0 <= token < self.arch.vocab_size]:
            raise InputError(f"token ids must be from 0 to {self.arch.vocab_size - 1}, got {bad[0]}")
        if self.position + len(tokens) > self.context:
            raise InputError(
                f"{self.position} + {len(tokens)} tokens do not fit into a context of {self.context};"
                " open the engine with a larger context, or rewind it"
            )


def open_engine(
    path: str | Path,
    *,
    context: int | None = None,
    threads: int | None = None,
    two_part_inputs: bool = False,
) -> GgufEngine:
    """Open a GGUF file for dense decoding. `sparse_rule` and `choose_ways` make it sparse.

    Args:
        context: Most tokens of a text; None takes the model's own number, but at most 2,048.
        threads: CPU threads; None takes the number that torch uses.
        two_part_inputs: ggml and llama.cpp round the inputs of quantised matrices to 8 bits. True adds the rounding
            error as a second 8-bit part: the logits are then nearly those of float inputs, at twice the arithmetic.

    Raises:
        InputError: If the file is missing, damaged or contradicts itself, or an argument is out of range.
        UnsupportedModelError: If the engine does not compute this architecture.
    """
    file = read_gguf(path)
    arch = read_architecture(file)
    weights = read_weights(file, arch, two_part_inputs=two_part_inputs)
    context = min(arch.context, DEFAULT_CONTEXT) if context is None else context
    threads = torch.get_num_threads() if threads is None else threads
    if not 1 <= threads <= 1024 or not 1 <= context <= 2**24:
        raise InputError(
            f"an engine needs threads from 1 to 1024 and a context from 1 on, got {threads}, {context}"
        )
    return GgufEngine(arch, weights, context=context, threads=threads)


def _state(arch: Architecture, weights: TensorTables, context: int, threads: int) -> State:
    """Sizes, weights and buffers; the rule is added by the engine."""
    state, half = State(), weight_type(F16)
    longest = max(arch.d_model, arch.d_ff, arch.n_heads * arch.head_dim)
    state.set(
        **{name: getattr(arch, name) for name in (*SCALES, *INTS) if hasattr(arch, name)}
        | {"act": ACTS.index(arch.act), "context": context},
        threads=threads,
        rope_pairs=arch.rope_dims // 2,
        out_size=-(-arch.d_model // GROUP) * GROUP,
        bias_size=weights.biases.shape[2],
        code_bytes=8 * longest
        + 1024,  # no form of an input takes more, in two parts and with the error of the first
        give_way=yield_address(),
        half_dot=half.dot,
        to_half=half.from_float,
        softmax=function_address("ggml_vec_soft_max_f32"),
        silu=function_address("ggml_vec_silu_f32"),
        cache_size=-(-context // PADDING) * PADDING + max(PADDING, arch.head_dim),
    )
    rope, rope_of = _rope_tables(arch, weights, context)
    names = ("embedding", "head", "matrices", "norms", "post_norms", "head_norms", "output_norm", "biases")
    state.keep(
        **{name: getattr(weights, name) for name in names},
        windows=np.array(arch.windows, np.int64),
        rope_of=rope_of,
        rope=rope,
    )
    sizes = _buffer_sizes(arch, threads, state)
    state.keep(**{name: np.zeros(shape, dtype) for name, (dtype, shape) in sizes.items()})
    return state


def _buffer_sizes(arch: Architecture, threads: int, state: State) -> dict[str, tuple[Any, Any]]:
    """Name of a buffer of `state.py` to its dtype and shape."""
    out_size, code_bytes = int(state.records["out_size"][0]), int(state.records["code_bytes"][0])
    cache_size = int(state.records["cache_size"][0])
    layers, kv_heads, head_dim = arch.n_layers, arch.n_kv_heads, arch.head_dim
    return {
        "keys": (np.uint16, (layers, kv_heads, cache_size, head_dim)),
        "values": (np.uint16, (layers, kv_heads, head_dim, cache_size)),
        "qkv": (np.float32, (arch.n_heads + 2 * arch.n_kv_heads) * arch.head_dim),
        "heads": (np.float32, arch.n_heads * arch.head_dim),
        "out": (np.float32, arch.d_model),
        "gates": (np.float32, arch.d_ff),
        "h": (np.float32, arch.d_ff),
        "parts": (np.float32, (threads, out_size)),
        "logits": (np.float32, arch.vocab_size),
        "x": (np.float32, (threads, arch.d_model)),
        "normed": (np.float32, (threads, arch.d_model)),
        "codes": (np.uint8, (threads, 2, code_bytes)),
        "scores": (np.float32, (threads, cache_size)),
        "head_buffer": (np.float32, (threads, 2, head_dim)),
        "half": (np.uint16, (threads, cache_size)),
        "chunk_values": (np.float32, (threads, 3, CHUNK + 4)),
        "chunk_neurons": (np.int64, (threads, 2, CHUNK + 4)),
        "rows_read": (np.int64, (threads, arch.n_layers, 3)),
        "cycles": (np.int64, (arch.n_layers, 2)),
        "head_cycles": (np.int64, 1),
        "arrivals": (np.int64, 8),
        "passed": (np.int64, (threads, 8)),
    }


def _rope_tables(arch: Architecture, weights: TensorTables, context: int) -> tuple[Array, Array]:
    """Cosine and sine for each distinct base and scale, and which of them each layer uses."""
    kinds = list(dict.fromkeys(zip(arch.rope_bases, arch.rope_scales, strict=True)))
    tables = np.empty((len(kinds), context, arch.rope_dims // 2, 2), np.float32)
    for table, (base, scale) in zip(tables, kinds, strict=True):
        fill_turns(table, np.float32(base), np.float32(scale), weights.rope_factors)
    layers = zip(arch.rope_bases, arch.rope_scales, strict=True)
    return tables, np.array([kinds.index(kind) for kind in layers], np.int64)
