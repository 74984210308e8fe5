"""Training and what is measured along it: the paper's recipe, tracking, and ways to become sparser.

Public names are loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "FATReLU": "fatrelu",
    "L1Penalty": "l1",
    "L1Schedule": "l1",
    "PRESETS": "shapes",
    "SparsityCallback": "callback",
    "Track": "trackpoints",
    "TrainConfig": "config",
    "find_checkpoints": "tracking",
    "read_config": "reading",
    "relufy": "relufication",
    "track": "tracking",
    "train": "trainer",
}
"""Public name to module. No module is called like a function it exports: the module would hide it here."""

__all__ = [*sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sparsing.training' has no attribute {name!r}")
    return getattr(importlib.import_module(f"sparsing.training.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
