"""Pictures of several measurements: rules on one plane, checkpoints along training."""

from __future__ import annotations

import dataclasses
import math

import pytest

from sparsing.errors import InputError
from sparsing.report.compare_figures import along_training, kept_at, ppl_against_ratio
from sparsing.report.style import save

from ..helpers.measurements import make_measurement


@dataclasses.dataclass
class P:
    activation_ratio: float
    ppl_ratio: float
    rule: str = "cett"
    activation_ratio_interval: tuple[float, float] | None = None
    ppl_ratio_interval: tuple[float, float] | None = None


def test_kept_at_a_measured_level():
    measurement = make_measurement(ppl_ratio=1.00993)
    kept = kept_at([measurement, P(0.1, 1.2)], 1.01)
    assert kept == (measurement.activation_ratio, measurement.activation_ratio_interval, True)


def test_kept_between_two_levels_by_hand():
    points = [
        P(0.2, 1.05, activation_ratio_interval=(0.15, 0.25)),
        P(0.6, 1.0, activation_ratio_interval=(0.5, 0.7)),
    ]
    kept = kept_at(points, 1.01)
    assert kept is not None
    assert kept.ratio == pytest.approx(0.52)  # a fifth of the way from 0.6 to 0.2
    assert kept.interval == pytest.approx((0.43, 0.61))
    assert not kept.measured
    points[0].activation_ratio_interval = None
    assert kept_at(points, 1.01)[1] is None


def test_nothing_is_made_up_outside_the_levels():
    assert kept_at([P(0.2, 1.05), P(0.5, 1.02)], 1.01) is None
    assert kept_at([P(0.2, 1.005)], 1.01) is None


def test_a_line_per_rule_and_what_each_keeps(tmp_path):
    points = [
        P(0.3, 1.1),
        P(0.8, 1.0),
        P(0.5, 1.01),
        P(0.6, 1.08, "fat"),
        P(0.9, 1.002, "fat"),
        P(0.7, 1.2, "top_k"),
    ]
    figure = ppl_against_ratio(points, subtitle="some_$model$")
    upper, lower = figure.axes
    lines = {tuple(line.get_xdata()): list(line.get_ydata()) for line in upper.lines}
    assert lines[(0.3, 0.5, 0.8)] == [1.1, 1.01, 1.0]
    assert lines[(0.6, 0.9)] == [1.08, 1.002]
    assert {1.01, 1.05, 1.1} <= {line.get_ydata()[0] for line in upper.lines}
    assert {"cett", "fat", "top_k", "dense", "PPL-1%"} <= {text.get_text() for text in upper.texts}
    assert [label.get_text() for label in lower.get_yticklabels()] == ["cett", "fat"]
    assert [text.get_text() for text in lower.texts] == ["0.500", "0.869"]
    assert "hollow: interpolated; no levels around it: top_k" in lower.get_title(loc="left")
    assert len(save(figure, tmp_path, "compare")) == 2


def test_names_of_rules_that_end_together_do_not_touch():
    rules = ("cett", "fat", "top_k", "a_rule_with_a_long_name")
    points = [P(0.4 + 0.01 * i, 1.1, rule) for i, rule in enumerate(rules)] + [
        P(0.8, 1.01, rule) for rule in rules
    ]
    figure = ppl_against_ratio(points)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts if text.get_text() in rules]
    assert len(boxes) == 4
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[i + 1 :])


@pytest.mark.parametrize(
    "points", [[P(0.5, 1.01)], [P(0.02, 900.0), P(0.5, 1.3)], [P(1.0, 1.0)], [P(0.9, 0.99)]]
)
def test_odd_comparisons_are_drawn(tmp_path, points):
    assert len(save(ppl_against_ratio(points), tmp_path, "compare")) == 2


def test_an_empty_comparison_is_refused():
    with pytest.raises(InputError, match="nothing to compare"):
        ppl_against_ratio([])


def test_along_training_sorts_checkpoints_and_shows_the_loss(tmp_path):
    relu = [
        make_measurement(train_tokens=tokens, activation_ratio=ratio, ppl_dense=ppl)
        for tokens, ratio, ppl in ((3_000_000, 0.2, 20.0), (1_000_000, 0.4, 90.0), (2_000_000, 0.3, 40.0))
    ]
    silu = [make_measurement(train_tokens=2_500_000, activation_ratio=0.21)]
    figure = along_training({"relu_$1": relu, "silu": silu})
    upper, lower = figure.axes
    assert upper.lines[0].get_xydata().tolist() == [[1e6, 0.4], [2e6, 0.3], [3e6, 0.2]]
    assert lower.lines[0].get_ydata() == pytest.approx([math.log(ppl) for ppl in (90, 40, 20)])
    assert lower.get_xlabel() == "training tokens, millions"
    assert {text.get_text() for text in upper.texts} == {"relu_$1", "silu"}
    assert len(save(figure, tmp_path, "training")) == 2


def test_a_wide_span_of_tokens_has_a_log_axis(tmp_path):
    runs = [make_measurement(train_tokens=tokens, intervals=False) for tokens in (10**7, 10**9, 10**10)]
    figure = along_training({"m": runs})
    assert figure.axes[1].get_xscale() == "log"
    assert figure.axes[1].get_xlabel() == "training tokens, billions"
    assert len(save(figure, tmp_path, "training")) == 2


def test_a_checkpoint_that_does_not_know_its_tokens_is_refused():
    with pytest.raises(InputError, match=r"of 'm' \('some/folder/.*'\) does not say how many tokens"):
        along_training({"m": [make_measurement()]})
    with pytest.raises(InputError, match="no checkpoints"):
        along_training({})
