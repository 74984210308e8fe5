"""A corpus: one array of token ids, cut into windows, with a mask of the tokens that count.

`load_corpus` reads and tokenises a text, `split_holdout` divides it, and `Corpus.batches` gives the batches that a
model runs on. Windows are either packed (documents joined by the end-of-text token, then cut, with an optional
stride) or hold one document each. Padding never counts; BOS counts only on request. Ids take 4 bytes each and text
is tokenised piece by piece, so nothing else grows with the corpus.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from sparsing.errors import InputError
from sparsing.text.reading import Piece, check_options, read_pieces

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

_UNKNOWN_SHARE = 0.01
"""Largest share of unknown tokens without a warning."""
_CONTEXT_CHARS = 200
"""Characters on either side of a token that may influence where a tokenizer splits the text."""

Bos = Literal["auto", "always", "never"]
"""Whether BOS is put before a window: as the tokenizer does, in any case, or not at all."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Corpus:
    """Windows over one flat array of token ids. Windows may overlap, but every token counts once."""

    ids: np.ndarray
    """Token ids of all documents, concatenated, shape `(num_ids,)`, int32."""
    starts: np.ndarray
    """Index in `ids` of the first id of each window, shape `(n_windows,)`, int64."""
    lengths: np.ndarray
    """Number of ids in each window, shape `(n_windows,)`, int64."""
    fresh: np.ndarray
    """Number of ids at the beginning of each window that an earlier window counts, shape `(n_windows,)`, int64."""
    bos: int | None = None
    """Id of the BOS token that is put before each window. None puts no token there."""
    count_bos: bool = False
    """True when BOS counts as a token, as in the reference code."""
    source: str = "text"
    """Name of the text, as the caller gave it."""

    def __repr__(self) -> str:
        return (
            f"Corpus({self.source}: {self.num_tokens:,} tokens in {self.n_windows:,} windows of {self.width})"
        )

    @property
    def n_windows(self) -> int:
        return len(self.starts)

    @property
    def width(self) -> int:
        """Number of positions of the longest window, BOS included."""
        return int(self.lengths.max()) + (self.bos is not None)

    @property
    def num_tokens(self) -> int:
        """Number of tokens that count."""
        return int((self.lengths - self.fresh).sum()) + (self.n_windows if self._bos_counts else 0)

    @property
    def _bos_counts(self) -> bool:
        return self.count_bos and self.bos is not None

    def token_ids(self) -> np.ndarray:
        """Every id that a model gets: the ids of the text, and BOS, shape `(num_ids,)` or one more, int32."""
        return self.ids if self.bos is None else np.append(self.ids, np.int32(self.bos))

    def sha256(self) -> str:
        """SHA-256 of the ids, the windows and the choice of counted tokens, in hexadecimal."""
        digest = hashlib.sha256(repr((self.bos, self.count_bos)).encode())
        for array in (self.ids, self.starts, self.lengths, self.fresh):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def provenance(self) -> dict[str, Any]:
        """The fields of `Provenance` that the corpus decides."""
        return {"corpus": self.source, "corpus_sha256": self.sha256(), "num_tokens": self.num_tokens}

    def part(self, windows: np.ndarray) -> Corpus:
        """The corpus of some windows only.

        Args:
            windows: Indices of the windows, in the wanted order.
        """
        return dataclasses.replace(
            self, starts=self.starts[windows], lengths=self.lengths[windows], fresh=self.fresh[windows]
        )

    def batches(self, batch_size: int, *, begin: int = 0, device: Any = "cpu") -> Iterator[Batch]:
        """Windows `begin, begin + 1, ...` in batches of at most `batch_size`, padded on the right."""
        for first in range(begin, self.n_windows, batch_size):
            yield self._batch(np.arange(first, min(first + batch_size, self.n_windows)), device)

    def _batch(self, windows: np.ndarray, device: Any) -> Batch:
        import torch  # here, because reading a corpus must not cost the import of torch

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
            labelled[row, max(1, lead + fresh) : lead + length] = True  # nothing predicts the first position
            counted[row, :lead] = self._bos_counts
        # the index in the whole corpus identifies a token independently of batch size and order of batches
        place = self.starts[windows][:, None] + np.arange(width)[None, :] - lead
        label_counts = tuple(int(count) for count in labelled.sum(-1))

        first = int(windows[0])
        return Batch(
            windows=windows,
            ids=torch.from_numpy(ids),
            real=torch.from_numpy(real),
            counted=torch.from_numpy(counted),
            labelled=torch.from_numpy(labelled),
            place=torch.from_numpy(place),
            label_index=torch.from_numpy(np.flatnonzero(labelled)),
            label_counts=label_counts,
            counted_before=int((self.lengths - self.fresh)[:first].sum()) + first * self._bos_counts,
        ).to(device)


