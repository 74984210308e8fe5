"""Which neurons fire together, from the bits of a fixed number of tokens spread evenly over the corpus.

A sample of tokens is the sketch: a bit per neuron and token. It takes as little memory as random signs would,
costs nothing on the tokens in between, and its correlations are off by no more than `1 / sqrt(SAMPLE_TOKENS)`.
"""

from __future__ import annotations

import numpy as np
import torch

SAMPLE_TOKENS = 8192
NEIGHBOURS = 5
MIN_FIRINGS = 8
"""A neuron that fires on fewer sampled tokens has no neighbours to speak of."""
_ROWS = 512


def sample_slots(begin: int, count: int, num_tokens: int, sample: int) -> tuple[np.ndarray, np.ndarray]:
    """Of tokens `begin, begin + 1, ...` those in the sample, as offsets, and their places in it."""
    at = np.arange(begin, begin + count, dtype=np.int64)
    slots = at * sample // num_tokens
    chosen = np.flatnonzero((at + 1) * sample // num_tokens > slots)
    return chosen, slots[chosen]


def pack(active: torch.Tensor) -> torch.Tensor:
    """Bits of the last axis as bytes, shape `(..., ceil(d_ff / 8))`, uint8; the first neuron is the lowest bit."""
    padded = torch.nn.functional.pad(active, (0, -active.shape[-1] % 8))
    weights = 2 ** torch.arange(8, device=active.device, dtype=torch.uint8)
    return (padded.unflatten(-1, (-1, 8)) * weights).sum(-1, dtype=torch.uint8)


def unpack(bits: np.ndarray, d_ff: int) -> np.ndarray:
    """The inverse of `pack`, bool."""
    return np.unpackbits(bits, axis=-1, bitorder="little")[..., :d_ff].astype(bool)


def neighbours(active: np.ndarray, k: int = NEIGHBOURS) -> tuple[np.ndarray, np.ndarray]:
    """The neurons of a layer that fire most alike.

    Args:
        active: Bits of the sampled tokens, shape `(tokens, d_ff)`.

    Returns: their numbers, int32, -1 for none, and the correlation of firing (phi coefficient), float32, NaN for
        none; shape `(d_ff, k)`, highest first.
    """
    bits = torch.from_numpy(active).float()
    tokens, d_ff = bits.shape
    k = min(k, d_ff - 1)
    share = bits.mean(0)
    deviation = (share * (1 - share)).sqrt()
    known = (share * tokens >= MIN_FIRINGS) & (deviation > 0)
    numbers, found = np.full((d_ff, k), -1, np.int32), np.full((d_ff, k), np.nan, np.float32)
    for begin in range(0, d_ff, _ROWS):
        rows = slice(begin, min(begin + _ROWS, d_ff))
        together = bits[:, rows].T @ bits / tokens  # (rows, d_ff)
        phi = (together - share[rows, None] * share) / (deviation[rows, None] * deviation)
        phi[:, ~known] = -torch.inf
        phi[torch.arange(len(phi)), torch.arange(rows.start, rows.stop)] = -torch.inf
        best = phi.where(~phi.isnan(), -torch.inf).topk(k, dim=1)
        real = torch.isfinite(best.values) & known[rows, None]
        numbers[rows] = best.indices.masked_fill(~real, -1).numpy()
        found[rows] = best.values.masked_fill(~real, torch.nan).numpy()
    return numbers, found
