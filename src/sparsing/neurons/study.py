"""`study_neurons`: one dense pass over each corpus, and the numbers of every neuron that result.

    study = study_neurons(loaded, {"code": code, "prose": prose}, thresholds)

A `NeuronStudy` holds numbers only. The texts of the contexts of a large model would not fit in memory, so
`study_neurons` hands over each layer as it is done, and `store.py` writes its texts.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
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
from sparsing.measuring.site_names import SiteName, site_names
from sparsing.neurons import lens
from sparsing.neurons.coactivation import COACTIVATION_TOKENS, find_neighbours, unpack_bits
from sparsing.neurons.contexts import LayerContexts, merge_contexts
from sparsing.neurons.default_thresholds import learn_thresholds
from sparsing.neurons.neuron_observer import NeuronObserver, NeuronTotals
from sparsing.rules.thresholds import Thresholds
from sparsing.sites.site import Site
from sparsing.text.corpus import Corpus

if TYPE_CHECKING:
    from sparsing.models.loading import LoadedModel

CONTEXTS_PER_NEURON = 8


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class NeuronStudy(Result):
    """Numbers of every neuron of a model on one or several corpora. Narrower layers are padded with NaN and -1.

    A layer of the arrays is a site. Neuron `i` of routed expert `e` has the number `e * d_ff + i` in its site.
    """

    kind = "neuron_study"

    corpora: tuple[str, ...]
    """Names of the corpora."""
    num_tokens: tuple[int, ...]
    """Counted tokens of each corpus."""
    sites: tuple[str, ...] = ()
    """Name of each site, in layer order; empty in files of earlier versions."""
    d_expert: Mapping[str, int] = dataclasses.field(default_factory=dict[str, int])
    """Neurons of each routed expert, by the name of its site."""
    thresholds: Thresholds
    """A neuron is active above its threshold."""
    tokenizer_sha256: str
    """Digest of the vocabulary; studies with the same digest can be compared token by token."""
    frequency: np.ndarray
    """Share of tokens on which each neuron is active, shape `(n_corpora, n_layers, d_ff)`, float32."""
    mean_norm: np.ndarray
    """Mean `neuron_norm` over all tokens, shape `(n_layers, d_ff)`, float32."""
    max_norm: np.ndarray
    """Largest `neuron_norm`, same shape."""
    neighbour: np.ndarray
    """Neurons of the same layer whose firing correlates most, shape `(n_layers, d_ff, neighbours)`, int32."""
    neighbour_correlation: np.ndarray
    """Correlation of firing with each neighbour (phi coefficient), same shape, float32."""
    promoted: np.ndarray
    """Ids of the tokens that the neuron's column of `down_proj` promotes, shape `(n_layers, d_ff, items)`, int32."""
    demoted: np.ndarray
    vocabulary_count: np.ndarray
    """Occurrences of each token, shape `(vocabulary,)`, int64."""
    vocabulary_ratio: np.ndarray
    """Mean activation ratio over layers and occurrences of each token, float32; NaN without occurrences."""
    cost: Cost
    provenance: Provenance

    @property
    def site_names(self) -> tuple[SiteName, ...]:
        """Short names of each site and of its neurons."""
        unnamed = [f"#{index}" for index in range(len(self.mean_norm))]
        return site_names(self.sites or unnamed, self.d_expert)

    @property
    def overall_frequency(self) -> np.ndarray:
        """Share of all tokens of all corpora on which each neuron is active, shape `(n_layers, d_ff)`."""
        return np.average(self.frequency, axis=0, weights=self.num_tokens)

    @property
    def specialisation(self) -> np.ndarray:
        """`1 - entropy / log(n_corpora)` of how a neuron's frequency is spread over the corpora.

        0 for a neuron that fires equally often in each corpus, 1 for a neuron that fires in one corpus only; NaN for a
        neuron that never fires, and for a study of one corpus. Shape `(n_layers, d_ff)`.
        """
        if len(self.corpora) < 2:
            return np.full(self.mean_norm.shape, np.nan)
        with np.errstate(invalid="ignore", divide="ignore"):  # a neuron that never fires gives 0 / 0
            part = self.frequency.astype(np.float64) / self.frequency.sum(0)
            entropy = -(part * np.log(np.where(part > 0, part, 1))).sum(0)
        return 1 - entropy / np.log(len(self.corpora))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LayerStudy:
    """Numbers of the neurons of one layer; the arrays are the layer's part of those of `NeuronStudy`."""

    site: str
    """Name of the site."""
    name: SiteName
    """Short names of the site and of its neurons."""
    frequency: np.ndarray
    """Shape `(d_ff, n_corpora)`."""
    mean_norm: np.ndarray
    max_norm: np.ndarray
    neighbour: np.ndarray
    neighbour_correlation: np.ndarray
    promoted: np.ndarray
    demoted: np.ndarray
    contexts: LayerContexts


