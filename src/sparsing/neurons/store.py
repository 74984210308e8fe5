"""A study in a folder: its numbers as JSON and safetensors, and two Parquet tables, of neurons and of the vocabulary.

`write_study` runs a study and writes all of its files. `neurons.parquet` has one row per neuron with its contexts as
text, and one row group per layer, so that neither writer nor reader holds more than one layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsing.base.progress import Progress
from sparsing.base.results import write_atomic
from sparsing.base.run_lock import PARTIAL, lock_folder
from sparsing.errors import InputError
from sparsing.measuring.run_folder import claim_folder, open_journal
from sparsing.models.identity import identify
from sparsing.neurons.contexts import LayerContexts
from sparsing.neurons.study import CONTEXTS_PER_NEURON, LayerStudy, NeuronStudy, study_neurons
from sparsing.rules.thresholds import Thresholds
from sparsing.text.token_text import token_text

if TYPE_CHECKING:
    from sparsing.models.loading import LoadedModel
    from sparsing.text.corpus import Corpus

NEURONS, VOCABULARY, STUDY = "neurons.parquet", "vocabulary.parquet", "neurons.json"
TOKENS_BEFORE, TOKENS_AFTER = 16, 8
"""Tokens of text around the token of a context."""


def write_study(
    loaded: LoadedModel,
    corpora: Mapping[str, Corpus],
    folder: Path,
    *,
    thresholds: Thresholds | None = None,
    cett: float = 0.2,
    contexts: int = CONTEXTS_PER_NEURON,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> NeuronStudy:
    """`study_neurons` with all files of the study in `folder`; the same call resumes an interrupted study.

    Raises:
        InputError: If `study_neurons` raises it, or the folder cannot be written.
    """
    with lock_folder(folder):
        return _write_study(
            loaded,
            corpora,
            folder,
            batch_size=batch_size,
            thresholds=thresholds,
            cett=cett,
            contexts=contexts,
            progress=progress,
        )


def _write_study(
    loaded: LoadedModel,
    corpora: Mapping[str, Corpus],
    folder: Path,
    *,
    batch_size: int | None,
    **options: Any,
) -> NeuronStudy:
    identity = identify(loaded)
    claim_folder(folder, loaded, identity=identity)
    journals = {
        name: open_journal(folder, loaded, corpus, batch_size=batch_size, identity=identity)
        for name, corpus in corpora.items()
    }
    with NeuronTable(folder / NEURONS, corpora, loaded.tokenizer) as table:
        study = study_neurons(
            loaded,
            corpora,
            journals=journals,
            batch_size=batch_size,
            on_layer=table.add,
            **options,
        )
    save_vocabulary(study, loaded.tokenizer, folder / VOCABULARY)
    study.save(folder / STUDY)
    for journal in journals.values():
        journal.clear()
    return study


class NeuronTable:
    """Writer of `neurons.parquet`, layer by layer; the file appears when the `with` block ends without an error."""

    def __init__(self, path: Path, corpora: Mapping[str, Corpus], tokenizer: Any):
        self._path, self._tokenizer = path, tokenizer
        self._corpora, self._names = list(corpora.values()), list(corpora)
        self._partial = path.with_name(f".{path.name}{PARTIAL}")
        self._writer: Any = None

    def __enter__(self) -> NeuronTable:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()
        if kind is None and self._writer is not None:
            self._partial.replace(self._path)
        else:
            self._partial.unlink(missing_ok=True)

    def add(self, index: int, layer: LayerStudy) -> None:
        """Write the neurons of site number `index`, which become row group `index`.

        Raises:
            InputError: If the disk is full or the folder cannot be written.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        d_ff = len(layer.mean_norm)
        table = pa.table(
            {
                "name": [layer.name.neuron(number) for number in range(d_ff)],
                "site": [layer.site] * d_ff,
                "layer": np.full(d_ff, layer.name.layer, np.int32),
                "neuron": np.arange(d_ff, dtype=np.int32),
                **{f"frequency: {name}": layer.frequency[:, i] for i, name in enumerate(self._names)},
                "mean_norm": layer.mean_norm,
                "max_norm": layer.max_norm,
                "neighbours": _lists(layer.neighbour),
                "neighbour_correlations": _lists(layer.neighbour_correlation),
                "promoted": self._words(layer.promoted),
                "demoted": self._words(layer.demoted),
                "contexts": self._contexts(layer.contexts),
            }
        )
        try:
            if self._writer is None:
                self._writer = pq.ParquetWriter(self._partial, table.schema, compression="zstd")
            # Layers of different width have lists of different length; the first layer's types serve all.
            self._writer.write_table(table.cast(self._writer.schema))
        except OSError as error:
            raise InputError(
                f"cannot write {str(self._path)!r}: {error}; free some space or choose another folder with -o"
            ) from error

    def _words(self, ids: np.ndarray) -> list[list[str]]:
        text = {int(token): token_text(self._tokenizer, int(token)) for token in np.unique(ids) if token >= 0}
        return [[text[int(token)] for token in row if token >= 0] for row in ids]

    def _contexts(self, contexts: LayerContexts) -> Any:
        import pyarrow as pa

        texts: dict[tuple[int, int], tuple[str, str, str]] = {}
        rows = []
        for values, places, corpora in zip(
            contexts.value.T, contexts.place.T, contexts.corpus.T, strict=True
        ):  # one neuron
            row = []
            for value, place, corpus in zip(values, places, corpora, strict=True):
                if place >= 0:
                    at = (int(corpus), int(place))
                    if at not in texts:  # many neurons of a layer share a place
                        texts[at] = context_text(self._corpora[at[0]], at[1], self._tokenizer)
                    row.append((self._names[at[0]], float(value), *texts[at]))
            rows.append([dict(zip(_CONTEXT, entry, strict=True)) for entry in row])
        fields = [(name, pa.float32() if name == "value" else pa.string()) for name in _CONTEXT]
        return pa.array(rows, type=pa.list_(pa.struct(fields)))


