"""The names of levels and of their folders."""

from __future__ import annotations

import math

from sparsing.evaluation.level import Level, level_of
from sparsing.rules.thresholds import Thresholds


def test_names_of_levels():
    def named(**fields):
        return level_of(Thresholds(on="neuron_norm", values=(0.1,), **fields), "file")

    assert named(rule="cett", level=0.3, target_ppl_ratio=1.05).name == "PPL-5%"
    assert named(rule="fat", level=0.3, target_ppl_ratio=1.01).name == "fat PPL-1%"
    assert named(rule="cett", level=0.25).name == "cett 0.25"
    assert named(rule="cett", level=math.nan).name == "file"
    assert Level(name="fat PPL-1%").slug == "fat-ppl-1"
