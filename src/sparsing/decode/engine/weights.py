"""The weights of a GGUF model as tables of addresses, which is how compiled code finds them.

Matrices are copied from the mapped file to huge pages, where a thread reads rows up to 1.6 times as fast, since pages
of 4 KiB interrupt the processor's own prefetching. A matrix's row in a table holds the address, the sizes, and the
functions of its type.
Vectors (norms, biases) are few and become float32 arrays. `read_weights` checks that every tensor has the shape that
the architecture demands, and that the file has no tensor that the engine would ignore.
"""

from __future__ import annotations

import dataclasses
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsing.decode.engine.ggml import F32, function_address, has_function, weight_type
from sparsing.decode.engine.input_forms import part_bytes
from sparsing.decode.engine.native import LINE
from sparsing.decode.engine.packed_rows import GEMV, ROWS_TOGETHER, interleaved
from sparsing.decode.kernels.pages import HugePages
from sparsing.errors import InputError, UnsupportedModelError, WeakResultWarning
from sparsing.hardware.memory import free_memory
from sparsing.models.gguf_file import check_rope_factors

if TYPE_CHECKING:
    from sparsing.decode.engine.architecture import Architecture
    from sparsing.models.gguf_file import GgufFile

    Array = np.ndarray[Any, Any]

# places of a matrix in the table of a layer
Q, K, V, O, GATE, UP, DOWN = range(7)  # noqa: E741
_MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
# places of a value in the row of a matrix
ADDRESS, ROWS, COLUMNS, STRIDE, DOT, INPUT_CODE, FROM_FLOAT, TO_FLOAT, PACKED, GEMV_AT, REST = range(11)
NUM_FIELDS = 11
_NORMS = ("attn_norm", "ffn_norm")
_POST_NORMS = ("post_attention_norm", "post_ffw_norm")
_HEAD_NORMS = ("attn_q_norm", "attn_k_norm")
_IGNORED = frozenset({"rope_freqs.weight"})
"""Tensors that are read elsewhere."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TensorTables:
    """Tables of matrices, arrays of vectors, and the file that keeps the memory."""

    file: GgufFile
    embedding: Array
    """Fields of the embedding, shape `(NUM_FIELDS,)`, int64."""
    head: Array
    """Fields of the head; those of the embedding if they are tied."""
    matrices: Array
    """Fields of the matrices of each layer, shape `(layers, 7, NUM_FIELDS)`, int64; zeros for a gate that is absent."""
    norms: Array
    """Weights of the norms before attention and before the block, shape `(layers, 2, d_model)`."""
    post_norms: Array
    """The same for the norms after them, shape `(layers or 0, 2, d_model)`."""
    head_norms: Array
    """Weights of the norms of q and k, shape `(layers or 0, 2, head_dim)`."""
    output_norm: Array
    biases: Array
    """Biases of the seven matrices, each padded to the longest, shape `(layers or 0, 7, longest)`."""
    copies: list[Array]
    """The matrices on huge pages; keeps their memory."""
    rope_factors: Array
    """Divisors of the rotary frequencies, shape `(rope_dims / 2,)`."""

    @property
    def matrix_bytes(self) -> Array:
        """Bytes of each matrix of each layer, shape `(layers, 7)`."""
        return self.matrices[:, :, ROWS] * self.matrices[:, :, STRIDE]

    @property
    def head_bytes(self) -> int:
        """Bytes of the head."""
        return int(self.head[ROWS] * self.head[STRIDE])


def read_weights(file: GgufFile, arch: Architecture, *, two_part_inputs: bool = False) -> TensorTables:
    """The weights of the file as tables.

    Args:
        two_part_inputs: As in `open_engine`.

    Raises:
        InputError: If a tensor is missing or has another shape than the architecture demands.
        UnsupportedModelError: If the file has a tensor that this engine does not use.
    """
    reader = _Reader(file, two_part_inputs=two_part_inputs)
    d_model, heads, kv = arch.d_model, arch.n_heads * arch.head_dim, arch.n_kv_heads * arch.head_dim
    shapes = {
        Q: (heads, d_model),
        K: (kv, d_model),
        V: (kv, d_model),
        O: (d_model, heads),
        GATE: (arch.d_ff, d_model),
        UP: (arch.d_ff, d_model),
        DOWN: (d_model, arch.d_ff),
    }
    if not arch.gated:
        del shapes[GATE]
    matrices = np.zeros((arch.n_layers, len(_MATRICES), NUM_FIELDS), np.int64)
    for layer in range(arch.n_layers):
        for place, shape in shapes.items():
            matrices[layer, place] = reader.matrix(f"blk.{layer}.{_MATRICES[place]}.weight", shape)
    tied = "output.weight" not in file.tensors
    embedding = reader.matrix("token_embd.weight", (arch.vocab_size, d_model), multiplied=tied)
    weights = TensorTables(
        file=file,
        embedding=embedding,
        head=embedding if tied else reader.matrix("output.weight", (arch.vocab_size, d_model)),
        matrices=matrices,
        norms=reader.layers(arch, _NORMS, d_model),
        post_norms=reader.layers(arch, _POST_NORMS if arch.post_norms else (), d_model),
        head_norms=reader.optional(arch, _HEAD_NORMS, arch.head_dim),
        output_norm=reader.vector("output_norm.weight", d_model),
        biases=_biases(reader, arch, shapes),
        copies=reader.copies,
        rope_factors=_rope_factors(reader, arch),
    )
    if unused := sorted(set(file.tensors) - reader.used - _IGNORED):
        raise UnsupportedModelError(
            f"{file.path}: this engine does not use {len(unused)} tensors of the file, the first: {unused[0]};"
            f" the model is no plain {arch.name}"
        )
    return weights


def _biases(reader: _Reader, arch: Architecture, shapes: dict[int, tuple[int, int]]) -> Array:
    longest = max(rows for rows, _ in shapes.values())
    biases = np.zeros((arch.n_layers, len(_MATRICES), longest), np.float32)
    found = False
    for layer in range(arch.n_layers):
        for place, (rows, _) in shapes.items():
            name = f"blk.{layer}.{_MATRICES[place]}.bias"
            if name in reader.file.tensors:
                biases[layer, place, :rows] = reader.vector(name, rows)
                found = True
    return biases if found else biases[:0]


def _rope_factors(reader: _Reader, arch: Architecture) -> Array:
    name, count = "rope_freqs.weight", arch.rope_dims // 2
    if name not in reader.file.tensors:
        return np.ones(count, np.float32)
    factors = reader.vector(name, count)
    check_rope_factors(reader.file, factors)
    return factors


def _pages(file: GgufFile) -> HugePages | None:
    """Room for a copy of every tensor of the file; only the pages that are written take memory.

    None if too little memory is free for it.
    """
    size = sum(tensor.num_bytes + LINE for tensor in file.tensors.values())
    free = free_memory()
    if size > free:
        warnings.warn(
            f"{file.path}: {free / 1e9:.1f} GB of memory are free for {size / 1e9:.1f} GB of weights, so the matrices"
            " stay in the mapped file, and decoding is slower; free some memory, or take a smaller file",
            WeakResultWarning,
            stacklevel=4,
        )
        return None
    return HugePages(size)


class _Reader:
    """Reads tensors, checks their shapes and remembers their names."""

    def __init__(self, file: GgufFile, *, two_part_inputs: bool):
        self.file, self._two_parts = file, two_part_inputs
        self.used: set[str] = set()
        self.copies: list[Array] = []
        self._pages = _pages(file)
        self._gemv = {kind: function_address(name) for kind, name in GEMV.items() if has_function(name)}

    def matrix(self, name: str, shape: tuple[int, int], *, multiplied: bool = True) -> Array:
        """The fields of a matrix. One that is never multiplied stays in the mapped file."""
        self._check(name, shape)
        tensor, data = self.file.tensor(name), self.file.rows(name)
        own = weight_type(tensor.type_code)
        if not own.dot:
            raise InputError(
                f"{self.file.path}: the installed ggml has no dot product for {own.name}, the type of {name!r};"
                " use types such as Q4_0, Q8_0, Q4_K, BF16, F16 or F32"
            )
        # an input of float32 needs no conversion
        convert = 0 if own.input_code == F32 else weight_type(own.input_code).from_float
        if own.row_bytes(shape[1]) != tensor.row_bytes or not (convert or own.input_code == F32):
            raise InputError(
                f"{self.file.path}: the installed ggml stores {own.name} in another number of bytes than the package"
                " gguf; update llama-cpp-python and gguf"
            )
        packed, gemv, address = 0, self._gemv.get(tensor.type_name, 0), data.ctypes.data
        if self._pages is not None and multiplied and gemv and shape[0] % ROWS_TOGETHER == 0:
            packed = self._copy(self._pages, interleaved(data, tensor.type_name))
        elif self._pages is not None and multiplied:
            address = self._copy(self._pages, data)
        fields = np.zeros(NUM_FIELDS, np.int64)
        fields[:] = (
            address,
            *shape,
            tensor.row_bytes,
            own.dot,
            own.input_code,
            convert,
            own.to_float,
            packed,
            gemv,
            part_bytes(own.input_code, shape[1]) if self._two_parts else 0,
        )
        return fields

    def _copy(self, pages: HugePages, values: Array) -> int:
        """Address of a copy on huge pages."""
        copy = pages.take(values.nbytes)
        copy[:] = values.reshape(-1)
        self.copies.append(copy)
        return copy.ctypes.data

    def vector(self, name: str, size: int) -> Array:
        """A vector as float32."""
        self._check(name, (size,))
        return self.file.floats(name)

    def layers(self, arch: Architecture, names: tuple[str, ...], size: int) -> Array:
        """These vectors of every layer, shape `(layers, names, size)`; no layers if there are no names."""
        if not names:
            return np.zeros((0, 2, size), np.float32)
        rows = [
            [self.vector(f"blk.{layer}.{name}.weight", size) for name in names]
            for layer in range(arch.n_layers)
        ]
        return np.array(rows, np.float32)

    def optional(self, arch: Architecture, names: tuple[str, ...], size: int) -> Array:
        """As `layers`, but no layers if the first layer lacks the first vector."""
        present = f"blk.0.{names[0]}.weight" in self.file.tensors
        return self.layers(arch, names if present else (), size)

    def _check(self, name: str, shape: tuple[int, ...]) -> None:
        tensor = self.file.tensor(name)
        self.used.add(name)
        if tensor.shape != shape:
            raise InputError(
                f"{self.file.path}: tensor {name!r} has shape {tensor.shape}, the keys of the file demand {shape};"
                " the file is damaged"
            )
