"""From thresholds to faster decoding: packed weights, a predictor of the active set, kernels, and what they buy.

Public names are loaded on first use, as in `sparsing`.
"""

from __future__ import annotations

import importlib
from typing import Any

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


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sparsing.decode' has no attribute {name!r}")
    return getattr(importlib.import_module(f"sparsing.decode.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
