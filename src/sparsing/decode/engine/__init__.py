"""Decodes Llama-shaped models straight from a GGUF file, dense or with inactive neurons skipped.

All matrix products are ggml's own dot products, so the arithmetic is that of llama.cpp. Start reading at `_engine.py`.
"""

from __future__ import annotations

from sparsing.base.lazy import lazy_exports

_HOME = {"GgufEngine": "_engine", "open_engine": "_engine", "Sampling": "sampling"}
"""Public name to module."""

__all__ = [*sorted(_HOME)]
__getattr__, __dir__ = lazy_exports(__name__, _HOME)
