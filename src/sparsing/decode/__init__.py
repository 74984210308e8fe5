"""Faster decoding with thresholds: kernels that skip inactive neurons, predictors of the active set, and their speed.

Start reading at `_accelerate.py`. Public names are loaded on first use, as in `sparsing`.
"""

from __future__ import annotations

from sparsing.base.lazy import lazy_exports

_HOME = {
    "Accelerated": "_accelerate",
    "Advice": "advice.result",
    "DecodeStats": "stats",
    "Predictor": "predict.predictor",
    "accelerate": "_accelerate",
    "advise": "advice._advise",
    "calibrate_predictor": "predict.predictor",
    "generate_timed": "timed_generation",
    "predictor_effect": "predict.effect",
    "with_effect": "predict.effect",
}
"""Public name to module. A module with the name of a function that it exports would hide the function here."""

__all__ = [*sorted(_HOME)]
__getattr__, __dir__ = lazy_exports(__name__, _HOME)
