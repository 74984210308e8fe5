"""Token files and windows: documents are complete and in order, and windows depend only on their index and seed."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sparsing.errors import InputError
from sparsing.text.reading import PIECE
from sparsing.training.data import Windows, read_texts, write_tokens
from sparsing.training.tokenizer import open_tokenizer, train_tokenizer

from .runs import TEXTS


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 280, 32)


def whole(texts):
    return [(text, True) for text in texts]


def test_documents_are_between_bos_and_eos(tokenizer, tmp_path):
    ids = write_tokens(tmp_path / "tokens.bin", whole(TEXTS), tokenizer, most=10**6, key={})
    assert ids.dtype == np.uint16
    parts = np.split(ids, np.flatnonzero(ids == tokenizer.eos_token_id) + 1)
    assert len(parts) == len(TEXTS) + 1
    assert len(parts[-1]) == 0
    for part, text in zip(parts, TEXTS, strict=False):
        assert part[0] == tokenizer.bos_token_id
        assert tokenizer.decode(part[1:-1]) == text


def test_a_document_in_pieces_gives_the_same_tokens(tokenizer, tmp_path):
    long = "".join(TEXTS) * 4
    assert len(long) > PIECE
    path = tmp_path / "long.txt"
    path.write_text(long, encoding="utf-8")
    pieces = read_texts(str(path), split="train", column="text")
    ids = write_tokens(tmp_path / "a.bin", pieces, tokenizer, most=10**6, key={})
    assert np.array_equal(ids, write_tokens(tmp_path / "b.bin", whole([long]), tokenizer, most=10**6, key={}))


def test_reading_stops_at_the_wanted_number(tokenizer, tmp_path):
    def endless():
        while True:
            yield TEXTS[0], True

    assert len(write_tokens(tmp_path / "tokens.bin", endless(), tokenizer, most=1000, key={})) == 1000


def test_a_token_file_is_reused_only_with_the_same_key(tokenizer, tmp_path):
    path = tmp_path / "tokens.bin"
    write_tokens(path, whole(TEXTS), tokenizer, most=500, key={"text": "a"})
    again = write_tokens(
        path, whole([]), tokenizer, most=500, key={"text": "a"}
    )  # an empty text would be refused
    assert len(again) == 500
    assert len(write_tokens(path, whole(TEXTS), tokenizer, most=400, key={"text": "a"})) == 400
    assert json.loads(path.with_suffix(".json").read_text("utf-8"))["most"] == 400
    with pytest.raises(InputError, match=r"data.text gives 0 tokens"):
        write_tokens(path, whole([]), tokenizer, most=400, key={"text": "b"})


def test_a_damaged_token_file_is_written_again(tokenizer, tmp_path):
    path = tmp_path / "tokens.bin"
    before = np.array(write_tokens(path, whole(TEXTS), tokenizer, most=500, key={"text": "a"}))
    path.write_bytes(path.read_bytes()[:600])
    assert np.array_equal(write_tokens(path, whole(TEXTS), tokenizer, most=500, key={"text": "a"}), before)
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(InputError, match="now gives other tokens than when the run began"):
        write_tokens(path, whole(TEXTS[1:]), tokenizer, most=500, key={"text": "a"})


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_rows_of_a_table_are_documents(tokenizer, tmp_path, suffix):
    import pandas

    path = tmp_path / f"rows.{suffix}"
    frame = pandas.DataFrame({"body": TEXTS[:3]})
    frame.to_json(path, orient="records", lines=True) if suffix == "jsonl" else frame.to_parquet(path)
    assert list(read_texts(str(path), split="train", column="body")) == whole(TEXTS[:3])
    with pytest.raises(InputError, match="text"):
        list(read_texts(str(path), split="train", column="text"))


def test_the_builtin_text_has_two_splits():
    train, held = (next(iter(read_texts("builtin", split=split, column=""))) for split in ("train", "test"))
    assert train != held


def test_every_pass_shows_every_window_once_in_another_order():
    context, ids = 8, np.arange(8 * 10 + 7, dtype=np.uint16)
    windows = Windows(ids, context, 20, seed=3)
    assert windows.per_pass == 10
    turns = [[windows[turn * 10 + i]["input_ids"] for i in range(10)] for turn in (0, 1)]
    starts = [[int(window[0]) for window in turn] for turn in turns]
    for turn, start in zip(turns, starts, strict=True):
        assert sorted(start) == list(range(min(start), min(start) + 80, 8))
        assert all(np.array_equal(w, np.arange(s, s + 8)) for w, s in zip(turn, start, strict=True))
    assert starts[0] != starts[1]
    assert min(starts[0]) != min(starts[1])


def test_a_window_does_not_depend_on_earlier_reads():
    ids = np.arange(8 * 10 + 7, dtype=np.uint16)
    straight, jumping = (Windows(ids, 8, 30, seed=1) for _ in range(2))
    order = [25, 3, 17, 4, 29, 0]
    windows = {i: jumping[i]["input_ids"].tolist() for i in order}
    assert all(straight[i]["input_ids"].tolist() == windows[i] for i in range(30) if i in windows)
    other = Windows(ids, 8, 30, seed=2)
    assert [other[i]["input_ids"].tolist() for i in order] != list(windows.values())


def test_held_out_windows_come_in_order():
    windows = Windows(np.arange(20, dtype=np.uint16), 8, 2, shuffle=False)
    assert [windows[i]["input_ids"][0].item() for i in range(2)] == [0, 8]


def test_a_text_shorter_than_a_window_is_refused():
    with pytest.raises(InputError, match="10 tokens of text do not fill windows of 16"):
        Windows(np.arange(10, dtype=np.uint16), 16, 4)


def test_a_tokenizer_reads_its_sample_and_can_be_saved(tokenizer, tmp_path):
    few = train_tokenizer(TEXTS, 280, 32, sample_chars=len(TEXTS[0]))
    assert few.get_vocab() != tokenizer.get_vocab()
    assert few.get_vocab() == train_tokenizer(TEXTS[:1], 280, 32).get_vocab()
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    again = open_tokenizer(tmp_path / "tokenizer")
    assert again(TEXTS[1])["input_ids"] == tokenizer(TEXTS[1])["input_ids"]
    assert again("a")["input_ids"][0] == again.bos_token_id


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(InputError, match="gives no tokenizer"):
        open_tokenizer(tmp_path)
