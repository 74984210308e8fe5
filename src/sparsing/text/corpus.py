"""Text as windows of token ids, with a mask that says which tokens count.

Either packed (documents joined by the end-of-text token and cut into windows, with an optional stride) or
one document per window. Ids are kept at 4 bytes each; text is read and tokenised in pieces, so nothing else
grows with the corpus. Padding never counts, BOS only by option.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sparsing.errors import InputError
from sparsing.text.reading import pieces

if TYPE_CHECKING:
    import torch

AROUND = 200
"""Characters on either side that a tokenizer may look at before it splits a text."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Corpus:
    """Windows over one flat array of token ids."""

    ids: np.ndarray
    """Token ids of all documents one after the other, shape `(num_ids,)`, int32."""
    starts: np.ndarray
    """First id of each window, shape `(n_windows,)`, int64."""
    lengths: np.ndarray
    """Ids in each window, shape `(n_windows,)`, int64."""
    fresh: np.ndarray
    """First position of each window that no window before has counted, shape `(n_windows,)`, int64."""
    bos: int | None = None
    """Id put before each window; None for none."""
    count_bos: bool = False
    """True when BOS counts as a token (as in the reference)."""
    source: str = "text"

    @property
    def n_windows(self) -> int:
        return len(self.starts)

    @property
    def width(self) -> int:
        """Positions of the longest window, BOS included."""
        return int(self.lengths.max()) + (self.bos is not None)

    @property
    def num_tokens(self) -> int:
        """Tokens that count."""
        return int((self.lengths - self.fresh).sum()) + (self.n_windows if self._bos_counts else 0)

    @property
    def _bos_counts(self) -> bool:
        return self.count_bos and self.bos is not None

    def sha256(self) -> str:
        """Digest of ids, windows and what counts."""
        digest = hashlib.sha256(repr((self.bos, self.count_bos)).encode())
        for array in (self.ids, self.starts, self.lengths, self.fresh):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def provenance(self) -> dict[str, Any]:
        """The fields of `Provenance` that the corpus decides."""
        return {"corpus": self.source, "corpus_sha256": self.sha256(), "num_tokens": self.num_tokens}

    def part(self, windows: np.ndarray) -> Corpus:
        """The corpus of these windows only (indices, in the order given)."""
        return dataclasses.replace(
            self, starts=self.starts[windows], lengths=self.lengths[windows], fresh=self.fresh[windows]
        )

    def batches(self, batch_size: int, *, begin: int = 0, device: Any = "cpu") -> Iterator[Batch]:
        """Windows `begin, begin + 1, ...` in batches, padded on the right."""
        for first in range(begin, self.n_windows, batch_size):
            yield self._batch(np.arange(first, min(first + batch_size, self.n_windows)), device)

    def _batch(self, windows: np.ndarray, device: Any) -> Batch:
        import torch

        lead = int(self.bos is not None)
        width = int(self.lengths[windows].max()) + lead
        ids = np.full((len(windows), width), self.bos or 0, dtype=np.int64)
        real = np.zeros((len(windows), width), dtype=bool)
        counted = np.zeros_like(real)
        labelled = np.zeros_like(real)
        for row, window in enumerate(windows):
            start, length, fresh = self.starts[window], self.lengths[window], self.fresh[window]
            ids[row, lead : lead + length] = self.ids[start : start + length]
            real[row, : lead + length] = True
            counted[row, lead + fresh : lead + length] = True
            labelled[row, max(1, lead + fresh) : lead + length] = True
            counted[row, :lead] = self._bos_counts
        # the position in the whole corpus names a token whatever batch or order it comes in
        place = self.starts[windows][:, None] + np.arange(width)[None, :] - lead
        tensors = (torch.from_numpy(array).to(device) for array in (ids, real, counted, labelled, place))
        return Batch(windows, *tensors)


