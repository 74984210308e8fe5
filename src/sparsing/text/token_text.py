"""Token ids as the pieces of text they stand for, in place: put together they give the text again.

A token alone does not say what it stands for: SentencePiece drops the space before it, and a byte-level token
may be a part of a character.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_UNFINISHED = "\ufffd"
_LONGEST = 8
"""Tokens that are waited for before a broken character is shown as it is."""


def token_texts(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """One text per token; the bytes of a character that several tokens share stand with the last of them.

    Each token is decoded behind the ones before it, in a window that moves along (as servers do when they
    stream), so the cost grows with the number of tokens only.
    """
    ids = [int(token) for token in ids]
    texts: list[str] = []
    begin = read = 0
    for i in range(len(ids)):
        before = _decode(tokenizer, ids[begin:read])
        after = _decode(tokenizer, ids[begin : i + 1])
        if after.endswith(_UNFINISHED) and i + 1 < len(ids) and i - read < _LONGEST:
            texts.append("")
            continue
        texts.append(after[len(before) :])
        begin, read = read, i + 1
    return texts


def _decode(tokenizer: Any, ids: list[int]) -> str:
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False) if ids else ""
