"""What the neuron explorer of the page needs: numbers of many neurons, and words and contexts of some.

A large model has a third of a million neurons and their contexts would be hundreds of megabytes, so the page
takes the most telling ones within a budget and says how many there are; all of them are in `neurons.parquet`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsing.measuring.measurement import DEAD_BELOW
from sparsing.report.interactive import packed_array, rounded, smallest_integers
from sparsing.report.text_view import page_text

if TYPE_CHECKING:
    from sparsing.neurons.study import NeuronStudy

ROWS = 12_000
"""Neurons whose numbers are on the page, of all studies together."""
DETAIL_BYTES = 900_000
"""Words and contexts on the page, of all studies together."""
CONTEXTS = 5
BEFORE, AFTER = 70, 35
"""Characters of a context around its token."""


def neuron_view(study: NeuronStudy, table: Path, *, share: float = 1.0) -> dict[str, Any]:
    """The data of the explorer for one study.

    Args:
        table: Its `neurons.parquet`.
        share: Of `ROWS` and `DETAIL_BYTES`, where the page shows several studies.
    """
    order = telling(study)
    width = study.mean_norm.shape[1]
    chosen = order[: int(ROWS * share)]
    layer, neuron = np.divmod(chosen, width)
    return {
        "corpora": [page_text(name) for name in study.corpora],
        "total": len(order),
        "layer": packed_array(smallest_integers(layer)),
        "neuron": packed_array(smallest_integers(neuron)),
        "frequency": packed_array(study.frequency[:, layer, neuron].astype(np.float32)),
        "mean": packed_array(study.mean_norm[layer, neuron].astype(np.float32)),
        "max": packed_array(study.max_norm[layer, neuron].astype(np.float32)),
        "special": packed_array(study.specialisation[layer, neuron].astype(np.float32)),
        "details": _details(study, table, chosen, int(DETAIL_BYTES * share)),
    }


def telling(study: NeuronStudy) -> np.ndarray:
    """Every neuron as `layer * d_ff + neuron`, the most specialised and the strongest ones first, in turn."""
    real = np.flatnonzero(np.isfinite(study.mean_norm.ravel()))
    special = np.nan_to_num(study.specialisation.ravel()[real], nan=-1)
    # one that fires on a handful of tokens looks specialised by chance
    special[study.overall_frequency.ravel()[real] < DEAD_BELOW] = -1
    ranks = [real[np.argsort(-key, kind="stable")] for key in (special, study.max_norm.ravel()[real])]
    both = np.stack(ranks, axis=1).ravel()
    return both[np.sort(np.unique(both, return_index=True)[1])]


def _details(study: NeuronStudy, table: Path, chosen: np.ndarray, budget: int) -> dict[str, Any]:
    """Words, neighbours and contexts by the row they belong to, in order until the budget is used."""
    import pyarrow.parquet as pq

    file = pq.ParquetFile(table)
    width = study.mean_norm.shape[1]
    # rows of one layer are read together, so the budget is shared out before
    most = max(1, budget // 300)
    wanted: dict[int, list[int]] = {}
    for row, number in enumerate(chosen[:most].tolist()):
        wanted.setdefault(number // width, []).append(row)
    found: dict[int, dict[str, Any]] = {}
    for layer, rows in wanted.items():
        group = file.read_row_group(layer, columns=list(_COLUMNS))
        for row, record in zip(
            rows, _records(group, [int(chosen[row]) % width for row in rows]), strict=True
        ):
            found[row] = _detail(record)
    kept, used = {}, 0
    for row in sorted(found):
        used += len(json.dumps(found[row]))
        if used > budget:
            break
        kept[str(row)] = found[row]
    return kept


_COLUMNS = ("neighbours", "neighbour_correlations", "promoted", "demoted", "contexts")


def _records(group: Any, neurons: list[int]) -> Iterator[dict[str, Any]]:
    yield from group.take(neurons).to_pylist()


def _detail(record: dict[str, Any]) -> dict[str, Any]:
    near = zip(record["neighbours"], record["neighbour_correlations"], strict=True)
    return {
        "up": [page_text(word) for word in record["promoted"]],
        "down": [page_text(word) for word in record["demoted"]],
        "near": [[number, rounded(phi)] for number, phi in near if number >= 0],
        "contexts": [
            [
                page_text(entry["corpus"]),
                float(f"{entry['value']:.3g}"),
                page_text(entry["before"][-BEFORE:], longest=BEFORE),
                page_text(entry["token"]),
                page_text(entry["after"][:AFTER]),
            ]
            for entry in record["contexts"][:CONTEXTS]
        ],
    }
