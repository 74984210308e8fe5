"""Rules decide which neurons stay active. A rule is a score, a selection and one scalar level.

Start with `rule.py`, the base class of all rules. `scores.py` and `selections.py` define the two parts that a rule
names, and `named/` has one file per rule. `thresholds.py` holds the numbers of a rule for one model, `mask.py` applies
them to the model, and `curves.py` holds the calibration curves that some rules need.
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
