"""Charts of one measurement: every shape can be drawn, and the drawn numbers are the measured ones."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest

from sparsing.measuring.measurement import ExpertActivity, Measurement
from sparsing.report.cautions import measurement_cautions
from sparsing.report.chart import Picture
from sparsing.report.charts.measurement_charts import (
    calibration_curves,
    layer_cett,
    layer_ratios,
    layer_thresholds,
    measurement_pictures,
    measurement_subtitle,
    neuron_frequency,
    panel_charts,
    position_ratios,
    token_picture,
)
from sparsing.report.labels import token_label
from sparsing.report.measurement_tables import layers
from sparsing.report.static import draw, save_picture, save_pictures
from sparsing.report.style import save_image
from sparsing.report.text_view import text_view
from sparsing.rules.curves import Curves, ScoreCurve

from ..helpers.measurements import NASTY_TOKENS, make_measurement

SHAPES = {
    "one layer, one token, one neuron": {"n_layers": 1, "num_tokens": 1, "d_ff": 1, "width": 1},
    "100 layers, 128 tokens": {"n_layers": 100, "num_tokens": 128, "width": 300},
    "nothing is sparse": {"intervals": False, "layer_activation_ratio": (1.0,) * 4, "activation_ratio": 1.0},
    "top-k, no token shown": {"rule": "top_k", "select": "top_k", "target_ppl_ratio": None, "num_tokens": 0},
    "thresholds from a line": {"level": math.nan, "target_ppl_ratio": None},
}


def make_curves(n_layers: int, score: str = "neuron_norm") -> Curves:
    cett = np.tile(np.linspace(0.01, 1, 8), (n_layers, 1))
    curve = ScoreCurve(on=score, thresholds=cett * 3, cett=cett, ratio=1 - cett)
    sums = np.array([30.0, 31.0])
    return Curves(
        sites=tuple(f"model.layers.{i}.mlp.down_proj" for i in range(n_layers)),
        scores={score: curve},
        d_ff=24,
        sampled_tokens=20,
        num_tokens=20,
        window_nll=sums,
        window_labels=sums,
    )


def drawn(chart):
    """The matplotlib axes of a chart alone."""
    return draw(Picture(title="t", charts=[chart])).axes[0]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_drawn(tmp_path, shape):
    measurement = make_measurement(**SHAPES[shape])
    pictures = measurement_pictures(measurement, make_curves(len(measurement.layer_activation_ratio)))
    paths = save_pictures(pictures, tmp_path)
    assert sorted(paths) == sorted(tmp_path.iterdir())
    assert len(paths) == 2 * len(pictures) >= 10
    assert all(path.stat().st_size > 4000 for path in paths)


def test_a_loaded_measurement_is_drawn_like_the_saved_one(tmp_path):
    measurement = make_measurement(layer_activation_ratio_interval=((math.nan, math.nan),) * 4)
    loaded = Measurement.load(measurement.save(tmp_path / "m.json"))
    before, after = (
        save_picture(Picture(title="t", charts=[layer_ratios(one)]), tmp_path, name)[0].read_bytes()
        for name, one in (("a", measurement), ("b", loaded))
    )
    assert before == after


def test_curves_are_drawn_for_the_score_that_was_cut():
    measurement = make_measurement()
    assert "calibration_curves" in measurement_pictures(measurement, make_curves(4))
    assert "calibration_curves" not in measurement_pictures(measurement, make_curves(4, score="gate"))
    assert "calibration_curves" not in measurement_pictures(measurement)


def test_the_log_view_is_for_rare_neurons():
    frequent = make_measurement(neuron_frequency=np.full((4, 24), 0.5, dtype=np.float32))
    assert "neuron_frequency_log" not in measurement_pictures(frequent)
    assert "neuron_frequency_log" in measurement_pictures(make_measurement())


def test_heat_map_shows_tokens_by_layers():
    measurement = make_measurement(n_layers=3, num_tokens=60)
    axes, bar = draw(token_picture(measurement)).axes
    assert np.array_equal(axes.images[0].get_array(), measurement.token_activation_ratio[:48].T)
    labels = axes.get_xticklabels()
    assert [label.get_text() for label in labels] == [token_label(t) for t in measurement.token_text[:48]]
    assert not any(label.get_parse_math() for label in labels)
    assert bar.get_ylabel() == "activation ratio"


def test_tokens_that_look_like_formulas_are_not_typeset(tmp_path):
    # matplotlib would refuse this token as mathtext
    text = (*NASTY_TOKENS[:-1], "$\\frac{$")
    figure = draw(token_picture(make_measurement(token_text=text)))
    assert save_image(figure, tmp_path / "heat.jpg").stat().st_size > 4000


def test_labels_of_48_tokens_do_not_touch():
    figure = draw(token_picture(make_measurement(num_tokens=48, token_text=("Mg$",) * 48)))
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in figure.axes[0].get_xticklabels()]
    assert all(one.x1 <= other.x0 + 0.5 for one, other in itertools.pairwise(boxes))


def test_layer_ratios_with_bars_and_mean():
    measurement = make_measurement()
    axes = drawn(layer_ratios(measurement))
    points, mean = axes.lines
    assert points.get_ydata().tolist() == pytest.approx(measurement.layer_activation_ratio)
    assert mean.get_ydata()[0] == measurement.activation_ratio
    bars = [segment[:, 1].tolist() for segment in axes.collections[0].get_segments()]
    assert bars == [list(interval) for interval in measurement.layer_activation_ratio_interval]


def test_layers_have_the_numbers_of_the_model():
    """A hybrid model has layers without a feed-forward block, and a layer may have a block beside its experts."""
    sites = ("model.layers.1.mlp.down_proj", "model.layers.3.mlp.down_proj", "model.layers.7.mlp.down_proj")
    without = tuple(f"model.layers.{i}" for i in (0, 2, 4, 5, 6))
    measurement = make_measurement(n_layers=3)
    provenance = dataclasses.replace(measurement.provenance, layers_without_site=without)
    hybrid = dataclasses.replace(measurement, sites=sites, provenance=provenance)
    assert list(layer_ratios(hybrid).series[0].x) == [1, 3, 7]
    assert [row[0] for row in layers(hybrid)[1]] == ["1", "3", "7"]
    assert [series.name for series in neuron_frequency(hybrid).series] == ["layer 1", "layer 3", "layer 7"]
    assert any(
        "5 layers have no feed-forward block and are not counted: model.layers.0, model.layers.2" in note
        for note in measurement_cautions(hybrid)
    )


def test_a_single_window_can_be_divided():
    """The warning names a window that gives intervals, and promises no interval that is missing."""
    notes = measurement_cautions(make_measurement(n_windows=1, intervals=False, ppl_ratio_noise=0.01))
    assert any("because the text is a single window; give more text, or --window 500" in n for n in notes)
    assert any(
        note.endswith("(one standard deviation). --dtype float32 removes this error.") for note in notes
    )
    wide = measurement_cautions(make_measurement(n_windows=5, ppl_ratio_noise=0.01))
    assert any("The interval of the activation ratio includes this error." in note for note in wide)
    unknown = measurement_cautions(make_measurement(dtype="float16"))
    assert any("by an unknown amount, which no interval includes" in note for note in unknown)
    assert not any("Rounding" in note for note in measurement_cautions(make_measurement(dtype="float32")))
    few = measurement_cautions(make_measurement(n_windows=5, intervals=False))
    assert any("because few resamples reach the level" in note for note in few)


def test_layer_ratios_explain_the_intervals():
    def note(**changed):
        return layer_ratios(make_measurement(**changed)).note

    assert note().endswith("the shaded band of the mean also includes the uncertainty of the level.")
    assert note(target_ppl_ratio=None) == "Bars and the shaded band are 95% intervals over windows."
    assert note(intervals=False) == "A single window has no interval."


def test_thresholds_and_realised_cett():
    measurement = make_measurement(level=0.21)
    upper, lower = draw(measurement_pictures(measurement)["layer_thresholds"]).axes
    assert upper.lines[0].get_ydata().tolist() == list(measurement.thresholds.numbers)
    dense, sparse, requested = lower.lines
    assert requested.get_ydata()[0] == 0.21
    assert list(dense.get_ydata()) == list(measurement.cett_dense_inputs)
    assert list(sparse.get_ydata()) == list(measurement.cett_sparse_inputs)


def test_a_rule_without_thresholds_has_one_panel():
    measurement = make_measurement(rule="top_k", select="top_k", target_ppl_ratio=None)
    (axes,) = draw(measurement_pictures(measurement)["layer_thresholds"]).axes
    assert len(axes.lines) == 2  # and no requested CETT
    charts = panel_charts(measurement)
    assert list(charts) == ["layers", "cett", "frequency", "positions", "tokens"]
    assert charts["cett"].marks == []


def test_neuron_frequency_is_sorted_and_padding_is_left_out():
    rows = np.array([[0.1, 0.9, 0.0, 0.5], [0.2, 0.3, np.nan, np.nan]], dtype=np.float32)
    first, second, dead = drawn(neuron_frequency(make_measurement(n_layers=2, neuron_frequency=rows))).lines
    assert first.get_ydata() == pytest.approx([0.9, 0.5, 0.1, 0.0])
    assert first.get_xdata() == pytest.approx([0.125, 0.375, 0.625, 0.875])
    assert second.get_ydata() == pytest.approx([0.3, 0.2])
    assert dead.get_ydata()[0] == 0.001


def test_in_the_log_view_a_silent_neuron_lies_on_the_edge():
    axes = draw(measurement_pictures(make_measurement())["neuron_frequency_log"]).axes[0]
    assert axes.get_yscale() == "log"
    assert axes.lines[0].get_ydata().min() == pytest.approx(axes.get_ylim()[0]) == 0.5 / 5000


def test_positions_without_tokens_are_left_out():
    ratios = np.array([0.5, np.nan, 0.25], dtype=np.float32)
    (line,) = drawn(position_ratios(make_measurement(position_activation_ratio=ratios))).lines
    assert line.get_xydata().tolist() == [[0, 0.5], [2, 0.25]]


def test_the_running_mean_of_positions():
    ratios = np.arange(320, dtype=np.float32)
    dots, line = drawn(position_ratios(make_measurement(position_activation_ratio=ratios))).lines
    assert len(dots.get_xdata()) == 320
    assert line.get_ydata() == pytest.approx(line.get_xdata())  # the mean of a straight line is the line
    assert (line.get_xdata()[0], line.get_xdata()[-1]) == (5, 314)


def test_calibration_curves_mark_the_cut():
    measurement = make_measurement()
    points = calibration_curves(make_curves(4), measurement).series[-1]
    assert points.x == pytest.approx(measurement.cett_dense_inputs)
    assert points.y == pytest.approx(1 - np.array(measurement.cett_dense_inputs))


def test_the_subtitle_names_model_measure_cost_and_tokens():
    line = measurement_subtitle(make_measurement())
    assert line == "folder/cost_$5_$6  |  PPL-1%  |  perplexity x 1.0100  |  5,000 tokens of a$b$c.txt"


def with_shared_experts() -> Measurement:
    """Layer 0 is dense, layers 1 and 2 have routed experts and a shared expert; experts have a threshold each."""
    measurement = make_measurement(n_layers=5)
    routed = [f"model.layers.{i}.mlp.experts" for i in (1, 2)]
    sites = ["model.layers.0.mlp.down_proj"]
    for path in routed:
        sites += [path, path.replace("experts", "shared_experts.down_proj")]
    values = {}
    for number, site in enumerate(sites, 1):
        names = [f"{site}.{expert}" for expert in range(4)] if site in routed else [site]
        values |= dict.fromkeys(names, 0.1 * number)
    experts = tuple(
        ExpertActivity(
            site=site,
            n_experts=4,
            top_k=2,
            d_ff=6,
            activation_ratio=0.4,
            activation_ratio_of_all=0.2,
            expert_load=np.array([1.0, 0.75, 0.25, 0.0]),
            expert_activation_ratio=np.array([0.3, 0.4, 0.5, math.nan]),
            cett_with_shared=0.1,
        )
        for site in routed
    )
    return dataclasses.replace(
        measurement,
        sites=tuple(sites),
        experts=experts,
        thresholds=dataclasses.replace(measurement.thresholds, values=values),
    )


def test_two_blocks_of_one_layer_are_two_series():
    result = with_shared_experts()
    ratios = result.layer_activation_ratio
    chart = layer_ratios(result)
    assert {series.name: (list(series.x), list(series.y)) for series in chart.series} == {
        "mlp": ([0], [ratios[0]]),
        "experts": ([1, 2], [ratios[1], ratios[3]]),
        "shared_experts": ([1, 2], [ratios[2], ratios[4]]),
    }
    drawn_x = [line.get_xdata().tolist() for line in drawn(chart).lines[:3]]
    assert drawn_x[1] != drawn_x[2], "points of one layer must not hide each other"
    thresholds = {series.name: (list(series.x), list(series.y)) for series in layer_thresholds(result).series}
    assert thresholds["experts"] == ([1] * 4 + [2] * 4, pytest.approx([0.2] * 4 + [0.4] * 4))
    assert thresholds["shared_experts"] == ([1, 2], pytest.approx([0.3, 0.5]))
    cett = {series.name: series for series in layer_cett(result).series}
    assert list(cett["experts, in the sparse run"].y) == [result.cett_sparse_inputs[i] for i in (1, 3)]
    assert len(cett) == 6
    assert [series.name for series in panel_charts(result)["load"].series] == ["layer 1", "layer 2"]
    assert panel_charts(result)["tokens"].y.names == (
        *("0 mlp", "1 experts", "1 shared_experts", "2 experts", "2 shared_experts"),
    )
    assert [row[0] for row in layers(result)[1]] == list(result.site_labels)
    assert result.layer_columns()["layer"] == [0, 1, 1, 2, 2]


def test_pictures_of_experts_are_drawn(tmp_path):
    paths = save_pictures(measurement_pictures(with_shared_experts()), tmp_path)
    assert all(path.stat().st_size > 4000 for path in paths)
    axes = drawn(panel_charts(with_shared_experts())["tokens"])
    assert [label.get_text() for label in axes.get_yticklabels()][1:3] == ["1 experts", "1 shared_experts"]


def test_the_text_view_names_neurons_of_experts():
    result = with_shared_experts()
    shape = (*result.token_activation_ratio.shape, 2)
    view = text_view(
        dataclasses.replace(
            result, token_top_neuron=np.full(shape, 13, np.int32), token_top_norm=np.ones(shape, np.float32)
        )
    )
    assert view["sites"][:3] == [
        ["0 mlp", "0.mlp", 0],
        ["1 experts", "1", 6],
        ["1 shared_experts", "1.shared_experts", 0],
    ]
