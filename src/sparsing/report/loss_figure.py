"""The picture of a run's loss: training and held out against tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from sparsing.report.style import BLUE, MUTED, VERMILION, new_figure, plain_numbers, styled

_SMOOTHED = 50
"""The line is a mean over about this part of the curve, which a single step is too noisy for."""


@styled()
def loss_figure(curve: Sequence[dict[str, Any]], title: str) -> Figure:
    """Loss in nats per token over training tokens; `curve` as `read_loss_curve` gives it."""
    trained = [line for line in curve if "loss" in line]
    judged = [line for line in curve if "heldout_loss" in line]
    figure = new_figure(3.0, title, "nats per token; the learning rate falls in the last part")
    axes = figure.add_subplot()
    tokens, loss = _columns(trained, "loss")
    axes.plot(tokens, loss, color=MUTED, linewidth=0.5, alpha=0.4)
    axes.plot(tokens, _smooth(loss), color=BLUE, label="training")
    if judged:
        axes.plot(*_columns(judged, "heldout_loss"), color=VERMILION, marker="o", label="held out")
    axes.set_xscale("log")
    plain_numbers(axes.xaxis, unit=1e6)
    axes.set_xlabel("training tokens, millions")
    axes.set_ylabel("loss")
    axes.legend()
    return figure


def _columns(lines: Sequence[dict[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    return np.array([line["tokens"] for line in lines]), np.array([line[name] for line in lines])


def _smooth(values: np.ndarray) -> np.ndarray:
    """The mean over the points before and after, as many as there are at the ends."""
    half = max(1, len(values) // _SMOOTHED // 2)
    total = np.concatenate([[0.0], np.cumsum(values)])
    low = np.maximum(np.arange(len(values)) - half, 0)
    high = np.minimum(np.arange(len(values)) + half + 1, len(values))
    return (total[high] - total[low]) / (high - low)
