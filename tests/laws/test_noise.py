"""The noise estimate is unbiased, and the likelihood is the Gaussian one."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from sparsing.laws.noise import ar1_correlation, effective_points, log_likelihood

from .series import line_fit


@pytest.mark.parametrize("rho", [0.0, 0.5])
def test_noise_is_estimated_without_bias(rho):
    estimates = [line_fit(seed, rho).noise for seed in range(60)]
    assert np.mean([noise.sd for noise in estimates]) == pytest.approx(4e-4, rel=0.08)
    # a negative estimate counts as 0, which lifts the mean at rho = 0
    assert np.mean([noise.rho for noise in estimates]) == pytest.approx(rho, abs=0.1)


def test_log_likelihood_is_the_gaussian_one():
    rng = np.random.default_rng(3)
    residual = np.linalg.cholesky(ar1_correlation(25, 0.4)) @ rng.standard_normal(25)

    def exact(rho):
        whitened = residual @ np.linalg.solve(ar1_correlation(25, rho), residual)
        return multivariate_normal(cov=whitened / 25 * ar1_correlation(25, rho)).logpdf(residual)

    wanted = max(exact(rho) for rho in np.linspace(0, 0.94, 400))
    assert log_likelihood(residual) == pytest.approx(wanted, abs=1e-3)
    assert log_likelihood(residual, correlated=False) == pytest.approx(exact(0.0), abs=1e-9)


def test_effective_points():
    assert effective_points(30, 0.0) == 30
    assert effective_points(1000, 0.5) == pytest.approx(1000 / 3, rel=0.01)
