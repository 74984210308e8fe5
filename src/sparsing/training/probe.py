"""`probe`: a cheap activation-ratio measurement for use during training.

It runs one dense pass over a few tokens, without the language-model head. Neurons that are not exactly zero and neurons
above a fixed eps (FAT) are counted directly. For a fixed CETT (ReLU2 Wins) the threshold of each layer is found by a
root search on up to 1,024 of the tokens. All layers have dense inputs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch

from sparsing.errors import InputError
from sparsing.measuring.cett import norm, relative_error
from sparsing.measuring.measurement import DEAD_BELOW
from sparsing.measuring.passes import Observer, PassSettings, Totals, run_pass
from sparsing.models.loading import LoadedModel
from sparsing.rules.flags import kept
from sparsing.rules.mask import Change
from sparsing.rules.scores import is_above, is_active, row_scale, sizes
from sparsing.sites.neuron_output import neuron_output
from sparsing.sites.site import Site
from sparsing.sites.tap import Rows
from sparsing.text.corpus import Batch, Corpus

MOST_TOKENS = 32_768
"""Most tokens of a probe. A probe is one batch, so its memory grows with its tokens."""
SOLVED_TOKENS = 1024
"""Most tokens on which the threshold of a fixed CETT is searched."""
_DECADES = 7
"""The search ends this many powers of ten below the largest neuron."""
_NEAR = 0.01
"""Allowed relative error of a threshold; an activation ratio then moves by about a third of that."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """Activation ratio of a model under one rule."""

    level: float
    """Level of the rule: eps or CETT."""
    activation_ratio: float
    """Mean over tokens and layers, in [0, 1]."""
    layer_activation_ratio: tuple[float, ...]
    """Mean over tokens, `n_layers` numbers."""
    dead_neuron_ratio: float
    """Share of neurons that are active on less than 0.1% of the tokens, mean over layers."""


def probe(loaded: LoadedModel, corpus: Corpus, *, eps: float, target_cett: float) -> dict[str, Reading]:
    """Readings under `zero` (FAT at 0), `fat` (at `eps`) and `cett` (at `target_cett`).

    Raises:
        InputError: If the corpus has more than 32,768 tokens.
    """
    if corpus.num_tokens > MOST_TOKENS:
        raise InputError(
            f"{corpus.num_tokens} tokens are too many for a probe, at most {MOST_TOKENS};"
            " load_corpus(..., max_tokens=2048) is enough"
        )
    observer = _ProbeObserver(loaded, eps, target_cett)
    settings = PassSettings(batch_size=corpus.n_windows)
    totals = run_pass(loaded, corpus, observer, key="probe", settings=settings, head=False).totals
    under = {"zero": (totals.zero, 0.0), "fat": (totals.fat, eps), "cett": (totals.cett, target_cett)}
    return {
        name: reading(counts, loaded, corpus.num_tokens, level) for name, (counts, level) in under.items()
    }


def reading(counts: Sequence[torch.Tensor], loaded: LoadedModel, num_tokens: int, level: float) -> Reading:
    """A reading from the tokens on which each neuron is active: one tensor of shape `(n_neurons,)` per site."""
    sites = loaded.sites
    layers = np.array([int(count.sum()) for count in counts]) / num_tokens / [site.width for site in sites]
    dead = np.array([int((count < DEAD_BELOW * num_tokens).sum()) for count in counts])
    dead = dead / [site.n_neurons for site in sites]
    return Reading(
        level=level,
        activation_ratio=float(layers.mean()),
        layer_activation_ratio=tuple(layers.tolist()),
        dead_neuron_ratio=float(dead.mean()),
    )


@dataclasses.dataclass(eq=False)
class _ProbeTotals(Totals):
    """Tokens on which each neuron is active, per rule and site, shape `(n_neurons,)`, int64."""

    zero: list[torch.Tensor]
    fat: list[torch.Tensor]
    cett: list[torch.Tensor]


class _ProbeObserver(Observer[_ProbeTotals]):
    """Counts the tokens on which each neuron is active, for each rule. It is used for a single batch.

    Unlike other observers it reads numbers from the device in `see`, since a root search decides on numbers. A training
    run probes rarely and on few tokens, so the waiting does not matter.
    """

    needs_gate = True

    def __init__(self, loaded: LoadedModel, eps: float, target_cett: float):
        def zeros() -> list[torch.Tensor]:
            return [torch.zeros(s.n_neurons, dtype=torch.int64, device=s.device) for s in loaded.sites]

        super().__init__(_ProbeTotals(zero=zeros(), fat=zeros(), cett=zeros()))
        self._sites, self._eps, self._target = loaded.sites, eps, target_cett

    def begin(self, batch: Batch) -> None:
        self._tokens = batch.counted.flatten().nonzero()[:, 0]

    def see(self, index: int, rows: Rows, change: Change | None) -> None:
        site, tokens = self._sites[index], self._tokens.to(rows.h.device)
        norms = site.column_norms()
        chosen = rows.of_tokens(tokens)
        threshold = threshold_at_cett(
            site, rows.of_tokens(tokens[:: -(-len(tokens) // SOLVED_TOKENS)]), norms, self._target
        )
        size = sizes(chosen.h, row_scale(norms, chosen))
        self.totals.zero[index] += _counts(is_active(chosen.gate, 0.0), chosen)
        self.totals.fat[index] += _counts(is_active(chosen.gate, self._eps), chosen)
        self.totals.cett[index] += _counts(is_above(size, threshold), chosen)


def _counts(active: torch.Tensor, rows: Rows) -> torch.Tensor:
    """Rows in which each neuron of the site is active, shape `(n_neurons,)`."""
    return active.sum(0) if rows.routing is None else rows.routing.counts_per_expert(active).flatten()


def threshold_at_cett(site: Site, rows: Rows, norms: torch.Tensor, target: float) -> float:
    """The threshold of `neuron_norm` at which the mean CETT of these rows is `target`, within 1%; 0 for a target of 0.

    Args:
        norms: `site.column_norms()`.
    """
    from scipy.optimize import root_scalar

    rows = dataclasses.replace(rows, h=rows.h.float())
    weight, size = site.weight.detach().float(), sizes(rows.h, row_scale(norms, rows))
    top = float(size.max()) if len(size) else 0.0
    if top == 0 or target == 0:
        return 0.0
    full = norm(neuron_output(site, rows.h, rows, weight))

    def excess(log_t: float) -> float:
        dropped = neuron_output(site, kept(rows.h, ~is_above(size, math.exp(log_t))), rows, weight)
        return float(relative_error(norm(dropped), full).mean()) - target

    low, high = math.log(top) - _DECADES * math.log(10), math.log(top)
    # No sign change: one huge neuron dominates the error, or CETT stays below the target because the output is zero at
    # many tokens. The nearer end of the range is the answer.
    if excess(low) >= 0 or excess(high) <= 0:
        return math.exp(low if excess(low) >= 0 else high)
    return math.exp(root_scalar(excess, bracket=(low, high), method="brentq", xtol=_NEAR).root)
