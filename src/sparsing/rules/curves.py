"""Calibration curves: per site, what a cut of a score costs (CETT) and keeps (activation ratio).

This module holds the data and the interpolation. `measuring/calibration.py` measures the curves.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from sparsing.base.results import Result
from sparsing.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ScoreCurve(Result):
    """What a cut of one score costs and keeps. Arrays have shape `(n_sites, n_points)`."""

    kind = "score_curve"

    on: str
    """The score that is cut."""
    thresholds: np.ndarray
    """Rising along the second axis."""
    cett: np.ndarray
    """Mean CETT of the sampled tokens."""
    ratio: np.ndarray
    """Activation ratio of the sampled tokens."""

    def threshold_at_cett(self, target: float) -> np.ndarray:
        """The threshold of each site whose CETT is `target`, shape `(n_sites,)`; 0 for a target of 0.

        The inverse of the curve as `inverse` computes it.
        """
        rows = zip(self.thresholds, self.cett, strict=True)
        return np.array([inverse(thresholds, cett, target) for thresholds, cett in rows])

    def ratio_at(self, thresholds: np.ndarray) -> np.ndarray:
        """Activation ratio of each site at its threshold, linear in `log t`, shape `(n_sites,)`."""
        rows = zip(thresholds, self.thresholds, self.ratio, strict=True)
        with np.errstate(divide="ignore"):
            return np.array([np.interp(np.log(t), np.log(grid), ratio) for t, grid, ratio in rows])


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Curves(Result):
    """What the dense calibration pass has learned."""

    kind = "curves"

    sites: tuple[str, ...]
    """Name of each site; row `i` of every curve belongs to `sites[i]`. `#0`, `#1`, ... in files of schema 1."""
    scores: dict[str, ScoreCurve]
    """A curve for each score that was asked for."""
    d_ff: int
    """Neurons of the widest site."""
    sampled_tokens: int
    """Tokens that the curves were measured on."""
    num_tokens: int
    """Tokens of the corpus."""
    window_nll: np.ndarray
    """Dense negative log-likelihood summed over each window, nats, shape `(n_windows,)`."""
    window_labels: np.ndarray
    """Predicted tokens of each window, shape `(n_windows,)`."""

    @classmethod
    def upgraded(cls, document: dict[str, Any], version: int) -> dict[str, Any]:
        """Schema 1 had no site names, and its arrays are in a second file, so the number of sites is not known."""
        return {"sites": ()} | document

    def __getitem__(self, score: str) -> ScoreCurve:
        if score not in self.scores:
            raise InputError(
                f"curves hold {sorted(self.scores)}, not {score!r}; calibrate with scores=[{score!r}]"
            )
        return self.scores[score]

    @property
    def ppl(self) -> float:
        """Perplexity of the dense model on the corpus."""
        return float(np.exp(self.window_nll.sum() / self.window_labels.sum()))


def inverse(thresholds: np.ndarray, cett: np.ndarray, target: float | np.ndarray) -> np.ndarray:
    """The threshold at which the curve `cett` over `thresholds` meets `target`. Shape of `target`.

    Monotone cubic interpolation of `log t` over `log CETT`; below the grid a straight line in the logs. Where
    CETT is not monotone (neurons that cancel), the first crossing. 0 for a target of 0.
    """
    from scipy.interpolate import PchipInterpolator

    rising = np.flatnonzero(np.diff(np.maximum.accumulate(cett), prepend=0) > 0)
    target = np.asarray(target, dtype=np.float64)
    if len(rising) == 0:  # every neuron has size zero, so dropping all of them costs nothing
        return np.where(target > 0, thresholds[-1], 0.0)
    log_t, log_c = np.log(thresholds[rising]), np.log(cett[rising])
    with np.errstate(divide="ignore"):
        wanted = np.log(np.maximum(target, 0))
    if len(rising) == 1:
        return np.where(target > 0, np.exp(log_t[0] + np.minimum(wanted - log_c[0], 0)), 0.0)
    inside = PchipInterpolator(log_c, log_t)(np.clip(wanted, log_c[0], log_c[-1]))
    slope = (log_t[1] - log_t[0]) / (log_c[1] - log_c[0])
    below = log_t[0] + np.where(np.isfinite(wanted), wanted - log_c[0], -np.inf) * slope
    return np.exp(np.where(wanted < log_c[0], below, inside))
