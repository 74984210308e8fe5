"""The study of a model's neurons: one dense pass per corpus, then what the totals say.

    study = study_neurons(loaded, {"code": code, "prose": prose}, thresholds)

`NeuronStudy` holds numbers only; the texts of the contexts are written layer by layer (`store.py`), since for
a large model they would not fit in memory.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sparsing.base.progress import Progress
from sparsing.base.provenance import Provenance, made_now
from sparsing.base.results import Result
from sparsing.errors import InputError
from sparsing.measuring.cost import Meter
from sparsing.measuring.journal import Journal
from sparsing.measuring.measurement import Cost
from sparsing.measuring.passes import PassSettings, run_pass
from sparsing.neurons import lens
from sparsing.neurons.coactivation import SAMPLE_TOKENS, neighbours, unpack
from sparsing.neurons.contexts import merged
from sparsing.neurons.default_thresholds import calibrated
from sparsing.neurons.neuron_observer import NeuronObserver, NeuronTotals
from sparsing.rules.thresholds import Thresholds
from sparsing.text.corpus import Corpus

if TYPE_CHECKING:
    from sparsing.models.loading import LoadedModel

CONTEXTS = 8
"""Contexts kept per neuron."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class NeuronStudy(Result):
    """Every neuron of a model on one or several corpora. Narrower layers are padded with NaN and -1."""

    kind = "neuron_study"

    corpora: tuple[str, ...]
    num_tokens: tuple[int, ...]
    """Counted tokens of each corpus."""
    thresholds: Thresholds
    """Above these a neuron is active."""
    tokenizer_sha256: str
    """Digest of the vocabulary: studies with the same can be compared token by token."""
    frequency: np.ndarray
    """Share of tokens on which each neuron is active, shape `(n_corpora, n_layers, d_ff)`, float32."""
    mean_norm: np.ndarray
    """Mean `neuron_norm` over all tokens, shape `(n_layers, d_ff)`, float32."""
    max_norm: np.ndarray
    """Largest `neuron_norm`, same shape."""
    neighbour: np.ndarray
    """Neurons of the same layer that fire most alike, shape `(n_layers, d_ff, neighbours)`, int32."""
    neighbour_correlation: np.ndarray
    """Correlation of firing with them (phi coefficient), same shape, float32."""
    promoted: np.ndarray
    """Token ids that the neuron's column of `down_proj` promotes, shape `(n_layers, d_ff, items)`, int32."""
    demoted: np.ndarray
    vocabulary_count: np.ndarray
    """How often each token was seen, shape `(vocabulary,)`, int64."""
    vocabulary_ratio: np.ndarray
    """Mean activation ratio over layers and over the places of each token, float32; NaN where never seen."""
    cost: Cost
    provenance: Provenance

    @property
    def overall_frequency(self) -> np.ndarray:
        """Over all tokens of all corpora, shape `(n_layers, d_ff)`."""
        return np.average(self.frequency, axis=0, weights=self.num_tokens)

    @property
    def specialisation(self) -> np.ndarray:
        """`1 - entropy / log(n_corpora)` of how a neuron's frequency is spread over the corpora.

        0 where it fires equally often in each, 1 where in one only; NaN where it never fires, or for one corpus.
        Shape `(n_layers, d_ff)`.
        """
        if len(self.corpora) < 2:
            return np.full(self.mean_norm.shape, np.nan)
        with np.errstate(invalid="ignore", divide="ignore"):
            part = self.frequency.astype(np.float64) / self.frequency.sum(0)
            entropy = -(part * np.log(np.where(part > 0, part, 1))).sum(0)
        return 1 - entropy / np.log(len(self.corpora))


@dataclasses.dataclass(frozen=True, eq=False)
class LayerContexts:
    """Where the neurons of one layer are largest; arrays have shape `(k, d_ff)`, -1 and 0 where there is none."""

    value: np.ndarray
    """`neuron_norm` with the sign of `h`."""
    place: np.ndarray
    """Window times width plus position, in its corpus."""
    corpus: np.ndarray
    """Which corpus."""


