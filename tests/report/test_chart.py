"""The description of a chart: ranges, scales, positions and thinning."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sparsing.report.chart import (
    Axis,
    Chart,
    Series,
    interval_columns,
    is_interval,
    padded_range,
    scales_for,
    thinned_indices,
)


@pytest.mark.parametrize(("count", "most"), [(5, 10), (1000, 7), (1, 3)])
def test_thinning_keeps_both_ends(count, most):
    kept = thinned_indices(count, most)
    assert len(kept) == min(count, most)
    assert (kept[0], kept[-1]) == (0, count - 1)


@pytest.mark.parametrize(
    ("values", "scales"),
    [([1, 31], ("log", "linear")), ([1, 29], ("linear", "log")), ([0, 31], ("linear",))],
)
def test_wide_values_are_shown_on_a_log_axis(values, scales):
    assert scales_for(values) == scales


def test_padded_range():
    assert padded_range([1.0, 2.0, math.nan]) == pytest.approx((0.92, 2.08))
    assert padded_range([1.0, 1.0], least=0.5) == (0.5, 1.5)


def test_intervals():
    assert is_interval((0.1, 0.2))
    assert not any(map(is_interval, [None, (math.nan, 0.2), (None, None)]))
    assert interval_columns([(1, 2), None]) == ([1, None], [2, None])
    assert interval_columns([None, None]) == interval_columns(None) == (None, None)


def test_series_at_a_category_stand_side_by_side():
    series = [Series(name=name, x=[0, 1], y=[1, 2]) for name in "ab"]
    axes = {"x": Axis(label="task", names=("p", "q")), "y": Axis(label="score")}
    apart = Chart(title="t", **axes, series=series, side_by_side=True)
    assert np.mean([apart.x_positions(0), apart.x_positions(1)], axis=0) == pytest.approx([0, 1])
    assert (apart.x_positions(0) < apart.x_positions(1)).all()
    assert Chart(title="t", **axes, series=series).x_positions(1).tolist() == [0, 1]
