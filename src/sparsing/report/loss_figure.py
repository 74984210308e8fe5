"""The figure of a training run's loss, for the code that trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from sparsing.report.charts.training_charts import loss_picture
from sparsing.report.static import draw


def loss_figure(curve: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Training and held-out loss against training tokens, in nats per token; see `loss_picture`."""
    return draw(loss_picture(curve, title))
