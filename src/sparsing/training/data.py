"""Training text as one array of token ids on disk, and the windows of a run in their fixed order.

Text is read as a stream (`sparsing.text.reading`: files, jsonl, parquet, `datasets` of the hub) and only as far as the run
needs; each document becomes `<bos> ... <eos>`, one after the other. From then on a window is a place in a
memory-mapped file, so any process can start at any step without reading what is behind it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset

from sparsing.base.results import write_atomic, write_text
from sparsing.errors import InputError
from sparsing.text.corpus import bos_id
from sparsing.text.reading import pieces
from sparsing.training.config import BUILTIN

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BATCH = 256
"""Pieces that are tokenised at once, in parallel."""


def read_texts(source: str, *, split: str, column: str) -> Iterator[tuple[str, bool]]:
    """Pieces of every document in order, each with True when its document ends there; see `text.pieces`."""
    if source == BUILTIN:
        from sparsing.text.standard_library import library_documents

        return pieces(library_documents("train" if split == "train" else "heldout"))
    return pieces(source, split=split, column=column)


def write_tokens(
    path: Path,
    texts: Iterable[tuple[str, bool]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    most: int,
    key: dict[str, Any],
) -> np.ndarray:
    """Token ids of the texts, at most `most`, in `path`; read back when they are there under the same `key`.

    Returns: a memory-mapped array, shape `(tokens,)`, uint16 or uint32.

    Raises:
        InputError: no text, or a folder that is not writable.
    """
    dtype = np.uint16 if len(tokenizer) <= 2**16 else np.uint32
    wanted = {**key, "most": most, "tokenizer": digest_tokenizer(tokenizer), "dtype": np.dtype(dtype).name}
    label = path.with_suffix(".json")
    if not (label.exists() and path.exists() and json.loads(label.read_text("utf-8")) == wanted):
        label.unlink(missing_ok=True)
        write_atomic(path, lambda temporary: _write(temporary, texts, tokenizer, most, dtype))
        write_text(label, json.dumps(wanted, indent=1) + "\n")
    return np.memmap(path, dtype=dtype, mode="r")


def digest_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """Digest of what a tokenizer does: its whole definition where it has one, else its vocabulary."""
    whole = getattr(tokenizer, "backend_tokenizer", None)
    text = whole.to_str() if whole is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _write(
    path: Path, texts: Iterable[tuple[str, bool]], tokenizer: PreTrainedTokenizerBase, most: int, dtype: Any
) -> None:
    written = 0
    with path.open("wb") as handle:
        for ids in _encoded(texts, tokenizer):
            part = ids[: most - written]
            part.astype(dtype).tofile(handle)
            written += len(part)
            if written >= most:
                return
    if written < 2:
        raise InputError(
            f"data.text gives {written} tokens; training needs at least a window: give more text"
        )


def _encoded(texts: Iterable[tuple[str, bool]], tokenizer: PreTrainedTokenizerBase) -> Iterator[np.ndarray]:
    """Ids of the pieces in order, with the marks around documents."""
    lead = bos_id(tokenizer)
    starts = [] if lead is None else [lead]
    fresh = True
    for batch in _batches(texts):
        # a document of several pieces is cut after a line (`text.pieces`), where no token of a text crosses
        plain = tokenizer([text for text, _ in batch], add_special_tokens=False, verbose=False)["input_ids"]
        flat: list[int] = []
        for ids, (_, ends) in zip(plain, batch, strict=True):
            flat += [*(starts if fresh else []), *ids, *([tokenizer.eos_token_id] if ends else [])]
            fresh = ends
        yield np.array(flat, dtype=np.int64)


def _batches(texts: Iterable[tuple[str, bool]]) -> Iterator[list[tuple[str, bool]]]:
    batch: list[tuple[str, bool]] = []
    for piece in texts:
        batch.append(piece)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


class Windows(Dataset):
    """The windows of a run in the order they are trained on; every pass cuts the text at another offset.

    Item `i` is decided by `seed` and `i` alone, whatever was read before, so a resumed run and every process of a
    run on several devices see the same windows.
    """

    def __init__(self, ids: np.ndarray, context: int, count: int, *, seed: int = 0, shuffle: bool = True):
        self.ids, self.context, self.count = ids, context, count
        self.seed, self.shuffle = seed, shuffle
        self.per_pass = (len(ids) - (context - 1 if shuffle else 0)) // context
        if self.per_pass < 1:
            raise InputError(
                f"{len(ids)} tokens of text do not fill windows of {context}; give more text or lower"
                " model.context"
            )
        self._order: tuple[int, int, np.ndarray] = (-1, 0, np.zeros(0, np.int64))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        turn, place = divmod(index, self.per_pass)
        start = place * self.context
        if self.shuffle:
            offset, order = self._turn(turn)
            start = offset + int(order[place]) * self.context
        window = torch.from_numpy(self.ids[start : start + self.context].astype(np.int64))
        return {"input_ids": window, "labels": window}

    def _turn(self, turn: int) -> tuple[int, np.ndarray]:
        """Offset and order of one pass over the text."""
        if self._order[0] != turn:
            generator = np.random.default_rng((self.seed, turn))
            offset = int(generator.integers(self.context))
            self._order = (turn, offset, generator.permutation(self.per_pass))
        return self._order[1:]
