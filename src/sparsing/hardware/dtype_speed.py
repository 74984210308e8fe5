"""Times matrix products in float32, bfloat16 and float16 on the CPU, which differ widely between processors.

A processor with AVX-512 BF16 or AMX multiplies bfloat16 several times as fast as float32. A processor without
instructions for a half-precision dtype converts every number and is several times slower. Start with `time_dtypes`.
"""

from __future__ import annotations

import math
import statistics
import time

TIMED_DTYPES = ("float32", "bfloat16", "float16")
"""The dtypes that `time_dtypes` compares."""
_ROWS = 256  # enough rows for the processor to be limited by arithmetic, as in a pass over a text
_MAX_WEIGHTS = (
    2**20
)  # per matrix: one chain then takes about 0.1 s where a dtype has no instructions of its own
_SLOW_SHARE = 0.2  # of the whole time: a dtype whose first run took longer is not run again
_MAX_ROUNDS = 25


def time_dtypes(d_model: int, d_ff: int, *, seconds: float = 1.0) -> dict[str, float]:
    """Times two matrix products of the shapes of a feed-forward block, `d_model -> d_ff -> d_model`, on the CPU.

    The dtypes take turns, so that other work on the machine disturbs all of them alike. Large blocks are timed at a
    reduced size of the same proportions. The state of torch's random numbers does not change.

    Args:
        d_model: Width of the residual stream.
        d_ff: Number of neurons of the block.
        seconds: The time after which no further round begins.

    Returns:
        Dtype to the median time of both products in seconds, with as many threads as torch uses.
    """
    import torch

    d_model, d_ff = _reduced_size(d_model, d_ff)
    random = torch.Generator().manual_seed(0)
    # scaled so that products stay near 1: denormal and infinite numbers have a speed of their own
    shapes = ((_ROWS, d_model), (d_ff, d_model), (d_model, d_ff))
    tensors = [torch.randn(shape, generator=random) / math.sqrt(shape[1]) for shape in shapes]
    operands = {name: [tensor.to(getattr(torch, name)) for tensor in tensors] for name in TIMED_DTYPES}
    times: dict[str, list[float]] = {name: [] for name in TIMED_DTYPES}

    def run(name: str, rows: int) -> float:
        x, up, down = operands[name]
        began = time.perf_counter()
        torch.nn.functional.linear(torch.nn.functional.linear(x[:rows], up), down)
        return time.perf_counter() - began

    with torch.inference_mode():
        for name in TIMED_DTYPES:  # the first call of a dtype loads and generates code
            run(name, 8)
        end = time.perf_counter() + seconds
        for _ in range(_MAX_ROUNDS):
            for name in TIMED_DTYPES:
                if not times[name] or times[name][0] < _SLOW_SHARE * seconds:
                    times[name].append(run(name, _ROWS))
            if time.perf_counter() > end:
                break
    return {name: statistics.median(values) for name, values in times.items()}


def _reduced_size(d_model: int, d_ff: int) -> tuple[int, int]:
    """Both sizes times the same factor, if a matrix would have more than `_MAX_WEIGHTS` weights."""
    factor = math.sqrt(_MAX_WEIGHTS / (d_model * d_ff))
    if factor >= 1:
        return d_model, d_ff
    # whole vectors of the processor, as the sizes of large models have
    return max(64, int(d_model * factor) // 64 * 64), max(64, int(d_ff * factor) // 64 * 64)
