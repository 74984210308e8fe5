"""The result of tracking a training run: one point per checkpoint, and the CSV file that `sparsing fit` reads."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from pathlib import Path

from sparsing.base.provenance import Provenance
from sparsing.base.results import Result
from sparsing.measuring.measurement import Interval, Measurement
from sparsing.measuring.search_result import SearchResult


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrackPoint(Result):
    """The figures of one checkpoint."""

    kind = "track_point"

    name: str
    """Name of the checkpoint folder; the folder of the track has the whole measurement under this name."""
    step: int | None
    """Optimizer steps; None if the checkpoint does not store them."""
    tokens: int
    """Training tokens seen."""
    activation_ratio: float
    """Mean over tokens and layers at the CETT of the track, in [0, 1]."""
    activation_ratio_interval: Interval | None
    """95% interval over windows at a fixed CETT; None if there is only one window."""
    layer_activation_ratio: tuple[float, ...]
    """Mean over tokens, one number per layer."""
    dead_neuron_ratio: float
    """Fraction of neurons active on less than 0.1% of the tokens, mean over layers."""
    loss: float
    """Loss of the dense model, nats per token."""
    ppl_dense: float
    """`exp(loss)`."""
    ppl_ratio: float
    """Sparse over dense perplexity on the same tokens. Its mean over the last checkpoints is the target."""

    @classmethod
    def of(cls, result: Measurement) -> TrackPoint:
        """The point of a measured checkpoint."""
        return cls(
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Track(Result):
    """The activation ratio of a run along training, at one CETT."""

    kind = "track"

    name: str
    """Name of the run, and of its series in `sparsing fit`."""
    level: float
    """The CETT of all points."""
    target_ppl_ratio: float
    """Target of the mean perplexity ratio of the checkpoints in `joint`."""
    search: SearchResult
    """The search for the CETT."""
    joint: tuple[str, ...]
    """Names of the checkpoints on which the CETT was found."""
    points: tuple[TrackPoint, ...]
    """One per checkpoint, in the order of training."""
    provenance: Provenance
    """Provenance of the last checkpoint."""

    def points_csv(self) -> str:
        """The points as CSV for `sparsing fit`, one row per checkpoint with training tokens."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        columns = ("step", "tokens", "activation_ratio", "low", "high", "loss", "ppl_dense", "ppl_ratio")
        writer.writerow(("series", *columns))
        for point in self.points:
            if point.tokens == 0:  # the laws describe trained models
                continue
            low, high = point.activation_ratio_interval or ("", "")
            row = vars(point) | {"low": low, "high": high}
            writer.writerow([self.name, *(row[column] for column in columns)])
        return file.getvalue()
