"""`ExpectedRise`: how much a rule is expected to raise the loss at a level, from calibration and from other rules.

Calibration has measured the error that each rule makes at each site (CETT, Sparsing Law, equation 3). The rise of the
loss is about a weighted sum of the squared errors:

    log(rise) = log(sum over sites of w_s * CETT_s**2) + effects of the rule

The weight of a site is how much an error there hurts. On SmolLM2 the error of the last block hurts 60 times as much as
that of other blocks, so a rule that cuts there more than others costs more. The weights and the effects are Gaussian
on the scale of the logarithm. Each finished search is an observation, so the first rules of a comparison teach what the
next rules will cost. The maximum of the posterior is found by Gauss-Newton steps, and its width is that of the linear
approximation there.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sparsing.rules.scores import cuts_inputs, scores_of
from sparsing.rules.selections import SELECTIONS

if TYPE_CHECKING:
    from sparsing.rules import Rule
    from sparsing.rules.curves import Curves

Floats = NDArray[np.float64]
_ALL, _INPUTS = 0, 1
"""Places of the two parameters that every model has, the first two kinds below."""

_PRIORS: dict[str, tuple[float, float]] = {
    "all": (0.7, 1.0),
    "inputs": (-0.5, 1.0),
    "site": (0.0, 1.0),
    "target": (0.0, 0.3),
    "ranking": (0.0, 0.5),
    "value": (0.0, 0.3),
}
"""Mean and standard deviation of each kind of parameter, natural logarithms, from the demo models, stories260K and
SmolLM2: the weight of all sites, that of sites outside of feed-forward blocks relative to it, that of a single site,
the effect of a target, of how a rule ranks neurons, and of the values that are cut."""
RULE_SD = 0.2
"""Standard deviation of the logarithm of the rise of a rule that the model does not explain."""
_STEPS = 50
_LARGEST_STEP = 0.5
"""Most Gauss-Newton steps, and the largest change of a parameter in one of them."""
_CLOSE = 1e-4


@dataclasses.dataclass(frozen=True)
class _Cut:
    """What a rule drops at a level."""

    sites: NDArray[np.intp]
    """Parameter of the weight of each site, shape `(n_sites,)`."""
    errors: Floats
    """Squared CETT of each site, same shape."""
    inputs: Floats
    """1 for a site outside of the feed-forward blocks, otherwise 0, same shape."""
    effects: dict[int, float]
    """Factor of each parameter that is an effect of the rule."""


@dataclasses.dataclass(frozen=True)
class _Posterior:
    """The most probable parameters after some observations, and what is known of linear functions of them."""

    parameters: Floats
    """Shape `(n,)`."""
    prior_variance: Floats
    """Shape `(n,)`."""
    rows: Floats
    """Derivatives of the observations, shape `(n_observations, n)`."""
    precision: Floats
    """Inverse of the covariance of the observations before they are known, shape `(n_observations, n_observations)`."""

    def variance(self, row: Floats) -> float:
        """Variance of the linear function with these derivatives, shape `(n,)`."""
        spread = self.rows @ (self.prior_variance * row)
        return max(float(row**2 @ self.prior_variance - spread @ self.precision @ spread), 0.0)


class ExpectedRise:
    """The rise of the loss that rules on one model and corpus are expected to cause."""

    def __init__(self, curves: Curves):
        self._curves, self._blocks = curves, set(curves.sites)
        self._places: dict[tuple[str, ...], int] = {("all",): _ALL, ("inputs",): _INPUTS}
        """Place of each parameter by its kind and name."""
        self._observed: dict[tuple[str, str, float], tuple[_Cut, float]] = {}
        """A cut and the logarithm of its rise. The keys are such that a repeated search adds nothing."""
        self._known: _Posterior | None = None
        """None if it must be computed again."""

    def add(self, rule: Rule, level: float, ppl_ratio: float) -> None:
        """Notes that this level of the rule has this perplexity ratio, which is above 1."""
        if (cut := self._cut(rule, level, ppl_ratio)) is not None:
            self._observed[rule.label, rule.selection, ppl_ratio] = cut, math.log(math.log(ppl_ratio))
            self._known = None

    def at(self, rule: Rule, level: float, ppl_ratio: float) -> tuple[float, float] | None:
        """`log(log(ppl_ratio))` expected at a level, and its standard deviation; None if its error is not calibrated.

        Args:
            ppl_ratio: The target of the search. Searches for the same target teach most.
        """
        if (cut := self._cut(rule, level, ppl_ratio)) is None:
            return None
        expected, row = self._expected(cut)
        return expected, math.hypot(RULE_SD, math.sqrt(self._fitted().variance(row)))

    def weights(self, rule: Rule) -> Floats | None:
        """The weight of each site of the rule, up to a common factor, shape `(n_sites,)`; None if it has no curve."""
        if any(score.name not in self._curves.scores for score in scores_of(rule.score)):
            return None
        sites, inputs = self._sites(rule)
        parameters = self._fitted().parameters
        return np.exp(parameters[sites] + inputs * parameters[_INPUTS]) * self._shares(rule)

    def _cut(self, rule: Rule, level: float, ppl_ratio: float) -> _Cut | None:
        errors = rule.squared_errors(level, self._curves)
        if errors is None or not (errors > 0).any():
            return None
        errors = errors * self._shares(rule)
        sites, inputs = self._sites(rule)
        effects = {_ALL: 1.0, self._place("target", f"{ppl_ratio:.6g}"): 1.0}
        if not SELECTIONS[rule.selection].is_threshold:
            effects[self._place("ranking", rule.selection, str(cuts_inputs(rule.score)))] = 1.0
        scores = scores_of(rule.score)
        for score in scores:
            place = self._place("value", score.value, str(cuts_inputs(score.name)))
            effects[place] = effects.get(place, 0.0) + 1 / len(scores)
        return _Cut(sites, errors, inputs, effects)

    def _sites(self, rule: Rule) -> tuple[NDArray[np.intp], Floats]:
        """Parameter of each site of the rule, and 1 for a site outside of the blocks."""
        curve = self._curves[rule.score]
        names = curve.sites or self._curves.sites
        inputs = np.array([float(name not in self._blocks) for name in names])
        return np.array([self._place("site", name) for name in names], dtype=np.intp), inputs

    def _shares(self, rule: Rule) -> Floats | float:
        """How often each site runs, if experts have rows of their own, relative to the mean; shape `(n_sites,)`."""
        share = self._curves[rule.score].share
        return 1.0 if share is None else share * len(share)

    def _place(self, *name: str) -> int:
        """Index of a parameter, by its kind and name."""
        if name not in self._places:
            self._places[name] = len(self._places)
            self._known = None
        return self._places[name]

    def _expected(self, cut: _Cut) -> tuple[float, Floats]:
        """The logarithm of the rise of a cut, and its derivative by each parameter."""
        return _linear(cut, self._fitted().parameters)

    def _priors(self) -> tuple[Floats, Floats]:
        """Mean and standard deviation of each parameter before any observation."""
        mean, sd = np.array([_PRIORS[kind] for kind, *_ in self._places]).T
        # a sum over blocks, whose number does not change the rise
        mean[_ALL] -= math.log(len(self._blocks))
        return mean, sd

    def _fitted(self) -> _Posterior:
        """What is known of the parameters after the observations."""
        if self._known is None:
            mean, sd = self._priors()
            self._known = _maximum([*self._observed.values()], mean, sd**2)
        return self._known


def _linear(cut: _Cut, parameters: Floats) -> tuple[float, Floats]:
    """The logarithm of the rise of a cut, and its derivative by each parameter, shape of `parameters`."""
    parts = cut.errors * np.exp(parameters[cut.sites] + cut.inputs * parameters[_INPUTS])
    total, row = parts.sum(), np.zeros(len(parameters))
    np.add.at(row, cut.sites, parts / total)
    row[_INPUTS] = parts @ cut.inputs / total
    for place, factor in cut.effects.items():
        row[place] += factor
    return math.log(total) + sum(f * parameters[place] for place, f in cut.effects.items()), row


def _maximum(observed: Sequence[tuple[_Cut, float]], mean: Floats, variance: Floats) -> _Posterior:
    """The parameters that are most probable after the observations.

    Args:
        mean: Of the prior, shape `(n,)`.
        variance: Of the prior, same shape.
    """
    known = _Posterior(mean.copy(), variance, np.zeros((0, len(mean))), np.zeros((0, 0)))
    # there are fewer observations than parameters, so the equations are solved in the space of the observations
    for _ in range(_STEPS if observed else 0):
        linear = [_linear(cut, known.parameters) for cut, _ in observed]
        rows = np.stack([row for _, row in linear])
        left = np.array([rise - expected for (_, rise), (expected, _) in zip(observed, linear, strict=True)])
        precision = np.linalg.inv((rows * variance) @ rows.T + RULE_SD**2 * np.eye(len(observed)))
        best = mean + variance * (rows.T @ (precision @ (left + rows @ (known.parameters - mean))))
        step = best - known.parameters
        moved = known.parameters + np.clip(step, -_LARGEST_STEP, _LARGEST_STEP)
        known = _Posterior(moved, variance, rows, np.asarray(precision, dtype=np.float64))
        if np.abs(step).max() < _CLOSE:
            break
    return known
