"""In plain words: do the points fix the limit (or the bottleneck), and does a law without one fit as well?

"Identified" asks for four things: the interval has both ends inside the allowed range, it is narrower than a
fifth of the value, no form without a limit comes within 2 of the fit's AICc, and no other form that does
puts the limit outside the interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from sparsing.laws.form import Form
from sparsing.laws.forms import FORMS
from sparsing.laws.lawfit import Estimate, Rival

MAX_WIDTH = 0.2
MIN_DELTA = 2.0


def judge(form: Form, key: Estimate | None, rivals: Sequence[Rival], level: float) -> tuple[bool, str]:
    """Whether the key coefficient is identified, and the sentence that says so.

    Args:
        key: the limit or the bottleneck; None for a form that has neither.
        rivals: other forms on the same points, best first.
    """
    if key is None:
        return False, f"{form.equation} has no limit to identify{_better(rivals)}"
    span = _span(key, percent=form.key == form.limit)
    reasons = _doubts(key, rivals, span)
    if reasons:
        return False, f"the data do not fix {key.name}: " + ", and ".join(reasons) + _better(rivals)
    sentence = f"{key.name} identified to {span} ({level:.0%} interval)"
    without = min((r for r in rivals if r.limit is None), key=lambda r: r.delta_aicc, default=None)
    if without is not None:
        sentence += f"; the best form without a limit, {_title(without)}, is worse by {without.delta_aicc:.1f} in AICc"
    return True, sentence + _better(rivals)


def _doubts(key: Estimate, rivals: Sequence[Rival], span: str) -> list[str]:
    doubts = []
    if not key.closed:
        doubts.append(f"the interval {span} is open {_open_sides(key)}")
    elif key.high - key.low > MAX_WIDTH * abs(key.value):
        doubts.append(f"the interval {span} is wider than {MAX_WIDTH:.0%} of the value")
    if any(math.isnan(rival.delta_aicc) for rival in rivals):
        doubts.append("the points are too few to rank it among other forms")
    close = [rival for rival in rivals if rival.delta_aicc < MIN_DELTA]
    without = min((r for r in close if r.limit is None), key=lambda r: r.delta_aicc, default=None)
    if without is not None:
        how = "better" if without.delta_aicc < -MIN_DELTA else "as well"
        doubts.append(
            f"a form without a limit, {_title(without)}, fits {how} (AICc {without.delta_aicc:+.1f})"
        )
    elsewhere = [r for r in close if r.limit is not None and not key.low <= r.limit <= key.high]
    if elsewhere:
        listed = ", ".join(f"{100 * (r.limit or 0):.2f}% by the {_title(r)}" for r in elsewhere)
        doubts.append(f"it depends on the form: {span} here, {listed}, which fits no worse")
    return doubts


def _better(rivals: Sequence[Rival]) -> str:
    best = next(iter(rivals), None)
    if best is None or not best.delta_aicc < -MIN_DELTA:
        return ""
    return f"; best of all fits the {_title(best)} (AICc {best.delta_aicc:+.1f})"


def _title(rival: Rival) -> str:
    return FORMS[rival.form].title


def _span(key: Estimate, percent: bool) -> str:
    if percent:
        return f"{100 * key.low:.2f}-{100 * key.high:.2f}%"
    return f"{key.low:.4g}-{key.high:.4g}"


def _open_sides(key: Estimate) -> str:
    if not key.low_closed and not key.high_closed:
        return "on both sides"
    return "below" if not key.low_closed else "above"
