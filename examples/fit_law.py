"""Fit a law to activation ratios along training, look at its intervals, and forecast.

    python examples/fit_law.py

The series is simulated from a known law. For your own points, replace `points` by `read_points(["points.csv"])[0]`.
"""

from __future__ import annotations

import numpy as np

from sparsing.laws import FORMS, compare_forms, fit_best, forecast, simulate

billion_tokens = np.linspace(8, 240, 30)
law = {"alpha": 1.0, "b": -3.5, "c": 0.012, "A0": 0.072}
points = simulate(FORMS["relu"], law, billion_tokens, noise_sd=2e-4, rho=0.3, seed=0)

ranking = compare_forms(points)
for each in ranking.fits:
    print(
        f"{each.law.title:22} AICc {each.aicc - ranking.best.aicc:+7.1f}  RMSE {100 * each.rmse:.3f} points"
    )

best = fit_best(points, ranking)
print(f"\n{best.equation}, first {best.num_dropped} points left out")
for e in best.coefficients:
    print(f"{e.name:6} {e.value:9.4g}   profile {e.low:.4g} to {e.high:.4g}", end="")
    print(f"   bootstrap {e.boot_low:.4g} to {e.boot_high:.4g}")
print(best.verdict)

for answer in (forecast(best, tokens=1e12), forecast(best, ratio=0.075)):
    low = "open" if answer.low is None else f"{answer.low:.4g}"
    high = "open" if answer.high is None else f"{answer.high:.4g}"
    print(
        f"\n{answer.tokens:.3g} tokens, ratio {answer.ratio:.4f}; {answer.level:.0%} interval {low} to {high}"
    )
    print(answer.warning)
