"""The interface that the kernels of all devices implement: methods, counts and the most tokens of one call."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from sparsing.errors import InputError

if TYPE_CHECKING:
    import torch

MAX_TOKENS = 8
"""The most rows of `x` in one call of a kernel. For more rows a matrix product is faster."""


class RowCounts(NamedTuple):
    """Rows of the three matrices that were read at full precision."""

    gate: int
    up: int
    down: int


class Kernel(Protocol):
    """The interface that the kernels of all devices offer for one block."""

    @property
    def counts(self) -> RowCounts:
        """Rows read since the last reset."""
        ...

    def sparse(self, x: torch.Tensor) -> torch.Tensor: ...
    def dense(self, x: torch.Tensor) -> torch.Tensor: ...
    def bytes_read(self) -> int: ...
    def reset_counts(self) -> None: ...


def check_num_tokens(x: torch.Tensor) -> int:
    """The number of rows of `x (tokens, d_model)`.

    Raises:
        InputError: if there are more rows than one call takes.
    """
    if x.shape[0] > MAX_TOKENS:
        raise InputError(f"a decoding kernel takes up to {MAX_TOKENS} tokens at once, got {x.shape[0]}")
    return x.shape[0]