_CONTEXT = ("corpus", "value", "before", "token", "after")


def context_text(corpus: Corpus, place: int, tokenizer: Any) -> tuple[str, str, str]:
    """Text before, of and after the token at a place, all from the window of the token.

    Args:
        place: Index of the window times the width of the corpus, plus the position in the window.
    """
    window, position = divmod(place, corpus.width)
    lead = int(
        corpus.bos is not None
    )  # the first position of a window may be a bos token that is not in the text
    start, length = int(corpus.starts[window]), int(corpus.lengths[window])
    at = start + position - lead
    if position < lead:
        return (
            "",
            tokenizer.decode([corpus.bos]),
            _decode(tokenizer, corpus.ids[start : start + TOKENS_AFTER]),
        )
    begin, end = max(start, at - TOKENS_BEFORE), min(start + length, at + TOKENS_AFTER + 1)
    before = _decode(tokenizer, corpus.ids[begin:at])
    until = _decode(tokenizer, corpus.ids[begin : at + 1])
    whole = _decode(tokenizer, corpus.ids[begin:end])
    # A prefix keeps the spaces between tokens, but a token that ends inside a character changes the text before it.
    if until.startswith(before) and whole.startswith(until):
        return before, until[len(before) :], whole[len(until) :]
    return before, token_text(tokenizer, int(corpus.ids[at])), _decode(tokenizer, corpus.ids[at + 1 : end])


def save_vocabulary(study: NeuronStudy, tokenizer: Any, path: Path) -> Path:
    """Write the occurrences and the mean activation ratio of each token that occurs."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    ids = np.flatnonzero(study.vocabulary_count)
    table = pa.table(
        {
            "id": ids.astype(np.int32),
            "text": [token_text(tokenizer, int(token)) for token in ids],
            "count": study.vocabulary_count[ids],
            "activation_ratio": study.vocabulary_ratio[ids],
        }
    )
    write_atomic(path, lambda temporary: pq.write_table(table, temporary, compression="zstd"))
    return path


def _decode(tokenizer: Any, ids: np.ndarray) -> str:
    return tokenizer.decode(ids.tolist(), clean_up_tokenization_spaces=False) if len(ids) else ""


def _lists(array: np.ndarray) -> Any:
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), array.shape[1])