_ARRAYS = tuple(
    field.name for field in dataclasses.fields(LayerStudy) if field.name not in ("site", "name", "contexts")
)


def study_neurons(
    loaded: LoadedModel,
    corpora: Mapping[str, Corpus],
    thresholds: Thresholds | None = None,
    *,
    cett: float = 0.2,
    contexts: int = CONTEXTS_PER_NEURON,
    journals: Mapping[str, Journal] | None = None,
    batch_size: int | None = None,
    progress: Progress | None = None,
    on_layer: Callable[[int, LayerStudy], None] | None = None,
) -> NeuronStudy:
    """Run the model over each corpus once and collect the numbers of every neuron.

    Args:
        corpora: Texts by name, in the tokens of this model.
        thresholds: A neuron is active above its threshold; None learns thresholds on a few thousand tokens.
        cett: CETT of the learned thresholds.
        contexts: Contexts kept per neuron.
        journals: Journal of each corpus by name, from which an interrupted study resumes.
        on_layer: Called with the index and the numbers of each layer. Its contexts are in memory only then.

    Raises:
        InputError: If there is no corpus, `contexts` is below 1, or the thresholds are for another number of layers.
    """
    if not corpora or contexts < 1:
        raise InputError(
            f"a study needs a corpus and at least 1 context, got {len(corpora)} corpora and {contexts} contexts"
        )
    whole = _join(corpora)
    meter = Meter(loaded, whole)
    if thresholds is None:
        settings = PassSettings(batch_size=batch_size, progress=progress, shared=True)
        thresholds = learn_thresholds(loaded, whole, cett, settings=settings)
    thresholds.for_sites(loaded.sites)
    tokens = [corpus.num_tokens for corpus in corpora.values()]
    passes: list[NeuronTotals] = []
    for name, corpus in corpora.items():
        # Each corpus gets its share of the sampled tokens, so the joined sample is spread evenly over all text.
        share = min(corpus.num_tokens, round(COACTIVATION_TOKENS * corpus.num_tokens / sum(tokens)))
        observer = NeuronObserver(loaded, corpus, thresholds, sample=share, contexts=contexts)
        key = f"neurons {thresholds.identity} {share} {contexts}"
        journal = journals[name] if journals else Journal()
        settings = PassSettings(journal=journal, batch_size=batch_size, progress=progress, shared=True)
        result = run_pass(loaded, corpus, observer, key=key, settings=settings, label=name, head=False)
        meter.add(corpus)
        passes.append(result.totals)
    layers = []
    sites = tuple(site.name for site in loaded.sites)
    d_expert = {site.name: site.d_ff for site in loaded.sites if site.kind == "expert"}
    for index, name in enumerate(site_names(sites, d_expert)):
        layer = _study_layer(loaded, index, name, passes, tokens)
        if on_layer is not None:
            on_layer(index, layer)
        layers.append({name: getattr(layer, name) for name in _ARRAYS})
    return NeuronStudy(
        corpora=tuple(corpora),
        num_tokens=tuple(tokens),
        sites=sites,
        d_expert=d_expert,
        thresholds=thresholds,
        tokenizer_sha256=vocabulary_digest(loaded.tokenizer),
        **_stack(layers),
        **_vocabulary(passes),
        cost=meter.cost(),
        provenance=made_now(**loaded.provenance(), **whole.provenance()),
    )


