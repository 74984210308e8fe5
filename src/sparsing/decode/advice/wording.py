"""Turns the figures of `advise` into sentences: use a row, or skip it and why.

`with_sentence` words one row, `recommendation` words all of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sparsing.decode.advice.bounds import MIN_CEILING
from sparsing.hardware.bandwidth import last_cache_bytes

if TYPE_CHECKING:
    from sparsing.decode.advice.bounds import Bound
    from sparsing.decode.advice.result import AdviceRow
    from sparsing.measuring.weight_bytes import WeightBytes

MIN_SPEEDUP = 1.05
"""Smaller speed-ups are within the noise of short runs."""
MAX_OVER_BYTES = 1.25
"""Speed-ups above this multiple of the bandwidth-limited speed-up are rejected as disturbed measurements."""


def with_sentence(row: AdviceRow, weights: WeightBytes) -> AdviceRow:
    """The row with its field `advice` filled in."""
    return dataclasses.replace(row, advice=_sentence(row, weights))


def recommendation(rows: Sequence[AdviceRow], weights: WeightBytes, bounds: Sequence[Bound] = ()) -> str:
    """One sentence that names the best row, or gives the reason to decode dense."""
    timed = [row for row in rows if row.measured]
    if not timed and bounds:
        # the largest target leaves the most hope, so its bound excludes the others too
        return f"decode dense: {max(bounds, key=lambda bound: bound.target_ppl_ratio).sentence}"
    if not timed:
        return "nothing was timed: no rule asked for has kernels; ask for cett or fat"
    # rows that pay come first, so that a disturbed row is only reported if no other row pays
    best = max(timed, key=lambda row: (_pays(row), row.speedup))
    if _is_disturbed(best):
        return best.advice
    if not _pays(best):
        return f"decode dense: {_reason(best, weights)}"
    return f"take {best.rule} at {best.target_ppl_ratio - 1:.3g} more perplexity, {best.way}: {best.advice}"


def _sentence(row: AdviceRow, weights: WeightBytes) -> str:
    if not row.measured:
        return f"no kernel: top-k ranks all neurons before it can skip one; its bandwidth limit is {row.ceiling:.2f}x"
    if _is_disturbed(row):
        return (
            f"measure again with nothing else running: {row.speedup:.2f}x was measured, but the bandwidth-limited"
            f" speed-up is {row.byte_speedup:.2f}x"
        )
    if _pays(row):
        share = row.speedup / row.byte_speedup
        return (
            f"use it: {row.speedup:.2f}x for {_ppl_cost(row):.2%} more perplexity,"
            f" {share:.0%} of the bandwidth-limited speed-up"
        )
    return f"skip it: {_reason(row, weights)}"


def _pays(row: AdviceRow) -> bool:
    """True if the row is faster than dense, in at least three of four pairs, and not disturbed."""
    in_most_pairs = row.speedup_quartiles is None or row.speedup_quartiles[0] > 1
    possible = row.speedup <= MAX_OVER_BYTES * row.byte_speedup
    return row.speedup >= MIN_SPEEDUP and in_most_pairs and possible


def _is_disturbed(row: AdviceRow) -> bool:
    """True if the speed-up exceeds what the bytes explain, so something else must have slowed the dense runs.

    A new measurement could not change the answer if the bandwidth-limited speed-up is too small anyway.
    """
    hope = row.byte_speedup >= MIN_CEILING
    return row.measured and hope and row.speedup > MAX_OVER_BYTES * row.byte_speedup


def _reason(row: AdviceRow, weights: WeightBytes) -> str:
    """Why this row is not faster than dense."""
    # from the most general reason to the most specific one: the first that applies is the explanation
    if row.ceiling < MIN_CEILING:
        other = 1 - weights.ffn_bytes / weights.total_bytes
        if other > 1 / 2:
            return f"attention and head dominate at this size ({other:.0%} of the bytes)"
        return f"{row.activation_ratio:.0%} of the neurons stay active, which limits the speed-up to {row.ceiling:.2f}x"
    if weights.total_bytes < last_cache_bytes():
        return f"all weights ({weights.total_bytes / 1e6:.1f} MB) stay in the cache, so reading less saves no time"
    if row.byte_speedup < MIN_CEILING:
        return f"finding the active neurons reads so much that bandwidth limits the speed-up to {row.byte_speedup:.2f}x"
    quartiles = row.speedup_quartiles
    spread = f" ({quartiles[0]:.2f} to {quartiles[2]:.2f})" if quartiles else ""
    return (
        f"{row.speedup:.2f}x{spread} was measured; the bandwidth-limited speed-up is {row.byte_speedup:.2f}x"
    )


def _ppl_cost(row: AdviceRow) -> float:
    """Rise of perplexity as a fraction, the effect of the predictor included."""
    return row.ppl_ratio * (1 + (row.predictor_ppl_change or 0)) - 1
