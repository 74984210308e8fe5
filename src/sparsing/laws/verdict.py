"""The verdict of a fit: whether the points determine the limit (or the bottleneck), as one sentence.

`judge` is for a form that the caller named, and assumes that this form is right. A limit is "identified" if four
conditions hold. Its interval has both ends inside the allowed range. The interval is narrower than a fifth of the
value. No form without a limit comes within 2 of the fit's AICc. No other form that comes within 2 puts its limit
outside the interval.

`judge_choice` is for a form that the data have chosen, and covers the choice. A limit is "identified" if the interval
over all forms that are not refuted (`form_choice`) is closed and narrower than a fifth of the value, and all of these
forms have a limit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from sparsing.laws.form import Form
from sparsing.laws.forms import FORMS
from sparsing.laws.lawfit import Estimate, FormChoice, Rival

MAX_WIDTH = 0.2
"""Largest width of the interval of an identified coefficient, relative to its value."""
MIN_DELTA = 2.0
"""Forms whose AICc differs by less than this count as fitting equally well (Burnham and Anderson 2002)."""


def judge(form: Form, key: Estimate | None, rivals: Sequence[Rival], level: float) -> tuple[bool, str]:
    """Whether the key coefficient is identified, and the sentence that explains the answer.

    Args:
        form: The fitted form.
        key: The limit or the bottleneck; None for a form that has neither.
        rivals: Other forms on the same points, best first.
        level: Confidence level of the interval of `key`.
    """
    if key is None:
        return False, f"{form.equation} has no limit to identify{_better(rivals)}"
    span = _span(key.low, key.high, percent=form.key == form.limit)
    doubts = _doubts(key, rivals, span)
    if doubts:
        return False, f"{key.name} is not identified by these data: " + ", and ".join(doubts) + _better(
            rivals
        )
    sentence = f"{key.name} identified to {span} ({level:.0%} interval)"
    without = _best_without_limit(rivals)
    if without is not None:
        sentence += f"; the best form without a limit, {_title(without)}, is worse by {without.delta_aicc:.1f} in AICc"
    return True, sentence + _better(rivals)


def judge_choice(
    form: Form, values: Mapping[str, float], choice: FormChoice, rivals: Sequence[Rival], level: float
) -> tuple[bool, str]:
    """Whether the key coefficient is identified over all forms that are not refuted, and the sentence that explains it.

    Args:
        form: The best form.
        values: Its coefficients by name.
        choice: The forms that are not refuted, and the interval of the key coefficient over them.
        rivals: All other forms on the same points, best first.
        level: Confidence level of each form's interval.
    """
    if form.key is None:
        return False, f"{form.equation} has no limit to identify{_other_limits(choice)}"
    value, span = values[form.key], _span(choice.low, choice.high, percent=form.key == form.limit)
    keyed = [name for name in choice.forms if FORMS[name].key == form.key]
    titles = ", ".join(FORMS[name].title for name in keyed)
    over = f" over the {len(keyed)} forms that the data do not refute ({titles})" if len(keyed) > 1 else ""
    doubts = []
    if not (choice.low_closed and choice.high_closed):
        sides = _open_sides(choice.low_closed, choice.high_closed)
        doubts.append(f"the interval {span}{over} is open {sides}")
    elif choice.high - choice.low > MAX_WIDTH * abs(value):
        doubts.append(f"the interval {span}{over} is wider than {MAX_WIDTH:.0%} of the value")
    if any(math.isnan(rival.delta_aicc) for rival in rivals):
        doubts.append("the points are too few to rank the forms")
    plausible = [rival for rival in rivals if rival.form in choice.forms and not math.isnan(rival.delta_aicc)]
    without = _best_without_limit(plausible)
    if without is not None:
        doubts.append(
            f"a form without a limit, {_title(without)}, is not refuted (AICc {without.delta_aicc:+.1f})"
        )
    if doubts:
        return False, f"{form.key} is not identified by these data: " + ", and ".join(doubts)
    sentence = f"{form.key} identified to {span} ({level:.0%} interval{over})"
    without = _best_without_limit(rivals)
    if without is not None:
        sentence += f"; the best form without a limit, {_title(without)}, is worse by {without.delta_aicc:.1f} in AICc"
    return True, sentence


def _other_limits(choice: FormChoice) -> str:
    """The forms with a limit that are not refuted, as a clause."""
    limited = [FORMS[name].title for name in choice.forms if FORMS[name].limit]
    return f"; forms with a limit that the data do not refute either: {', '.join(limited)}" if limited else ""


def _doubts(key: Estimate, rivals: Sequence[Rival], span: str) -> list[str]:
    """The conditions that are not met, each as a clause."""
    doubts = []
    if not key.closed:
        doubts.append(f"the interval {span} is open {_open_sides(key.low_closed, key.high_closed)}")
    elif key.high - key.low > MAX_WIDTH * abs(key.value):
        doubts.append(f"the interval {span} is wider than {MAX_WIDTH:.0%} of the value")
    if any(math.isnan(rival.delta_aicc) for rival in rivals):
        doubts.append("the points are too few to rank it among other forms")
    close = [rival for rival in rivals if rival.delta_aicc < MIN_DELTA]
    without = _best_without_limit(close)
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


def _best_without_limit(rivals: Sequence[Rival]) -> Rival | None:
    return min((r for r in rivals if r.limit is None), key=lambda r: r.delta_aicc, default=None)


def _better(rivals: Sequence[Rival]) -> str:
    """The best rival as a clause if it fits clearly better, else nothing."""
    best = next(iter(rivals), None)
    if best is None or not best.delta_aicc < -MIN_DELTA:  # `not <` also covers NaN
        return ""
    return f"; the best fit is the {_title(best)} (AICc {best.delta_aicc:+.1f})"


def _title(rival: Rival) -> str:
    return FORMS[rival.form].title


def _span(low: float, high: float, percent: bool) -> str:
    return f"{100 * low:.2f}-{100 * high:.2f}%" if percent else f"{low:.4g}-{high:.4g}"


def _open_sides(low_closed: bool, high_closed: bool) -> str:
    if not low_closed and not high_closed:
        return "on both sides"
    return "below" if not low_closed else "above"
