"""What is timed on one block: dense engines and the sparse kernels, behind one interface, on layers in memory.

Several copies of one planted block stand in for the layers of a model, together many times the last cache. torch's
`down_proj` has its own layout; everything else is shared, and all weights are on huge pages, whoever reads them.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from sparsing.bench.llama_cpp import BYTES, KINDS, llama_cpp
from sparsing.decode.kernels.cuts import no_cuts
from sparsing.decode.kernels.dispatch import make_kernel
from sparsing.decode.kernels.packing import PackedFFN, to_int8
from sparsing.decode.kernels.pages import on_huge_pages
from sparsing.decode.predict.quantised import LayerPredictor, build_predictor
from sparsing.errors import InputError

if TYPE_CHECKING:
    from sparsing.bench.planted import Planted
    from sparsing.bench.shapes import DecodeShape

Call = Callable[[torch.Tensor], Any]
DTYPES = ("float32", "bfloat16", "int8")
CALIBRATION_TOKENS = 256
"""Tokens that a predictor's cuts are set on; others are timed."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Contestant:
    """A way to compute the block."""

    name: str
    calls: tuple[Call, ...]
    """One per layer, `x (tokens, d_model)` -> the block's output; the first is not timed, it wakes the threads."""
    ffns_per_call: int = 1
    ratio: float | None = None
    """Wanted activation ratio of the inputs; None for what is dense."""
    ffn_bytes: float = 0.0
    """Bytes of weights that a dense engine reads per block."""
    blocks: tuple[Any, ...] = ()
    """The kernels behind `calls`, which count what they read; empty for others."""
    predictor: LayerPredictor | None = None

    @property
    def dense(self) -> bool:
        return self.ratio is None


def as_dtype(packed: PackedFFN, dtype: str) -> PackedFFN:
    """The block with weights in `float32`, `bfloat16` or `int8`.

    Raises:
        InputError: another dtype.
    """
    if dtype not in DTYPES:
        raise InputError(f"kernels are timed in {', '.join(DTYPES)}, got {dtype!r}")
    if dtype == "int8":
        return to_int8(packed)
    kind = getattr(torch, dtype)
    return dataclasses.replace(
        packed, gate=packed.gate.to(kind), up=packed.up.to(kind), down=packed.down.to(kind)
    )


def copies(packed: PackedFFN, count: int) -> list[PackedFFN]:
    """The same weights at `count` places in memory."""
    return [
        dataclasses.replace(
            packed,
            gate=on_huge_pages(packed.gate),
            up=on_huge_pages(packed.up),
            down=on_huge_pages(packed.down),
        )
        for _ in range(count)
    ]


def dense_kernel(layers: Sequence[PackedFFN]) -> Contestant:
    """The sparse kernels with nothing skipped."""
    blocks = tuple(make_kernel(layer, no_cuts(layer.d_ff)) for layer in layers)
    return Contestant(name="own dense", calls=tuple(block.dense for block in blocks), blocks=blocks)


def sparse_kernels(
    layers: Sequence[PackedFFN], planted: Planted, ratio: float, *, bits: Sequence[int], recall: float
) -> Iterator[Contestant]:
    """The exact ReLU path, then one with a predictor for each of `bits`."""
    cuts, sample = no_cuts(layers[0].d_ff), planted.inputs(CALIBRATION_TOKENS, ratio, seed=1)
    for width in (None, *bits):
        predictor = width and build_predictor(layers[0], cuts, sample, bits=width, recall=recall)
        blocks = tuple(make_kernel(layer, cuts, predictor or None) for layer in layers)
        yield Contestant(
            name=f"{width}-bit predictor" if width else "sparse, exact",
            calls=tuple(block.sparse for block in blocks),
            ratio=ratio,
            blocks=blocks,
            predictor=predictor or None,
        )


def torch_eager(layers: Sequence[PackedFFN], downs: Sequence[torch.Tensor]) -> Contestant:
    """`F.linear` as Hugging Face models run it; `downs` are the `down_proj.weight`s, `(d_model, d_ff)`."""
    return Contestant(
        name="torch eager", calls=_torch_calls(_block, layers, downs), ffn_bytes=_bytes(layers[0])
    )


def torch_compiled(
    layers: Sequence[PackedFFN], downs: Sequence[torch.Tensor], x: torch.Tensor
) -> tuple[Contestant, float]:
    """`torch.compile` of the same for the shape of `x`, and the seconds that compiling took.

    Raises:
        InputError: there is no compiler on this machine.
    """
    torch.compiler.reset()
    calls = _torch_calls(torch.compile(_block, dynamic=False), layers, downs)
    began = time.perf_counter()
    try:
        calls[0](x)
    except Exception as error:  # whatever the compiler's wrapper raises
        raise InputError(f"torch.compile failed: {str(error).strip().splitlines()[0][:200]}") from error
    seconds = time.perf_counter() - began
    return Contestant(name="torch.compile", calls=calls, ffn_bytes=_bytes(layers[0])), seconds


def llama_cpps(
    shape: DecodeShape, dtype: str, *, count: int, threads: int, stack: ExitStack
) -> Iterator[Contestant]:
    """llama.cpp with `count` layers whose attention (one head of 32) and vocabulary (32) are as small as they go.

    A call decodes through all layers; what it spends outside the blocks is not taken off.
    """
    small = dataclasses.replace(shape, n_layers=count, n_heads=1, n_kv_heads=1, head_dim=32, vocab_size=32)
    for kind in KINDS[dtype]:
        engine = stack.enter_context(llama_cpp(small, kind, threads=threads))

        def call(x: torch.Tensor, engine: Any = engine) -> None:
            engine.decode([1] * len(x))

        yield Contestant(
            name=f"llama.cpp {kind}",
            calls=(call, call),
            ffns_per_call=count,
            ffn_bytes=shape.ffn_weights * BYTES[kind],
        )


def _torch_calls(
    block: Callable, layers: Sequence[PackedFFN], downs: Sequence[torch.Tensor]
) -> tuple[Call, ...]:
    def bound(layer: PackedFFN, down: torch.Tensor) -> Call:
        return lambda x: block(x, layer.gate, layer.up, down)

    return tuple(bound(layer, down) for layer, down in zip(layers, downs, strict=True))


def _block(x: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    return F.linear(F.relu(F.linear(x, gate)) * F.linear(x, up), down)


def _bytes(packed: PackedFFN) -> float:
    return packed.neuron_bytes * packed.d_ff
