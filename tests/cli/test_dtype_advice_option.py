"""Commands log once, before their long work, that another dtype would be faster; options turn the message off."""

from __future__ import annotations

import argparse
import logging
import shutil
import warnings

import pytest

import sparsing.measuring.dtype_advice as dtype_advice
from sparsing.cli import _common as common
from sparsing.cli import main

SENTENCE = "matrix products in float32 take 2.8 times as long as in bfloat16 on this machine"


@pytest.fixture
def timings(monkeypatch) -> list[tuple[int, int]]:
    """Plants a timing with fast bfloat16, for models of any size; lists the sizes that were timed."""
    sizes: list[tuple[int, int]] = []

    def time_dtypes(d_model: int, d_ff: int) -> dict[str, float]:
        sizes.append((d_model, d_ff))
        return {"float32": 2.8, "bfloat16": 1.0, "float16": 5.0}

    monkeypatch.setattr(dtype_advice, "time_dtypes", time_dtypes)
    monkeypatch.setattr(dtype_advice, "MIN_PARAMETERS", 1)
    return sizes


def load_twice(checkpoint, **options) -> None:
    names = {"dtype": None, "device": "cpu", "revision": None, "trust_remote_code": False, "quiet": False}
    names |= {"tokenizer": None, "adapter": None}
    args = argparse.Namespace(**names | options)
    for _ in range(2):
        common.load_to_measure(args, str(checkpoint))


def test_a_command_that_loads_several_checkpoints_logs_once(checkpoint, timings, caplog):
    load_twice(checkpoint)
    (record,) = caplog.records
    assert SENTENCE in record.getMessage()
    assert record.levelno == logging.WARNING
    assert len(timings) == 1


@pytest.mark.parametrize("options", [{"dtype": "float32"}, {"quiet": True}])
def test_options_turn_the_message_and_its_timing_off(checkpoint, timings, caplog, options):
    load_twice(checkpoint, **options)
    assert not caplog.records
    assert not timings


@pytest.mark.parametrize(
    "command",
    [
        ["measure", "--rule", "fat", "--level", "0"],
        ["compare", "--rule", "fat", "--steps", "2"],
        ["neurons"],
        ["track"],
        ["evaluate", "--tasks", "piqa", "--ppl", "1"],
    ],
)
@pytest.mark.parametrize("given", [True, False])
def test_every_measuring_command_gives_the_advice_before_it_reads_the_text(
    checkpoint, timings, tmp_path, caplog, command, given, request
):
    """A text of one token ends the command after the model is loaded and before any pass."""
    name, *options = command
    if name == "evaluate":
        request.getfixturevalue("lm_eval")  # skips without lm-eval
    options += ["--dtype", "float32"] if given else []
    shutil.copytree(checkpoint, tmp_path / "run" / "checkpoint-1")
    folder = tmp_path / "run" if name == "track" else checkpoint
    options += ["--tokens-per-step", "1"] if name == "track" else []
    (tmp_path / "short.txt").write_text("a")
    options += ["--text", str(tmp_path / "short.txt"), "--device", "cpu", "-o", str(tmp_path / "out")]
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert main([name, str(folder), *options]) == 2
    assert (SENTENCE in caplog.text) is not given
    assert len(timings) == (not given)
