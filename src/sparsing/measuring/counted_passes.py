"""`CountedPasses`: passes that count active neurons, in stages that may run at levels of their own.

The passes of a comparison are such passes. The first stage is the bracketing part, so a pass goes on with the try on
the part at its level. The last stage also finds groups and unions of active neurons.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from sparsing.measuring.active_counts import ActiveObserver, ActiveTotals, zero_counts
from sparsing.measuring.active_sets import CountsAndSetsObserver, CountsAndSetTotals, SetTotals
from sparsing.measuring.passes import Observer, PassResult
from sparsing.measuring.stages import stage_windows
from sparsing.measuring.target_interval import scaled_ratios
from sparsing.rules.mask import Mask

if TYPE_CHECKING:
    from sparsing.measuring.journal import Journal
    from sparsing.rules.thresholds import Thresholds
    from sparsing.sites.site import Site
    from sparsing.text.corpus import Corpus


class StageOfPass(NamedTuple):
    """A stage of a pass, and what moves its figures to the level of the pass."""

    thresholds: Thresholds
    rise_factor: float = 1.0
    ratio_factor: float = 1.0
    """By which its activation ratio is multiplied."""


class RunPass(Protocol):
    """Runs a pass, or takes it from the journal."""

    def __call__(
        self, corpus: Corpus, observer: Observer[Any], mask: Mask | None, key: str, label: str, *, on: str
    ) -> PassResult[Any]: ...


class CountedPasses:
    """The counted passes of a model over a corpus."""

    def __init__(
        self,
        corpus: Corpus,
        dense_nll: NDArray[np.float64],
        part: NDArray[np.int64] | None,
        *,
        sites: Callable[[str], list[Site]],
        run: RunPass,
        journal: Journal,
    ):
        """Args:
        dense_nll: Loss of the dense model, summed over each window, nats, shape `(n_windows,)`.
        part: Windows of the bracketing part.
        sites: The sites of a score.
        """
        self._corpus, self._dense_nll, self._sites, self._run = corpus, dense_nll, sites, run
        self._journal = journal
        self.stages = stage_windows(corpus.n_windows, part)
        """The windows of each stage; empty without a part."""
        self._joined: dict[str, Sequence[StageOfPass]] = {}
        self._counts: dict[str, list[NDArray[np.int64]]] = {}
        """Active tokens of each neuron in the latest stage before a last one, by the score whose sites it watched."""
        self._latest: tuple[str, PassResult[ActiveTotals]] | None = None
        """The identity of thresholds and their counted pass, which the figures of a rule are computed from."""

    def join(self, thresholds: Thresholds, stages: Sequence[StageOfPass]) -> None:
        """From now on, the pass with these thresholds consists of these stages."""
        self._joined[thresholds.identity] = stages

    def whole(self, thresholds: Thresholds, label: str = "") -> PassResult[ActiveTotals]:
        """The pass over the whole corpus."""
        if self._latest is None or self._latest[0] != thresholds.identity:
            self._latest = thresholds.identity, self._whole(thresholds, label)
        return self._latest[1]

    def _whole(self, thresholds: Thresholds, label: str) -> PassResult[ActiveTotals]:
        if not self.stages:
            return self._counted(self._corpus, thresholds, "counts", label)
        totals = zero_counts(self._sites(thresholds.on), self._corpus)
        totals.move_to_cpu()
        nll, labels = self._dense_nll.copy(), np.zeros(self._corpus.n_windows)
        for number, (own, stage) in enumerate(zip(self.stages, self._stages_of(thresholds), strict=True)):
            result = self.stage(stage.thresholds, number, label)
            nll[own] += stage.rise_factor * (result.nll - self._dense_nll[own])
            labels[own] = result.labels
            totals.add_part(self._scaled(result.totals, stage.ratio_factor, thresholds.on), own)
        return PassResult(nll, labels, totals)

    def _scaled(self, totals: ActiveTotals, ratio_factor: float, on: str) -> ActiveTotals:
        """The counts of windows and sites that belong to activation ratios so many times as high."""
        if ratio_factor == 1:
            return totals
        widths = np.array([site.width for site in self._sites(on)])
        tokens = totals.tokens.numpy()[:, None] * widths  # neurons that could be active
        active = np.stack([counts.numpy() for counts in totals.active], axis=1)
        scaled = scaled_ratios(active / np.maximum(tokens, 1), np.array(ratio_factor)) * tokens
        by_site = torch.as_tensor(scaled.round().astype(np.int64)).unbind(1)
        return dataclasses.replace(totals, active=list(by_site))

    def _stages_of(self, thresholds: Thresholds) -> Sequence[StageOfPass]:
        return self._joined.get(thresholds.identity, [StageOfPass(thresholds)] * len(self.stages))

    def stage(self, thresholds: Thresholds, number: int, label: str = "") -> PassResult[ActiveTotals]:
        """Count the active neurons on the windows of a stage."""
        own = self._corpus.part(self.stages[number])
        if number < len(self.stages) - 1:
            result = self._counted(own, thresholds, f"stage {number}", label)
            self._counts[thresholds.on] = [counts.numpy() for counts in result.totals.neuron]
            return result
        result = self._last_stage(thresholds, label)
        return PassResult(result.nll, result.labels, result.totals.counts)

    def sets(self, thresholds: Thresholds) -> SetTotals | None:
        """Groups and unions of the last stage of the pass with these thresholds; None if it has not run."""
        if not self.stages:
            return None
        last = self._stages_of(thresholds)[-1].thresholds
        is_known = self._journal.complete(_last_key(last), len(self.stages[-1]))
        return self._last_stage(last).totals.sets if is_known else None

    def _last_stage(self, thresholds: Thresholds, label: str = "") -> PassResult[CountsAndSetTotals]:
        """Count the active neurons on the windows of the last stage, and sets on some of them.

        Neurons are sorted by their counts in the stage that ran before.
        """
        if thresholds.on not in self._counts:  # the last stage is in the journal of an earlier process
            self.stage(thresholds, len(self.stages) - 2)
        sites, own = self._sites(thresholds.on), self._corpus.part(self.stages[-1])
        observer = CountsAndSetsObserver(sites, own, self._counts[thresholds.on])
        mask = Mask(sites, thresholds)
        label = label or f"{named(thresholds)}, the last windows"
        return self._run(own, observer, mask, _last_key(thresholds), label, on=thresholds.on)

    def _counted(
        self, corpus: Corpus, thresholds: Thresholds, name: str, label: str
    ) -> PassResult[ActiveTotals]:
        sites, key = self._sites(thresholds.on), f"{name} {thresholds.identity}"
        observer, mask = ActiveObserver(sites, corpus), Mask(sites, thresholds)
        label = label or f"{named(thresholds)}, {'all tokens' if name == 'counts' else 'a part'}"
        return self._run(corpus, observer, mask, key, label, on=thresholds.on)


def named(thresholds: Thresholds) -> str:
    """Rule and level, for the progress of a pass."""
    return f"{thresholds.rule} {thresholds.level:.4g}"


def _last_key(thresholds: Thresholds) -> str:
    return f"last {thresholds.identity}"