@dataclasses.dataclass(frozen=True, eq=False)
class Batch:
    """Some windows, padded to the same width. Tensors have shape `(windows, width)` unless said otherwise."""

    windows: np.ndarray
    """Indices of the windows in the corpus, shape `(windows,)`."""
    ids: torch.Tensor
    """Token ids, int64."""
    real: torch.Tensor
    """The attention mask: False at padding, bool."""
    counted: torch.Tensor
    """Tokens whose activations count, bool."""
    labelled: torch.Tensor
    """Tokens whose prediction counts, bool. The first token of a window is never one of them."""
    place: torch.Tensor
    """Index of each token in `Corpus.ids`, int64. BOS and padding have an index that belongs to another token."""
    label_index: torch.Tensor
    """Index of the labelled tokens in the flattened batch, int64, shape `(labelled tokens,)`."""
    label_counts: tuple[int, ...]
    """Labelled tokens of each window. They are numbers of the host, so that using them waits for no accelerator."""
    counted_before: int
    """Tokens of the earlier windows of the corpus whose activations count."""

    def to(self, device: Any) -> Batch:
        """The batch with its tensors on this device."""
        import torch

        def moved(value: Any) -> Any:
            if not isinstance(value, torch.Tensor):
                return value
            if torch.device(device).type == "cuda" and value.device.type == "cpu":
                # a copy from pinned memory does not make the host wait for the accelerator
                return value.pin_memory().to(device, non_blocking=True)
            return value.to(device)

        return dataclasses.replace(self, **{name: moved(value) for name, value in vars(self).items()})

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
    bos: Bos = "auto",
    count_bos: bool = False,
    split: str | None = None,
    column: str | None = None,
    join: str | None = None,
    name: str | None = None,
) -> Corpus:
    """Reads a text, tokenises it and divides it into windows.

    Args:
        source: A file of text or of rows, a folder of them, the name of a dataset on the hub (`name` or
            `name:config`), or an iterable of documents; docs/inputs.md lists all kinds.
        window: Tokens per window, BOS included.
        stride: Tokens between the starts of windows. With a stride shorter than the window, windows overlap and
            every token counts in the first window that contains it. Default: no overlap.
        documents: True gives each document its own windows in place of packing; long documents get several.
        max_tokens: Most tokens to read.
        bos: Whether BOS is put before each window.
        count_bos: True counts BOS as a token.
        split: Split of a dataset. None reads `train`.
        column: Column of rows that holds the text. None reads `text`.
        join: Text between documents, e.g. two newlines, in place of the end-of-text token. All documents become one,
            and empty rows are kept, as published perplexities of WikiText are computed.
        name: Name of the corpus in results when `source` is an iterable.

    Raises:
        InputError: If the source does not exist or cannot be read, if it gives fewer than two tokens, or if
            `window`, `stride` or `max_tokens` is out of range, or if an option has no effect on this source or
            together with the others.
    """
    if documents and (stride is not None or join is not None):
        option = "--join" if stride is None else "--stride"
        raise InputError(
            f"{option} has no effect with --documents, which gives each document its own windows; leave one of them out"
        )
    lead = bos_id(tokenizer, bos)
    capacity = window - (lead is not None)  # ids per window beside BOS
    stride = capacity if stride is None else stride
    if capacity < 2:
        beside = " beside BOS" if lead is not None else ""
        raise InputError(f"a window must hold at least 2 tokens{beside}, got {window}; raise --window")
    if not 1 <= stride <= capacity:
        raise InputError(
            f"--stride must be in [1, {capacity}] for windows of {window} tokens, got {stride}; windows that do not"
            " touch would leave out tokens"
        )
    if max_tokens is not None and max_tokens < 2:
        raise InputError(f"--max-tokens must be at least 2, got {max_tokens}")
    label = str(source) if isinstance(source, (str, Path)) else (name or "texts in memory")
    if isinstance(source, (str, Path)):
        check_options(source, split=split, column=column)
    texts = read_pieces(source, split=split, column=column, join=join)
    tokenised = list(_tokenise(texts, tokenizer, max_tokens, joined=not documents))
    ids = np.concatenate([piece.ids for piece in tokenised]) if tokenised else np.zeros(0, np.int32)
    if len(ids) < 2:
        raise InputError(
            f"{label!r} gives {len(ids)} tokens; perplexity needs at least 2 tokens: give a longer text"
        )
    _warn_of_lost_tokens(ids, tokenised, tokenizer, label, is_packed=not documents)
    if documents:
        edges = _document_edges(tokenised)
        windows = [w for a, b in itertools.pairwise(edges) for w in _windows(a, b, capacity, capacity)]
        # nothing predicts the first token of a window, so without BOS a window of one token has no loss
        windows = [w for w in windows if w.length > 1 or lead is not None]
        if not windows:
            raise InputError(
                f"{label!r} has no document of at least two tokens, and a first token is not predicted; leave out"
                " --documents, or give --bos always"
            )
    else:
        windows = list(_windows(0, len(ids), capacity, stride))
    starts, lengths, fresh = (np.array(column, dtype=np.int64) for column in zip(*windows, strict=True))
    return Corpus(
        ids=ids, starts=starts, lengths=lengths, fresh=fresh, bos=lead, count_bos=count_bos, source=label
    )


