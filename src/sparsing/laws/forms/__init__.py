"""One file per law. Importing this package imports every file in it, and each file registers its law in `FORMS`."""

from __future__ import annotations

import importlib
import pkgutil

from sparsing.laws.form import FORMS

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["FORMS"]
