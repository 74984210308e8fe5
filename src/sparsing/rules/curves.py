"""Calibration curves: for each site, the CETT and the activation ratio at every cut of a score.

This module holds the data and the interpolation. `measuring/calibration.py` measures the curves.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from sparsing.base.results import Result
from sparsing.errors import InputError
from sparsing.rules.scores import SCORES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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
    sites: tuple[str, ...] = ()
    """Name of each site; empty in files written before curves of linear inputs existed: then those of `Curves`."""
    quantiles: Floats | None = None
    """Further thresholds, at which only the activation ratio was measured. Rising, shape `(n_sites, n_quantiles)`."""
    quantile_ratio: Floats | None = None
    """Activation ratio of the sampled tokens at `quantiles`, same shape."""
    modes: Floats | None = None
    """The centre of each site, shape `(n_sites,)`; None if the score is not centred."""
    weights: Floats | None = None
    """Weights of the neurons that a token passes at each site, shape `(n_sites,)`: of the experts that run for it."""

    def threshold_at_cett(self, target: float) -> Floats:
        """The threshold of each site at which its CETT is `target`, shape `(n_sites,)`; 0 for a target of 0.

        `inverse_of` interpolates between the points of the curve.
        """
        return np.array([of_site(np.float64(target)) for of_site in _inverses(self)])

    def ratio_at(self, thresholds: Floats) -> Floats:
        """Activation ratio of each site at its threshold, shape `(n_sites,)`, by interpolation linear in `log t`."""
        rows = zip(thresholds, self.thresholds, self.ratio, strict=True)
        # log(0) is -inf, for which `interp` gives the ratio at the first point of the grid
        with np.errstate(divide="ignore"):
            # NumPy types the rows of an array as Any
            ratios = cast("list[float]", [np.interp(np.log(t), np.log(grid), r) for t, grid, r in rows])
        return np.array(ratios)

    def threshold_at_ratio(self, ratio: Floats) -> Floats:
        """The threshold of each site at which its activation ratio is `ratio`, shape `(n_sites,)`.

        A site with fewer neurons than that which are not zero gets the threshold 0.
        """
        found = np.zeros(len(ratio))
        for site, (thresholds, ratios, wanted) in enumerate(zip(*self._ratio_curve(), ratio, strict=True)):
            if wanted < ratios[0]:
                found[site] = np.interp(-wanted, -ratios, thresholds)
        return found

    def cett_at(self, thresholds: Floats) -> Floats:
        """CETT of each site at its threshold, shape `(n_sites,)`, by interpolation linear in the logarithms."""
        found = np.zeros(len(thresholds))
        for site, t in enumerate(thresholds):
            if t > 0:
                grid, cett = self.thresholds[site], np.maximum(self.cett[site], 1e-12)
                # below the grid CETT is taken to be proportional to the threshold
                below = cett[0] * t / grid[0]
                inside = cast("float", np.interp(np.log(t), np.log(grid), np.log(cett)))
                found[site] = below if t < grid[0] else math.exp(inside)
        return found

    def ratio_at_mass(self, dropped: float, power: int) -> Floats:
        """Activation ratio of each site if the smallest scores with a share `dropped` of the mass are dropped.

        The mass of a score is its value to this power. All tokens are taken together. Shape `(n_sites,)`.
        """
        found = np.zeros(len(self.thresholds))
        for site, (thresholds, ratios) in enumerate(zip(*self._ratio_curve(), strict=True)):
            middle = ((thresholds[1:] + thresholds[:-1]) / 2) ** power
            mass = np.concatenate([[0.0], np.cumsum(middle * -np.diff(ratios))])
            found[site] = np.interp(dropped * mass[-1], mass, ratios)
        return found

    def mean(self, ratios: Floats) -> float:
        """Mean over sites of activation ratios, shape `(n_sites,)`."""
        return float(ratios.mean() if self.share is None else ratios @ self.share)

    def weights_per_site(self) -> Floats:
        """`weights`, or ones if the file does not contain them."""
        return np.ones(len(self.thresholds)) if self.weights is None else self.weights

    def _ratio_curve(self) -> tuple[Floats, Floats]:
        """Thresholds from 0 upwards and the activation ratio at them, both of shape `(n_sites, n)`."""
        thresholds = self.thresholds if self.quantiles is None else self.quantiles
        ratio = self.ratio if self.quantile_ratio is None else self.quantile_ratio
        dense = np.ones(len(ratio)) if self.nonzero is None else self.nonzero
        zero = np.zeros((len(ratio), 1))
        # the larger one, so that the ratio never rises where rounding made the two counts differ
        return np.hstack([zero, thresholds]), np.hstack([np.maximum(dense[:, None], ratio[:, :1]), ratio])

    def rows(self, chosen: Sequence[int]) -> ScoreCurve:
        """The curve of these sites only, by index, in this order."""
        index = list(chosen)
        arrays: dict[str, Floats] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                arrays[field.name] = value[index]
        return dataclasses.replace(self, sites=tuple(self.sites[i] for i in index), **arrays)


def joined_curves(curves: Sequence[ScoreCurve]) -> ScoreCurve:
    """One curve with the sites of all of these curves, for a joint rule."""
    arrays: dict[str, Floats | None] = {}
    for field in dataclasses.fields(ScoreCurve):
        values = [getattr(curve, field.name) for curve in curves]
        if all(isinstance(value, np.ndarray) for value in values):
            arrays[field.name] = _stacked(values)
        elif any(isinstance(value, np.ndarray) for value in values):
            arrays[field.name] = None  # one of the scores lacks it
    if any(curve.modes is not None for curve in curves):  # a score without a centre never reads its zeros
        arrays["modes"] = _stacked(
            [np.zeros(len(c.thresholds)) if c.modes is None else c.modes for c in curves]
        )
    sites = tuple(name for curve in curves for name in curve.sites)
    return dataclasses.replace(curves[0], on="+".join(curve.on for curve in curves), sites=sites, **arrays)


def _stacked(values: Sequence[Floats]) -> Floats:
    """The rows of all arrays. Curves of linear inputs have fewer points, so their last point is repeated."""
    if values[0].ndim == 1:
        return np.concatenate(values)
    longest = max(value.shape[1] for value in values)
    return np.concatenate([np.pad(v, ((0, 0), (0, longest - v.shape[1])), mode="edge") for v in values])


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
    attention_inputs: tuple[str, ...] = ()
    """Linear inputs that belong to no feed-forward block, to which a joint rule applies its second score."""
    window_nll: Floats
    """Dense negative log-likelihood summed over each window, nats, shape `(n_windows,)`."""
    window_labels: Floats
    """Number of predicted tokens of each window, shape `(n_windows,)`."""

    @classmethod
    def upgraded(cls, document: dict[str, Any], version: int) -> dict[str, Any]:
        """Schema 1 has no site names. Its arrays are in a second file, so `sites` stays empty."""
        return {"sites": ()} | document

    def __getitem__(self, score: str) -> ScoreCurve:
        """The curve of this score, or of a joint score such as `neuron_norm+x`.

        Raises:
            InputError: If the calibration was run without this score.
        """
        names = score.split("+")
        for name in names:
            if name not in self.scores:
                raise InputError(
                    f"curves hold {sorted(self.scores)}, not {name!r}; calibrate with scores=[{name!r}]"
                )
        if len(names) == 1:
            return self.scores[score]
        return _joint_curve(self, score)

    def joint_part(self, score: str) -> ScoreCurve:
        """The curve of one score of a joint rule, on the sites to which the rule applies this score."""
        curve = self.scores[score]
        attention = [i for i, name in enumerate(curve.sites) if name in self.attention_inputs]
        return curve.rows(attention) if SCORES[score].kinds == ("linear_input",) else curve

    @property
    def ppl(self) -> float:
        """Perplexity of the dense model on the corpus."""
        return float(np.exp(self.window_nll.sum() / self.window_labels.sum()))


@functools.lru_cache(maxsize=8)  # a search and its interval convert many levels of one curve
def _joint_curve(curves: Curves, score: str) -> ScoreCurve:
    """The curve of a joint score."""
    return joined_curves([curves.joint_part(name) for name in score.split("+")])


@functools.lru_cache(maxsize=8)
def _inverses(curve: ScoreCurve) -> list[Callable[[Floats | np.float64], Floats]]:
    """`inverse_of` the curve of each site."""
    return [inverse_of(*row) for row in zip(curve.thresholds, curve.cett, strict=True)]


def inverse_of(thresholds: Floats, cett: Floats) -> Callable[[Floats | np.float64], Floats]:
    """The function that maps a CETT to the threshold at which the curve `cett` over `thresholds` meets it.

    It maps arrays of any shape to arrays of the same shape. It interpolates `log t` over `log CETT` by a monotone cubic
    spline, and below the grid by a straight line. Where CETT is not monotone, because neurons cancel, the first
    crossing is used. A target of 0 gives 0.
    """
    import scipy.interpolate  # pyright: ignore[reportMissingTypeStubs]  # SciPy has no stubs

    spline = cast("Spline", scipy.interpolate.PchipInterpolator)
    # only points above every earlier point, so that the curve can be inverted and its first crossing is kept
    rising = np.flatnonzero(np.diff(np.maximum.accumulate(cett), prepend=0) > 0)
    if len(rising) == 0:  # every neuron has size zero, so dropping all of them costs nothing
        return lambda target: np.where(target > 0, thresholds[-1], 0.0)
    log_t, log_c = np.log(thresholds[rising]), np.log(cett[rising])
    inside = spline(log_c, log_t) if len(rising) > 1 else None

    def threshold_at(target: Floats | np.float64) -> Floats:
        with np.errstate(divide="ignore"):
            wanted = np.log(np.maximum(target, 0))
        if inside is None:
            # one point gives no slope: assume that CETT grows in proportion to the threshold, up to that point
            return np.where(target > 0, np.exp(log_t[0] + np.minimum(wanted - log_c[0], 0)), 0.0)
        slope = (log_t[1] - log_t[0]) / (log_c[1] - log_c[0])
        below = log_t[0] + np.where(np.isfinite(wanted), wanted - log_c[0], -np.inf) * slope
        found = inside(np.clip(wanted, log_c[0], log_c[-1]))
        return np.exp(np.where(wanted < log_c[0], below, found))

    return threshold_at
