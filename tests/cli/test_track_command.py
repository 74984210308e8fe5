"""`sparsing track`: table, JSON, figure and points for the checkpoints of the demo models, and its errors."""

from __future__ import annotations

import json
import shutil
import textwrap
import warnings
from pathlib import Path

import pytest

from sparsing.cli import main
from sparsing.demo import MODELS
from sparsing.training.track_result import Track

NAMES = ("tokens-8.19M", "tokens-10.2M")
COMMON = ["--window", "64", "--max-tokens", "700", "--dtype", "float32", "--device", "cpu", "--quiet"]


@pytest.fixture(autouse=True)
def _warnings_are_lines():
    """The command logs warnings; the test settings would turn them into errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        yield


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "book.txt"
    path.write_text(Path(textwrap.__file__).read_text(encoding="utf-8"), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two checkpoints of the demo, whose names do not sort in the order of training."""
    folder = tmp_path_factory.mktemp("runs") / "relu"
    for name in NAMES:
        shutil.copytree(MODELS / "relu" / name, folder / name)
    return folder


def test_a_run_is_tracked_and_fitted(run, book, tmp_path, capsys):
    out = tmp_path / "track"
    assert main(["track", str(run), "--text", str(book), "-o", str(out), *COMMON]) == 0
    table = capsys.readouterr().out
    result = Track.load(out / "track.json")
    assert tuple(point.name for point in result.points) == NAMES
    for point in result.points:
        assert f"{point.activation_ratio:.2%}" in table
        assert f"{point.loss:.4f}" in table
    assert (out / "along-training.png").stat().st_size > 10_000
    assert (out / "along-training.svg").exists()
    assert main(["fit", str(out / "points.csv"), "--form", "relu"]) == 2
    assert "relu: 2 points" in capsys.readouterr().err, "the points are read; a law needs more of them"


@pytest.mark.slow
def test_json_is_the_track(run, book, tmp_path, capsys):
    out = tmp_path / "track"
    command = [
        "track",
        str(MODELS / "silu"),
        "--text",
        str(book),
        "-o",
        str(out),
        "--ppl",
        "5",
        "--last",
        "1",
    ]
    assert main([*command, "--json", "--no-figures", *COMMON]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["target_ppl_ratio"] == 1.05
    assert document["joint"] == ["tokens-10.2M"]
    assert document["points"][-1]["ppl_ratio"] == pytest.approx(1.05, abs=5e-3)
    assert not (out / "along-training.png").exists()


@pytest.mark.slow
def test_the_default_folder_is_beside_the_measurements(run, book, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["track", str(run), "--text", str(book), "--last", "1", "--no-figures"]
    assert main([*command, *COMMON]) == 0
    assert (tmp_path / "outputs" / "track-relu" / "points.csv").exists()
    assert "sparsing fit outputs/track-relu/points.csv" in capsys.readouterr().out


def test_a_folder_without_checkpoints_is_refused(tmp_path, capsys):
    assert main(["track", str(tmp_path), "--text", "x"]) == 2
    assert "no checkpoints in" in capsys.readouterr().err


def test_a_bad_target_is_refused(book, tmp_path, capsys):
    command = ["track", str(MODELS / "relu"), "--text", str(book), "-o", str(tmp_path), "--ppl", "-1"]
    assert main([*command, *COMMON]) == 2
    assert "above 1" in capsys.readouterr().err


def test_help_has_units_defaults_and_two_examples(capsys):
    with pytest.raises(SystemExit):
        main(["track", "--help"])
    text = capsys.readouterr().out
    assert text.count("  sparsing track ") >= 2
    for phrase in ("percent (default: 1)", "(default: 5)", "training tokens of a step"):
        assert phrase in " ".join(text.split())
