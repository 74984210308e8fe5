"""Laws of the activation ratio: fit, doubt, forecast. Nothing here needs torch.

`fit` and `compare` take `Points`, `forecast` takes what they return, `fit_joint` takes several series.
"""

from __future__ import annotations

from sparsing.base.lazy import lazily

_HOME = {
    "FORMS": "forms",
    "Comparison": "form_comparison",
    "Forecast": "forecasting",
    "JointFit": "joint_fit",
    "LawFit": "lawfit",
    "Points": "points",
    "compare": "form_comparison",
    "fit": "fitting",
    "fit_joint": "joint_fit",
    "forecast": "forecasting",
    "make_points": "points",
    "published": "published_coefficients",
    "read_points": "point_files",
    "simulate": "simulation",
}

__all__ = [*sorted(_HOME)]
__getattr__, __dir__ = lazily(__name__, _HOME)
