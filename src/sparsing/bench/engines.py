"""The engines that a block benchmark compares, behind one interface: dense engines and the sparse kernels.

The layers of a model are several copies of one block with random weights, together many times the last-level cache.
Every engine reads the same copies; only torch needs `down_proj` in a second layout. All weights lie on huge pages,
so that no engine has an advantage from the page size. llama.cpp holds weights of its own.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from sparsing.bench.llama_cpp import BYTES_PER_WEIGHT, WEIGHT_TYPES, LlamaCpp, open_llama_cpp
from sparsing.decode.kernels.cuts import no_cuts
from sparsing.decode.kernels.dispatch import make_kernel
from sparsing.decode.predict.quantised import LayerPredictor, build_predictor
from sparsing.errors import InputError

if TYPE_CHECKING:
    from sparsing.bench.planted import PlantedBlock
    from sparsing.bench.shapes import DecodeShape
    from sparsing.decode.kernels.interface import Kernel
    from sparsing.decode.kernels.packing import PackedFFN

Call = Callable[[torch.Tensor], Any]
CALIBRATION_TOKENS = 256
"""Tokens that a predictor is calibrated on. The timed tokens are others."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Engine:
    """One way to compute the layers of a block benchmark."""

    name: str
    calls: tuple[Call, ...]
    """One call per layer: `x (tokens, d_model)` to the output of the block. The first call is not timed, since it
    wakes the threads of the engine."""
    blocks_per_call: int = 1
    """Blocks that one call computes; more than 1 for an engine that only runs whole models."""
    ratio: float | None = None
    """Requested activation ratio of the inputs; None for a dense engine."""
    dense_bytes: float = 0.0
    """Bytes of weights that a dense engine reads per block. Not used if `blocks` count their reads."""
    blocks: tuple[Kernel, ...] = ()
    """The kernels behind `calls`, which count what they read; empty for other engines."""
    predictor: LayerPredictor | None = None

    @property
    def dense(self) -> bool:
        """True if the engine reads all neurons."""
        return self.ratio is None


def block_bytes(packed: PackedFFN) -> int:
    """Bytes of all weights of the block."""
    return packed.neuron_bytes * packed.d_ff


def dense_engine(layers: Sequence[PackedFFN]) -> Engine:
    """Our kernels with no neuron skipped."""
    blocks = tuple(make_kernel(layer, no_cuts(layer.d_ff)) for layer in layers)
    return Engine(name="own dense", calls=tuple(block.dense for block in blocks), blocks=blocks)


def sparse_engines(
    layers: Sequence[PackedFFN], planted: PlantedBlock, ratio: float, *, bits: Sequence[int], recall: float
) -> Iterator[Engine]:
    """Our sparse kernels: the exact ReLU pass, then one engine per width of the predictor.

    Args:
        planted: The block of the layers, whose inputs calibrate the predictors.
        ratio: Requested activation ratio, in (0, 1].
        bits: Widths of the predictors, 4 or 8.
        recall: Recall that the predictors are calibrated for.
    """
    cuts, sample = no_cuts(layers[0].d_ff), planted.inputs(CALIBRATION_TOKENS, ratio, seed=1)
    for width in (None, *bits):
        # all layers hold the same weights, so one predictor serves them
        predictor = build_predictor(layers[0], cuts, sample, bits=width, recall=recall) if width else None
        blocks = tuple(make_kernel(layer, cuts, predictor) for layer in layers)
        yield Engine(
            name=f"{width}-bit predictor" if width else "sparse, exact",
            calls=tuple(block.sparse for block in blocks),
            ratio=ratio,
            blocks=blocks,
            predictor=predictor,
        )


def torch_eager(layers: Sequence[PackedFFN], downs: Sequence[torch.Tensor]) -> Engine:
    """`F.linear` on the three matrices, as Hugging Face models compute a block.

    Args:
        layers: Gate and up weights of every layer.
        downs: `down_proj.weight` of every layer, shape `(d_model, d_ff)`.
    """
    return Engine(
        name="torch eager", calls=_torch_calls(_block, layers, downs), dense_bytes=block_bytes(layers[0])
    )


def torch_compiled(
    layers: Sequence[PackedFFN], downs: Sequence[torch.Tensor], x: torch.Tensor
) -> tuple[Engine, float]:
    """`torch_eager` compiled by `torch.compile` for the shape of `x`, and the seconds that compiling took.

    Raises:
        InputError: if compiling fails, e.g. because this machine has no C++ compiler.
    """
    # without a reset, a compiled version for another shape could be reused with dynamic sizes
    torch.compiler.reset()
    calls = _torch_calls(torch.compile(_block, dynamic=False), layers, downs)
    began = time.perf_counter()
    try:
        calls[0](x)
    except Exception as error:  # the backend decides which exception wraps a failure of the compiler
        raise InputError(f"torch.compile failed: {str(error).strip().splitlines()[0][:200]}") from error
    seconds = time.perf_counter() - began
    return Engine(name="torch.compile", calls=calls, dense_bytes=block_bytes(layers[0])), seconds


def llama_cpp_engines(
    shape: DecodeShape, dtype: str, *, count: int, threads: int, stack: ExitStack
) -> Iterator[Engine]:
    """llama.cpp on a model of `count` layers, once per weight type that is as wide as `dtype`.

    A call decodes through all layers of the model. Its time includes attention and the head, which are as small as
    llama.cpp allows: one attention head of 32 channels and a vocabulary of 32 tokens.

    Args:
        stack: Keeps the models open; closing it frees their memory.

    Raises:
        InputError: if llama-cpp-python or gguf is not installed.
    """
    small = dataclasses.replace(shape, n_layers=count, n_heads=1, n_kv_heads=1, head_dim=32, vocab_size=32)
    for kind in WEIGHT_TYPES[dtype]:
        model = stack.enter_context(open_llama_cpp(small, kind, threads=threads))

        def call(x: torch.Tensor, model: LlamaCpp = model) -> None:
            model.decode([1] * len(x))

        yield Engine(
            name=f"llama.cpp {kind}",
            calls=(call, call),
            blocks_per_call=count,
            dense_bytes=shape.ffn_weights * BYTES_PER_WEIGHT[kind],
        )


def _torch_calls(
    block: Callable[..., torch.Tensor], layers: Sequence[PackedFFN], downs: Sequence[torch.Tensor]
) -> tuple[Call, ...]:
    """One call of `block` per layer, with the weights of that layer bound."""

    def bound(layer: PackedFFN, down: torch.Tensor) -> Call:
        return lambda x: block(x, layer.gate, layer.up, down)

    return tuple(bound(layer, down) for layer, down in zip(layers, downs, strict=True))


def _block(x: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """Gated ReLU block; `gate` and `up` have shape `(d_ff, d_model)`, `down` has shape `(d_model, d_ff)`."""
    return F.linear(F.relu(F.linear(x, gate)) * F.linear(x, up), down)
