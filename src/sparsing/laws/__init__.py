"""Laws of the activation ratio: fit, doubt, forecast. Nothing here needs torch.

`fit` and `compare` take `Points`, `forecast` takes what they return, `fit_joint` takes several series.
"""

from __future__ import annotations

from sparsing.lazy import lazily

_HOME = {
    "FORMS": "forms",
    "Comparison": "comparing",
    "Forecast": "forecasting",
    "JointFit": "joint",
    "LawFit": "lawfit",
    "Points": "points",
    "compare": "comparing",
    "fit": "fitting",
    "fit_joint": "joint",
    "forecast": "forecasting",
    "make_points": "points",
    "published": "paper",
    "read_points": "reading",
    "simulate": "simulating",
}

__all__ = [*sorted(_HOME)]
__getattr__, __dir__ = lazily(__name__, _HOME)
