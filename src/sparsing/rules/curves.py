"""Calibration curves: for each site, the CETT and the activation ratio at every cut of a score.

This module holds the data and the interpolation. `measuring/calibration.py` measures the curves.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from sparsing.base.results import Result
from sparsing.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    Spline = Callable[["Floats", "Floats"], Callable[["Floats"], "Floats"]]

Floats = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ScoreCurve(Result):
    """CETT and activation ratio of each site over cuts of one score. Arrays have shape `(n_sites, n_points)`."""

    kind = "score_curve"

    on: str
    """The score that is cut."""
    thresholds: Floats
    """Rising along the second axis."""
    cett: Floats
    """Mean CETT of the sampled tokens."""
    ratio: Floats
    """Activation ratio of the sampled tokens."""
    nonzero: Floats | None = None
    """Share of the scores that are not exactly zero, shape `(n_sites,)`; None in files of schema 1."""
    share: Floats | None = None
    """Share of each row in the mean over sites, shape `(n_sites,)`, if experts have rows; None if all are equal."""

    def threshold_at_cett(self, target: float) -> Floats:
        """The threshold of each site at which its CETT is `target`, shape `(n_sites,)`; 0 for a target of 0.

        `inverse` interpolates between the points of the curve.
        """
        rows = zip(self.thresholds, self.cett, strict=True)
        return np.array([inverse(thresholds, cett, target) for thresholds, cett in rows])

    def ratio_at(self, thresholds: Floats) -> Floats:
        """Activation ratio of each site at its threshold, shape `(n_sites,)`, by interpolation linear in `log t`."""
        rows = zip(thresholds, self.thresholds, self.ratio, strict=True)
        # log(0) is -inf, for which `interp` gives the ratio at the first point of the grid
        with np.errstate(divide="ignore"):
            # NumPy types the rows of an array as Any
            ratios = cast("list[float]", [np.interp(np.log(t), np.log(grid), r) for t, grid, r in rows])
        return np.array(ratios)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Curves(Result):
    """The result of the dense calibration pass: curves of one or several scores, and the dense loss."""

    kind = "curves"

    sites: tuple[str, ...]
    """Name of each site; row `i` of every curve belongs to `sites[i]`. `#0`, `#1`, ... in files of schema 1.

    After a calibration per expert, routed experts have one row each: `<site>.0`, `<site>.1`, ..."""
    scores: dict[str, ScoreCurve]
    """Score name to its curve, for the scores that the calibration was run with."""
    d_ff: int
    """Neurons of the widest site."""
    sampled_tokens: int
    """Tokens that the curves were measured on."""
    num_tokens: int
    """Tokens of the corpus."""
    window_nll: Floats
    """Dense negative log-likelihood summed over each window, nats, shape `(n_windows,)`."""
    window_labels: Floats
    """Number of predicted tokens of each window, shape `(n_windows,)`."""

    @classmethod
    def upgraded(cls, document: dict[str, Any], version: int) -> dict[str, Any]:
        """Schema 1 has no site names. Its arrays are in a second file, so `sites` stays empty."""
        return {"sites": ()} | document

    def __getitem__(self, score: str) -> ScoreCurve:
        """The curve of this score.

        Raises:
            InputError: If the calibration was run without this score.
        """
        if score not in self.scores:
            raise InputError(
                f"curves hold {sorted(self.scores)}, not {score!r}; calibrate with scores=[{score!r}]"
            )
        return self.scores[score]

    @property
    def ppl(self) -> float:
        """Perplexity of the dense model on the corpus."""
        return float(np.exp(self.window_nll.sum() / self.window_labels.sum()))


def inverse(thresholds: Floats, cett: Floats, target: float | Floats) -> Floats:
    """The threshold at which the curve `cett` over `thresholds` meets `target`, same shape as `target`.

    Interpolates `log t` over `log CETT` by a monotone cubic spline, and below the grid by a straight line. Where CETT
    is not monotone, because neurons cancel, the first crossing is used. A target of 0 gives 0.
    """
    import scipy.interpolate  # pyright: ignore[reportMissingTypeStubs]  # SciPy has no stubs

    spline = cast("Spline", scipy.interpolate.PchipInterpolator)
    # only points above every earlier point, so that the curve can be inverted and its first crossing is kept
    rising = np.flatnonzero(np.diff(np.maximum.accumulate(cett), prepend=0) > 0)
    target = np.asarray(target, dtype=np.float64)
    if len(rising) == 0:  # every neuron has size zero, so dropping all of them costs nothing
        return np.where(target > 0, thresholds[-1], 0.0)
    log_t, log_c = np.log(thresholds[rising]), np.log(cett[rising])
    with np.errstate(divide="ignore"):
        wanted = np.log(np.maximum(target, 0))
    if len(rising) == 1:
        # one point gives no slope: assume that CETT grows in proportion to the threshold, up to that point
        return np.where(target > 0, np.exp(log_t[0] + np.minimum(wanted - log_c[0], 0)), 0.0)
    inside = spline(log_c, log_t)(np.clip(wanted, log_c[0], log_c[-1]))
    slope = (log_t[1] - log_t[0]) / (log_c[1] - log_c[0])
    below = log_t[0] + np.where(np.isfinite(wanted), wanted - log_c[0], -np.inf) * slope
    return np.exp(np.where(wanted < log_c[0], below, inside))
