"""Training text as one file of token ids, and the windows of a run in a fixed order.

`write_tokens` reads text as a stream (`sparsing.text.reading`), only as far as the run needs, and writes each document
as `<bos> ... <eos>` into one array of token ids. `Windows` cuts a memory-mapped array of ids into the windows of a run.
A window depends only on its index and the seed, so a process can start at any step without reading earlier ones.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset

from sparsing.base.checked_files import quietly, read_object
from sparsing.base.results import write_atomic, write_text
from sparsing.errors import InputError
from sparsing.models.identity import digest_file, digest_tokenizer
from sparsing.text.corpus import bos_id
from sparsing.text.reading import read_pieces
from sparsing.text.standard_library import library_documents
from sparsing.training.config import BUILTIN

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PIECES_PER_CALL = 256
"""Pieces of text per call of the tokenizer, which tokenizes them in parallel."""


def read_texts(source: str, *, split: str, column: str) -> Iterator[tuple[str, bool]]:
    """Pieces of every document in order, each with True if its document ends there; see `sparsing.text.reading`.

    For the source `builtin`, `split` is "train", or any other name for the held-out documents.
    """
    if source == BUILTIN:
        return read_pieces(library_documents("train" if split == "train" else "heldout"))
    return read_pieces(source, split=split, column=column)


def write_tokens(
    path: Path,
    texts: Iterable[tuple[str, bool]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    most: int,
    key: dict[str, Any],
) -> np.ndarray:
    """Token ids of the texts, at most `most` of them, memory-mapped from the file `path`.

    A JSON file beside `path` describes its content. If it has the same `key`, `most` and tokenizer, and the digest of
    the ids, the ids are read back and `texts` is not read. A damaged file is written again.

    Returns: shape `(tokens,)`, uint16 if the vocabulary allows it, else uint32.

    Raises:
        InputError: if there is no text, the folder is not writable, or a damaged file cannot be written again because
            the text has changed.
    """
    dtype = np.uint16 if len(tokenizer) <= 2**16 else np.uint32
    wanted = {**key, "most": most, "tokenizer": digest_tokenizer(tokenizer), "dtype": np.dtype(dtype).name}
    label = path.with_suffix(".json")
    saved = (quietly(lambda: read_object(label, hint="")) if label.exists() else None) or {}
    digest = saved.pop("sha256", None) if wanted.items() <= saved.items() else None
    if digest is None or not path.exists() or digest_file(path) != digest:
        write_atomic(path, lambda temporary: _write(temporary, texts, tokenizer, most, dtype))
        written = digest_file(path)
        if digest not in (None, written):
            raise InputError(
                f"{str(path)!r} was damaged or removed, and {key.get('text')!r} now gives other tokens than when the"
                " run began; restore the text, or start a new run in another folder with -o"
            )
        write_text(label, json.dumps({**wanted, "sha256": written}, indent=1) + "\n")
    return np.memmap(path, dtype=dtype, mode="r")


def _write(
    path: Path, texts: Iterable[tuple[str, bool]], tokenizer: PreTrainedTokenizerBase, most: int, dtype: Any
) -> None:
    written = 0
    with path.open("wb") as handle:
        for ids in _encode(texts, tokenizer):
            part = ids[: most - written]
            part.astype(dtype).tofile(handle)
            written += len(part)
            if written >= most:
                return
    if written < 2:
        raise InputError(
            f"data.text gives {written} tokens, but training needs at least one window; give more text"
        )


def _encode(texts: Iterable[tuple[str, bool]], tokenizer: PreTrainedTokenizerBase) -> Iterator[np.ndarray]:
    """Token ids of the pieces in order, with `<bos>` and `<eos>` around each document."""
    bos = bos_id(tokenizer)
    start = [] if bos is None else [bos]
    begins = True
    for batch in _batches(texts):
        # pieces end at a line break (`sparsing.text.reading`), so no token is cut between two pieces
        encoded = tokenizer([text for text, _ in batch], add_special_tokens=False, verbose=False)["input_ids"]
        flat: list[int] = []
        for ids, (_, ends) in zip(encoded, batch, strict=True):
            flat += [*(start if begins else []), *ids, *([tokenizer.eos_token_id] if ends else [])]
            begins = ends
        yield np.array(flat, dtype=np.int64)


def _batches(texts: Iterable[tuple[str, bool]]) -> Iterator[list[tuple[str, bool]]]:
    iterator = iter(texts)
    while batch := list(itertools.islice(iterator, _PIECES_PER_CALL)):
        yield batch


class Windows(Dataset):
    """The windows of a run in the order of training. Every pass over the text starts at another random offset.

    Item `i` depends only on `seed` and `i`, so a resumed run and every process of a distributed run get the same
    windows.
    """

    def __init__(self, ids: np.ndarray, context: int, count: int, *, seed: int = 0, shuffle: bool = True):
        """
        Args:
            ids: Token ids, shape `(tokens,)`.
            context: Tokens per window.
            count: Number of windows in the run, over all passes.
            shuffle: False gives the windows in the order of the text, starting at its first token.

        Raises:
            InputError: if there are too few tokens for a window.
        """
        self.ids, self.context, self.count = ids, context, count
        self.seed, self.shuffle = seed, shuffle
        # shuffled passes start at an offset of up to context - 1 tokens and must still fit
        self.per_pass = (len(ids) - (context - 1 if shuffle else 0)) // context
        if self.per_pass < 1:
            raise InputError(
                f"{len(ids)} tokens of text do not fill windows of {context}; give more text or lower"
                " model.context"
            )
        self._pass, self._offset, self._order = -1, 0, np.zeros(0, np.int64)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        number, place = divmod(index, self.per_pass)
        start = place * self.context
        if self.shuffle:
            self._draw_order(number)
            start = self._offset + int(self._order[place]) * self.context
        window = torch.from_numpy(self.ids[start : start + self.context].astype(np.int64))
        return {"input_ids": window, "labels": window}

    def _draw_order(self, number: int) -> None:
        """Set the offset and the order of pass `number` over the text, which are kept until the next pass."""
        if self._pass != number:
            generator = np.random.default_rng((self.seed, number))
            self._pass, self._offset = number, int(generator.integers(self.context))
            self._order = generator.permutation(self.per_pass)
