"""The predictor of a model: one per block, made on the block's real inputs, judged on tokens it was not made on.

The inputs are those of the sparse run (each layer sees what the sparse layers before it give). `quantised` is the
4- or 8-bit copy that the kernels read; `low_rank` is the learned one of DejaVu (arXiv 2310.17157), for comparison.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from sparsing.base.progress import Progress
from sparsing.base.provenance import Provenance, made_now
from sparsing.base.results import Result
from sparsing.decode.kernels.cuts import layer_cuts
from sparsing.decode.kernels.packing import pack
from sparsing.decode.kernels.plain import hidden
from sparsing.decode.predict.input_sample import InputSample, sample_corpus
from sparsing.decode.predict.low_rank import LowRankPredictor, fit_low_rank
from sparsing.decode.predict.quantised import LayerPredictor, build_predictor, recall_of
from sparsing.errors import InputError
from sparsing.rules.thresholds import Thresholds

if TYPE_CHECKING:
    from sparsing.decode.kernels.cuts import Cuts
    from sparsing.decode.kernels.packing import PackedFFN
    from sparsing.models.loading import LoadedModel
    from sparsing.sites.site import Site
    from sparsing.text.corpus import Corpus

Kind = Literal["quantised", "low_rank"]
KINDS = ("quantised", "low_rank")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictorEffect(Result):
    """What predicting in place of computing the active set does to perplexity, on the same tokens."""

    kind = "predictor_effect"

    ppl_ratio_exact: float
    """Sparse by the thresholds, over dense."""
    ppl_ratio_predicted: float
    """Sparse by the predicted set, over dense."""
    ppl_change_interval: tuple[float, float] | None
    """95% of `ppl_change`, over windows; None for one window."""
    num_tokens: int

    @property
    def ppl_change(self) -> float:
        """Perplexity with the predictor over without, minus 1."""
        return self.ppl_ratio_predicted / self.ppl_ratio_exact - 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerReport(Result):
    """One block's predictor on held-out tokens; shares are in [0, 1]."""

    kind = "predictor_layer"

    recall: float
    """Share of the active neurons' `neuron_norm` that is on predicted ones."""
    predicted_ratio: float
    """Predicted neurons, of all."""
    activation_ratio: float
    """Active neurons, of all."""
    predictor_bytes: int
    """What the predictor reads for a token."""
    bytes_ratio: float
    """The predictor's bytes and those of the predicted neurons, over the block's."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Predictor(Result):
    """Names the active neurons of each block from few bytes; saved as JSON and safetensors."""

    kind = "predictor"

    predictor_kind: str
    """`quantised` or `low_rank`; only the first is for the kernels."""
    bits: int
    """Of the quantised copy, 4 or 8; 16 for `low_rank`."""
    recall: float
    """Wanted share of the active neurons' `neuron_norm`, on the tokens it was made on."""
    thresholds: Thresholds
    """The rule whose active set is predicted."""
    layers: tuple[dict[str, np.ndarray], ...]
    """Arrays of each layer by name (bfloat16 as its bits)."""
    reports: tuple[LayerReport, ...]
    """One per layer, on held-out tokens."""
    num_tokens: int
    """Tokens it was made on."""
    num_heldout_tokens: int
    effect: PredictorEffect | None = None
    """None until `predictor_effect` has measured it."""
    provenance: Provenance

    @property
    def mean_recall(self) -> float:
        """Mean over layers, on held-out tokens."""
        return _mean(self.reports, "recall")

    @property
    def mean_predicted_ratio(self) -> float:
        """Mean over layers, on held-out tokens."""
        return _mean(self.reports, "predicted_ratio")

    @property
    def mean_bytes_ratio(self) -> float:
        """Mean over layers, on held-out tokens."""
        return _mean(self.reports, "bytes_ratio")

    def layer(self, index: int, device: torch.device | str = "cpu") -> LayerPredictor | LowRankPredictor:
        """The predictor of a layer, its tensors on `device`."""
        tensors = {name: torch.from_numpy(array).to(device) for name, array in self.layers[index].items()}
        halves = {name: t.view(torch.bfloat16) for name, t in tensors.items() if t.dtype == torch.uint16}
        if self.predictor_kind == "low_rank":
            return LowRankPredictor(**(tensors | halves))
        return LayerPredictor(bits=self.bits, recall=self.recall, **(tensors | halves))


