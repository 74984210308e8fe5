"""Laws of the activation ratio: fit, doubt, forecast. Nothing here needs torch.

`fit` and `compare` take `Points`, `forecast` takes what they return, `fit_joint` takes several series.
"""

from __future__ import annotations

import importlib
from typing import Any

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


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sparsing.laws' has no attribute {name!r}")
    return getattr(importlib.import_module(f"sparsing.laws.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
