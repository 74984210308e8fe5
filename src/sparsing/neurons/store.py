"""A study on disk: numbers as JSON and safetensors, and two tables to query: neurons and vocabulary.

`neurons.parquet` has a row per neuron with its contexts as text, a row group per layer, so a reader can take a
layer at a time and a writer never holds more than one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsing.base.results import write_atomic
from sparsing.errors import InputError
from sparsing.neurons.study import LayerContexts, NeuronStudy, study_neurons

if TYPE_CHECKING:
    from sparsing.models.loading import LoadedModel
    from sparsing.text.corpus import Corpus

NEURONS, VOCABULARY, STUDY = "neurons.parquet", "vocabulary.parquet", "neurons.json"
BEFORE, AFTER = 16, 8
"""Tokens of context around the place."""


def write_study(
    loaded: LoadedModel, corpora: Mapping[str, Corpus], folder: Path, **options: Any
) -> NeuronStudy:
    """`study_neurons` with these options, with all of its files in `folder`.

    Raises:
        InputError: as `study_neurons`, or the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with NeuronTable(folder / NEURONS, corpora, loaded.tokenizer) as table:
        study = study_neurons(loaded, corpora, on_layer=table.add, **options)
    save_vocabulary(study, loaded.tokenizer, folder / VOCABULARY)
    study.save(folder / STUDY)
    return study


class NeuronTable:
    """Writes `neurons.parquet` layer by layer; the file appears when the block ends well."""

    def __init__(self, path: Path, corpora: Mapping[str, Corpus], tokenizer: Any):
        self._path, self._corpora, self._tokenizer = path, corpora, tokenizer
        self._texts = list(corpora.values())
        self._names = list(corpora)
        self._partial = path.with_name(f".{path.name}.partial")
        self._writer: Any = None

    def __enter__(self) -> NeuronTable:
        return self

    def __exit__(self, kind: Any, *error: Any) -> None:
        if self._writer is not None:
            self._writer.close()
        if kind is None and self._writer is not None:
            self._partial.replace(self._path)
        else:
            self._partial.unlink(missing_ok=True)

    def add(self, layer: int, arrays: dict[str, np.ndarray], places: LayerContexts) -> None:
        """Write the neurons of one layer."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        d_ff = len(arrays["mean_norm"])
        columns: dict[str, Any] = {
            "layer": np.full(d_ff, layer, np.int32),
            "neuron": np.arange(d_ff, dtype=np.int32),
            **{f"frequency: {name}": arrays["frequency"][:, i] for i, name in enumerate(self._names)},
            "mean_norm": arrays["mean_norm"],
            "max_norm": arrays["max_norm"],
            "neighbours": _lists(arrays["neighbour"]),
            "neighbour_correlations": _lists(arrays["neighbour_correlation"]),
            "promoted": self._words(arrays["promoted"]),
            "demoted": self._words(arrays["demoted"]),
            "contexts": self._contexts(places),
        }
        table = pa.table(columns)
        try:
            if self._writer is None:
                self._writer = pq.ParquetWriter(self._partial, table.schema, compression="zstd")
            self._writer.write_table(table.cast(self._writer.schema))
        except OSError as error:
            raise InputError(
                f"cannot write {str(self._path)!r}: {error}; free some space or choose another folder with -o"
            ) from error

    def _words(self, ids: np.ndarray) -> list[list[str]]:
        known = {int(token): self._tokenizer.decode([int(token)]) for token in np.unique(ids) if token >= 0}
        return [[known[int(token)] for token in row if token >= 0] for row in ids]

    def _contexts(self, places: LayerContexts) -> Any:
        import pyarrow as pa

        seen: dict[tuple[int, int], tuple[str, str, str]] = {}
        rows = []
        for neuron in range(places.value.shape[1]):
            row = []
            for value, place, corpus in zip(
                places.value[:, neuron], places.place[:, neuron], places.corpus[:, neuron], strict=True
            ):
                if place >= 0:
                    at = (int(corpus), int(place))
                    if at not in seen:  # neurons of a layer have places in common
                        seen[at] = around(self._texts[at[0]], at[1], self._tokenizer)
                    row.append((self._names[at[0]], float(value), *seen[at]))
            rows.append([dict(zip(_CONTEXT, entry, strict=True)) for entry in row])
        fields = [(name, pa.float32() if name == "value" else pa.string()) for name in _CONTEXT]
        return pa.array(rows, type=pa.list_(pa.struct(fields)))


_CONTEXT = ("corpus", "value", "before", "token", "after")


def around(corpus: Corpus, place: int, tokenizer: Any) -> tuple[str, str, str]:
    """Text before, of and after the token at a place, within its window."""
    window, position = divmod(place, corpus.width)
    lead = int(corpus.bos is not None)
    start, length = int(corpus.starts[window]), int(corpus.lengths[window])
    at = start + position - lead
    if position < lead:
        return "", tokenizer.decode([corpus.bos]), _decode(tokenizer, corpus.ids[start : start + AFTER])
    begin, end = max(start, at - BEFORE), min(start + length, at + AFTER + 1)
    before = _decode(tokenizer, corpus.ids[begin:at])
    until = _decode(tokenizer, corpus.ids[begin : at + 1])
    whole = _decode(tokenizer, corpus.ids[begin:end])
    # a token that ends in the middle of a character changes the text before it
    if until.startswith(before) and whole.startswith(until):
        return before, until[len(before) :], whole[len(until) :]
    return before, _decode(tokenizer, corpus.ids[at : at + 1]), _decode(tokenizer, corpus.ids[at + 1 : end])


def save_vocabulary(study: NeuronStudy, tokenizer: Any, path: Path) -> Path:
    """Write how often each token was seen and its mean activation ratio."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    seen = np.flatnonzero(study.vocabulary_count)
    table = pa.table(
        {
            "id": seen.astype(np.int32),
            "text": [tokenizer.decode([int(token)]) for token in seen],
            "count": study.vocabulary_count[seen],
            "activation_ratio": study.vocabulary_ratio[seen],
        }
    )
    write_atomic(path, lambda temporary: pq.write_table(table, temporary, compression="zstd"))
    return path


def _decode(tokenizer: Any, ids: np.ndarray) -> str:
    return tokenizer.decode(ids.tolist(), clean_up_tokenization_spaces=False) if len(ids) else ""


def _lists(array: np.ndarray) -> Any:
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), array.shape[1])
