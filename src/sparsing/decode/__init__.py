"""From thresholds to faster decoding: packed weights, a predictor of the active set, kernels, and what they buy.

Public names are loaded on first use, as in `sparsing`.
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
"""Public name to module. No module is called like a function it exports: the module would hide it here."""

__all__ = [*sorted(_HOME)]
__getattr__, __dir__ = lazy_exports(__name__, _HOME)