@dataclasses.dataclass(frozen=True, eq=False)
class Batch:
    """Some windows, padded to the same width; every tensor has shape `(windows, width)`."""

    windows: np.ndarray
    """Which windows of the corpus."""
    ids: torch.Tensor
    real: torch.Tensor
    """The attention mask."""
    counted: torch.Tensor
    """Tokens whose activations count."""
    labelled: torch.Tensor
    """Tokens whose prediction counts (never the first of a window)."""
    place: torch.Tensor
    """Index of each token in `Corpus.ids`."""

    @property
    def span(self) -> slice:
        """The windows of this batch as a slice of the windows of the corpus; they follow each other."""
        return slice(int(self.windows[0]), int(self.windows[-1]) + 1)


def load_corpus(
    source: str | Path | Iterable[str],
    tokenizer: Any,
    *,
    window: int,
    stride: int | None = None,
    documents: bool = False,
    max_tokens: int | None = None,
    bos: Literal["auto", "always", "never"] = "auto",
    count_bos: bool = False,
    split: str = "train",
    column: str = "text",
    name: str | None = None,
) -> Corpus:
    """Read text, tokenise it and lay it out in windows.

    Args:
        source: a text file, a folder of text, a .jsonl or .parquet file, the name of a dataset on the hub
            (`name` or `name:config`), or an iterable of documents.
        window: tokens per window, BOS included.
        stride: tokens between window starts; below the window's room, windows overlap and every token
            counts once, in the first window that holds it. Default: no overlap.
        documents: one document per window (longer ones are cut into several) in place of packing.
        max_tokens: stop after this many.
        split, column: for datasets, and the column of jsonl and parquet files.

    Raises:
        InputError: no such source, no text in it, or fewer than two tokens.
    """
    lead = bos_id(tokenizer, bos)
    room = window - (lead is not None)
    stride = room if stride is None else stride
    if room < 2 or not 1 <= stride <= room:
        raise InputError(
            f"window {window} and stride {stride}: a window must hold at least 2 tokens beside BOS and the"
            f" stride must be in [1, {room}]; raise --window or lower --stride"
        )
    if max_tokens is not None and max_tokens < 2:
        raise InputError(f"--max-tokens must be at least 2, got {max_tokens}")
    label = str(source) if isinstance(source, (str, Path)) else (name or "texts in memory")
    texts = pieces(source, split=split, column=column)
    arrays = list(_tokenised(texts, tokenizer, max_tokens, joined=not documents))
    ids = np.concatenate([array for array, _ in arrays]) if arrays else np.zeros(0, np.int32)
    if len(ids) < 2:
        raise InputError(
            f"{label!r} gives {len(ids)} tokens; perplexity needs at least 2: give a longer text"
        )
    if documents:
        edges = _document_edges(arrays)
        spans = [span for a, b in itertools.pairwise(edges) for span in _spans(a, b, room, room)]
        spans = [span for span in spans if span[1] > 1 or lead is not None]
        if not spans:
            raise InputError(
                f"{label!r} has no document of two tokens, and the first one is not predicted; leave out"
                " --documents, or give --bos always"
            )
    else:
        spans = list(_spans(0, len(ids), room, stride))
    starts, lengths, fresh = (np.array(column, dtype=np.int64) for column in zip(*spans, strict=True))
    return Corpus(
        ids=ids, starts=starts, lengths=lengths, fresh=fresh, bos=lead, count_bos=count_bos, source=label
    )


