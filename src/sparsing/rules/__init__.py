"""Rules decide which neurons stay active. A rule is a score, a selection and one scalar level.

Each named rule is one file in `named/`. `mask.py` applies a rule to a model.
"""

from __future__ import annotations

import importlib

from sparsing.rules.rule import RULES, SELECTIONS, Reach, Rule, make_rule, register_rule, register_selection

for _module in ("above", "named"):  # they register themselves
    importlib.import_module(f"{__name__}.{_module}")

__all__ = ["RULES", "SELECTIONS", "Reach", "Rule", "make_rule", "register_rule", "register_selection"]
