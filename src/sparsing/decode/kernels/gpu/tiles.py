"""Sizes of the tiles that one Triton program takes. They decide the speed of the kernels, and no result."""

from __future__ import annotations

import dataclasses

import triton

from sparsing.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tiles:
    """Sizes of the kernels' tiles, powers of two. `benchmarks/decode_gpu.py --tune` measures other sizes."""

    gate_rows: int
    """Neurons of one program in the pass over all of gate or over the predictor's copy."""
    gate_block: int
    """Columns that this pass reads at a time."""
    chunk: int
    """Groups of 128 codes that the predictor's pass reads at a time, for one token."""
    hidden_rows: int
    """Neurons that `hidden_pass` takes at a time from the list."""
    hidden_block: int
    """Columns that `hidden_pass` reads at a time."""
    programs: int
    """Programs that share the list, about four for each multiprocessor."""
    splits: int
    """Parts of the list that are summed separately for down."""
    down_rows: int
    """Rows of down that are read at a time."""
    down_block: int
    """Columns of down of one program."""
    warps: int = 4
    """Warps of a program."""
    stages: int = 3
    """Tiles that are loaded ahead; any number from 1."""

    def __post_init__(self) -> None:
        sizes = {name: value for name, value in dataclasses.asdict(self).items() if name != "stages"}
        bad = [f"{name}={value}" for name, value in sizes.items() if value < 1 or value & (value - 1)]
        if bad or self.stages < 1 or self.splits > self.programs:
            raise InputError(
                "sizes of tiles must be powers of two, stages at least 1, and splits at most programs, got"
                f" {', '.join(bad) or f'stages={self.stages}, splits={self.splits}, programs={self.programs}'}"
            )


ONE_TOKEN = Tiles(
    gate_rows=16,
    gate_block=256,
    chunk=8,
    hidden_rows=2,
    hidden_block=1024,
    programs=512,
    splits=32,
    down_rows=16,
    down_block=256,
)
"""For one token: as many bytes on their way as the registers allow."""
MORE_TOKENS = dataclasses.replace(ONE_TOKEN, gate_rows=32, hidden_rows=16, hidden_block=128)
"""For two to eight tokens: no side of a tile is below 16, the least that tensor cores take."""


def fitting(columns: int, most: int) -> int:
    """The largest power of two up to `most` whose blocks exceed rows of `columns` by at most an eighth."""
    block = min(most, triton.next_power_of_2(columns))
    while block > 32 and triton.cdiv(columns, block) * block > 1.125 * columns:
        block //= 2
    return block
