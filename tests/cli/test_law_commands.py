"""The commands `sparsing fit` and `sparsing forecast`, and the figures they write."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sparsing.cli import main
from sparsing.cli.fit import FORM_NAMES
from sparsing.laws import FORMS, simulate

X = np.linspace(6.0, 270.0, 24)


@pytest.fixture(scope="module")
def csv(tmp_path_factory):
    path = tmp_path_factory.mktemp("points") / "points.csv"
    lines = ["series,tokens,activation_ratio"]
    for name, limit in (("small", 0.072), ("large", 0.074)):
        truth = {"alpha": 1.0, "b": -3.5, "c": 0.02, "A0": limit}
        points = simulate(FORMS["relu"], truth, X, noise_sd=1.5e-4, seed=1)
        lines += [f"{name},{x!r},{y!r}" for x, y in zip(points.x, points.ratio, strict=True)]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_fit_then_forecast(csv, tmp_path, capsys):
    out = tmp_path / "law"
    command = ["fit", str(csv), "--form", "relu", "--shared", "A0", "--resamples", "5", "-o", str(out)]
    assert main([*command, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [fit["name"] for fit in document["fits"]] == ["small", "large"]
    assert document["joint"]["p_value"] < 1e-3
    for stem in ("small", "large", "all-series"):
        assert (out / f"{stem}.png").read_bytes().startswith(b"\x89PNG")
        assert b"<svg" in (out / f"{stem}.svg").read_bytes()
    assert main(["forecast", str(out / "small.json"), "--tokens", "1e12", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["low"] < 0.072 < answer["high"]
    assert main(["forecast", str(out / "small.json"), "--ratio", "0.08"]) == 0
    assert "tokens" in capsys.readouterr().out
    assert main(["forecast", str(out), "--ratio", "0.08"]) == 2
    assert f"{out / 'large.json'} {out / 'small.json'}" in capsys.readouterr().err


def test_what_fit_writes_is_named_and_forecast_reads_it(csv, tmp_path, capsys):
    """A series is named by the file's column, so the name of the fit is not that of the file."""
    lines = csv.read_text().splitlines()
    (tmp_path / "points.csv").write_text("\n".join(line for line in lines if not line.startswith("large")))
    out = tmp_path / "law"
    assert main(["fit", str(tmp_path / "points.csv"), "--resamples", "0", "--drop", "0", "-o", str(out)]) == 0
    shown = capsys.readouterr().out
    (command,) = [line for line in shown.splitlines() if line.startswith("forecast with: sparsing ")]
    assert main(command.removeprefix("forecast with: sparsing ").split()) == 0
    assert main(["forecast", str(out), "--tokens", "1e12"]) == 0  # the only fit of the folder


def test_every_form_is_listed_in_the_help():
    assert set(FORM_NAMES.replace("; over width and depth: ", ", ").split(", ")) == set(FORMS)


def test_auto_prints_the_ranking_and_the_verdict(csv, capsys):
    assert main(["fit", str(csv), "--resamples", "0", "--drop", "0"]) == 0
    captured = capsys.readouterr()
    assert "forms on the same points" in captured.out
    assert captured.out.count("verdict:") == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "none.csv"], "no file"),
        (["fit", "{csv}", "--form", "rellu"], "Did you mean: relu"),
        (["fit", "{csv}", "--shared", "A0"], "name it with --form"),
        (["forecast", "none.json", "--tokens", "1e12"], "no file"),
        (
            ["forecast", "none.json", "--tokens", "100"],
            "a count of training tokens, got 100; 100 billion is 1e+11",
        ),
    ],
)
def test_refusals(csv, arguments, message, capsys):
    assert main([argument.format(csv=csv) for argument in arguments]) == 2
    assert message in capsys.readouterr().err


def test_width_depth_has_its_figure(tmp_path, capsys):
    path = tmp_path / "shapes.csv"
    ratio = np.round(
        0.055 + 0.0002 * np.minimum(shapes := np.array([14, 22, 35, 55, 86, 136, 214, 338.0]), 114), 4
    )
    rows = [f"{r},{a}" for r, a in zip(shapes, ratio, strict=True)]
    path.write_text("\n".join(["width_depth,activation_ratio", *rows]) + "\n")
    assert main(["fit", str(path), "--resamples", "5", "-o", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fits"][0]["form"] == "bottleneck"
    assert (tmp_path / "shapes.svg").exists()


def test_a_series_with_a_slash_in_its_name_is_one_file(csv, tmp_path):
    path = tmp_path / "points.csv"
    path.write_text(csv.read_text().replace("small,", "relu/small,").replace("large,", "silu/small,"))
    assert (
        main(["fit", str(path), "--form", "relu", "--resamples", "0", "-o", str(tmp_path / "law"), "--json"])
        == 0
    )
    assert {"relu-small.json", "silu-small.json"} <= {file.name for file in (tmp_path / "law").iterdir()}


@pytest.mark.parametrize("name", ["../escaped", "/tmp/escaped/x", "a/b", "..", "[/red]\x1b[31m"])
def test_a_series_name_stays_in_the_output_folder(name, tmp_path, capsys):
    table = tmp_path / "in" / "points.csv"
    table.parent.mkdir()
    rows = [f'"{name}",{tokens * 10**6},{0.3 + 0.2 / tokens}' for tokens in range(1, 13)]
    table.write_text("series,tokens,activation_ratio\n" + "\n".join(rows) + "\n")
    out = tmp_path / "deep" / "out"
    arguments = ["fit", str(table), "--form", "silu", "--drop", "0", "--resamples", "2", "-o", str(out)]
    assert main(arguments) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"in", "deep"}
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert all(path.is_file() for path in out.iterdir())
    assert len([path for path in out.iterdir() if path.suffix == ".json"]) == 1
