"""Defines a rule that keeps the same share of neurons in each layer by a threshold on `|h|`, and compares it with CETT.

python examples/new_rule.py
"""

import numpy as np

from sparsing import Subject, compare, load_corpus, load_model
from sparsing.demo import checkpoints, heldout_text
from sparsing.rules import Reach, Rule, register_rule


@register_rule
class SameShare(Rule):
    """A neuron is active when `|h|` is above the quantile of its layer at the level."""

    name = "same_share"
    score = "h"
    level_name = "share dropped"
    needs_curves = True

    def check(self, level):
        self._check_range(level, low=0, high=1, open_low=False, hint="0.9 drops nine in ten")

    def values(self, level, curves, n_sites):
        curve = curves[self.score]
        rows = zip(curve.thresholds, curve.ratio, strict=True)
        return np.array([np.interp(level, 1 - ratio, grid) for grid, ratio in rows])

    def reach(self, curves):
        return Reach(start=0.5, most=1.0, step=1e-6)


loaded = load_model(checkpoints("silu")[-1], dtype="float32", device="cpu")
corpus = load_corpus([heldout_text()], loaded.tokenizer, window=256, max_tokens=8000)
subject = Subject(loaded, corpus, scores=["h", "neuron_norm"])
comparison = compare(subject, ["same_share", "cett"], ppl_ratio=1.05)
for rule in comparison.rules():
    print(f"{rule}: {comparison.ratio_at(rule, 1.01):.2%} active at PPL-1%")
