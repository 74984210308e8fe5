"""Laws of the activation ratio: curves fitted to ratios along training or over model shapes.

`read_points` and `make_points` give `Points`; `fit` fits one law to them, `compare_forms` ranks all laws and `fit_best`
describes the best of them. `forecast` takes the `LawFit` that `fit` or `fit_best` returns. `fit_joint` tests whether
several series share a coefficient. The package needs numpy and scipy only, not torch.
"""

from __future__ import annotations

from sparsing.base.lazy import lazy_exports

_HOME = {
    "FORMS": "forms",
    "Forecast": "forecasting",
    "FormComparison": "form_comparison",
    "JointFit": "joint_fit",
    "LawFit": "lawfit",
    "Points": "points",
    "compare_forms": "form_comparison",
    "fit": "fitting",
    "fit_best": "form_comparison",
    "fit_joint": "joint_fit",
    "forecast": "forecasting",
    "make_points": "points",
    "published_law": "published_coefficients",
    "read_points": "point_files",
    "simulate": "simulation",
}

__all__ = [*sorted(_HOME)]
__getattr__, __dir__ = lazy_exports(__name__, _HOME)
