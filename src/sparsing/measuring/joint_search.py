"""One level for several checkpoints jointly, as the paper does along training.

Sparsing Law finds ONE CETT on the last five checkpoints, at which the mean of their perplexity ratios meets
the target, and uses it for all earlier checkpoints too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from sparsing.errors import InputError
from sparsing.measuring.observation import Observation, joined
from sparsing.measuring.search import search
from sparsing.measuring.search_result import SearchResult
from sparsing.rules.rule import Reach

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

    part = _joint_part(subjects)

    def run(level: float, on_all: bool) -> Observation:
        return joined([subject.observe(rule, level, on_all) for subject in subjects])

    return search(
        rule,
        run,
        ppl_ratio=ppl_ratio,
        reach=_joint_reach([rule.reach(subject.curves) for subject in subjects]),
        part=part,
        noisy=any(subject.is_half_precision for subject in subjects),
    )


def _joint_reach(reaches: Sequence[Reach]) -> Reach:
    """The strengths that any of the subjects may need."""
    return Reach(
        start=float(np.median([reach.start for reach in reaches])),
        most=max(reach.most for reach in reaches),
        step=min(reach.step for reach in reaches),
    )


def _joint_part(subjects: Sequence[Subject]) -> np.ndarray | None:
    """The windows of all parts, counted through the windows of all subjects; None if one subject has no part."""
    parts: list[np.ndarray] = []
    begin = 0
    for subject in subjects:
        if subject.part is None:
            return None
        parts.append(subject.part + begin)
        begin += subject.corpus.n_windows
    return np.concatenate(parts)
