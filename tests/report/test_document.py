"""What is read from run folders and how it is laid out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sparsing.cli import main
from sparsing.errors import InputError
from sparsing.report.across_charts import law_charts, training_series
from sparsing.report.charts import Chart, Series, rounded, thinned
from sparsing.report.document import build_document
from sparsing.report.run_charts import run_charts
from sparsing.report.saved_results import Runs, read_runs
from sparsing.report.text_view import packed, shown

from ..helpers.measurements import make_measurement
from .page_parts import save_comparison, save_evaluation, save_law, save_measurements, save_study


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("runs")
    save_measurements(made)
    save_comparison(made)
    save_law(made)
    save_study(made / "neurons")
    save_evaluation(made / "evaluate")
    (made / ".journal").mkdir()
    (made / ".journal" / "broken.json").write_text("{")
    (made / "other.json").write_text('{"kind": "SearchResult"}')
    return made


def test_everything_in_a_folder_is_found_once(folder):
    runs = read_runs([folder, folder / "comparison.json"])
    parts = (runs.measurements, runs.comparisons, runs.laws, runs.studies, runs.evaluations)
    assert [len(part) for part in parts] == [6, 1, 1, 1, 1]
    assert len(runs.studies[0].words()) > 20


def test_layout(folder):
    document = build_document(read_runs([folder]))
    assert [section.title for section in document.sections] == [
        "Benchmarks",
        "Rules compared",
        "Along training",
        "Laws",
        "All measurements",
        "Neurons by corpus",
    ]
    assert len(document.cards) == 3, "of checkpoints along training only the last has a card; one evaluation"
    assert [panel.label.endswith("PPL-1%") for panel in document.panels] == [True] * 3 + [False] * 3
    assert len(document.origins) == len({command for *_, command in document.origins})


def test_checkpoints_come_in_the_order_of_training(tmp_path):
    for name, tokens in (("m/tokens-10M", 10**7), ("m/tokens-2M", 2 * 10**6), ("a", None)):
        make_measurement(model=name, train_tokens=tokens).save(tmp_path / name / "measurement.json")
    found = [result.provenance.model for result in read_runs([tmp_path / "m", tmp_path / "a"]).measurements]
    assert found == ["m/tokens-2M", "m/tokens-10M", "a"]


@pytest.mark.parametrize("bad", ["missing", "other.json"])
def test_nothing_to_report(folder, bad, capsys):
    assert main(["report", str(folder / bad)]) == 2
    assert ("no run at" if bad == "missing" else "nothing to report in") in capsys.readouterr().err


def test_broken_files_and_torn_studies(tmp_path):
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(InputError, match="is not a saved result"):
        read_runs([tmp_path])
    save_study(tmp_path / "study")
    (tmp_path / "study" / "vocabulary.parquet").unlink()
    with pytest.raises(InputError, match=r"'vocabulary.parquet' is not beside"):
        read_runs([tmp_path / "study"])


def test_training_series_need_two_checkpoints():
    runs = [
        make_measurement(model=f"m/s{i}", train_tokens=tokens) for i, tokens in enumerate((300, 100, None))
    ]
    series = training_series(runs)
    assert {name: [r.provenance.train_tokens for r in found] for name, found in series.items()} == {
        "m, PPL-1%": [100, 300]
    }
    assert training_series(runs[:1]) == {}


def test_a_law_goes_through_its_points(folder):
    (chart,) = law_charts(read_runs([folder]).laws)
    line, points = chart.series
    assert line.x[-1] == pytest.approx(3 * points.x[-1])
    assert np.interp(points.x, line.x, line.y) == pytest.approx(points.y, abs=0.02)


def test_charts_of_a_rule_without_thresholds():
    charts = run_charts(make_measurement(rule="top_k", select="top_k", target_ppl_ratio=None))
    assert list(charts) == ["layers", "cett", "frequency", "positions"]
    assert charts["cett"].marks == []


def test_frequency_curves_are_sorted_and_leave_out_what_is_no_neuron():
    frequency = np.array([[0.5, 0.1, 0.9], [0.2, np.nan, 0.4]], np.float32)
    chart = run_charts(make_measurement(n_layers=2, neuron_frequency=frequency))["frequency"]
    assert chart.series[0].y == pytest.approx([0.9, 0.5, 0.1])
    assert chart.series[1].y == pytest.approx([0.4, 0.2])


def test_chart_as_json():
    series = Series(name="a", x=range(2), y=np.array([math.nan, 0.123456789]), y_low=[None, 0.1])
    assert Chart(title="t", x="x", y="y", series=[series]).to_dict() == {
        "title": "t",
        "x": "x",
        "y": "y",
        "series": [{"name": "a", "x": [0, 1], "y": [None, 0.123457], "y_low": [None, 0.1]}],
    }
    assert rounded(np.int64(12345678)) == 12345678


@pytest.mark.parametrize(("count", "most"), [(5, 10), (1000, 7), (1, 3)])
def test_thinning_keeps_both_ends(count, most):
    at = thinned(count, most)
    assert len(at) == min(count, most)
    assert (at[0], at[-1]) == (0, count - 1)


def test_shown_text():
    assert shown("a\nb\t\u200d\x00\u202e") == "a\nb\t\u200d\\x00\\u202e"
    assert shown("x" * 70) == "x" * 30 + "\u2026[10 more characters]\u2026" + "x" * 30


def test_packed_arrays_are_little_endian():
    assert packed(np.array([[1, 258]], dtype=">u2")) == {
        "dtype": "uint16",
        "shape": [1, 2],
        "data": "AQACAQ==",
    }


def test_one_measurement_of_one_window():
    document = build_document(Runs(measurements=[make_measurement(intervals=False, num_tokens=0)]))
    assert document.panels[0].text is None
    assert document.cards[0].interval == ""
