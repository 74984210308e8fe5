"""llama.cpp at a shape, through llama-cpp-python (extra `bench`): the dense engine that CPU decoding is held against.

The model is a Llama with random weights of the shape, every layer the same values at a place of its own; SiLU in
place of ReLU and values do not matter to a dense engine. Memory is its own, not mapped from the file, so that it may
lay weights out as it likes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsing.errors import InputError

if TYPE_CHECKING:
    from sparsing.bench.shapes import DecodeShape

KINDS = {"float32": ("F32",), "bfloat16": ("BF16", "F16"), "int8": ("Q8_0",)}
"""Weights of about the same bytes as the dtype; of several the fastest is a fair rival."""
BYTES = {"F32": 4.0, "BF16": 2.0, "F16": 2.0, "Q8_0": 34 / 32}
"""Bytes per weight; Q8_0 has a 16-bit scale for every 32 weights."""


class LlamaCpp:
    """A loaded model that decodes tokens, some at a time."""

    def __init__(self, path: Path, *, threads: int, context: int):
        from llama_cpp import Llama  # pyright: ignore[reportMissingImports]

        self._model = Llama(
            str(path),
            n_ctx=context,
            n_batch=context,
            n_ubatch=context,
            n_threads=threads,
            n_threads_batch=threads,
            use_mmap=False,
            verbose=False,
        )
        self.context = context

    def decode(self, ids: list[int]) -> None:
        """Run these tokens at the end of the context, as one batch; the context begins anew when it is full."""
        if self._model.n_tokens + len(ids) > self.context:
            self._model.reset()
        self._model.eval(ids)

    def restart(self) -> None:
        """Forget the context."""
        self._model.reset()


@contextlib.contextmanager
def llama_cpp(shape: DecodeShape, kind: str, *, threads: int, context: int = 256) -> Iterator[LlamaCpp]:
    """A model of `shape` in `kind`, written to a temporary folder and loaded from there.

    Raises:
        InputError: llama-cpp-python or gguf is not installed.
    """
    with TemporaryDirectory(prefix="sparsing-") as folder:
        path = write_gguf(Path(folder) / "model.gguf", shape, kind)
        engine = LlamaCpp(path, threads=threads, context=context)
        path.unlink()  # it is in memory now
        try:
            yield engine
        finally:
            engine._model.close()


def write_gguf(path: Path, shape: DecodeShape, kind: str, *, seed: int = 0) -> Path:
    """Write random weights of this shape, head tied to the embedding; `kind` is a key of `BYTES`.

    Raises:
        InputError: llama-cpp-python or gguf is not installed.
    """
    try:
        import gguf  # pyright: ignore[reportMissingImports]
        import llama_cpp  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(
            f"llama.cpp cannot be timed ({error}); install it with pip install 'sparsing[bench]'"
        ) from error
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(shape.n_layers)
    writer.add_context_length(2**16)
    writer.add_embedding_length(shape.d_model)
    writer.add_feed_forward_length(shape.d_ff)
    writer.add_head_count(shape.n_heads)
    writer.add_head_count_kv(shape.n_kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(shape.vocab_size)
    writer.add_tokenizer_model("no_vocab")
    _add_tensors(writer, shape, gguf.GGMLQuantizationType[kind], np.random.default_rng(seed))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tensors(writer: Any, shape: DecodeShape, kind: Any, rng: np.random.Generator) -> None:
    """Every tensor; a layer's are made once and stand in the file once per layer."""
    import gguf  # pyright: ignore[reportMissingImports]

    def matrix(rows: int, columns: int) -> np.ndarray:
        return gguf.quantize(rng.standard_normal((rows, columns), dtype=np.float32) * 0.02, kind)

    heads, kv = shape.n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim
    norm = np.ones(shape.d_model, np.float32)
    layer = {
        "attn_q": matrix(heads, shape.d_model),
        "attn_k": matrix(kv, shape.d_model),
        "attn_v": matrix(kv, shape.d_model),
        "attn_output": matrix(shape.d_model, heads),
        "ffn_gate": matrix(shape.d_ff, shape.d_model),
        "ffn_up": matrix(shape.d_ff, shape.d_model),
        "ffn_down": matrix(shape.d_model, shape.d_ff),
    }
    writer.add_tensor("token_embd.weight", matrix(shape.vocab_size, shape.d_model), raw_dtype=kind)
    writer.add_tensor("output_norm.weight", norm)
    for i in range(shape.n_layers):
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{i}.{name}.weight", norm)
        for name, weight in layer.items():
            writer.add_tensor(f"blk.{i}.{name}.weight", weight, raw_dtype=kind)
