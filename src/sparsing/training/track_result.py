"""What tracking a run gives: a point per checkpoint, all at one CETT, and the CSV that `sparsing fit` reads."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from pathlib import Path

from sparsing.base.provenance import Provenance
from sparsing.base.results import Result
from sparsing.measuring.measurement import Interval, Measurement
from sparsing.measuring.search import SearchResult


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrackPoint(Result):
    """One checkpoint of a track."""

    kind = "track_point"

    name: str
    """Of its folder; the whole measurement lies in the track's folder under this name."""
    step: int | None
    """Optimizer steps."""
    tokens: int
    """Training tokens seen."""
    activation_ratio: float
    """Mean over tokens and layers at the joint CETT, in [0, 1]."""
    activation_ratio_interval: Interval | None
    """95%, over windows, the level taken as given; None for one window."""
    layer_activation_ratio: tuple[float, ...]
    """Mean over tokens, `n_layers` numbers."""
    dead_neuron_ratio: float
    """Share of neurons active on less than 0.1% of tokens, mean over layers."""
    loss: float
    """Of the dense model, nats per token."""
    ppl_dense: float
    """`exp(loss)`."""
    ppl_ratio: float
    """Sparse over dense perplexity on the same tokens; on the last checkpoints its mean is the target."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Track(Result):
    """A run's activation ratio along training, at one CETT."""

    kind = "track"

    name: str
    """Of the run; `sparsing fit` calls the series so."""
    level: float
    """The CETT that all points share."""
    target_ppl_ratio: float
    """Mean perplexity ratio asked of the joint checkpoints."""
    search: SearchResult
    """How the level was found."""
    joint: tuple[str, ...]
    """Checkpoints on which it was found."""
    points: tuple[TrackPoint, ...]
    """In the order of training."""
    provenance: Provenance
    """Of the last checkpoint."""

    def points_csv(self) -> str:
        """The points as `sparsing fit` reads them, a row per trained checkpoint."""
        file = io.StringIO()
        columns = (
            "series",
            "step",
            "tokens",
            "activation_ratio",
            "low",
            "high",
            "loss",
            "ppl_dense",
            "ppl_ratio",
        )
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for point in self.points:
            if point.tokens == 0:  # the untrained model lies on no law
                continue
            low, high = point.activation_ratio_interval or ("", "")
            row = {"series": self.name, "low": low, "high": high}
            writer.writerow([row[name] if name in row else getattr(point, name) for name in columns])
        return file.getvalue()


def point_of(result: Measurement) -> TrackPoint:
    """The point of a measured checkpoint."""
    return TrackPoint(
        name=Path(result.provenance.model).name,
        step=result.provenance.train_step,
        tokens=result.provenance.train_tokens or 0,
        activation_ratio=result.activation_ratio,
        activation_ratio_interval=result.activation_ratio_interval,
        layer_activation_ratio=result.layer_activation_ratio,
        dead_neuron_ratio=sum(result.dead_neuron_ratio) / len(result.dead_neuron_ratio),
        loss=math.log(result.ppl_dense),
        ppl_dense=result.ppl_dense,
        ppl_ratio=result.ppl_ratio,
    )
