"""The rules by name, one file each. A new file in this folder registers itself (see CONTRIBUTING.md)."""

from __future__ import annotations

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
