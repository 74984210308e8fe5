"""Neurons that fire together: correlations of firing on a fixed number of tokens, spread evenly over the corpus.

The pass keeps one bit per neuron and sampled token, so memory does not depend on the corpus. The sampling error of a
correlation is at most `1 / sqrt(COACTIVATION_TOKENS)`, about 0.011.
"""

from __future__ import annotations

import numpy as np
import torch

COACTIVATION_TOKENS = 8192
"""Sampled tokens over all corpora of a study."""
NEIGHBOURS = 5
"""Neighbours kept per neuron."""
MIN_FIRINGS = 8
"""A neuron that fires on fewer sampled tokens has no reliable correlations, so it gets no neighbours."""
_ROWS = 512
"""Neurons whose correlations are computed at a time, which bounds memory to `_ROWS * d_ff` numbers."""


def sample_slots(begin: int, count: int, num_tokens: int, sample: int) -> tuple[np.ndarray, np.ndarray]:
    """Which of the tokens `begin, ..., begin + count - 1` are sampled, and where each one is stored.

    A token is sampled by its position in the corpus, so the batch size does not change the sample.

    Args:
        num_tokens: Tokens of the corpus.
        sample: Tokens of the sample, at most `num_tokens`.

    Returns:
        Offsets of the sampled tokens from `begin`, and their indices in the sample, both int64.
    """
    at = np.arange(begin, begin + count, dtype=np.int64)
    slots = at * sample // num_tokens
    chosen = np.flatnonzero((at + 1) * sample // num_tokens > slots)
    return chosen, slots[chosen]


def pack_bits(active: torch.Tensor) -> torch.Tensor:
    """Bits of the last axis as bytes, shape `(..., ceil(d_ff / 8))`, uint8; the first neuron is the lowest bit.

    torch has no counterpart of `numpy.packbits`, and copying the unpacked bits from a GPU would take 8 times as long.
    """
    padded = torch.nn.functional.pad(active, (0, -active.shape[-1] % 8))
    weights = 2 ** torch.arange(8, device=active.device, dtype=torch.uint8)
    return (padded.unflatten(-1, (-1, 8)) * weights).sum(-1, dtype=torch.uint8)


def unpack_bits(bits: np.ndarray, d_ff: int) -> np.ndarray:
    """The inverse of `pack`, bool, shape `(..., d_ff)`."""
    return np.unpackbits(bits, axis=-1, bitorder="little")[..., :d_ff].astype(bool)


def find_neighbours(active: np.ndarray, k: int = NEIGHBOURS) -> tuple[np.ndarray, np.ndarray]:
    """For each neuron of a layer, the neurons whose firing correlates most with its own.

    Args:
        active: Whether each neuron fires on each sampled token, shape `(tokens, d_ff)`, bool.
        k: Neighbours per neuron.

    Returns:
        Indices of the neighbours, int32, -1 for none; and the correlations of firing (phi coefficient), float32, NaN
        for none. Both have shape `(d_ff, k)`, highest correlation first.
    """
    bits = torch.from_numpy(active).float()
    tokens, d_ff = bits.shape
    k = min(k, d_ff - 1)
    share = bits.mean(0)
    deviation = (share * (1 - share)).sqrt()
    known = (share * tokens >= MIN_FIRINGS) & (deviation > 0)
    indices, correlations = np.full((d_ff, k), -1, np.int32), np.full((d_ff, k), np.nan, np.float32)
    for begin in range(0, d_ff, _ROWS):
        rows = slice(begin, min(begin + _ROWS, d_ff))
        together = bits[:, rows].T @ bits / tokens  # (rows, d_ff)
        phi = (together - share[rows, None] * share) / (deviation[rows, None] * deviation)
        phi[:, ~known] = -torch.inf
        phi[torch.arange(len(phi)), torch.arange(rows.start, rows.stop)] = -torch.inf  # a neuron with itself
        best = phi.where(~phi.isnan(), -torch.inf).topk(k, dim=1)
        real = torch.isfinite(best.values) & known[rows, None]
        indices[rows] = best.indices.masked_fill(~real, -1).numpy()
        correlations[rows] = best.values.masked_fill(~real, torch.nan).numpy()
    return indices, correlations
