"""The order of rules at the same cost in perplexity, and how sure it is: paired differences over resampled windows.

All rules run on the same windows, so a resample of the windows moves all of them together, and the difference of two
rules is known better than either of them. Each resample also moves the level of each rule to where its own perplexity
ratio meets the target, as in `target_interval.py`. This module does not import torch, so that a report can be made
where torch is not installed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from sparsing.base.results import Result
from sparsing.measuring.intervals import percentiles

Floats = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class RuleOrder(Result):
    """Rules from the smallest value to the largest; entry `[i, j]` of a matrix compares `rules[i]` with `rules[j]`."""

    kind = "rule_order"

    measure: str
    """What is compared, with its unit."""
    target_ppl_ratio: float | None
    """The perplexity ratio at which the rules are compared; None if they are compared at `target_score_drop`."""
    target_score_drop: float | None = None
    """The loss of the mean downstream score at which the rules are compared, as a fraction."""
    rules: tuple[str, ...]
    values: Floats
    """Shape `(n_rules,)`, rising."""
    difference_low: Floats
    """Lower end of the 95% interval of the value of `i` minus that of `j`, shape `(n_rules, n_rules)`."""
    difference_high: Floats
    """Upper end, same shape."""
    probability: Floats
    """Share of the resamples in which the value of `i` is below that of `j`; a tie counts half. Same shape."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class RuleOverlap(Result):
    """Neurons that both of two rules keep, divided by the neurons that one of them keeps."""

    kind = "rule_overlap"

    target_ppl_ratio: float
    """The perplexity ratio at which the rules are compared."""
    rules: tuple[str, ...]
    jaccard: Floats
    """Over all tokens and sites, shape `(n_rules, n_rules)`; NaN for rules that act on different sites."""


def order_rules(
    measure: str,
    target_ppl_ratio: float | None,
    values: Mapping[str, float],
    resamples: Mapping[str, Floats],
    units: float,
    *,
    target_score_drop: float | None = None,
) -> RuleOrder:
    """The order of the rules.

    Args:
        values: Rule to its value.
        resamples: Rule to its value in each resample, shape `(n_resamples,)`; row `i` of all rules has the same
            windows.
        units: Independent units that were resampled, for the expansion of the intervals.
    """
    rules = tuple(sorted(values, key=lambda rule: values[rule]))
    shape = (len(rules), len(rules))
    low, high, probability = np.zeros(shape), np.zeros(shape), np.full(shape, 0.5)
    for i, first in enumerate(rules):
        for j, second in enumerate(rules):
            if i < j:
                difference = resamples[first] - resamples[second]
                low[i, j], high[i, j] = percentiles(difference, units)
                low[j, i], high[j, i] = -high[i, j], -low[i, j]
                probability[i, j] = np.mean((difference < 0) + 0.5 * (difference == 0))
                probability[j, i] = 1 - probability[i, j]
    return RuleOrder(
        measure=measure,
        target_ppl_ratio=target_ppl_ratio,
        target_score_drop=target_score_drop,
        rules=rules,
        values=np.array([values[rule] for rule in rules]),
        difference_low=low,
        difference_high=high,
        probability=probability,
    )
