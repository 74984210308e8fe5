"""The rules, one file each. Importing this package registers every rule in it (see CONTRIBUTING.md)."""

from __future__ import annotations

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
