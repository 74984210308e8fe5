"""Charts along training: activation ratio and dense loss of checkpoints, and the loss curve of a training run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsing.errors import InputError
from sparsing.report.chart import Axis, Chart, Mark, Picture, Series, interval_columns, scales_for

if TYPE_CHECKING:
    from sparsing.measuring.measurement import Measurement

SMOOTHED_PARTS = 50
"""The loss curve is averaged over about one part in this many, since the loss of single steps is noisy."""


def training_series(results: Sequence[Measurement]) -> dict[str, list[Measurement]]:
    """Checkpoints of one model under one measure, by training tokens; groups of one checkpoint are left out."""
    groups: dict[tuple[str, str], dict[int, Measurement]] = {}
    for result in results:
        if tokens := result.provenance.train_tokens:
            folder = str(PurePath(result.provenance.model).parent)
            groups.setdefault((folder, result.name), {})[tokens] = result
    return {
        f"{PurePath(folder).name}, {name}": [by_tokens[tokens] for tokens in sorted(by_tokens)]
        for (folder, name), by_tokens in groups.items()
        if len(by_tokens) > 1
    }


def training_picture(series: Mapping[str, Sequence[Measurement]], *, subtitle: str = "") -> Picture:
    """The charts of `training_charts` as one picture.

    Raises:
        InputError: if there are no measurements, or the training tokens of a checkpoint are not known.
    """
    if not series:
        raise InputError("there are no checkpoints to draw; give the measurements of at least one model")
    names = {measurement.name for run in series.values() for measurement in run}
    measure = f" at {names.pop()}" if len(names) == 1 else ""
    title = f"Activation ratio{measure} along training"
    charts = training_charts(series)
    return Picture(title=title, subtitle=subtitle, charts=charts, columns=1 if len(charts) < 3 else 2)


def training_charts(series: Mapping[str, Sequence[Measurement]]) -> list[Chart]:
    """Charts against training tokens, a line per model; empty without a model.

    The activation ratio has a chart for checkpoints that each have the same rise of perplexity, and a chart for
    checkpoints that share a level, such as one CETT; the latter comes with the rise of perplexity. The dense loss is
    last.

    Args:
        series: For each model and measure the measurements of its checkpoints, in any order.

    Raises:
        InputError: if the training tokens of a checkpoint are not known.
    """
    if not series:
        return []
    runs = {name: _by_tokens(name, run) for name, run in series.items()}
    axis = token_axis([_tokens(result) for run in runs.values() for result in run])
    own = {name: run for name, run in runs.items() if run[0].target_ppl_ratio is not None}
    shared = {name: run for name, run in runs.items() if name not in own}
    # a model has one line of the loss, however often it was measured
    models = {name.removesuffix(f", {run[0].name}"): run for name, run in runs.items()}
    decay = _decay_marks(runs.values())
    note = "One point per checkpoint with its 95% interval over windows" + (
        "; shaded: the learning rate decays." if decay else "."
    )
    charts = []
    if own:
        charts.append(
            Chart(
                title="Activation ratio along training, each checkpoint at its own level",
                note=f"{note} Every checkpoint has the level at which its own perplexity rises by the same share.",
                x=axis,
                y=Axis(label="activation ratio"),
                series=_lines(own, _ratio_line),
                marks=decay,
            )
        )
    if shared:
        charts += [
            Chart(
                title="Activation ratio along training, all checkpoints at one level",
                note=f"{note} Every checkpoint may lose the same share of its layers' outputs, as in Sparsing Law.",
                x=axis,
                y=Axis(label="activation ratio"),
                series=_lines(shared, _ratio_line),
                marks=decay,
            ),
            Chart(
                title="Cost in perplexity, all checkpoints at one level",
                note="The same level costs some checkpoints more perplexity than others.",
                x=axis,
                y=Axis(label="perplexity ratio, sparse / dense"),
                series=_lines(shared, _cost_line),
                marks=decay,
            ),
        ]
    loss = Axis(label="loss, nats per token")
    charts.append(
        Chart(
            title="Dense loss along training", x=axis, y=loss, series=_lines(models, _loss_line), marks=decay
        )
    )
    return charts


def two_measures(series: Mapping[str, Sequence[Measurement]]) -> str:
    """Why checkpoints at their own PPL-1% and checkpoints at one CETT develop differently, with their CETT.

    Empty if the series do not have both measures.
    """
    runs = [_by_tokens(name, run) for name, run in series.items() if run[0].rule == "cett"]
    own = {_run_folder(run): run for run in runs if run[0].target_ppl_ratio is not None}
    shared = {_run_folder(run): run for run in runs if run[0].target_ppl_ratio is None}
    both = [name for name in own if name in shared]
    if not both:
        return ""
    levels = "; ".join(
        f"{PurePath(name).name} from {own[name][0].level:.3f} to {own[name][-1].level:.3f}"
        f" along training, and {shared[name][0].level:.3f} for all"
        for name in both
    )
    return (
        f"Two measures: at its own {own[both[0]][0].name} each checkpoint may lose as large a share of its layers'"
        " outputs (CETT) as its perplexity allows, and a larger share needs fewer neurons. At one CETT, found on the"
        " last checkpoints together as in Sparsing Law, all checkpoints lose the same share. The first ratio therefore"
        " also shows how sensitive the perplexity of a checkpoint is; the second shows only how many neurons carry the"
        f" output. CETT of {levels}."
    )


def _run_folder(run: Sequence[Measurement]) -> str:
    return str(PurePath(run[0].provenance.model).parent)


def _ratio_line(run: Sequence[Measurement]) -> dict[str, Any]:
    low, high = interval_columns([result.activation_ratio_interval for result in run])
    return {"y": [result.activation_ratio for result in run], "y_low": low, "y_high": high}


def _cost_line(run: Sequence[Measurement]) -> dict[str, Any]:
    low, high = interval_columns([result.ppl_ratio_interval for result in run])
    return {"y": [result.ppl_ratio for result in run], "y_low": low, "y_high": high}


def _loss_line(run: Sequence[Measurement]) -> dict[str, Any]:
    return {"y": [math.log(result.ppl_dense) for result in run]}


def _lines(
    runs: Mapping[str, Sequence[Measurement]], columns: Callable[[Sequence[Measurement]], dict[str, Any]]
) -> list[Series]:
    return [
        Series(name=name, x=[_tokens(result) for result in run], **columns(run)) for name, run in runs.items()
    ]


def _decay_marks(runs: Iterable[Sequence[Measurement]]) -> list[Mark]:
    """A shaded span where the learning rate decays: from the checkpoint before the decay to the last one in it."""
    spans = set()
    for run in runs:
        decaying = [i for i, result in enumerate(run) if result.provenance.train_phase == "decay"]
        if decaying:
            spans.add((_tokens(run[max(decaying[0] - 1, 0)]), _tokens(run[decaying[-1]])))
    return [Mark(axis="x", low=low, high=high) for low, high in sorted(spans)]


def _tokens(result: Measurement) -> int:
    return result.provenance.train_tokens or 0


def token_axis(tokens: Sequence[float]) -> Axis:
    """The axis of training tokens."""
    return Axis(label="training tokens", scales=scales_for(tokens), compact=True)


def _by_tokens(name: str, measurements: Sequence[Measurement]) -> list[Measurement]:
    for measurement in measurements:
        if measurement.provenance.train_tokens is None:
            raise InputError(
                f"a measurement of {name!r} ({measurement.provenance.model!r}) has no number of training tokens;"
                " give checkpoints that have a training_state.json"
            )
    return sorted(measurements, key=_tokens)


def loss_picture(curve: Sequence[Mapping[str, Any]], title: str) -> Picture:
    """Training loss and held-out loss against training tokens.

    Args:
        curve: The records of a training run: `tokens`, with `loss` or `heldout_loss` or both, in nats per token.
    """
    tokens, loss = _loss_columns(curve, "loss")
    heldout_tokens, heldout = _loss_columns(curve, "heldout_loss")
    series = [
        Series(name="training, each step", x=tokens, y=loss, mode="lines", faint=True, colour=7),
        Series(name="training, running mean", x=tokens, y=_running_mean(loss), mode="lines", colour=0),
        Series(name="held out", x=heldout_tokens, y=heldout, colour=1),
    ]
    chart = Chart(
        title=title,
        note="The learning rate falls in the last part of the run.",
        x=Axis(label="training tokens", scales=("log", "linear"), compact=True),
        y=Axis(label="loss, nats per token"),
        series=[part for part in series if len(part.x)],
    )
    return Picture(title=title, charts=[chart])


def _loss_columns(curve: Sequence[Mapping[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    records = [record for record in curve if name in record]
    return np.array([record["tokens"] for record in records]), np.array([record[name] for record in records])


def _running_mean(values: np.ndarray) -> np.ndarray:
    """The mean over a window centred at each value, shape of `values`; the window is cut off at both ends."""
    half = max(1, len(values) // SMOOTHED_PARTS // 2)
    total = np.concatenate([[0.0], np.cumsum(values)])
    low = np.maximum(np.arange(len(values)) - half, 0)
    high = np.minimum(np.arange(len(values)) + half + 1, len(values))
    return (total[high] - total[low]) / (high - low)
