"""A copy of `down` with one row per neuron, so that the rows of inactive neurons need not be read.

A GGUF file stores `down` with groups along the neurons, so a single neuron cannot be read from it. The copy holds each
neuron's column as int8 codes with one float32 scale per 32 codes, 9 bits per weight. Where the gate decides which
neurons are active, the neuron's `up` row is put before its codes, so that both are read as one piece of memory.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sparsing.decode.engine.native import GROUP, LINE
from sparsing.decode.kernels.pages import copy_to_huge_pages

if TYPE_CHECKING:
    from sparsing.models.gguf_file import GgufFile

    Array = np.ndarray[Any, Any]

CHUNK = 64
"""Neighbouring neurons that a thread takes at a time."""
START, RECORD, CODES, SCALES = range(4)
"""Places in `EngineRule.arrays["rows"]`: address and bytes of the first record; first address of codes and scales."""
NUM_PLACES = 4


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class NeuronRows:
    """The records of one layer."""

    records: torch.Tensor
    """Shape `(d_ff, bytes of a record)`, uint8; keeps the memory."""
    places: Array
    """Shape `(NUM_PLACES,)`, int64."""
    down_row_bytes: int
    """Bytes of codes and scales of a neuron."""
    error: float
    """Root mean square error of the copy over that of the weights."""

    @property
    def num_bytes(self) -> int:
        """Bytes of memory of the copy."""
        return self.records.numel()


def neuron_rows(file: GgufFile, layer: int, down: Array, *, with_up: bool) -> NeuronRows:
    """Copy the block of one layer.

    Args:
        down: The dequantised `down` of the layer, shape `(d_model, d_ff)`, float32.
        with_up: Put the `up` rows into the records.
    """
    codes, scales, error = quantised_columns(down)
    up = file.rows(f"blk.{layer}.ffn_up.weight") if with_up else np.zeros((down.shape[1], 0), np.uint8)
    up_bytes = _whole_lines(up.shape[1])
    codes_at, scales_at = up_bytes, up_bytes + codes.shape[1]
    row_bytes = codes.shape[1] + 4 * scales.shape[1]
    record = _whole_lines(codes_at + row_bytes)
    raw = np.zeros((down.shape[1], record), np.uint8)
    raw[:, : up.shape[1]] = up
    raw[:, codes_at:scales_at] = codes.view(np.uint8)
    raw[:, scales_at : scales_at + 4 * scales.shape[1]] = scales.view(np.uint8)
    records = copy_to_huge_pages(torch.from_numpy(raw))
    start = records.data_ptr()
    places = np.array([start, record, start + codes_at, start + scales_at], np.int64)
    return NeuronRows(records=records, places=places, down_row_bytes=row_bytes, error=error)


def quantised_columns(down: Array) -> tuple[Array, Array, float]:
    """Each column of `down (d_model, d_ff)` as int8 codes with a scale per 32 codes.

    Returns:
        Codes `(d_ff, d_model rounded up to 32)`, int8; scales `(d_ff, groups)`, float32; and the root mean square
        error over the root mean square of `down`.
    """
    d_model, d_ff = down.shape
    padded = np.zeros((d_ff, -(-d_model // GROUP) * GROUP), np.float32)
    padded[:, :d_model] = down.T
    groups = padded.reshape(d_ff, -1, GROUP)
    scales = np.abs(groups).max(2) / np.float32(127)
    inverse = np.divide(1, scales, out=np.zeros_like(scales), where=scales > 0)
    codes = np.rint(groups * inverse[:, :, None]).astype(np.int8)
    largest = max(float(scales.max()), 1e-38)  # squares of very large weights would overflow
    error, size = (
        np.linalg.norm(x) for x in ((codes * scales[:, :, None] - groups) / largest, groups / largest)
    )
    return codes.reshape(d_ff, -1), scales, float(error / max(size, 1e-30))


def _whole_lines(size: int) -> int:
    """The size rounded up, so that records start on a cache line."""
    return -(-size // LINE) * LINE
