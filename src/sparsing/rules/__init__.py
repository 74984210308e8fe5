"""Rules say which neurons stay active. A rule is a score, a selection and one scalar level.

One file per rule; a new file in this folder is found by itself (see CONTRIBUTING.md).
"""

from __future__ import annotations

import importlib
import pkgutil

from sparsing.rules._base import RULES, SELECTIONS, Reach, Rule, make_rule, register_rule, register_selection

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["RULES", "SELECTIONS", "Reach", "Rule", "make_rule", "register_rule", "register_selection"]
