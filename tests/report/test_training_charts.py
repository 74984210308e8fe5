"""Charts along training: order of checkpoints, axes, and checkpoints without a number of tokens."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sparsing.errors import InputError
from sparsing.report.charts.training_charts import (
    loss_picture,
    training_charts,
    training_picture,
    training_series,
    two_measures,
)
from sparsing.report.static import draw, save_picture

from ..helpers.measurements import make_measurement


def test_along_training_sorts_checkpoints_and_shows_the_loss(tmp_path):
    relu = [
        make_measurement(train_tokens=tokens, activation_ratio=ratio, ppl_dense=ppl)
        for tokens, ratio, ppl in ((3_000_000, 0.2, 20.0), (1_000_000, 0.4, 90.0), (2_000_000, 0.3, 40.0))
    ]
    silu = [make_measurement(train_tokens=2_500_000, activation_ratio=0.21)]
    picture = training_picture({"relu_$1": relu, "silu": silu})
    figure = draw(picture)
    upper, lower = figure.axes
    assert upper.lines[0].get_xydata().tolist() == [[1e6, 0.4], [2e6, 0.3], [3e6, 0.2]]
    assert lower.lines[0].get_ydata() == pytest.approx([math.log(ppl) for ppl in (90, 40, 20)])
    assert lower.get_xlabel() == "training tokens"
    assert lower.xaxis.get_major_formatter()(2e6) == "2M"
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {"relu_$1", "silu"}
    assert len(save_picture(picture, tmp_path, "training")) == 2


def test_a_wide_span_of_tokens_has_a_log_axis():
    runs = [make_measurement(train_tokens=tokens, intervals=False) for tokens in (10**7, 10**9, 10**10)]
    axes = draw(training_picture({"m": runs})).axes[1]
    assert axes.get_xscale() == "log"
    assert [axes.xaxis.get_major_formatter()(tokens) for tokens in (1e7, 1e9)] == ["10M", "1B"]


def test_a_checkpoint_without_its_tokens_is_rejected():
    with pytest.raises(InputError, match=r"of 'm' \('some/folder/.*'\) has no number of training tokens"):
        training_picture({"m": [make_measurement()]})
    with pytest.raises(InputError, match="no checkpoints"):
        training_picture({})
    assert training_charts({}) == []


def test_training_series_need_two_checkpoints():
    runs = [
        make_measurement(model=f"m/s{i}", train_tokens=tokens) for i, tokens in enumerate((300, 100, None))
    ]
    series = training_series(runs)
    assert {name: [r.provenance.train_tokens for r in run] for name, run in series.items()} == {
        "m, PPL-1%": [100, 300]
    }
    assert training_series(runs[:1]) == {}


def test_the_loss_curve_is_smoothed_and_needs_no_held_out_loss():
    curve = [{"tokens": 100 * (i + 1), "loss": float(i)} for i in range(300)]
    raw, mean = loss_picture(curve, "run").charts[0].series
    assert raw.y.tolist() == list(range(300))
    assert mean.y[100] == 100
    assert np.ptp(mean.y) < np.ptp(raw.y)
    judged = loss_picture([*curve, {"tokens": 30_000, "heldout_loss": 2.0}], "run").charts[0].series[-1]
    assert (judged.name, list(judged.x), list(judged.y)) == ("held out", [30_000], [2.0])


def test_checkpoints_at_one_level_have_charts_of_their_own():
    """The dense loss has one line per model, and checkpoints in the decay of the learning rate are marked."""
    phases = ((1_000_000, "stable"), (2_000_000, "stable"), (3_000_000, "decay"))
    runs = [
        make_measurement(
            model=f"m/relu/{tokens}",
            train_tokens=tokens,
            train_phase=phase,
            target_ppl_ratio=target,
            level=level,
        )
        for target, levels in ((1.01, (0.3, 0.2, 0.1)), (None, (0.15, 0.15, 0.15)))
        for (tokens, phase), level in zip(phases, levels, strict=True)
    ]
    series = training_series(runs)
    own, shared, cost, loss = training_charts(series)
    assert own.series[0].name == "relu, PPL-1%"
    assert [(mark.low, mark.high) for mark in own.marks] == [(2_000_000, 3_000_000)]
    assert "shaded: the learning rate decays" in own.note
    assert shared.series[0].name == "relu, cett 0.15"
    assert list(cost.series[0].y) == [run.ppl_ratio for run in runs[3:]]
    assert [part.name for part in loss.series] == ["relu"]
    assert len(draw(training_picture(series)).axes) == 4
    assert "CETT of relu from 0.300 to 0.100 along training, and 0.150 for all." in two_measures(series)
    assert two_measures({"relu": runs[:3]}) == ""
