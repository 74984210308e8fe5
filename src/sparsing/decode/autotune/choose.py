"""Sets the fastest candidate for every block and projection of an accelerated model, by number of rows at once.

Timings are shared: blocks of one shape whose activation ratios are equal to one digit are timed together, and so are
projections of one shape. `accelerate` calls the two public functions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import torch

from sparsing.decode.autotune import timing_cache
from sparsing.decode.autotune.timing_cache import Candidates, TimingCache
from sparsing.decode.kernels.interface import MAX_TOKENS

if TYPE_CHECKING:
    from sparsing.decode.accelerated_block import AcceleratedBlock
    from sparsing.decode.accelerated_linear import AcceleratedLinear

Timings = dict[int, dict[str, float]]
"""Number of rows to candidate to median seconds."""


@dataclasses.dataclass(frozen=True)
class _Layer:
    """One block or projection to time."""

    what: str
    """Everything besides the machine and the number of rows that decides its times."""
    weight_bytes: int
    candidates: Callable[[int], Candidates]
    """Number of rows to the candidates, ready to run on an input of so many rows."""


def choose_block_ways(blocks: Mapping[str, AcceleratedBlock], inputs: Mapping[str, torch.Tensor]) -> None:
    """Time the candidates `predicted`, `exact` and `torch` of every block and set its `choice` and `seconds`.

    Args:
        blocks: Blocks by name.
        inputs: Inputs of the model by name of the block, shape `(tokens, d_model)`. Random inputs would not do,
            since the time depends on the activation ratio.
    """
    layers = {name: _block_layer(block, inputs[name]) for name, block in blocks.items()}
    timings = _time_layers(layers.values(), next(iter(blocks.values())).packed.gate.device)
    for name, block in blocks.items():
        block.seconds = timings[layers[name].what]
        block.choice = _choices(block.seconds)
        block.reset()  # what the timed calls have read is not decoding


def choose_linear_ways(linears: Mapping[str, AcceleratedLinear]) -> None:
    """Time our kernel against torch on random inputs and set the `choice` of every projection."""
    layers = {name: _linear_layer(linear) for name, linear in linears.items()}
    timings = _time_layers(layers.values(), torch.device("cpu"))
    for name, linear in linears.items():
        linear.choice = _choices(timings[layers[name].what])


def _block_layer(block: AcceleratedBlock, x: torch.Tensor) -> _Layer:
    """The block, timed on tokens that are spread evenly over `x (tokens, d_model)`."""

    def candidates(rows: int) -> Candidates:
        return block.ways(x[torch.linspace(0, len(x) - 1, rows).long().to(x.device)])

    # one digit of the ratio: layers with nearly equal ratios share timings, and the key is stable between loads
    return _Layer(f"{block.signature}, ratio {block.ratio_on(x):.0e}", block.weight_bytes, candidates)


def _linear_layer(linear: AcceleratedLinear) -> _Layer:
    return _Layer(linear.signature, linear.weight_bytes, lambda rows: linear.ways(linear.sample(rows)))


def _time_layers(layers: Iterable[_Layer], device: torch.device) -> dict[str, Timings]:
    """The timings of each group of layers, by their common `what`."""
    # equal layers are timed as one, or loading a model of 40 layers would take minutes
    groups: dict[str, list[_Layer]] = {}
    for layer in layers:
        groups.setdefault(layer.what, []).append(layer)
    cache = TimingCache(device, torch.get_num_threads())
    timings: dict[str, Timings] = {}
    for what, members in groups.items():
        timed = members[: timing_cache.num_uncached_layers([layer.weight_bytes for layer in members])]
        timings[what] = {
            count: cache.seconds(
                f"{what}, {count} rows", lambda n=count, m=timed: [layer.candidates(n) for layer in m]
            )
            for count in timing_cache.TOKEN_COUNTS
        }
    cache.save()
    return timings


def _choices(timings: Timings) -> dict[int, str]:
    """Number of rows to the fastest candidate. `dense` is only a baseline and is never chosen."""
    choices = {}
    for rows in range(1, MAX_TOKENS + 1):
        seconds = timings[timing_cache.timed_count(rows)]
        choices[rows] = min((name for name in seconds if name != "dense"), key=seconds.__getitem__)
    return choices
