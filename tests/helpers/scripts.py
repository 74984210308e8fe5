"""`load_script`: a program of `scripts/` or `benchmarks/` as a module, to test its functions."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]


def load_script(name: str) -> ModuleType:
    """The module of a file.

    Args:
        name: Its path in the repository, such as `scripts/real_model.py`.
    """
    spec = importlib.util.spec_from_file_location(Path(name).stem + "_script", ROOT / name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
