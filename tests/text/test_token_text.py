"""Texts of tokens put together give the text again, for tokenizers that a token alone misleads."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sparsing.text.token_text import token_texts

from ..helpers.tiny import tiny_tokenizer

TEXT = "na\u00efve \u4f60\u597d \u05e9\u05dc\u05d5\u05dd \U0001f9d1\u200d\U0001f680 <b>\n\tend"


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, so that most characters are several tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def test_bytes_of_a_character_stand_with_the_last_of_them():
    tokenizer = byte_tokenizer()
    ids = tokenizer(TEXT)["input_ids"]
    texts = token_texts(tokenizer, ids)
    assert len(texts) == len(ids) == len(TEXT.encode())
    assert "".join(texts) == TEXT
    assert [text for text in texts if text] == list(TEXT)


def test_bytes_that_are_no_character_are_shown_broken():
    tokenizer = byte_tokenizer()
    ids = [tokenizer.convert_tokens_to_ids("\u00e4")] * 30  # byte 0xe4 again and again
    texts = token_texts(tokenizer, ids)
    assert len(texts) == 30
    assert set("".join(texts)) == {"\ufffd"}


def test_spaces_stay_where_a_tokenizer_hides_them(shared):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(shared / "models" / "stories260K")
    ids = tokenizer("Once upon a time, there was a little girl.", add_special_tokens=False)["input_ids"]
    texts = token_texts(tokenizer, ids)
    assert "".join(texts).strip() == "Once upon a time, there was a little girl."
    assert any(text.startswith(" ") for text in texts)


@pytest.mark.parametrize("text", ["", "a", "ab cd"])
def test_plain_tokenizer(text):
    tokenizer = tiny_tokenizer()
    assert "".join(token_texts(tokenizer, tokenizer(text)["input_ids"])) == text
