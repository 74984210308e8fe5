"""The predictor of a model: one predictor for each block, calibrated on the block's inputs and judged on other tokens.

The inputs come from a sparse run, in which each layer sees the output of the sparse layers before it, as in decoding.
Kind `quantised` is the 4- or 8-bit copy that the kernels read; kind `low_rank` is the learned predictor of DejaVu
(arXiv 2310.17157), for comparison.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch

from sparsing.base.progress import Progress
from sparsing.base.provenance import Provenance, made_now
from sparsing.base.results import Result
from sparsing.decode.kernels.cuts import layer_cuts
from sparsing.decode.kernels.packing import pack
from sparsing.decode.kernels.plain import active_mass
from sparsing.decode.predict.input_sample import sample_corpus
from sparsing.decode.predict.low_rank import LowRankPredictor, fit_low_rank
from sparsing.decode.predict.quantised import (
    DEFAULT_RECALL,
    GROUP,
    LayerPredictor,
    build_predictor,
    recall_of,
)
from sparsing.errors import InputError
from sparsing.rules.thresholds import Thresholds

if TYPE_CHECKING:
    from sparsing.decode.kernels.cuts import Cuts
    from sparsing.decode.kernels.packing import PackedFFN
    from sparsing.models.loading import LoadedModel
    from sparsing.sites.site import Site
    from sparsing.text.corpus import Corpus

PredictorKind = Literal["quantised", "low_rank"]
PREDICTOR_KINDS: tuple[PredictorKind, ...] = get_args(PredictorKind)
LOW_RANK_BITS = 16
"""Bits of the low-rank predictor's numbers (bfloat16)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictorEffect(Result):
    """The change of perplexity if the active set is predicted instead of computed, on the same tokens."""

    kind = "predictor_effect"

    ppl_ratio_exact: float
    """Perplexity under the thresholds over dense perplexity."""
    ppl_ratio_predicted: float
    """Perplexity under the thresholds and the predictor, over dense perplexity."""
    ppl_change_interval: tuple[float, float] | None
    """95% interval of `ppl_change`, from resampled windows; None for a single window."""
    num_tokens: int

    @property
    def ppl_change(self) -> float:
        """Perplexity with the predictor over perplexity without it, minus 1."""
        return self.ppl_ratio_predicted / self.ppl_ratio_exact - 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerReport(Result):
    """Quality of the predictor of one block on held-out tokens. Shares are in [0, 1]."""

    kind = "predictor_layer"

    recall: float
    """Share of the active neurons' `neuron_norm` on predicted neurons."""
    predicted_ratio: float
    """Share of neurons that are predicted active."""
    activation_ratio: float
    """Share of neurons that are active."""
    predictor_bytes: int
    """Bytes that the predictor reads for a token."""
    bytes_ratio: float
    """Bytes of the predictor and of the predicted neurons, over the bytes of all neurons."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Predictor(Result):
    """Predicts the active neurons of each block of a model from few bytes; saved as JSON and safetensors."""

    kind = "predictor"

    predictor_kind: str
    """`quantised` or `low_rank`; the kernels take only the first."""
    bits: int
    """Bits of the quantised copy, 4 or 8; 16 for `low_rank`."""
    recall: float
    """Wanted share of the active neurons' `neuron_norm` on predicted neurons, on the calibration tokens."""
    thresholds: Thresholds
    """The thresholds whose active set is predicted."""
    layers: tuple[dict[str, np.ndarray], ...]
    """Arrays of each layer by name of the field; bfloat16 as its bits."""
    reports: tuple[LayerReport, ...]
    """Quality of each layer's predictor on held-out tokens."""
    num_tokens: int
    """Number of calibration tokens."""
    num_heldout_tokens: int
    effect: PredictorEffect | None = None
    """The effect on perplexity; None until `with_effect` has measured it."""
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
        """The predictor of layer number `index`, with its tensors on `device`.

        Raises:
            InputError: if the arrays have other names, shapes or dtypes than such a predictor has. The kernels read
                them without further checks.
        """
        tensors = {name: torch.from_numpy(array).to(device) for name, array in self.layers[index].items()}
        # NumPy has no bfloat16, so its bits are stored; no field is a true uint16
        tensors |= {name: t.view(torch.bfloat16) for name, t in tensors.items() if t.dtype == torch.uint16}
        if problem := form_problem(tensors, self.predictor_kind, self.bits):
            raise InputError(
                f"layer {index} of the predictor is damaged: {problem}; calibrate the predictor again"
            )
        if self.predictor_kind == "low_rank":
            return LowRankPredictor(**tensors)
        return LayerPredictor(bits=self.bits, recall=self.recall, **tensors)


