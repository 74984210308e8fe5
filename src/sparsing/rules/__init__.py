"""Rules decide which neurons stay active. A rule is a score, a selection and one scalar level.

`scores.py` and `selections.py` hold the two halves, `named/` has one file per rule, `thresholds.py` is a rule
made concrete for one model, and `mask.py` applies it.
"""

from __future__ import annotations

import importlib

from sparsing.rules.rule import RULES, Reach, Rule, make_rule, register_rule
from sparsing.rules.selections import SELECTIONS, Selection, register_selection

importlib.import_module("sparsing.rules.named")  # the rules register themselves

__all__ = [
    "RULES",
    "SELECTIONS",
    "Reach",
    "Rule",
    "Selection",
    "make_rule",
    "register_rule",
    "register_selection",
]
