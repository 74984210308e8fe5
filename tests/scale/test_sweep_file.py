"""Tests of the file of a sweep and of the cells that it lists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sparsing import cli
from sparsing.errors import InputError
from sparsing.scale.sweep_file import list_cells, read_sweep_file

FILE = """
models = ["{folder}/run/checkpoint-*", "someone/model"]
rules = ["cett", "top_k"]
ppl = [1, 5]
tasks = ["piqa"]

[texts]
book = "{folder}/book.txt"
wiki = "wikitext:wikitext-2-raw-v1"

[measure]
max_tokens = 1_000
no_figures = true
arrays = false

[run]
memory_gb = 2.5
"""


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    for step in (1000, 200):
        (tmp_path / "run" / f"checkpoint-{step}").mkdir(parents=True)
        (tmp_path / "run" / f"checkpoint-{step}" / "config.json").write_text("{}")
    (tmp_path / "book.txt").write_text("text")
    path = tmp_path / "sweep.toml"
    path.write_text(FILE.format(folder=tmp_path))
    return path


def cells_of(path: Path):
    return list_cells(read_sweep_file(path), path.parent / "out")


def test_there_is_a_cell_per_model_text_rule_and_task(sweep: Path):
    cells = cells_of(sweep)
    assert len(cells) == 3 * 2 * (2 + 1)
    assert [cell.labels["model"].rpartition("/")[2] for cell in cells[::6]] == [
        "checkpoint-200",
        "checkpoint-1000",
        "model",
    ]
    first = cells[0]
    assert first.commands[0][3:] == (
        *("measure", first.labels["model"], "--text", str(sweep.parent / "book.txt"), "--rule", "cett"),
        *("--ppl", "1.0", "5.0", "--max-tokens", "1000", "--no-figures", "--quiet", "-o", str(first.folder)),
    )
    assert first.memory_gb == 2.5


def test_an_evaluation_needs_the_measurements_and_takes_their_thresholds(sweep: Path):
    cett, top_k, piqa = cells_of(sweep)[:3]
    assert piqa.needs == (cett.name, top_k.name)
    given = [word for word in piqa.commands[0] if word.endswith("thresholds.json")]
    assert given == [
        str(cell.folder / f"{rule}-ppl-{p}" / "thresholds.json")
        for cell, rule in ((cett, "cett"), (top_k, "top_k"))
        for p in (1, 5)
    ]


def test_the_score_of_a_rule_is_no_part_of_the_folder_if_the_rule_has_it_anyway(sweep: Path):
    """`cett:neuron_norm` is `cett`, and `sparsing measure` names its folder so."""
    sweep.write_text(sweep.read_text().replace('"cett"', '"cett:neuron_norm"').replace('"top_k"', '"fat:h"'))
    given = [word for word in cells_of(sweep)[2].commands[0] if word.endswith("thresholds.json")]
    assert [Path(word).parent.name for word in given] == [
        *("cett-ppl-1", "cett-ppl-5", "fat-h-ppl-1", "fat-h-ppl-5")
    ]


def test_revisions_are_of_models_on_the_hub(sweep: Path):
    sweep.write_text('revisions = ["step1", "step2"]\n' + sweep.read_text())
    cells = cells_of(sweep)
    assert len(cells) == (2 + 2) * 2 * 3
    for cell in cells:
        assert ("--revision" in cell.commands[0]) == (cell.labels["model"] == "someone/model")


def test_two_models_with_the_same_last_folders_are_named(sweep: Path):
    for run in ("a", "b"):
        (sweep.parent / run / "run" / "checkpoint").mkdir(parents=True)
    old, new = '"someone/model"', ", ".join(f'"{sweep.parent}/{run}/run/checkpoint"' for run in "ab")
    sweep.write_text(sweep.read_text().replace(old, new))
    with pytest.raises(InputError, match=r"a/run/checkpoint' and '\S*b/run/checkpoint' have the same name"):
        cells_of(sweep)


def test_a_changed_input_or_option_makes_another_cell_with_another_folder(sweep: Path):
    before = {cell.name: cell.folder for cell in cells_of(sweep)}
    (sweep.parent / "book.txt").write_text("another text")
    changed = {cell.name for cell in cells_of(sweep) if cell.folder != before[cell.name]}
    assert changed == {name for name in before if ".book." in name}
    sweep.write_text(sweep.read_text().replace("1_000", "2_000"))
    # the evaluations read other files of thresholds
    assert all(cell.folder != before[cell.name] for cell in cells_of(sweep))


def test_names_that_are_too_long_for_a_path_are_cut(sweep: Path):
    sweep.write_text(sweep.read_text().replace("someone/model", "9" * 5000))
    cells = [cell for cell in cells_of(sweep) if "999" in cell.name]
    assert len({cell.folder for cell in cells}) == len(cells) == 6
    assert all(len(cell.folder.name) < 120 for cell in cells)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("max_tokens = 1_000", "max_token = 1_000", "unrecognized arguments: --max-token"),
        ("max_tokens = 1_000", 'tex = "other.txt"', "unrecognized arguments: --tex"),
        ("max_tokens = 1_000", 'max_tokens = "many"', "invalid int value: 'many'"),
        ("ppl = [1, 5]", "ppl = [-1]", "--ppl must be a rise in percent above 0"),
        ("ppl = [1, 5]", "level = [0.1, 1.5]", r"level of cett .* must be in \[0, 1\], got 1.5"),
    ],
)
def test_a_wrong_option_is_named_before_a_cell_runs(sweep: Path, capsys, old: str, new: str, message: str):
    sweep.write_text(sweep.read_text().replace(old, new).replace(', "someone/model"', ""))
    assert cli.main(["sweep", str(sweep), "-o", str(sweep.parent / "out")]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (sweep.parent / "out").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("rules =", "rulez =", "Did you mean: rules"),
        ("memory_gb", "memory", "Did you mean: memory_gb"),
        ("[1, 5]", '"1"', r"\$\.ppl"),
        ("tasks =", "level = [0.1]\ntasks =", "both ppl and level"),
        ("max_tokens = 1_000", 'text = "x"', "measure.text is set by the sweep itself"),
        ("max_tokens = 1_000", 'plan = "h100"', "measure.plan is set by the sweep itself"),
        ("2.5", "-1", "must be positive"),
        ("checkpoint-*", "ckpt-*", "no checkpoint matches"),
        ('["cett", "top_k"]', "[]", "at least one entry"),
        ('"someone/model"', '"someone/model", "someone/model"', "listed twice"),
        ('"cett"', '"cet"', "Did you mean: cett"),
    ],
)
def test_a_mistake_in_the_file_is_named(sweep: Path, old: str, new: str, message: str):
    sweep.write_text(sweep.read_text().replace(old, new))
    with pytest.raises(InputError, match=message):
        cells_of(sweep)
