"""Measure, exploit and predict activation sparsity in large language models.

Public names are loaded on first use, so that `import sparsing` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "FFNSite": "sites",
    "LoadedModel": "models",
    "SparsityError": "errors",
    "find_sites": "sites",
    "load_model": "models",
}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sparsing' has no attribute {name!r}")
    return getattr(importlib.import_module(f"sparsing.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
