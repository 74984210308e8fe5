"""Loads the public names of a package on first use, so that `import sparsing` does not import torch.

A package calls `lazy_exports` at the end of its `__init__.py` (PEP 562).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy_exports(
    package: str, home: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The functions `__getattr__` and `__dir__` for the `__init__` module of a package.

    Args:
        package: Name of the package, its `__name__`.
        home: Public name to the module that defines the name, relative to the package. No module may have the name
            of its own export: importing a module sets it as an attribute of its package, which would hide the export.
    """

    def load(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{home[name]}"), name)

    return load, lambda: sorted(home)