def form_problem(tensors: Mapping[str, torch.Tensor], kind: str, bits: int) -> str:
    """What is wrong with the tensors of a layer; empty if they are those of a predictor of this kind."""
    pair = {"up_codes", "up_scales"}
    names = {"low_rank": {"a", "b", "bias", "cut"}, "quantised": {"gate_codes", "gate_scales", "cuts"}}.get(
        kind
    )
    if names is None or (kind == "quantised" and bits not in (4, 8)):
        return f"its kind is {kind!r} with {bits} bits; allowed: quantised with 4 or 8 bits, low_rank"
    if set(tensors) not in (names, names | pair if kind == "quantised" else names):
        return f"it has the arrays {', '.join(sorted(tensors))}"
    forms = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    wanted = _low_rank_forms(forms) if kind == "low_rank" else _quantised_forms(forms, bits)
    wrong = [name for name, form in forms.items() if form != wanted[name]]
    return f"{wrong[0]} is {forms[wrong[0]]}, not {wanted[wrong[0]]}" if wrong else ""


_Forms = dict[str, tuple[tuple[int, ...], torch.dtype]]
"""Shape and dtype of each tensor by its name."""


def _quantised_forms(forms: _Forms, bits: int) -> _Forms:
    d_ff, groups = (*forms["gate_scales"][0], 0, 0)[:2]
    scales = ((d_ff, groups), torch.bfloat16)
    codes = ((d_ff, groups * (GROUP * bits // 8)), torch.uint8)
    wanted = {"gate_codes": codes, "gate_scales": scales, "up_codes": codes, "up_scales": scales}
    return wanted | {"cuts": ((d_ff,), torch.float32)}


def _low_rank_forms(forms: _Forms) -> _Forms:
    d_ff, rank, d_model = (*forms["b"][0], 0, 0)[:2] + (*forms["a"][0], 0, 0)[1:2]
    brain = torch.bfloat16
    wanted = {"a": ((rank, d_model), brain), "b": ((d_ff, rank), brain), "bias": ((d_ff,), brain)}
    return wanted | {"cut": (forms["cut"][0] if forms["cut"][0] in ((), (1,)) else (), torch.float32)}


def calibrate_predictor(
    loaded: LoadedModel,
    corpus: Corpus,
    thresholds: Thresholds,
    *,
    bits: int = 4,
    recall: float = DEFAULT_RECALL,
    kind: PredictorKind = "quantised",
    tokens: int = 2048,
    progress: Progress | None = None,
) -> Predictor:
    """Make a predictor for `thresholds` on a sample of the corpus, and judge it on other tokens.

    Args:
        bits: Bits of the quantised copy, 4 or 8. A low-rank predictor gets the rank that has as many bytes as 4 bits.
        recall: Wanted share of the active neurons' summed `neuron_norm` on predicted neurons, in (0, 1].
        tokens: Number of calibration tokens. A third as many, from other windows, are held out to judge.

    Raises:
        InputError: if the kind is unknown, the thresholds are not of a threshold rule or are for another model, `bits`
            or `recall` is out of bounds, the corpus is too short, or no neuron of a layer is active.
        UnsupportedModelError: if a block has no kernel.
    """
    _check_options(kind, thresholds, loaded.sites)
    sample = sample_corpus(loaded, corpus, thresholds, tokens=tokens, progress=progress)
    layers, reports, numbers = [], [], thresholds.for_sites(loaded.sites)
    bar = (progress or Progress(False)).bar(f"{kind} predictor, layers", len(loaded.sites), usual=False)
    with bar as advance:
        for index, site in enumerate(loaded.sites):
            packed = pack(site).to("cpu")  # where the sample is; one layer at a time saves memory
            cuts = layer_cuts(packed, thresholds, numbers[index][0])
            layer: LayerPredictor | LowRankPredictor
            if kind == "quantised":
                layer = build_predictor(packed, cuts, sample.fit[index], bits=bits, recall=recall)
            else:
                layer = fit_low_rank(packed, cuts, sample.fit[index], recall=recall)
            layers.append(_to_arrays(layer))
            reports.append(_judge(layer, packed, cuts, sample.heldout[index]))
            advance(1)
    return Predictor(
        predictor_kind=kind,
        bits=bits if kind == "quantised" else LOW_RANK_BITS,
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
    """The predictor of each layer of a model that runs under `thresholds`; None for a layer without a predictor.

    Raises:
        InputError: if the predictor was made for other thresholds or another number of layers, or is low-rank.
    """
    if predictor is None:
        return [None] * n_layers
    if isinstance(predictor, Predictor):
        if thresholds is None or predictor.thresholds.identity != thresholds.identity:
            raise InputError("the predictor was made for other thresholds; calibrate one for these")
        layers: list[LayerPredictor | None] = []
        for index in range(n_layers):
            layer = predictor.layer(index, device)
            if not isinstance(layer, LayerPredictor):
                raise InputError(
                    "the kernels take a quantised predictor, got a low_rank predictor; calibrate a quantised one"
                )
            layers.append(layer)
        return layers
    if len(predictor) != n_layers:
        raise InputError(
            f"got {len(predictor)} layer predictors for a model of {n_layers} layers; give one for each layer"
        )
    return list(predictor)


def _judge(
    layer: LayerPredictor | LowRankPredictor, packed: PackedFFN, cuts: Cuts, x: torch.Tensor
) -> LayerReport:
    """The quality of a layer's predictor on the held-out inputs `x (tokens, d_model)`."""
    mass = active_mass(packed, x, cuts)
    predicted = layer.predict(x, packed.act)
    share = float(predicted.float().mean())
    block_bytes = packed.d_ff * packed.neuron_bytes
    return LayerReport(
        recall=recall_of(predicted, mass),
        predicted_ratio=share,
        activation_ratio=float((mass > 0).float().mean()),
        predictor_bytes=layer.copy_bytes,
        bytes_ratio=layer.copy_bytes / block_bytes + share,
    )


def _check_options(kind: str, thresholds: Thresholds, sites: Sequence[Site]) -> None:
    if kind not in PREDICTOR_KINDS:
        raise InputError(f"kind must be one of {', '.join(PREDICTOR_KINDS)}, got {kind!r}")
    if not thresholds.cuts_blocks:
        raise InputError(
            f"predictors are made for threshold rules, but these select {thresholds.on} by {thresholds.select!r};"
            " measure with a threshold rule: cett, fat"
        )
    thresholds.for_sites(sites)


def _to_arrays(layer: LayerPredictor | LowRankPredictor) -> dict[str, np.ndarray[Any, Any]]:
    """The tensors of a layer's predictor by name of the field; bfloat16 as its bits."""
    named = {field.name: getattr(layer, field.name) for field in dataclasses.fields(layer)}
    tensors = {name: value for name, value in named.items() if isinstance(value, torch.Tensor)}
    return {
        name: (t.view(torch.uint16) if t.dtype == torch.bfloat16 else t).cpu().numpy()
        for name, t in tensors.items()
    }


def _mean(reports: Sequence[LayerReport], name: str) -> float:
    return sum(getattr(report, name) for report in reports) / len(reports)