def split_holdout(corpus: Corpus, share: float) -> tuple[Corpus, Corpus | None]:
    """Split off the last `share` of the tokens, cutting the window in which the border falls.

    Returns: the corpus to find thresholds on, and the held-out one (None when `share` is 0).

    Raises:
        InputError: `share` outside [0, 0.9], or too few tokens for both parts.
    """
    if not 0 <= share <= 0.9:
        raise InputError(f"--holdout must be in [0, 0.9], got {share}; 0.1 is the default, 0 turns it off")
    if share == 0:
        return corpus, None
    ends = corpus.starts + corpus.lengths
    border = round(int(ends.max()) * (1 - share))
    head, tail = corpus.starts + corpus.fresh < border, ends > border
    held = dataclasses.replace(
        corpus,
        starts=np.maximum(corpus.starts[tail], border),
        lengths=ends[tail] - np.maximum(corpus.starts[tail], border),
        fresh=np.maximum(corpus.fresh[tail] - np.maximum(border - corpus.starts[tail], 0), 0),
    )
    kept = dataclasses.replace(
        corpus,
        starts=corpus.starts[head],
        lengths=np.minimum(ends[head], border) - corpus.starts[head],
        fresh=corpus.fresh[head],
    )
    for part, what in ((kept, "calibration"), (held, "held-out")):
        if part.n_windows == 0 or part.lengths.max() < 2:
            raise InputError(
                f"{corpus.num_tokens} tokens are too few for a {what} part at --holdout {share};"
                " give a longer text or --holdout 0"
            )
    return kept, held


def bos_id(tokenizer: Any, bos: Literal["auto", "always", "never"] = "auto") -> int | None:
    """The id that this tokenizer puts before a text (`auto`), its BOS (`always`), or None.

    Raises:
        InputError: `always` with a tokenizer that has no BOS.
    """
    if bos == "never":
        return None
    if bos == "always":
        if tokenizer.bos_token_id is None:
            raise InputError("--bos always: this tokenizer has no BOS token; use --bos auto or never")
        return tokenizer.bos_token_id
    lead = tokenizer("a")["input_ids"][:1]
    return tokenizer.bos_token_id if lead and lead[0] == tokenizer.bos_token_id else None


def _tokenised(
    texts: Iterable[tuple[str, bool]], tokenizer: Any, max_tokens: int | None, *, joined: bool
) -> Iterator[tuple[np.ndarray, bool]]:
    """Ids of each piece and whether a document ends there; joined documents have the end-of-text token between."""
    left = max_tokens if max_tokens is not None else np.iinfo(np.int64).max
    between = [tokenizer.eos_token_id] if joined and tokenizer.eos_token_id is not None else []
    before: list[int] = []
    held, done = "", 0  # the end of the text so far, and how many of its characters are tokenised
    for text, ends in texts:
        held += text
        new, done = _encode(tokenizer, held, done, ends)
        ids = np.asarray([*before, *new], dtype=np.int32)[:left]
        yield ids, ends
        left -= len(ids)
        if left <= 0:
            return
        begin = max(0, done - AROUND)
        held, done = ("", 0) if ends else (held[begin:], done - begin)
        before = between if ends else []


def _encode(tokenizer: Any, text: str, done: int, ends: bool) -> tuple[list[int], int]:
    """Ids of the tokens that begin at `done` or later, and where in `text` the next one begins.

    Unless the text `ends`, tokens near its end wait: what follows decides how they are split.
    """
    plain = {"add_special_tokens": False, "verbose": False}
    if not tokenizer.is_fast:  # without offsets a piece stands alone
        return tokenizer(text[done:], **plain)["input_ids"], len(text)
    encoded = tokenizer(text, return_offsets_mapping=True, **plain)
    begins = [begin for begin, _ in encoded["offset_mapping"]]
    sure = [begin for begin in begins if done <= begin <= len(text) - AROUND]
    reached = len(text) + 1 if ends else max(sure, default=done)
    pairs = zip(encoded["input_ids"], begins, strict=True)
    return [token for token, begin in pairs if done <= begin < reached], reached


def _spans(begin: int, end: int, room: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """(start, length, fresh) of the windows over `[begin, end)`; every id is fresh in one of them."""
    covered = begin
    for start in itertools.count(begin, stride):
        stop = min(start + room, end)
        yield start, stop - start, covered - start
        covered = stop
        if stop == end:
            return


def _document_edges(arrays: list[tuple[np.ndarray, bool]]) -> list[int]:
    ends = np.cumsum([len(ids) for ids, _ in arrays])
    edges = [0, *(int(end) for end, (_, last) in zip(ends, arrays, strict=True) if last)]
    return edges if edges[-1] == ends[-1] else [*edges, int(ends[-1])]
