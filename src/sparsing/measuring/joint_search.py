"""One level for several checkpoints jointly, as the paper does along training.

Sparsing Law finds ONE CETT on the last five checkpoints, at which the mean of their perplexity ratios meets
the target, and uses it for all earlier checkpoints too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sparsing.errors import InputError
from sparsing.measuring.search import SearchResult, search

if TYPE_CHECKING:
    from sparsing.measuring.subject import Subject
    from sparsing.rules import Rule


def search_jointly(subjects: Sequence[Subject], rule: Rule, ppl_ratio: float) -> SearchResult:
    """The level at which the mean perplexity ratio over the subjects is `ppl_ratio`.

    Raises:
        InputError: no subject, or a target of 1 or below.
        TargetError: no level reaches the target.
    """
    if not subjects:
        raise InputError("a joint search needs at least one checkpoint")

    def mean_ratio(level: float, on_all: bool) -> float:
        return sum(subject.ppl_ratio(rule, level, on_all) for subject in subjects) / len(subjects)

    return search(
        rule,
        mean_ratio,
        ppl_ratio=ppl_ratio,
        reach=rule.reach(subjects[0].curves),
        part_first=all(subject.has_part for subject in subjects),
    )
