"""Advice in words, from a row's figures: use it, or skip it and why."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sparsing.hardware.bandwidth import last_cache_bytes

if TYPE_CHECKING:
    from sparsing.decode.advice.result import AdviceRow
    from sparsing.measuring.weight_bytes import WeightBytes

WORTH = 1.05
"""A speed-up below this is within the noise of short runs."""
MOST_OVER_BYTES = 1.25
"""A speed-up of more than this times what the bytes allow is none: something else slowed the dense runs."""
LOW_CEILING = 1.15
"""A ceiling below this leaves nothing to win."""


def advised(row: AdviceRow, weights: WeightBytes) -> AdviceRow:
    """The row with its sentence."""
    return dataclasses.replace(row, advice=_sentence(row, weights))


def summed_up(rows: Sequence[AdviceRow], weights: WeightBytes) -> str:
    """The row to take, or why there is none."""
    timed = [row for row in rows if row.measured]
    if not timed:
        return "nothing was timed: no rule asked for has kernels; ask for cett or fat"
    best = max(timed, key=lambda row: (_worth(row), row.speedup))
    if _disturbed(best):
        return best.advice
    if not _worth(best):
        return f"decode dense: {_reason(best, weights)}"
    return f"take {best.rule} at {best.target_ppl_ratio - 1:.3g} more perplexity, {best.way}: {best.advice}"


def _sentence(row: AdviceRow, weights: WeightBytes) -> str:
    if not row.measured:
        return (
            f"no kernel: top-k ranks all neurons before it can skip one; bytes would allow {row.ceiling:.2f}x"
        )
    if _disturbed(row):
        return (
            f"measure again with nothing else running: {row.speedup:.2f}x was measured where bytes allow"
            f" {row.byte_speedup:.2f}x"
        )
    if _worth(row):
        share = row.speedup / row.byte_speedup
        return f"use it: {row.speedup:.2f}x for {_cost(row):.2%} more perplexity, {share:.0%} of what its bytes allow"
    return f"skip it: {_reason(row, weights)}"


def _worth(row: AdviceRow) -> bool:
    """Faster than dense, and so in three pairs of four, by no more than bytes can explain."""
    often = row.speedup_quartiles is None or row.speedup_quartiles[0] > 1
    return row.speedup >= WORTH and often and not _disturbed(row)


def _disturbed(row: AdviceRow) -> bool:
    return row.measured and row.speedup > MOST_OVER_BYTES * row.byte_speedup


def _reason(row: AdviceRow, weights: WeightBytes) -> str:
    """Why this row is not faster than dense."""
    if row.ceiling < LOW_CEILING:
        other = 1 - weights.ffn_bytes / weights.total_bytes
        if other > 1 / 2:
            return f"attention and head dominate at this size ({other:.0%} of the bytes)"
        return f"{row.activation_ratio:.0%} of the neurons stay active, so bytes allow {row.ceiling:.2f}x at most"
    if weights.total_bytes < last_cache_bytes():
        return f"all weights ({weights.total_bytes / 1e6:.1f} MB) stay in the cache, so reading less saves no time"
    if row.byte_speedup < LOW_CEILING:
        return f"finding the active neurons reads so much that bytes allow {row.byte_speedup:.2f}x"
    found = row.speedup_quartiles
    spread = f" ({found[0]:.2f} to {found[2]:.2f})" if found else ""
    return f"{row.speedup:.2f}x{spread} was measured where bytes allow {row.byte_speedup:.2f}x"


def _cost(row: AdviceRow) -> float:
    """Rise of perplexity, the predictor's part included."""
    return row.ppl_ratio * (1 + (row.predictor_ppl_change or 0)) - 1