def calibrate_predictor(
    loaded: LoadedModel,
    corpus: Corpus,
    thresholds: Thresholds,
    *,
    bits: int = 4,
    recall: float = 0.995,
    kind: Kind = "quantised",
    tokens: int = 2048,
    progress: Progress | None = None,
) -> Predictor:
    """Make a predictor for `thresholds` on a sample of the corpus.

    Args:
        bits: Of the quantised copy, 4 or 8. A low-rank predictor gets the rank that reads as many bytes as 4 bits.
        recall: Wanted share of the active neurons' summed `neuron_norm`.
        tokens: Tokens to make it on; a third as many more, of other windows, judge it.

    Raises:
        InputError: thresholds of no threshold rule or for another model, bits or recall out of bounds, a corpus of
            fewer than 8 tokens, no active neuron in a layer.
        UnsupportedModelError: a block for which there is no kernel.
    """
    _check(kind, thresholds, loaded.sites)
    sample = sample_corpus(loaded, corpus, thresholds, tokens=tokens, progress=progress)
    layers, reports = [], []
    bar = (progress or Progress(False)).bar(f"{kind} predictor, layers", len(loaded.sites))
    with bar as advance:
        for index, site in enumerate(loaded.sites):
            packed = _on_cpu(pack(site))
            made = _make(kind, packed, layer_cuts(packed, thresholds, index), sample.fit[index], bits, recall)
            layers.append(_to_arrays(made))
            reports.append(_judged(made, packed, layer_cuts(packed, thresholds, index), sample, index))
            advance(1)
    return Predictor(
        predictor_kind=kind,
        bits=bits if kind == "quantised" else 16,
        recall=recall,
        thresholds=thresholds,
        layers=tuple(layers),
        reports=tuple(reports),
        num_tokens=sample.num_fit,
        num_heldout_tokens=sample.num_heldout,
        provenance=made_now(**loaded.provenance(), **corpus.provenance()),
    )


def layer_predictors(
    predictor: Predictor | Sequence[LayerPredictor | None] | None,
    thresholds: Thresholds | None,
    n_layers: int,
    device: torch.device | str = "cpu",
) -> list[LayerPredictor | None]:
    """The predictor of each layer for a model that runs under `thresholds`.

    Raises:
        InputError: made for other thresholds or for another number of layers, or low-rank.
    """
    if predictor is None:
        return [None] * n_layers
    if isinstance(predictor, Predictor):
        made_for = predictor.thresholds
        if thresholds is None or made_for.identity != thresholds.identity:
            raise InputError("the predictor was made for other thresholds; calibrate one for these")
        made = [predictor.layer(index, device) for index in range(n_layers)]
        if not all(isinstance(one, LayerPredictor) for one in made):
            raise InputError("the kernels take a quantised predictor, this is low_rank; it serves to compare")
        return made  # pyright: ignore[reportReturnType]
    if len(predictor) != n_layers:
        raise InputError(
            f"{len(predictor)} layer predictors for a model of {n_layers} layers; give one for each"
        )
    return list(predictor)


def _make(
    kind: str, packed: PackedFFN, cuts: Cuts, x: torch.Tensor, bits: int, recall: float
) -> LayerPredictor | LowRankPredictor:
    if kind == "quantised":
        return build_predictor(packed, cuts, x, bits=bits, recall=recall)
    return fit_low_rank(packed, cuts, x, recall=recall)


def _judged(
    made: LayerPredictor | LowRankPredictor, packed: PackedFFN, cuts: Cuts, sample: InputSample, index: int
) -> LayerReport:
    x = sample.heldout[index]
    mass = hidden(packed, x, cuts).abs() * packed.column_norms()
    predicted = made.predict(x, packed.act)
    share = float(predicted.float().mean())
    block = packed.d_ff * packed.neuron_bytes
    return LayerReport(
        recall=recall_of(predicted, mass),
        predicted_ratio=share,
        activation_ratio=float((mass > 0).float().mean()),
        predictor_bytes=made.copy_bytes,
        bytes_ratio=made.copy_bytes / block + share,
    )


def _on_cpu(packed: PackedFFN) -> PackedFFN:
    """The sample lies there; a layer at a time is moved."""
    gate, up, down = (weight.cpu() for weight in (packed.gate, packed.up, packed.down))
    return dataclasses.replace(packed, gate=gate, up=up, down=down)


def _check(kind: str, thresholds: Thresholds, sites: Sequence[Site]) -> None:
    if kind not in KINDS:
        raise InputError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if not thresholds.selection.is_threshold:
        raise InputError(f"predictors are made for threshold rules, these select by {thresholds.select!r}")
    thresholds.for_sites(sites)


def _to_arrays(made: Any) -> dict[str, np.ndarray]:
    """The tensors of a layer's predictor by field name; bfloat16 as its bits."""
    named = {field.name: getattr(made, field.name) for field in dataclasses.fields(made)}
    tensors = {name: value for name, value in named.items() if isinstance(value, torch.Tensor)}
    return {
        name: (t.view(torch.uint16) if t.dtype == torch.bfloat16 else t).cpu().numpy()
        for name, t in tensors.items()
    }


def _mean(reports: Sequence[LayerReport], name: str) -> float:
    return sum(getattr(report, name) for report in reports) / len(reports)
