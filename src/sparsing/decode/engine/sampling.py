"""Chooses the next token from the logits: greedy, or at random with temperature, top-k and top-p."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsing.errors import InputError

if TYPE_CHECKING:
    Array = np.ndarray[Any, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen, validated on construction.

    Raises:
        InputError: If a value is out of range.
    """

    temperature: float = 0.0
    """Divides the logits; 0 takes the largest logit (greedy)."""
    top_k: int = 0
    """Choose among this many largest logits; 0 for all."""
    top_p: float = 1.0
    """Choose among the fewest tokens whose probabilities sum to at least this, in (0, 1]."""
    seed: int = 0
    """Seed of the random numbers."""

    def __post_init__(self) -> None:
        if not (self.temperature >= 0 and self.top_k >= 0 and 0 < self.top_p <= 1 and self.seed >= 0):
            raise InputError(
                "sampling needs temperature >= 0, top_k >= 0, top_p in (0, 1] and seed >= 0, got"
                f" {self.temperature}, {self.top_k}, {self.top_p} and {self.seed}"
            )


class Sampler:
    """Chooses tokens one after the other; two samplers with the same settings choose the same from the same logits."""

    def __init__(self, sampling: Sampling):
        self._sampling, self._rng = sampling, np.random.default_rng(sampling.seed)

    def __call__(self, logits: Array) -> int:
        """The id of the next token; `logits` has shape `(vocab_size,)`."""
        if self._sampling.temperature == 0:
            return int(logits.argmax())
        ids, probabilities = candidates(logits, self._sampling)
        return int(self._rng.choice(ids, p=probabilities))


def candidates(logits: Array, sampling: Sampling) -> tuple[Array, Array]:
    """The tokens that may be chosen at a temperature above 0, the likeliest first, and their probabilities."""
    ids = np.argsort(-logits, kind="stable")
    if sampling.top_k:
        ids = ids[: sampling.top_k]
    sorted_logits = logits[ids].astype(np.float64)
    # the largest is subtracted first: a logit over a tiny temperature would be infinite
    with np.errstate(over="ignore"):
        probabilities = np.exp((sorted_logits - sorted_logits[0]) / sampling.temperature)
    probabilities /= probabilities.sum()
    # a token stays if the tokens before it do not reach top_p yet
    kept = int((np.cumsum(probabilities) - probabilities < sampling.top_p).sum())
    return ids[:kept], probabilities[:kept] / probabilities[:kept].sum()
