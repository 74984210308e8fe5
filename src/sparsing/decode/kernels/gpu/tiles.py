"""How much of a block one Triton program takes: the sizes that decide speed and no result."""

from __future__ import annotations

import dataclasses

import triton

from sparsing.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tiles:
    """Sizes of the kernels' tiles; powers of two. `benchmarks/decode_gpu.py --tune` tries others."""

    gate_rows: int
    """Neurons of a program in the pass over all of gate or of the predictor's copy."""
    gate_block: int
    """Columns of a row that are read at a time in that pass."""
    chunk: int
    """Groups of 128 codes that are read at a time, for one token."""
    hidden_rows: int
    """Neurons at a time where gate and up are read by list."""
    hidden_block: int
    """Columns of them at a time."""
    programs: int
    """Programs that share the list: about four for each multiprocessor."""
    splits: int
    """Parts of the list that are added up apart for down."""
    down_rows: int
    """Rows of down at a time."""
    down_block: int
    """Columns of down that belong to a program."""
    warps: int = 4
    """Warps of a program."""
    stages: int = 3
    """Tiles that are on their way from memory at once; any number from 1."""

    def __post_init__(self) -> None:
        sizes = {name: value for name, value in dataclasses.asdict(self).items() if name != "stages"}
        bad = [f"{name}={value}" for name, value in sizes.items() if value < 1 or value & (value - 1)]
        if bad or self.stages < 1 or self.splits > self.programs:
            raise InputError(
                f"sizes of tiles are powers of two, stages 1 or more, splits no more than programs, got"
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
"""For one token: tiles of lanes, as many bytes under way as registers allow."""
MORE_TOKENS = dataclasses.replace(ONE_TOKEN, gate_rows=32, hidden_rows=16, hidden_block=128)
"""For two to eight tokens: no side of a tile below the 16 that tensor cores take."""


def fitting(columns: int, most: int) -> int:
    """The largest power of two up to `most` that fills rows of `columns` with at most an eighth left over."""
    block = min(most, triton.next_power_of_2(columns))
    while block > 32 and triton.cdiv(columns, block) * block > 1.125 * columns:
        block //= 2
    return block
