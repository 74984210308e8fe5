"""Charts that compare rules: the frontiers, and the ratios at one cost."""

from __future__ import annotations

import dataclasses

import pytest

from sparsing.base.provenance import Provenance
from sparsing.errors import InputError
from sparsing.measuring.frontier import FrontierPoint, RuleComparison
from sparsing.report.charts.rule_charts import KeptShare, comparison_picture, frontier_picture, kept_share
from sparsing.report.measurement_tables import frontier, frontier_note
from sparsing.report.static import draw, save_picture

from ..helpers.measurements import make_measurement


@dataclasses.dataclass
class P:
    activation_ratio: float
    ppl_ratio: float
    rule: str = "cett"
    level: float = 0.1
    activation_ratio_interval: tuple[float, float] | None = None
    ppl_ratio_interval: tuple[float, float] | None = None
    target_ppl_ratio: float | None = None
    converged: bool = True


def test_kept_at_a_measured_level():
    measurement = make_measurement(ppl_ratio=1.00993)
    kept = kept_share([measurement, P(0.1, 1.2)], 1.01)
    assert kept == KeptShare(
        ratio=measurement.activation_ratio, interval=measurement.activation_ratio_interval, measured=True
    )


def test_kept_between_two_levels_by_hand():
    points = [
        P(0.2, 1.05, activation_ratio_interval=(0.15, 0.25)),
        P(0.6, 1.0, activation_ratio_interval=(0.5, 0.7)),
    ]
    kept = kept_share(points, 1.01)
    assert kept is not None
    assert kept.ratio == pytest.approx(0.52)  # a fifth of the way from 0.6 to 0.2
    assert kept.interval is None, "the intervals of given levels lack the uncertainty of the level"
    assert not kept.measured


def test_nothing_is_made_up_outside_the_levels():
    assert kept_share([P(0.2, 1.05), P(0.5, 1.02)], 1.01) is None
    assert kept_share([P(0.2, 1.005)], 1.01) is None


def test_a_line_per_rule_and_what_each_keeps(tmp_path):
    points = [
        P(0.3, 1.1),
        P(0.8, 1.0),
        P(0.5, 1.01),
        P(0.6, 1.08, "fat"),
        P(0.9, 1.002, "fat"),
        P(0.7, 1.2, "top_k"),
    ]
    picture = frontier_picture(points, subtitle="some_$model$")
    upper, lower = draw(picture).axes
    lines = {tuple(line.get_xdata()): list(line.get_ydata()) for line in upper.lines}
    assert lines[(0.3, 0.5, 0.8)] == [1.1, 1.01, 1.0]
    assert lines[(0.6, 0.9)] == [1.08, 1.002]
    assert {1.01, 1.05, 1.1} <= {line.get_ydata()[0] for line in upper.lines}
    assert "PPL-1%" in {text.get_text() for text in upper.texts}
    assert [text.get_text() for text in upper.get_legend().get_texts()] == ["cett", "fat", "top_k", "dense"]
    assert [label.get_text() for label in lower.get_yticklabels()] == ["cett", "fat"]
    assert [text.get_text() for text in lower.texts] == ["0.500", "0.869"]
    assert picture.charts[1].title == "Activation ratio at PPL-1%"
    assert picture.charts[1].note.endswith(
        "Hollow points are interpolated between two levels. No two levels enclose this cost: top_k."
    )
    assert len(save_picture(picture, tmp_path, "compare")) == 2


@pytest.mark.parametrize(
    "points", [[P(0.5, 1.01)], [P(0.02, 900.0), P(0.5, 1.3)], [P(1.0, 1.0)], [P(0.9, 0.99)]]
)
def test_odd_comparisons_are_drawn(tmp_path, points):
    assert len(save_picture(frontier_picture(points), tmp_path, "compare")) == 2


def test_an_empty_comparison_is_refused():
    with pytest.raises(InputError, match="no points to compare"):
        frontier_picture([])


def test_the_picture_of_a_comparison_names_model_and_tokens():
    point = FrontierPoint(
        rule="cett",
        level=0.1,
        activation_ratio=0.3,
        activation_ratio_interval=(0.28, 0.33),
        ppl_ratio=1.01,
        ppl_ratio_interval=(1.005, 1.02),
        target_ppl_ratio=1.01,
    )
    origin = Provenance(model="some/model", corpus="texts/book.txt", num_tokens=14_400)
    picture = comparison_picture(RuleComparison(points=(point,), provenance=origin))
    assert picture.subtitle == "some/model  |  14,400 tokens of book.txt"
    frontier = picture.charts[0].series[0]
    assert (frontier.x_low, frontier.x_high) == ([0.28], [0.33])
    assert (frontier.y_low, frontier.y_high) == ([1.005], [1.02])
    assert picture.subtitle in {text.get_text() for text in draw(picture).texts}


def test_a_target_stays_in_table_and_picture_if_its_passes_lie_below_it():
    """On SmolLM2 in float32 both rules met PPL-5% with passes at 4.5% and 4.4%."""
    points = tuple(
        FrontierPoint(
            rule="cett",
            level=target,
            activation_ratio=ratio,
            activation_ratio_interval=(ratio - 0.1, ratio + 0.1),
            ppl_ratio=measured,
            ppl_ratio_interval=None,
            target_ppl_ratio=target,
        )
        for target, measured, ratio in ((1.01, 1.0102, 0.69), (1.05, 1.0454, 0.49))
    )
    comparison = RuleComparison(points=points, provenance=Provenance(model="some/model"))
    header, rows = frontier(comparison)
    assert header == ["rule", "PPL-1%", "PPL-2%", "PPL-5%"]
    assert rows[0][-1] == "49.0% [39.0, 59.0]"
    marks = comparison_picture(comparison).charts[0].marks
    assert [mark.label for mark in marks] == ["PPL-1%", "PPL-5%"]


def test_a_cost_that_no_level_meets_has_a_star_and_a_note():
    points = tuple(
        FrontierPoint(
            rule=rule,
            level=0.1,
            activation_ratio=0.3,
            activation_ratio_interval=(0.28, 0.33),
            ppl_ratio=1.07,
            ppl_ratio_interval=None,
            target_ppl_ratio=1.07,
            converged=converged,
        )
        for rule, converged in (("cett", True), ("griffin", False))
    )
    comparison = RuleComparison(points=points, provenance=Provenance(model="some/model"))
    header, rows = frontier(comparison)
    assert header == ["rule", "PPL-7%"], "a cost that was searched for has a column"
    assert rows == [["cett", "30.0% [28.0, 33.0]"], ["griffin", "30.0%* [28.0, 33.0]"]]
    assert frontier_note(comparison).startswith("* no level of the rule meets this cost")
    assert frontier_note(dataclasses.replace(comparison, points=points[:1])) == ""
    (_, kept) = frontier_picture(points, at=1.07).charts
    assert kept.note.endswith("the figure is that of the nearest level: griffin.")


def test_many_rules_have_their_legend_below_the_axes_and_notes_stay_on_the_page():
    rules = [f"quantile:neuron_norm_{number}" for number in range(12)]
    points = [P(0.3 + 0.01 * place, 1.01, rule, target_ppl_ratio=1.01) for place, rule in enumerate(rules)]
    figure = draw(frontier_picture(points))
    figure.draw_without_rendering()
    upper, lower = figure.axes
    legend = upper.get_legend().get_window_extent()
    assert lower.get_window_extent().y1 < legend.y0 < legend.y1 < upper.get_window_extent().y0
    for axes in (upper, lower):
        assert axes.title.get_window_extent().x1 < figure.bbox.x1
