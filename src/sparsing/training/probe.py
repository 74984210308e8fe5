"""How active a model is on a few tokens, in one dense pass without the head: cheap enough to be asked in training.

Exact zeros and FAT-eps are counted as they are; the threshold of a fixed CETT is solved for in each layer,
exactly, on up to 1,024 of the tokens (CETT: ReLU2 Wins). All layers see dense inputs.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch

from sparsing.errors import InputError
from sparsing.measuring.cett import cett, output_norm
from sparsing.measuring.journal import Journal
from sparsing.measuring.passes import Watcher, run_pass
from sparsing.measuring.subject import DEAD_BELOW
from sparsing.models.loading import LoadedModel
from sparsing.rules.scores import is_active, sizes
from sparsing.text.corpus import Batch, Corpus

MOST_TOKENS = 32_768
"""A probe is one batch: its memory grows with its tokens."""
SOLVED_TOKENS = 1024
_DECADES = 7
"""How far below the largest neuron a threshold is sought."""
_NEAR = 0.01
"""Relative error allowed of a threshold: a ratio moves by a third of that."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """How active a model is under one rule."""

    level: float
    """Of the rule: eps, CETT."""
    activation_ratio: float
    """Mean over tokens and layers, in [0, 1]."""
    layer_activation_ratio: tuple[float, ...]
    """Mean over tokens, `n_layers` numbers."""
    dead_neuron_ratio: float
    """Share of neurons active on less than 0.1% of the tokens, mean over layers."""


def probe(loaded: LoadedModel, corpus: Corpus, *, eps: float, target_cett: float) -> dict[str, Reading]:
    """Readings under `zero` (FAT at 0), `fat` (at `eps`) and `cett` (at `target_cett`).

    Raises:
        InputError: a corpus of more than 32,768 tokens.
    """
    if corpus.num_tokens > MOST_TOKENS:
        raise InputError(
            f"{corpus.num_tokens} tokens are too many for a probe, at most {MOST_TOKENS};"
            " load_corpus(..., max_tokens=2048) is enough"
        )
    watcher = _ActivityWatcher(loaded, eps, target_cett)
    totals = run_pass(
        loaded, corpus, watcher, key="probe", journal=Journal(), batch_size=corpus.n_windows, head=False
    )
    levels = {"zero": 0.0, "fat": eps, "cett": target_cett}
    return {name: reading(totals[name], loaded, corpus.num_tokens, level) for name, level in levels.items()}


def reading(counts: np.ndarray, loaded: LoadedModel, num_tokens: int, level: float) -> Reading:
    """From the number of tokens on which each neuron is active, shape `(n_layers, widest d_ff)`."""
    widths = np.array([site.d_ff for site in loaded.sites])
    layers = counts.sum(1) / num_tokens / widths
    real = np.arange(counts.shape[1]) < widths[:, None]
    dead = (real & (counts < DEAD_BELOW * num_tokens)).sum(1) / widths
    return Reading(
        level=level,
        activation_ratio=float(layers.mean()),
        layer_activation_ratio=tuple(layers.tolist()),
        dead_neuron_ratio=float(dead.mean()),
    )


class _ActivityWatcher(Watcher):
    """Counts, for each rule, on how many tokens each neuron is active. Sees one batch."""

    needs_gate = True

    def __init__(self, loaded: LoadedModel, eps: float, target_cett: float):
        super().__init__()
        self._sites, self._eps, self._target = loaded.sites, eps, target_cett
        shape = (len(loaded.sites), max(site.d_ff for site in loaded.sites))
        self.totals = {name: torch.zeros(shape, dtype=torch.int64) for name in ("zero", "fat", "cett")}

    def begin(self, batch: Batch) -> None:
        self._rows = batch.counted.flatten().nonzero()[:, 0]

    def on_ffn(self, layer: int, gate: torch.Tensor, h: torch.Tensor) -> None:
        site, rows = self._sites[layer], self._rows.to(h.device)
        gate, h = (value.reshape(-1, value.shape[-1])[rows].float() for value in (gate, h))  # (tokens, d_ff)
        size = sizes(h, site.column_norms())
        some = slice(None, None, -(-len(rows) // SOLVED_TOKENS))
        threshold = threshold_at_cett(h[some], size[some], site.weight.detach().float(), self._target)
        self._add("zero", layer, is_active(gate, 0.0))
        self._add("fat", layer, is_active(gate, self._eps))
        self._add("cett", layer, size > threshold)

    def _add(self, name: str, layer: int, active: torch.Tensor) -> None:
        self.totals[name][layer, : active.shape[1]] += active.sum(0).cpu()


def threshold_at_cett(h: torch.Tensor, size: torch.Tensor, weight: torch.Tensor, target: float) -> float:
    """The threshold of `size` at which the mean CETT of these tokens is `target`, within 1%; 0 for a target of 0.

    Args:
        h: intermediate activations, shape `(tokens, d_ff)`, float32.
        size: `neuron_norm`, same shape.
        weight: of `down_proj`, shape `(d_model, d_ff)`, float32.
    """
    from scipy.optimize import root_scalar

    top = float(size.max()) if len(size) else 0.0
    if top == 0 or target == 0:
        return 0.0
    full = output_norm(h, weight)

    def excess(log_t: float) -> float:
        return float(cett(h, size > math.exp(log_t), weight, full).mean()) - target

    low, high = math.log(top) - _DECADES * math.log(10), math.log(top)
    if excess(low) >= 0 or excess(high) <= 0:  # one huge neuron, or dead tokens that nothing costs
        return math.exp(low if excess(low) >= 0 else high)
    return math.exp(root_scalar(excess, bracket=(low, high), method="brentq", xtol=_NEAR).root)
