"""What bytes alone say about skipping neurons: how few neurons would have to be active, and what that would cost.

A way to find the active neurons reads a fixed part of a feed-forward block and, of the rest, the share of the active
neurons. The speed-up can be no more than dense bytes over these bytes. Turned round, a wanted speed-up allows at most
some activation ratio, the break-even ratio, which follows without running the model. One sparse pass at that ratio then
shows whether its perplexity is already above the target. If so, no timing can change the answer.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from sparsing.base.results import Result
from sparsing.decode.kernels.cuts import gate_decides, layer_cuts
from sparsing.decode.kernels.packing import pack
from sparsing.measuring.intervals import ratio_interval

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sparsing.measuring.subject import Subject
    from sparsing.measuring.weight_bytes import WeightBytes
    from sparsing.rules import Rule

MIN_CEILING = 1.15
"""Smaller bandwidth-limited speed-ups leave too little to gain, since kernels reach nine tenths of them."""
GROUP_BYTES = 2 / 128
"""Bytes per weight of the scales of a predictor: two for a group of 128 weights."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Way:
    """A way to find the active neurons, as the share of the feed-forward bytes that it reads."""

    name: str
    fixed: float
    """Share that is read in any case: matrices that decide which neurons are active, or a predictor's copy of them."""
    by_ratio: float
    """Share that is read in proportion to the activation ratio."""

    def speedup(self, activation_ratio: float, weights: WeightBytes) -> float:
        """Dense bytes over the bytes that this way reads."""
        share = self.fixed + self.by_ratio * activation_ratio
        return weights.total_bytes / (weights.total_bytes - weights.ffn_bytes * (1 - share))

    def break_even(self, speedup: float, weights: WeightBytes) -> float:
        """The largest activation ratio at which the bytes allow this speed-up; below 0 if no ratio does."""
        share = 1 - (1 - 1 / speedup) * weights.total_bytes / weights.ffn_bytes
        return (share - self.fixed) / self.by_ratio


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bound(Result):
    """Whether bytes leave hope for a rule at a perplexity target."""

    kind = "advice_bound"

    rule: str
    target_ppl_ratio: float
    way: str
    """The way that allows the most active neurons."""
    break_even: float
    """Largest activation ratio with a bandwidth-limited speed-up of `MIN_CEILING`; 0 if there is none."""
    ppl_ratio: float | None
    """Perplexity ratio at the break-even ratio; None if no pass was needed."""
    num_tokens: int
    """Tokens of that pass."""
    leaves_hope: bool
    """False if the perplexity at the break-even ratio is above the target for certain, or no ratio suffices."""

    @property
    def sentence(self) -> str:
        """The bound in words."""
        percent = f"{100 * (self.target_ppl_ratio - 1):.4g}%"
        if self.ppl_ratio is None:
            return f"even with no neuron active, the bandwidth-limited speed-up is below {MIN_CEILING:g}x"
        rise = f"{100 * (self.ppl_ratio - 1):.3g}%"
        at = f"a speed-up of {MIN_CEILING:g} needs at most {self.break_even:.0%} of the neurons active ({self.way})"
        if self.leaves_hope:
            return f"{at}; at that share perplexity rises by {rise}, so skipping may pay"
        return f"{at}; at that share perplexity rises by {rise}, which is more than {percent}"


def find_bounds(
    subject: Subject, rule: Rule, targets: Sequence[float], weights: WeightBytes, bits: int | None
) -> list[Bound]:
    """One bound per perplexity target, with at most one sparse pass over a part of the corpus.

    Args:
        rule: A rule with thresholds.
        bits: Width of the predictor's copy; None for no predictor.
    """
    ways = ways_of(subject, rule, bits)
    best = max(ways, key=lambda way: way.break_even(MIN_CEILING, weights))
    ratio = min(best.break_even(MIN_CEILING, weights), 1.0)
    low = measured = None
    tokens = 0
    if ratio > 0:
        label = f"{rule.label} with {ratio:.0%} of the neurons active"
        level = level_at(rule, ratio, subject)
        seen = subject.observe(rule, level, subject.part is None, label)
        interval = ratio_interval(seen.rise, seen.labels)
        measured, tokens = seen.ppl_ratio, int(seen.labels.sum())
        low = float(np.exp(interval[0])) if interval else measured
    return [
        Bound(
            rule=rule.label,
            target_ppl_ratio=target,
            way=best.name,
            break_even=max(ratio, 0.0),
            ppl_ratio=measured,
            num_tokens=tokens,
            leaves_hope=low is not None and low <= target,
        )
        for target in targets
    ]


def ways_of(subject: Subject, rule: Rule, bits: int | None) -> list[Way]:
    """The ways that kernels offer for a rule on a model: exact, and with a predictor of `bits`.

    Raises:
        UnsupportedModelError: If the first block of the model has no kernel.
        InputError: If the rule has no thresholds.
    """
    packed = pack(subject.loaded.sites[0])
    some = subject.thresholds(rule, level_at(rule, 0.5, subject))
    searched = (
        1 if gate_decides(packed, layer_cuts(packed, some, some.numbers[0])) else 2
    )  # of three equal matrices
    exact = Way(name="exact", fixed=searched / 3, by_ratio=1 - searched / 3)
    if bits is None:
        return [exact]
    copy = (bits / 8 + GROUP_BYTES) / packed.gate.element_size()
    return [exact, Way(name=f"{bits}-bit", fixed=copy * searched / 3, by_ratio=1.0)]


def level_at(rule: Rule, ratio: float, subject: Subject) -> float:
    """The level at which the calibration curves predict this activation ratio, by bisection."""
    low, high = 0.0, rule.reach(subject.curves).most
    for _ in range(50):
        middle = (low + high) / 2
        if rule.expected_ratio(rule.level(middle), subject.curves) > ratio:
            low = middle
        else:
            high = middle
    return rule.level(high)
