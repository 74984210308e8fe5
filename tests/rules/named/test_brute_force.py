"""The active set of every rule against its definition, neuron by neuron, with Python's float64 numbers."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
import torch

from sparsing.measuring.calibration import calibrate
from sparsing.rules import RULES, make_rule
from sparsing.rules.coverage import covering
from sparsing.rules.mask import Mask
from sparsing.rules.scores import SCORES, score_for
from sparsing.rules.thresholds import thresholds_at
from sparsing.sites.tap import tapped

from ...helpers.measuring import text_corpus, tiny_loaded

WINDOWS, WIDTH = 3, 20
NEAR = 1e-5
"""A score this close to a cut, relative to it, may fall on either side in float32."""


def above(token, cut):
    return {i for i, size in enumerate(token) if size > cut}


def largest(token, share):
    order = sorted(range(len(token)), key=lambda i: -token[i])
    return set(order[: max(1, round(share * len(token)))])


def fewest(token, share_dropped, power):
    mass = [size**power for size in token]
    kept, total = set(), 0.0
    for i in sorted(range(len(token)), key=lambda i: -token[i]):
        if total >= (1 - share_dropped) * sum(mass):
            break
        kept.add(i)
        total += mass[i]
    return kept


def above_gaussian(token, share):
    cut = statistics.fmean(token) + statistics.pstdev(token) * statistics.NormalDist().inv_cdf(1 - share)
    return above(token, cut)


def from_prompt(window, share):
    """The sets of all tokens of a window: all neurons in the first half, the same set after it."""
    prompt = window[: (len(window) + 1) // 2]
    statistic = [
        math.sqrt(sum((token[i] / math.hypot(*token)) ** 2 for token in prompt))
        for i in range(len(window[0]))
    ]
    chosen = largest(statistic, share)
    return [set(range(len(window[0])))] * len(prompt) + [chosen] * (len(window) - len(prompt))


PER_TOKEN = {
    "above": above,
    "top_k": largest,
    "top_p": lambda token, dropped: fewest(token, dropped, 1),
    "top_p_l2": lambda token, dropped: fewest(token, dropped, 2),
    "gaussian_top_k": above_gaussian,
}


def sizes_of(score, site, rows, centre):
    """The score of every neuron from its definition, as lists of Python numbers."""
    values = {"gate": rows.gate, "h": rows.h, "up": rows.up, "pre_gate": rows.pre_gate}[score.value].double()
    if score.name == "pre_gate":
        return values.numpy()
    weight = site.weight.detach().double().numpy()
    norms = np.sqrt((weight**2).sum(0)) if score.name in ("neuron_norm", "x_norm") else 1.0
    return np.abs(values.numpy() - centre) * norms


@pytest.fixture(scope="module")
def known():
    loaded = tiny_loaded("llama")
    return loaded, calibrate(loaded, text_corpus(WINDOWS * WIDTH, window=WIDTH), scores=sorted(SCORES))


LEVELS = {"fat": 0.05, "cett": 0.3, "top_k": 0.25, "griffin": 0.25, "gaussian_top_k": 0.2, "wina": 0.3}


@pytest.mark.parametrize(
    "name",
    [
        *sorted(RULES),
        "cett:gate",
        "quantile:up",
        "scap:x_centred",
        "griffin:neuron_norm",
        "teal:neuron_norm+x_norm",
    ],
)
def test_the_active_set_is_that_of_the_definition(name, known):
    loaded, curves = known
    rule = make_rule(name)
    sites = covering(loaded, rule.score).sites
    level = LEVELS.get(rule.name, 0.6)
    thresholds = thresholds_at(rule, level, curves=curves, sites=[site.name for site in sites])
    mask, checked = Mask(sites, thresholds), 0
    for batch in text_corpus(WINDOWS * WIDTH, window=WIDTH).batches(1):
        mask.real, seen = batch.real, {}
        with torch.no_grad(), tapped(sites, seen.__setitem__, gate=True, extra=("up", "pre_gate")):
            loaded.model(batch.ids)
        for index, rows in seen.items():
            score = score_for(thresholds.scores, sites[index])
            centre = thresholds.centres[index] if thresholds.centres else 0.0
            size = sizes_of(score, sites[index], rows, centre)
            number = thresholds.numbers[index]
            if thresholds.select == "griffin":
                wanted = from_prompt(size.tolist(), number)
            else:
                wanted = [PER_TOKEN[thresholds.select](token, number) for token in size.tolist()]
            nonzero = rows.h.numpy() != 0 if score.signed else size != 0
            for found, token, own, real in zip(
                mask.active(index, rows).numpy(), size, wanted, nonzero, strict=True
            ):
                odd = {int(i) for i in found.nonzero()[0]} ^ {i for i in own if real[i]}
                edge = min((token[i] for i in own), default=0.0)
                assert all(abs(token[i] - edge) <= NEAR * max(abs(edge), 1e-3) for i in odd), (name, odd)
                checked += 1
    assert checked == WINDOWS * WIDTH * len(sites)


@pytest.mark.parametrize("name", ["quantile", "cats", "scap", "quantile:x", "quantile:neuron_norm"])
@pytest.mark.parametrize("level", [0.1, 0.5, 0.9])
def test_a_quantile_drops_its_share_at_every_site(name, level, known):
    loaded, curves = known
    rule = make_rule(name)
    sites = covering(loaded, rule.score).sites
    thresholds = thresholds_at(rule, level, curves=curves, sites=[site.name for site in sites])
    dropped = np.zeros(len(sites))
    for batch in text_corpus(WINDOWS * WIDTH, window=WIDTH).batches(1):
        seen = {}
        with torch.no_grad(), tapped(sites, seen.__setitem__, gate=True):
            loaded.model(batch.ids)
        for index, rows in seen.items():
            score = score_for(thresholds.scores, sites[index])
            centre = thresholds.centres[index] if thresholds.centres else 0.0
            below = sizes_of(score, sites[index], rows, centre) <= thresholds.numbers[index]
            dropped[index] += below.mean() / WINDOWS
    # linear inputs are calibrated on a quarter of the tokens
    np.testing.assert_allclose(dropped, level, atol=0.06 if name.endswith(":x") else 0.012)
