"""Fit, doubt, forecast: a series of activation ratios along training, made here from a known law.

    python examples/fit_law.py

Replace `points` by `read_points(["points.csv"])[0]` for points of your own.
"""

from __future__ import annotations

import numpy as np

from sparsing.laws import FORMS, compare, fit, forecast, simulate

billion_tokens = np.linspace(8, 240, 30)
law = {"alpha": 1.0, "b": -3.5, "c": 0.012, "A0": 0.072}
points = simulate(FORMS["relu"], law, billion_tokens, noise_sd=2e-4, rho=0.3, seed=0)

ranking = compare(points)
for found in ranking.fits:
    print(
        f"{found.law.title:22} AICc {found.aicc - ranking.best.aicc:+7.1f}  RMSE {100 * found.rmse:.3f} points"
    )

found = fit(points, ranking.best.form, drop=ranking.num_dropped)
print(f"\n{found.equation}, first {found.num_dropped} points left out")
for e in found.coefficients:
    print(f"{e.name:6} {e.value:9.4g}   profile {e.low:.4g} to {e.high:.4g}", end="")
    print(f"   bootstrap {e.boot_low:.4g} to {e.boot_high:.4g}")
print(found.verdict)

for answer in (forecast(found, tokens=1e12), forecast(found, ratio=0.075)):
    low = "open" if answer.low is None else f"{answer.low:.4g}"
    high = "open" if answer.high is None else f"{answer.high:.4g}"
    print(
        f"\n{answer.tokens:.3g} tokens, ratio {answer.ratio:.4f}; {answer.level:.0%} interval {low} to {high}"
    )
    print(answer.warning)
