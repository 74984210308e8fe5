"""Bad points and bad files each raise their own message; every kind of good file gives the same points."""

from __future__ import annotations

import json

import pytest

from sparsing.laws import make_points, read_points

NAN = float("nan")


@pytest.mark.parametrize(
    ("x", "ratio", "message"),
    [
        ([1e9, 2e9, 3e9], [0.1, NAN, 0.08], "activation_ratio of point 2 is nan; remove that point"),
        ([1e9, NAN, 3e9], [0.1, 0.09, 0.08], "tokens of point 2 is nan"),
        ([1e9, 3e9, 2e9], [0.1, 0.09, 0.08], r"tokens must rise, got 2e\+09 after 3e\+09 at point 3"),
        ([1e9, 2e9, 3e9], [10.0, 9.0, 8.0], r"point 1 is 10, it must be in \[0, 1\]; divide percentages"),
        ([1e9, 2e9, 3e9], [0.1, -0.1, 0.1], r"point 2 is -0.1, it must be in \[0, 1\]"),
        ([1e9, 2e9, 3e9], [0.1, 0.1, 0.1], "all 3 ratios are 0.1, so there is no change"),
        ([1e9, 1e9, 1e9], [0.1, 0.09, 0.08], r"all 3 points have the same tokens \(1e\+09\)"),
        ([0, 1e9, 2e9], [0.1, 0.09, 0.08], "tokens must be above 0"),
        ([1e9, 2e9], [0.1, 0.09, 0.08], "2 values of x but 3 ratios"),
    ],
)
def test_bad_points(x, ratio, message):
    with pytest.raises(ValueError, match=message):
        make_points(x, ratio)


def test_shapes_may_come_in_any_order():
    points = make_points([100, 20, 50], [0.08, 0.06, 0.07], variable="width_depth")
    assert points.x == (20, 50, 100)
    assert points.ratio == (0.06, 0.07, 0.08)


TOKENS = [1_000_000_000, 2_000_000_000, 4_000_000_000]
RATIO = [0.1, 0.09, 0.085]


def write_measurement(path, ratio, **provenance):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"kind": "Measurement", "activation_ratio": ratio, "provenance": provenance}))
    return path


def test_every_form_of_file_gives_the_same_points(tmp_path):
    raw = tmp_path / "raw.json"
    raw.write_text(json.dumps({"token_passed": TOKENS, "activation_ratio": RATIO}))
    plain = tmp_path / "plain.csv"
    plain.write_text("# a comment\ntokens,activation_ratio\n1e9,0.1\n2e9,0.09\n4e9,0.085\n")
    billions = tmp_path / "billions.csv"
    billions.write_text("activation_ratio, tokens_billion\n0.1,1\n0.09,2\n0.085,4\n")
    files = [
        write_measurement(
            tmp_path / f"step-{i}" / "cett-ppl-1" / "measurement.json", ratio, train_tokens=tokens
        )
        for i, (tokens, ratio) in enumerate(zip(TOKENS, RATIO, strict=True))
    ]
    series = read_points([raw, plain, billions, files[2].parent, files[0].parent.parent, files[1]])
    assert [points.name for points in series] == ["raw", "plain", "billions", "measurements"]
    assert all(points.x == tuple(TOKENS) and points.ratio == tuple(RATIO) for points in series)


def test_steps_need_tokens_per_step(tmp_path):
    files = [write_measurement(tmp_path / f"{i}.json", 0.1 - i / 100, train_step=i) for i in (1, 2, 3)]
    with pytest.raises(ValueError, match="give --tokens-per-step"):
        read_points(files)
    (points,) = read_points(files, tokens_per_step=1e9)
    assert points.x == (1e9, 2e9, 3e9)


def test_checkpoints_of_one_step_are_refused(tmp_path):
    files = [write_measurement(tmp_path / f"{i}.json", 0.1 - i / 100, train_step=5) for i in (1, 2, 3)]
    with pytest.raises(ValueError, match=r"all 3 points have the same tokens.*step or token count"):
        read_points(files, tokens_per_step=1e6)


