"""The data of the page's neuron explorer: the numbers of many neurons, and the words and contexts of some.

A large model has a third of a million neurons, and their contexts take hundreds of megabytes. The page holds the
most specialised and the strongest neurons within a budget and states the total; `neurons.parquet` holds all of them.
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
    from sparsing.measuring.site_names import SiteName
    from sparsing.neurons.study import NeuronStudy

ROWS = 12_000
"""Neurons whose numbers are on the page, in all studies together."""
DETAIL_BYTES = 900_000
"""Size of the words and contexts on the page, in all studies together."""
DETAIL_SIZE = 300
"""Bytes that the details of a neuron take at least."""
CONTEXTS = 5
"""Contexts per neuron."""
BEFORE, AFTER = 70, 35
"""Characters of a context before and after its token."""


def neuron_view(study: NeuronStudy, table: Path, *, share: float = 1.0) -> dict[str, Any]:
    """The data that `assets/neurons.js` reads for one study.

    Args:
        table: The study's `neurons.parquet`.
        share: Share of `ROWS` and `DETAIL_BYTES` for this study, where the page shows several.
    """
    order = explorer_order(study)
    width = study.mean_norm.shape[1]
    chosen = order[: int(ROWS * share)]
    layer, neuron = np.divmod(chosen, width)
    names = study.site_names
    named = [names[site].neuron(number) for site, number in zip(layer.tolist(), neuron.tolist(), strict=True)]
    return {
        "corpora": [page_text(name) for name in study.corpora],
        "total": len(order),
        "name": named,
        "layer": packed_array(smallest_integers(layer)),
        "neuron": packed_array(smallest_integers(neuron)),
        "frequency": packed_array(study.frequency[:, layer, neuron].astype(np.float32)),
        "mean": packed_array(study.mean_norm[layer, neuron].astype(np.float32)),
        "max": packed_array(study.max_norm[layer, neuron].astype(np.float32)),
        "special": packed_array(study.specialisation[layer, neuron].astype(np.float32)),
        "details": _details(study, table, chosen, int(DETAIL_BYTES * share)),
    }


def explorer_order(study: NeuronStudy) -> np.ndarray:
    """Every neuron as `layer * d_ff + neuron`, shape `(num_neurons,)`.

    The most specialised and the strongest neurons come first, alternately.
    """
    # layers narrower than the widest one are padded with NaN
    real = np.flatnonzero(np.isfinite(study.mean_norm.ravel()))
    special = np.nan_to_num(study.specialisation.ravel()[real], nan=-1)
    # a neuron that is active on a handful of tokens looks specialised by chance
    special[study.overall_frequency.ravel()[real] < DEAD_BELOW] = -1
    ranks = [real[np.argsort(-key, kind="stable")] for key in (special, study.max_norm.ravel()[real])]
    both = np.stack(ranks, axis=1).ravel()
    return both[np.sort(np.unique(both, return_index=True)[1])]


def _details(study: NeuronStudy, table: Path, chosen: np.ndarray, budget: int) -> dict[str, Any]:
    """Words, neighbours and contexts by row of the explorer, in order until `budget` bytes are used."""
    import pyarrow.parquet as pq

    file = pq.ParquetFile(table)
    width = study.mean_norm.shape[1]
    # the file is read layer by layer, so the neurons that may fit are chosen before their sizes are known
    most = max(1, budget // DETAIL_SIZE)
    wanted: dict[int, list[int]] = {}
    for row, number in enumerate(chosen[:most].tolist()):
        wanted.setdefault(number // width, []).append(row)
    details: dict[int, dict[str, Any]] = {}
    names = study.site_names
    for layer, rows in wanted.items():
        group = file.read_row_group(layer, columns=list(_COLUMNS))
        for row, record in zip(
            rows, _records(group, [int(chosen[row]) % width for row in rows]), strict=True
        ):
            details[row] = _detail(record, names[layer])
    kept, used = {}, 0
    for row in sorted(details):
        used += len(json.dumps(details[row]))
        if used > budget:
            break
        kept[str(row)] = details[row]
    return kept


_COLUMNS = ("neighbours", "neighbour_correlations", "promoted", "demoted", "contexts")


def _records(group: Any, neurons: list[int]) -> Iterator[dict[str, Any]]:
    yield from group.take(neurons).to_pylist()


def _detail(record: dict[str, Any], site: SiteName) -> dict[str, Any]:
    near = zip(record["neighbours"], record["neighbour_correlations"], strict=True)
    return {
        "up": [page_text(word) for word in record["promoted"]],
        "down": [page_text(word) for word in record["demoted"]],
        "near": [[site.neuron(number), rounded(phi)] for number, phi in near if number >= 0],
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