def _warn_of_lost_tokens(
    ids: np.ndarray, tokenised: list[_TokenisedPiece], tokenizer: Any, label: str, *, is_packed: bool
) -> None:
    """Warns if documents follow each other without a separator, or if much of the text is unknown to the tokenizer."""
    num_documents = sum(piece.ends_document for piece in tokenised)
    if is_packed and num_documents > 1 and tokenizer.eos_token_id is None:
        logger.warning(
            "%s: the tokenizer has no end-of-text token, so nothing separates the %d documents; choose a separator with"
            " --join, or give each document its own windows with --documents",
            label,
            num_documents,
        )
    unknown = getattr(tokenizer, "unk_token_id", None)
    # some tokenizers use one token for both, and then it is no sign of unknown text
    if unknown is None or unknown in (tokenizer.eos_token_id, tokenizer.bos_token_id):
        return
    share = float((ids == unknown).mean())
    if share > _UNKNOWN_SHARE:
        message = (
            "%s: the tokenizer does not know %.1f%% of the tokens (%s); is it the tokenizer of this language?"
        )
        logger.warning(message, label, 100 * share, tokenizer.unk_token)


def split_holdout(corpus: Corpus, share: float) -> tuple[Corpus, Corpus | None]:
    """Splits off the last `share` of the tokens. A window that contains the border is cut in two.

    Returns: The corpus on which thresholds are found, and the held-out corpus (None if `share` is 0).

    Raises:
        InputError: If `share` is outside [0, 0.9], or if a part would have fewer than two tokens.
    """
    if not 0 <= share <= 0.9:
        raise InputError(
            f"--holdout must be in [0, 0.9], got {share}; the default is 0.1, and 0 turns it off"
        )
    if share == 0:
        return corpus, None
    ends = corpus.starts + corpus.lengths
    border = round(int(ends.max()) * (1 - share))
    head, tail = corpus.starts + corpus.fresh < border, ends > border
    # a held-out window may begin before the border; it is cut there, so that no calibration token is its context
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
    for part, purpose in ((kept, "calibration"), (held, "held-out")):
        if part.n_windows == 0 or part.lengths.max() < 2:
            raise InputError(
                f"{corpus.num_tokens} tokens are too few for a {purpose} part at --holdout {share};"
                " give a longer text or --holdout 0"
            )
    return kept, held


