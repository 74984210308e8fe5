"""Decodes each token id to its own piece of text, so that the pieces concatenate to the original text.

Decoding a token alone gives wrong text: SentencePiece drops the space before the token, and a byte-level token may be
only a part of a character.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_REPLACEMENT = "\ufffd"
"""The character that a tokenizer writes for bytes that are no complete character."""
_LONGEST = 8
"""Most tokens that are collected in the hope of a complete character; after that the broken character is shown."""


def token_texts(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text of each token, one string per id.

    Where several tokens share a character, the last of them gets the character and the others get empty strings.
    The cost is linear in the number of tokens: each token is decoded together with only the tokens just before it, as
    servers do that stream text.
    """
    ids = [int(token) for token in ids]
    texts: list[str] = []
    begin = end = 0  # ids[begin:end] is the context: the tokens of the last piece of text
    for i in range(len(ids)):
        before = _decode(tokenizer, ids[begin:end])
        after = _decode(tokenizer, ids[begin : i + 1])
        if after.endswith(_REPLACEMENT) and i + 1 < len(ids) and i - end < _LONGEST:
            texts.append("")
            continue
        texts.append(after[len(before) :])
        begin, end = end, i + 1
    return texts


def token_text(tokenizer: Any, token: int) -> str:
    """The text of one token on its own; a token that is a part of a character shows its bytes as Latin-1.

    A byte-level vocabulary has many such tokens, and the tokenizer would decode them all to the same character.
    """
    text = str(tokenizer.decode([token]))
    if _REPLACEMENT not in text:
        return text
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    byte_of = {character: byte for byte, character in bytes_to_unicode().items()}
    characters = str(tokenizer.convert_ids_to_tokens(token))
    if not all(character in byte_of for character in characters):
        return text
    return bytes(byte_of[character] for character in characters).decode("latin-1")


def _decode(tokenizer: Any, ids: list[int]) -> str:
    # clean-up would remove spaces before punctuation, so the pieces would no longer give the original text
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False) if ids else ""
