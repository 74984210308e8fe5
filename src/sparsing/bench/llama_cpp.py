"""Runs llama.cpp through llama-cpp-python (extra `bench`), the dense engine that CPU decoding is compared with.

The model is a Llama of a given shape with random weights. Every layer holds the same values, each at its own place in
memory. SiLU stands for ReLU, since neither the activation function nor the values change the time of a dense engine.
The weights are loaded into memory instead of mapped from the file, because llama.cpp may then rearrange them for
speed. Start with `open_llama_cpp`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsing.base.extras import install_command
from sparsing.errors import InputError

if TYPE_CHECKING:
    from sparsing.bench.shapes import DecodeShape

WEIGHT_TYPES = {"float32": ("F32",), "bfloat16": ("BF16", "F16"), "int8": ("Q8_0",)}
"""Dtype to the weight types of llama.cpp that take about the same bytes."""
BYTES_PER_WEIGHT = {"F32": 4.0, "BF16": 2.0, "F16": 2.0, "Q8_0": 34 / 32}
"""Bytes per weight by weight type; Q8_0 stores a 16-bit scale for every 32 weights."""


class LlamaCpp:
    """A model that llama.cpp has loaded from a GGUF file."""

    def __init__(self, path: Path, *, threads: int, context: int):
        from llama_cpp import Llama  # pyright: ignore[reportMissingImports] - optional extra `bench`

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

    @property
    def num_tokens(self) -> int:
        """Tokens in the context."""
        return self._model.n_tokens

    def decode(self, ids: list[int]) -> None:
        """Run these tokens as one batch at the end of the context. A full context is emptied first."""
        if self.num_tokens + len(ids) > self.context:
            self.reset()
        self._model.eval(ids)

    def reset(self) -> None:
        """Empty the context."""
        self._model.reset()

    def close(self) -> None:
        """Free the memory of the model."""
        self._model.close()


@contextlib.contextmanager
def open_llama_cpp(shape: DecodeShape, kind: str, *, threads: int, context: int = 256) -> Iterator[LlamaCpp]:
    """Load a random model of `shape` with weights of type `kind`, and close it at the end of the block.

    Args:
        kind: A key of `BYTES_PER_WEIGHT`.
        context: Tokens of context, and the most that `decode` takes at once.

    Raises:
        InputError: if llama-cpp-python or gguf is not installed.
    """
    with TemporaryDirectory(prefix="sparsing-") as folder:
        path = write_gguf(Path(folder) / "model.gguf", shape, kind)
        model = LlamaCpp(path, threads=threads, context=context)
        path.unlink()  # the weights are in memory, and the file may be several GB
        with contextlib.closing(model):
            yield model


def write_gguf(path: Path, shape: DecodeShape, kind: str, *, seed: int = 0) -> Path:
    """Write a random model of this shape as GGUF, its head tied to the embedding, and return `path`.

    Args:
        kind: Type of the weights, a key of `BYTES_PER_WEIGHT`.

    Raises:
        InputError: if llama-cpp-python or gguf is not installed.
    """
    try:
        import gguf  # pyright: ignore[reportMissingImports] - optional extra `bench`
        import llama_cpp  # noqa: F401  # pyright: ignore[reportMissingImports] - optional extra `bench`
    except ImportError as error:
        raise InputError(
            f"llama.cpp cannot be timed ({error}); install it with {install_command('bench')}"
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
    """Add every tensor. The matrices of a layer are drawn once and written once per layer."""
    import gguf  # pyright: ignore[reportMissingImports] - optional extra `bench`

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
