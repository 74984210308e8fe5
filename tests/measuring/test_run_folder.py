"""A run folder holds results of one model and one text, and interrupted runs of others are left alone."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest

from sparsing.errors import InputError
from sparsing.measuring.run_folder import RUN_FILE, claim_folder, open_journal, write_claim

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
