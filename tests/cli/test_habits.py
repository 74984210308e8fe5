"""What users expect of a command line: help without arguments, suggestions, short names, no empty folders."""

from __future__ import annotations

import argparse
import logging
import re
import shlex

import pytest

import sparsing.models.loading
from sparsing.cli import NOISY_LOGGERS, build_parser, main
from sparsing.cli._parser import Parser


def refused(capsys, *command: str) -> str:
    """What a command line that cannot be parsed prints."""
    with pytest.raises(SystemExit) as stop:
        main(list(command))
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_without_arguments_it_prints_its_help(capsys):
    assert main([]) == 0
    printed = capsys.readouterr().out
    assert "measure the sparsity of a model" in printed
    assert printed == build_parser().format_help()


@pytest.mark.parametrize(
    ("command", "suggestion"),
    [
        (["mesure", "model"], "unknown command 'mesure'. Did you mean: measure? Available: advise, "),
        (["neuron-s", "model"], "Did you mean: neurons?"),
        (
            ["measure", "m", "--text", "b", "--widnow", "5"],
            "unknown option --widnow. Did you mean: --window?",
        ),
        (["measure", "m", "--txet", "b"], "required: --text; unknown option --txet. Did you mean: --text?"),
        (["measure", "m", "--text", "b", "--scope=sequense"], "'sequense'. Did you mean: sequence?"),
        (["thresholds", "t.json", "--to", "lnie"], "Did you mean: line? Available: line, json."),
        (["generate", "m", "--prompt", "a", "--weights", "float23"], "Did you mean: float32?"),
        (["bench", "--engines", "eagre"], "Did you mean: eager?"),
    ],
)
def test_misspelt_words_are_answered_with_the_nearest(command, suggestion, capsys):
    error = refused(capsys, *command)
    assert suggestion in error
    assert error.startswith("error: ")
    assert error.endswith(" --help\n")
    assert len(error.splitlines()) == 2


@pytest.mark.parametrize(
    ("command", "explained"),
    [
        (["measure", "m"], "required: --text; --text: text file, folder, "),
        (["report"], "required: RUN; RUN: folder or .json file written by measure, "),
        (["thresholds"], "required: file; file: thresholds.json or the folder of a run, "),
    ],
)
def test_what_is_missing_is_explained(command, explained, capsys):
    error = refused(capsys, *command)
    assert explained in error
    assert len(error.splitlines()) == 2


def test_percent_may_have_its_sign():
    parse = build_parser().parse_args
    for command in ("measure", "advise", "evaluate"):
        assert parse([command, "m", "--text", "b", "--ppl", "1%", "5"]).ppl == [1, 5]
    assert parse(["compare", "m", "--text", "b", "--ppl", "2.5%"]).ppl == 2.5
    assert parse(["track", "m", "--text", "b", "--ppl", "2.5%"]).ppl == 2.5


def test_a_word_that_is_near_to_nothing_gets_no_suggestion(capsys):
    assert "Did you mean" not in refused(capsys, "zzzzzz")


def test_every_command_is_parsed_by_the_parser_with_suggestions():
    commands = build_parser()._subparsers._group_actions[0].choices.values()
    assert all(type(command) is Parser for command in commands if command.prefix_chars == "-")
    assert argparse.ArgumentParser not in {type(command) for command in commands}


def test_short_names_of_dtypes(capsys):
    parse = build_parser().parse_args
    assert parse(["generate", "m", "--prompt", "a", "--weights", "bf16"]).weights == "bfloat16"
    assert parse(["bench", "--dtype", "fp32", "bf16"]).dtype == ["float32", "bfloat16"]


def test_a_failed_command_leaves_no_folder(checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").touch()
    for command in (
        ["measure", str(checkpoint), "--text", "missing.txt"],
        ["measure", str(checkpoint), "--text", "empty.txt", "-o", "a/b/c"],
        ["measure", "./missing", "--text", "empty.txt"],
        ["compare", str(checkpoint), "--text", "empty.txt"],
        ["neurons", str(checkpoint), "--text", "empty.txt"],
        ["track", ".", "--text", "empty.txt", "-o", "t"],
        ["evaluate", "./missing", "--tasks", "copa"],
        ["train", "--preset", "nano-0.3M", "--text", "missing.txt", "-o", "run"],
        ["fit", "empty.txt", "-o", "law"],
    ):
        assert main([*command, "--quiet"] if command[0] != "fit" else command) == 2, command
        assert [path.name for path in tmp_path.iterdir()] == ["empty.txt"], command


def test_a_text_that_does_not_exist_is_refused_before_the_model_is_loaded(
    checkpoint, text, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(text.parent)
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: pytest.fail("the hub was asked"))
    monkeypatch.setattr(sparsing.models.loading, "load_model", lambda *_, **__: pytest.fail("was loaded"))
    for command in ("measure", "compare", "neurons", "advise"):
        for source in ("bok.txt", "./bok", "nowhere/book.txt", "a/b/c", f"{text.parent}/book.tx"):
            assert main([command, str(checkpoint), "--text", source, "-o", str(tmp_path / "out")]) == 2
            error = capsys.readouterr().err
            assert f"{source!r} is no file or folder here" in error
            assert ("Did you mean: book.txt?" in error) == (source not in ("nowhere/book.txt", "a/b/c"))
    assert not (tmp_path / "out").exists()


def test_the_help_names_every_rule(capsys):
    from sparsing.cli._common import RULE_NAMES
    from sparsing.rules import RULES

    assert sorted(RULE_NAMES.split(", ")) == sorted(RULES)


def test_the_first_steps_of_the_help_are_commands_that_exist():
    steps = (build_parser().epilog or "").splitlines()[1:]
    commands = [shlex.split(re.split(r"\s{2,}", step.strip())[0]) for step in steps]
    assert len(commands) == 4
    for program, *words in commands[:-1]:
        assert program == "sparsing"
        build_parser().parse_args(words)


@pytest.mark.parametrize(("options", "shown"), [([], False), (["--verbose"], True)])
def test_warnings_about_the_build_of_other_packages_are_hidden(options, shown, capsys, monkeypatch):
    loggers = [logging.getLogger(name) for name in NOISY_LOGGERS]
    for logger in loggers:
        monkeypatch.setattr(logger, "level", logging.NOTSET)
        logger.manager._clear_cache()
    assert main([*options, "thresholds", "missing.json"]) == 2
    assert [logger.isEnabledFor(logging.WARNING) for logger in loggers] == [shown] * len(loggers)