def test_series_and_shapes_in_one_csv(tmp_path):
    path = tmp_path / "shapes.csv"
    path.write_text(
        "series,d_model,n_layers,activation_ratio\na,1024,8,0.08\na,512,36,0.06\nb,512,16,0.07\nb,512,8,0.08\n"
    )
    first, second = read_points([path])
    assert (first.name, second.name) == ("a", "b")
    assert first.variable == "width_depth"
    assert first.x == (512 / 36, 128)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "step,ratio\n1,0.1\n", "has the columns step, ratio; it needs activation_ratio"),
        ("a.csv", "tokens,activation_ratio\n", "a header but no rows"),
        ("a.csv", "tokens,activation_ratio\n1e9,many\n", "activation_ratio must be a number, got 'many'"),
        ("a.csv", "d_model,n_layers,activation_ratio\n8,0,0.1\n", "n_layers must be above 0"),
        ("a.json", "[1, 2]", "holds a list"),
        ("a.json", "{", "is not JSON"),
        ("a.json", '{"kind": "Curves"}', r"no list token_passed and activation_ratio.*kind: Curves"),
        ("a.json", '{"kind": "Measurement", "activation_ratio": 0.1}', "does not say how long"),
    ],
)
def test_bad_files(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_points([path])


def test_missing_file(tmp_path):
    with pytest.raises(ValueError, match="no file"):
        read_points([tmp_path / "none.csv"])


def test_a_spreadsheet_with_semicolons_decimal_commas_and_empty_rows(tmp_path):
    """As LibreOffice and Excel write it where the comma is the decimal sign."""
    path = tmp_path / "points.csv"
    path.write_text(
        "\ufefftokens_billion;activation_ratio\n1;0,1\n;\n\n2,5;0,09\n4;0.085\n;;\n".replace(";;", ";")
    )
    (points,) = read_points([path])
    assert points.x == (1e9, 2.5e9, 4e9)
    assert points.ratio == (0.1, 0.09, 0.085)
    path.write_text(path.read_text().replace(";", "\t"))
    assert read_points([path])[0].x == points.x


def test_a_bad_cell_is_named_by_its_line(tmp_path):
    path = tmp_path / "points.csv"
    for cells, message in (
        ("2e9,", r"points\.csv' line 4: activation_ratio must be a number, got nothing"),
        (",0.09", r"line 4: tokens must be a number, got nothing"),
        ("2e9,9%", r"line 4: activation_ratio must be a number, got '9%'"),
        (
            '"2,000,000,000",0.09',
            r"line 4: tokens must be a number, got '2,000,000,000'.*no thousands separators",
        ),
        ("2e9,0,09", r"line 4 has 3 fields, the header has 2; a decimal comma needs semicolons"),
    ):
        path.write_text(f"# a comment\ntokens,activation_ratio\n1e9,0.1\n{cells}\n4e9,0.085\n")
        with pytest.raises(ValueError, match=message):
            read_points([path])


def test_tokens_that_are_plainly_in_another_unit(tmp_path):
    """A law fitted to them would forecast at a billionth of the tokens, or a billion times too many."""
    path = tmp_path / "points.csv"
    path.write_text("tokens,activation_ratio\n1,0.1\n20,0.09\n100,0.085\n")
    with pytest.raises(ValueError, match=r"the tokens go from 1 to 100, .* name the column tokens_billion"):
        read_points([path])
    path.write_text("tokens_billion,activation_ratio\n1e9,0.1\n2e9,0.09\n4e9,0.085\n")
    with pytest.raises(
        ValueError, match=r"tokens_billion goes up to 4e\+09.*; if the column counts tokens, name it"
    ):
        read_points([path])
    raw = tmp_path / "raw.json"
    raw.write_text(json.dumps({"token_passed": [1, 20, 100], "activation_ratio": RATIO}))
    with pytest.raises(ValueError, match="in JSON, multiply token_passed by 1e9"):
        read_points([raw])


def test_two_series_of_the_same_name_are_refused(tmp_path):
    """`runA/points.csv` and `runB/points.csv`: the fit of the second overwrote that of the first."""
    paths = []
    for run in ("runA", "runB"):
        (tmp_path / run).mkdir()
        paths.append(tmp_path / run / "points.csv")
        paths[-1].write_text("tokens,activation_ratio\n1e9,0.1\n2e9,0.09\n4e9,0.085\n")
    with pytest.raises(ValueError, match=r"two series are called 'points' in .*runA.*runB.*; rename a file"):
        read_points(paths)