def vocabulary_digest(tokenizer: Any) -> str:
    """SHA-256 of the pairs of token and id."""
    pairs = sorted(tokenizer.get_vocab().items(), key=lambda pair: (pair[1], pair[0]))
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()


def _join(corpora: Mapping[str, Corpus]) -> Corpus:
    """All windows of all corpora as one corpus."""
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


def _study_layer(
    loaded: LoadedModel, index: int, name: SiteName, passes: Sequence[NeuronTotals], tokens: Sequence[int]
) -> LayerStudy:
    site = loaded.sites[index]
    totals = [corpus.sites[index] for corpus in passes]
    norms = site.column_norms().flatten().cpu()
    contexts = merge_contexts([part.contexts for part in totals], norms)
    bits = np.concatenate([part.bits.cpu().numpy() for part in totals])
    neighbour, correlation = _neighbours(unpack_bits(bits, site.n_neurons), site)
    mean = torch.stack([part.size for part in totals]).sum(0).cpu() / sum(tokens) * norms
    no_tokens = np.full((site.n_neurons, lens.ITEMS), -1, np.int32)
    promoted, demoted = lens.promoted_tokens(loaded, site) or (no_tokens, no_tokens)
    counts = [part.count.cpu().numpy() / count for part, count in zip(totals, tokens, strict=True)]
    return LayerStudy(
        site=site.name,
        name=name,
        frequency=np.stack(counts, axis=-1).astype(np.float32),
        mean_norm=mean.float().numpy(),
        max_norm=np.abs(contexts.value[0]),
        neighbour=neighbour,
        neighbour_correlation=correlation,
        promoted=promoted,
        demoted=demoted,
        contexts=contexts,
    )


def _neighbours(active: np.ndarray, site: Site) -> tuple[np.ndarray, np.ndarray]:
    """`find_neighbours` of a site. A neuron of a routed expert has neighbours in its expert.

    The correlations are then those of the tokens on which the expert has an active neuron. Over all tokens they would
    show the routing.
    """
    if site.kind != "expert":
        return find_neighbours(active)
    found = [find_neighbours(part[part.any(1)]) for part in np.split(active, site.n_experts, axis=1)]
    indices = [np.where(index >= 0, index + i * site.d_ff, -1) for i, (index, _) in enumerate(found)]
    return np.concatenate(indices), np.concatenate([correlation for _, correlation in found])


def _stack(layers: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """One array per name over all layers; a narrower layer is padded with NaN, indices and ids with -1."""
    width = max(len(layer["mean_norm"]) for layer in layers)
    stacked = {}
    for name in _ARRAYS:
        missing = -1 if layers[0][name].dtype.kind == "i" else np.nan
        rows = [layer[name] for layer in layers]
        pads = [[(0, width - len(row)), *[(0, 0)] * (row.ndim - 1)] for row in rows]
        stacked[name] = np.stack(
            [np.pad(row, pad, constant_values=missing) for row, pad in zip(rows, pads, strict=True)]
        )
    stacked["frequency"] = np.moveaxis(stacked["frequency"], -1, 0)
    return stacked


def _vocabulary(passes: Sequence[NeuronTotals]) -> dict[str, np.ndarray]:
    count = np.sum([corpus.vocabulary_count.numpy() for corpus in passes], axis=0)
    total = np.sum([corpus.vocabulary_ratio.numpy() for corpus in passes], axis=0)
    with np.errstate(invalid="ignore"):  # 0 / 0 for a token without occurrences
        ratio = (total / count).astype(np.float32)
    return {"vocabulary_count": count, "vocabulary_ratio": ratio}