def bos_id(tokenizer: Any, bos: Bos = "auto") -> int | None:
    """The id of the token to put before each window, or None.

    `auto` gives BOS if the tokenizer itself puts BOS before a text.

    Raises:
        InputError: If `bos` is `always` and the tokenizer has no BOS token.
    """
    if bos == "never":
        return None
    if bos == "always":
        if tokenizer.bos_token_id is None:
            raise InputError("--bos always: this tokenizer has no BOS token; use --bos auto or never")
        return tokenizer.bos_token_id
    lead = tokenizer("a")["input_ids"][:1]
    return tokenizer.bos_token_id if lead and lead[0] == tokenizer.bos_token_id else None


class _TokenisedPiece(NamedTuple):
    """A `Piece` as token ids, int32."""

    ids: np.ndarray
    ends_document: bool


def _tokenise(
    texts: Iterable[Piece], tokenizer: Any, max_tokens: int | None, *, joined: bool
) -> Iterator[_TokenisedPiece]:
    """The pieces as token ids, equal to the ids of each document tokenised as a whole.

    With `joined`, the end-of-text token stands between documents.
    """
    left = max_tokens if max_tokens is not None else np.iinfo(np.int64).max
    separator = [tokenizer.eos_token_id] if joined and tokenizer.eos_token_id is not None else []
    before: list[int] = []
    text, done = "", 0  # the last part of the document so far, and how many of its characters are tokenised
    for piece, ends_document in texts:
        text += piece
        new, done = _encode(tokenizer, text, done, ends_document)
        ids = np.asarray([*before, *new], dtype=np.int32)[:left]
        yield _TokenisedPiece(ids, ends_document)
        left -= len(ids)
        if left <= 0:
            return
        begin = max(0, done - _CONTEXT_CHARS)
        text, done = ("", 0) if ends_document else (text[begin:], done - begin)
        before = separator if ends_document else []


def _encode(tokenizer: Any, text: str, done: int, ends_document: bool) -> tuple[list[int], int]:
    """Ids of the tokens that begin at character `done` or later, and where in `text` the next token begins.

    Tokens near the end of `text` are left for the next call, because the text that follows influences them, unless
    the document ends here.
    """
    plain = {"add_special_tokens": False, "verbose": False}
    if not tokenizer.is_fast:  # slow tokenizers give no offsets, so each piece is tokenised alone
        return tokenizer(text[done:], **plain)["input_ids"], len(text)
    encoded = tokenizer(text, return_offsets_mapping=True, **plain)
    begins = [begin for begin, _ in encoded["offset_mapping"]]
    certain = [begin for begin in begins if done <= begin <= len(text) - _CONTEXT_CHARS]
    end = len(text) + 1 if ends_document else max(certain, default=done)
    pairs = zip(encoded["input_ids"], begins, strict=True)
    return [token for token, begin in pairs if done <= begin < end], end


class _Window(NamedTuple):
    """One entry of `Corpus.starts`, `lengths` and `fresh`."""

    start: int
    length: int
    fresh: int


def _windows(begin: int, end: int, capacity: int, stride: int) -> Iterator[_Window]:
    """The windows over the ids `[begin, end)`; every id counts in exactly one of them."""
    counted_to = begin
    for start in itertools.count(begin, stride):
        stop = min(start + capacity, end)
        yield _Window(start, stop - start, counted_to - start)
        counted_to = stop
        if stop == end:
            return


def _document_edges(tokenised: list[_TokenisedPiece]) -> list[int]:
    """Indices of the ids where documents begin, and the number of ids as the last entry."""
    ends = np.cumsum([len(piece.ids) for piece in tokenised])
    edges = [0, *(int(end) for end, piece in zip(ends, tokenised, strict=True) if piece.ends_document)]
    # `max_tokens` may stop the reading inside a document
    return edges if edges[-1] == ends[-1] else [*edges, int(ends[-1])]
