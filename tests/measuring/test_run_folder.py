"""A run folder holds results of one model and one text, and interrupted runs of others are left alone."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from sparsing.errors import InputError
from sparsing.measuring.run_folder import RUN_FILE, claim_folder, default_folder, open_journal, write_claim

from ..helpers.measuring import text_corpus, tiny_loaded

TOTALS = {"next_window": np.array([1])}


def test_the_same_model_and_text_may_come_again_and_another_text_may_not(tmp_path):
    claim_folder(tmp_path, tiny_loaded(), text_corpus(60))
    before = (tmp_path / RUN_FILE).read_bytes()
    claim_folder(tmp_path, tiny_loaded(), text_corpus(60))
    with pytest.raises(InputError, match=r"holds results of another text: .*; choose another folder with -o"):
        claim_folder(tmp_path, tiny_loaded(), text_corpus(70))
    assert (tmp_path / RUN_FILE).read_bytes() == before


def test_another_model_may_not(tmp_path):
    identity = {"weights": "a", "configuration": "b", "tokenizer": "c"}
    claim_folder(tmp_path, tiny_loaded(), identity=identity)
    for name in identity:
        with pytest.raises(InputError, match=f"holds results of another model: {name}"):
            claim_folder(tmp_path, tiny_loaded(), identity=identity | {name: "x"})


def test_a_run_without_a_text_and_one_with_a_text_share_a_folder(tmp_path):
    claim_folder(tmp_path, tiny_loaded())
    claim_folder(tmp_path, tiny_loaded(), text_corpus(60))
    claim_folder(tmp_path, tiny_loaded())
    with pytest.raises(InputError, match="another text"):
        claim_folder(tmp_path, tiny_loaded(), text_corpus(70))


@pytest.mark.parametrize("content", ["{", "[]", '{"entries": 3}', '{"entries": {"a": "b"}, "names": null}'])
def test_a_damaged_claim_is_an_error_that_says_what_to_do(content, tmp_path):
    (tmp_path / RUN_FILE).write_text(content)
    with pytest.raises(InputError, match=r"delete .*run\.json"):
        write_claim(tmp_path, {"a": "b"}, {})


def test_the_journal_of_another_interrupted_run_survives(tmp_path, caplog):
    loaded, one, two = tiny_loaded(), text_corpus(60), text_corpus(70)
    open_journal(tmp_path, loaded, one).put("k", TOTALS)
    finished = open_journal(tmp_path, loaded, two)
    finished.put("k", TOTALS)
    finished.clear()
    assert open_journal(tmp_path, loaded, one).get("k") is not None
    assert not caplog.records


def test_a_run_that_cannot_continue_an_interrupted_one_says_why(tmp_path, caplog):
    open_journal(tmp_path, tiny_loaded(), text_corpus(60), batch_size=4).put("k", TOTALS)
    with caplog.at_level(logging.WARNING):
        assert open_journal(tmp_path, tiny_loaded(), text_corpus(60), batch_size=8).get("k") is None
    assert "another setting (batch size)" in caplog.text
    caplog.clear()
    assert open_journal(tmp_path, tiny_loaded(), text_corpus(60), batch_size=4).get("k") is not None
    assert not caplog.records


def test_a_damaged_identity_of_an_interrupted_run_does_not_stop_others(tmp_path):
    open_journal(tmp_path, tiny_loaded(), text_corpus(60), batch_size=4).put("k", TOTALS)
    (path,) = tmp_path.glob(".journal/*/identity.json")
    path.write_text(json.dumps([1]))
    assert open_journal(tmp_path, tiny_loaded(), text_corpus(60)).get("k") is None


def test_models_with_the_same_last_name_have_their_own_folders(tmp_path, monkeypatch):
    """`runA/checkpoint-1000` and `runB/checkpoint-1000` wrote into one folder, the second over the first."""
    monkeypatch.chdir(tmp_path)
    for run in ("runA", "runB"):
        (tmp_path / run / "checkpoint-1000").mkdir(parents=True)
    names = [
        "runA/checkpoint-1000",
        "runB/checkpoint-1000",
        "meta-llama/Llama-3.2-1B",
        "unsloth/Llama-3.2-1B",
        "runA",
    ]
    folders = [default_folder(name) for name in names]
    assert folders[0] == Path("outputs/runA--checkpoint-1000")
    assert folders[2] == Path("outputs/meta-llama--Llama-3.2-1B")
    assert folders[4] == Path("outputs/runA"), "a single part stands alone"
    assert len(set(folders)) == len(names)
    assert not any(a in b.parents for a in folders for b in folders), "a report of one would contain another"


def test_a_symbolic_link_keeps_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "blobs" / "af3e").mkdir(parents=True)
    (tmp_path / "best").symlink_to(tmp_path / "blobs" / "af3e")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "last").symlink_to(tmp_path / "best")
    assert default_folder("best") == default_folder("./best/") == Path("outputs/best")
    assert default_folder("runs/last") == Path("outputs/runs--last")


def test_the_same_model_has_the_same_folder_however_it_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runA" / "last").mkdir(parents=True)
    spellings = [
        "runA/last",
        "runA/last/",
        "./runA/last",
        "runA/../runA/last",
        str(tmp_path / "runA" / "last"),
    ]
    assert {default_folder(name) for name in spellings} == {Path("outputs/runA--last")}
    assert default_folder("./runA") == default_folder("runA/") == Path("outputs/runA")
    assert default_folder(".") == Path("outputs") / tmp_path.name
    with pytest.raises(InputError, match="gives no name for an output folder; choose a folder with -o"):
        default_folder("/")
