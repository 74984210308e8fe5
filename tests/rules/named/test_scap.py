"""SCAP sets inactive neurons to the mode of their layer, and its mode is the peak of the values."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sparsing.measuring.calibration import calibrate
from sparsing.measuring.subject import Subject
from sparsing.measuring.threshold_grid import half_sample_mode
from sparsing.rules import make_rule
from sparsing.rules.mask import sparsify
from sparsing.rules.thresholds import thresholds_at
from sparsing.sites.tap import tapped

from ...helpers.measuring import text_corpus, tiny_loaded


def test_the_mode_is_the_peak_of_a_skewed_sample():
    generator = torch.Generator().manual_seed(0)
    near, far = (
        torch.randn(20_000, generator=generator) * 0.1 - 0.4,
        torch.rand(10_000, generator=generator) * 4,
    )
    assert half_sample_mode(torch.cat([near, far])) == pytest.approx(-0.4, abs=0.06)
    assert half_sample_mode(torch.tensor([2.5])) == 2.5


def test_inactive_neurons_are_set_to_the_mode():
    loaded = tiny_loaded("gpt2")  # GELU without a gate: the mode of `h` is below 0
    curves = calibrate(loaded, text_corpus(200), scores=["h_centred"])
    thresholds = thresholds_at(make_rule("scap"), 0.7, curves=curves, sites=curves.sites)
    assert min(thresholds.centres) < -0.01
    ids = next(text_corpus(32).batches(1)).ids
    seen, before = {}, {}

    def run(into):
        keep = tapped(loaded.sites, lambda index, rows: into.__setitem__(index, rows.h.clone()), gate=False)
        with torch.no_grad(), keep:
            loaded.model(ids)

    run(before)
    with sparsify(loaded.model, thresholds):
        run(seen)  # hooks run in the order in which they are set, so this one sees the changed values
    for index, h in seen.items():
        mode = torch.tensor(thresholds.centres[index], dtype=h.dtype)
        assert (h == mode).double().mean().item() == pytest.approx(0.7, abs=0.1)
    mode, cut = thresholds.centres[0], thresholds.numbers[0]
    active = (before[0].double() - mode).abs() > cut
    np.testing.assert_array_equal((seen[0] == before[0])[active].numpy(), True)


@pytest.mark.parametrize("score", ["h_centred+x", "h+x_centred"])
@pytest.mark.parametrize("rule", ["scap", "top_k"])
def test_one_score_of_a_joint_rule_may_be_centred(rule, score):
    """The sites of the other score have the centre 0, and their inactive inputs become 0."""
    loaded, corpus = tiny_loaded("gpt2"), text_corpus(200)
    rule = make_rule(f"{rule}:{score}")
    subject = Subject(loaded, corpus, scores=[rule.score])
    thresholds = subject.thresholds(rule, 0.5)
    for site, centre in zip(subject.sites(rule.score), thresholds.centres, strict=True):
        assert (centre != 0) == (site.kind == ("ffn" if score.startswith("h_centred") else "linear_input"))
    assert 0.4 < subject.outcome(thresholds)["activation_ratio"] < 0.6