def study_neurons(
    loaded: LoadedModel,
    corpora: Mapping[str, Corpus],
    thresholds: Thresholds | None = None,
    *,
    cett: float = 0.2,
    contexts: int = CONTEXTS,
    journal: Callable[[Corpus], Journal] = lambda corpus: Journal(),
    batch_size: int | None = None,
    progress: Progress | None = None,
    on_layer: Callable[[int, dict[str, np.ndarray], LayerContexts], None] | None = None,
) -> NeuronStudy:
    """Run over each corpus once and say what every neuron did.

    Args:
        thresholds: Above these a neuron is active; None learns those of `cett` on a few thousand tokens.
        contexts: Places kept per neuron.
        journal: Gives the journal of a corpus, to resume from.
        on_layer: Called with each layer's number, its arrays by the field names of `NeuronStudy`, and its
            contexts: the only time that these are in memory.

    Raises:
        InputError: no corpus, or thresholds for another number of layers.
    """
    if not corpora or contexts < 1:
        raise InputError(f"a study needs a corpus and at least 1 context, got {len(corpora)} and {contexts}")
    whole = _joined(corpora)
    meter = Meter(loaded, whole)
    if thresholds is None:
        thresholds = calibrated(
            loaded,
            whole,
            cett,
            settings=PassSettings(batch_size=batch_size, progress=progress),
        )
    thresholds.for_sites(loaded.sites)
    tokens = [corpus.num_tokens for corpus in corpora.values()]
    passes = []
    for name, corpus in corpora.items():
        share = min(corpus.num_tokens, round(SAMPLE_TOKENS * corpus.num_tokens / sum(tokens)))
        observer = NeuronObserver(loaded, corpus, thresholds, sample=share, contexts=contexts)
        key = f"neurons {thresholds.identity} {share} {contexts}"
        settings = PassSettings(journal=journal(corpus), batch_size=batch_size, progress=progress)
        passes.append(
            run_pass(loaded, corpus, observer, key=key, settings=settings, label=name, head=False).totals
        )
        meter.add(corpus)
    layers = []
    for layer in range(len(loaded.sites)):
        arrays, places = _layer(loaded, layer, passes, tokens)
        if on_layer is not None:
            on_layer(layer, arrays, places)
        layers.append(arrays)
    return NeuronStudy(
        corpora=tuple(corpora),
        num_tokens=tuple(tokens),
        thresholds=thresholds,
        tokenizer_sha256=vocabulary_digest(loaded.tokenizer),
        **_stacked(layers),
        **_vocabulary(passes),
        cost=meter.cost(),
        provenance=made_now(**loaded.provenance(), **whole.provenance()),
    )


def vocabulary_digest(tokenizer: Any) -> str:
    """SHA-256 of the pairs of token and id."""
    pairs = sorted(tokenizer.get_vocab().items(), key=lambda pair: (pair[1], pair[0]))
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()


def _joined(corpora: Mapping[str, Corpus]) -> Corpus:
    """All windows of all corpora."""
    parts = list(corpora.values())
    begins = np.cumsum([0, *(len(part.ids) for part in parts[:-1])])
    return dataclasses.replace(
        parts[0],
        ids=np.concatenate([part.ids for part in parts]),
        starts=np.concatenate([part.starts + begin for part, begin in zip(parts, begins, strict=True)]),
        lengths=np.concatenate([part.lengths for part in parts]),
        fresh=np.concatenate([part.fresh for part in parts]),
        source=", ".join(corpora),
    )


def _layer(
    loaded: LoadedModel, layer: int, passes: list[NeuronTotals], tokens: list[int]
) -> tuple[dict[str, np.ndarray], LayerContexts]:
    site = loaded.sites[layer]
    totals = [corpus.sites[layer] for corpus in passes]
    norms = site.column_norms().cpu()
    value, place, corpus = (
        part.cpu() for part in merged([(t.contexts.value, t.contexts.place) for t in totals])
    )
    bits = np.concatenate([part.bits.cpu().numpy() for part in totals])
    numbers, correlation = neighbours(unpack(bits, site.d_ff))
    mean = torch.stack([part.size for part in totals]).sum(0).cpu() / sum(tokens) * norms
    nothing = np.full((site.d_ff, lens.ITEMS), -1, np.int32)
    up, down = lens.promoted(loaded, site) or (nothing, nothing)
    counts = [part.count.cpu().numpy() / count for part, count in zip(totals, tokens, strict=True)]
    arrays = {
        "frequency": np.stack(counts, axis=-1).astype(np.float32),  # (d_ff, n_corpora)
        "mean_norm": mean.float().numpy(),
        "max_norm": (value[0].abs() * norms).numpy(),
        "neighbour": numbers,
        "neighbour_correlation": correlation,
        "promoted": up,
        "demoted": down,
    }
    return arrays, LayerContexts((value * norms).numpy(), place.numpy(), corpus.numpy())


def _stacked(layers: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """One array per name over all layers; a narrower layer is padded with NaN, numbers of neurons with -1."""
    width = max(len(layer["mean_norm"]) for layer in layers)
    stacked = {}
    for name in layers[0]:
        nothing = -1 if layers[0][name].dtype.kind == "i" else np.nan
        rows = [np.asarray(layer[name]) for layer in layers]
        pads = [[(0, width - len(row)), *[(0, 0)] * (row.ndim - 1)] for row in rows]
        stacked[name] = np.stack(
            [np.pad(row, pad, constant_values=nothing) for row, pad in zip(rows, pads, strict=True)]
        )
    stacked["frequency"] = np.moveaxis(stacked["frequency"], -1, 0)
    return stacked


def _vocabulary(passes: list[NeuronTotals]) -> dict[str, np.ndarray]:
    count = np.sum([corpus.vocabulary_count.numpy() for corpus in passes], axis=0)
    total = np.sum([corpus.vocabulary_ratio.numpy() for corpus in passes], axis=0)
    with np.errstate(invalid="ignore"):
        ratio = (total / count).astype(np.float32)
    return {"vocabulary_count": count, "vocabulary_ratio": ratio}
