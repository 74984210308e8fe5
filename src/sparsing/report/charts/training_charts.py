"""Charts along training: activation ratio and dense loss of checkpoints, and the loss curve of a training run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsing.errors import InputError
from sparsing.report.chart import Axis, Chart, Picture, Series, interval_columns, scales_for

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
    return Picture(title=title, subtitle=subtitle, charts=training_charts(series))


def training_charts(series: Mapping[str, Sequence[Measurement]]) -> list[Chart]:
    """Activation ratio and dense loss against training tokens, a line per model; empty without a model.

    Args:
        series: For each model the measurements of its checkpoints, in any order.

    Raises:
        InputError: if the training tokens of a checkpoint are not known.
    """
    if not series:
        return []
    runs = {name: _by_tokens(name, run) for name, run in series.items()}
    tokens = {name: [result.provenance.train_tokens or 0 for result in run] for name, run in runs.items()}
    axis = token_axis([count for counts in tokens.values() for count in counts])
    ratios, losses = [], []
    for name, run in runs.items():
        low, high = interval_columns([result.activation_ratio_interval for result in run])
        ratio = [result.activation_ratio for result in run]
        ratios.append(Series(name=name, x=tokens[name], y=ratio, y_low=low, y_high=high))
        loss = [math.log(result.ppl_dense) for result in run]
        losses.append(Series(name=name, x=tokens[name], y=loss))
    return [
        Chart(
            title="Activation ratio along training",
            note="One point per checkpoint, with its 95% interval over windows.",
            x=axis,
            y=Axis(label="activation ratio"),
            series=ratios,
        ),
        Chart(title="Dense loss along training", x=axis, y=Axis(label="loss, nats per token"), series=losses),
    ]


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
    return sorted(measurements, key=lambda measurement: measurement.provenance.train_tokens or 0)


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
