"""From thresholds to faster decoding: packed weights, a predictor of the active set, kernels, and what they buy.

Public names are loaded on first use, as in `sparsing`.
"""

from __future__ import annotations

from sparsing.lazy import lazily

_HOME = {
    "Accelerated": "fast_path",
    "Advice": "advice_result",
    "DecodeStats": "decode_stats",
    "Predictor": "calibration",
    "accelerate": "fast_path",
    "advise": "advice",
    "calibrate_predictor": "calibration",
    "generate_timed": "timing",
    "predictor_effect": "effect",
    "with_effect": "effect",
}
"""Public name to module. No module is called like a function it exports: the module would hide it here."""

__all__ = [*sorted(_HOME)]
__getattr__, __dir__ = lazily(__name__, _HOME)
