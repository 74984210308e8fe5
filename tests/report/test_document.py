"""Reading results from run folders, and the layout of the document."""

from __future__ import annotations

import pytest

from sparsing.cli import main
from sparsing.errors import InputError
from sparsing.report.document import build_document
from sparsing.report.saved_results import Runs, read_runs
from sparsing.report.text_view import page_text

from ..helpers.measurements import make_measurement
from .page_results import save_comparison, save_evaluation, save_law, save_measurements, save_study


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
        "Neurons by corpus",
        "All measurements",
    ]
    assert len(document.cards) == 3, "of checkpoints along training only the last has a card; one evaluation"
    assert [panel.label.endswith("PPL-1%") for panel in document.panels] == [True] * 3 + [False] * 3
    assert len(document.origins) == len({origin.command for origin in document.origins})


def test_the_answer_is_under_the_title(folder):
    document = build_document(read_runs([folder]))
    assert document.title == "Activation sparsity of 3 models and 1 earlier checkpoint"
    sentence = document.answers[0]
    assert "must stay active if perplexity may rise by 1%" in sentence
    ceiling = next(value for label, value in document.cards[0].gains if label.startswith("ceiling"))
    assert f"at most {ceiling.removesuffix('x')} times as fast" in sentence


def test_checkpoints_come_in_the_order_of_training(tmp_path):
    for name, tokens in (("m/tokens-10M", 10**7), ("m/tokens-2M", 2 * 10**6), ("a", None)):
        make_measurement(model=name, train_tokens=tokens).save(tmp_path / name / "measurement.json")
    found = [result.provenance.model for result in read_runs([tmp_path / "m", tmp_path / "a"]).measurements]
    assert found == ["m/tokens-2M", "m/tokens-10M", "a"]


@pytest.mark.parametrize("bad", ["missing", "other.json"])
def test_nothing_to_report(folder, bad, capsys):
    assert main(["report", str(folder / bad)]) == 2
    assert ("no run at" if bad == "missing" else "nothing to report in") in capsys.readouterr().err


def test_a_model_in_place_of_its_results(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-model").mkdir()
    (tmp_path / "my-model" / "config.json").write_text("{}")
    assert main(["report", "my-model"]) == 2
    assert "nothing to report in 'my-model'" in capsys.readouterr().err
    make_measurement().save(tmp_path / "outputs" / "my-model" / "cett-ppl-1" / "measurement.json")
    assert main(["report", "my-model"]) == 2
    assert "is a model; its results are in 'outputs/my-model'" in capsys.readouterr().err
    assert main(["report", "outputs/my-model"]) == 0


def test_broken_files_and_torn_studies(tmp_path):
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(InputError, match="is not a saved result"):
        read_runs([tmp_path])
    save_study(tmp_path / "study")
    (tmp_path / "study" / "vocabulary.parquet").unlink()
    with pytest.raises(InputError, match=r"'vocabulary.parquet' is missing beside"):
        read_runs([tmp_path / "study"])


def test_shown_text():
    assert page_text("a\nb\t\u200d\x00\u202e") == "a\nb\t\u200d\\x00\\u202e"
    assert page_text("x" * 70) == "x" * 30 + "\u2026[10 more characters]\u2026" + "x" * 30


def test_one_measurement_of_one_window():
    document = build_document(Runs(measurements=[make_measurement(intervals=False, num_tokens=0)]))
    assert document.panels[0].text is None
    assert document.cards[0].interval == ""
