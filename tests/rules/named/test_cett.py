"""The CETT rule takes its thresholds from the curves of `neuron_norm`."""

from __future__ import annotations

import numpy as np
import pytest

from sparsing.errors import InputError
from sparsing.measuring.calibration import calibrate
from sparsing.rules import make_rule
from sparsing.rules.thresholds import thresholds_at

from ...helpers.measuring import text_corpus, tiny_loaded


def test_thresholds_come_from_the_curves():
    curves = calibrate(tiny_loaded(), text_corpus(100))
    made = thresholds_at(make_rule("cett"), 0.3, curves=curves, sites=("#0", "#1"))
    assert (made.rule, made.level, made.on, made.select) == ("cett", 0.3, "neuron_norm", "above")
    assert np.array_equal(made.numbers, curves["neuron_norm"].threshold_at_cett(0.3))
    assert thresholds_at(make_rule("cett"), 0.0, curves=curves, sites=("#0", "#1")).numbers == (0.0, 0.0)


def test_it_needs_curves_of_its_score():
    with pytest.raises(InputError, match=r"rule cett needs curves; call calibrate\(model, corpus\) first"):
        thresholds_at(make_rule("cett"), 0.3, sites=("#0", "#1"))
    curves = calibrate(tiny_loaded(), text_corpus(100), scores=("gate",))
    with pytest.raises(InputError, match=r"curves hold \['gate'\], not 'neuron_norm'; calibrate with"):
        thresholds_at(make_rule("cett"), 0.3, curves=curves, sites=("#0", "#1"))
