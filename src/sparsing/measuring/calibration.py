"""`calibrate`: one dense streaming pass that learns, per site, threshold against CETT and activation ratio.

A short pilot over a fixed set of tokens chooses a grid of thresholds. The pass then measures CETT and ratio
at the grid, exactly, on a sample of the tokens (on all of them if the text is short). The place of a token in
the corpus decides whether it is in the sample, so neither batch size nor batch order changes the curves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from sparsing.measuring.cett import cett, output_norm
from sparsing.measuring.passes import Observer, PassSettings, Totals, run_pass
from sparsing.rules.curves import Curves, ScoreCurve, inverse
from sparsing.rules.mask import Change
from sparsing.rules.scores import SCORES, is_above, sizes
from sparsing.sites.tap import Rows
from sparsing.text.corpus import Batch, Corpus

if TYPE_CHECKING:
    from sparsing.models.loading import LoadedModel
    from sparsing.sites.site import Site

GRID_CETT = (0.01, 0.02, 0.04, 0.07, 0.1, 0.14, 0.18, 0.22, 0.27, 0.33, 0.4, 0.5, 0.65, 0.8, 0.95)
"""CETT values that the grid aims at, by the pilot. A last point drops every neuron."""
FINER = 4
"""Points between two of these on a short text, whose curves are rough and cheap."""
PILOT_TOKENS = 256
SAMPLE_TOKENS = 4096
"""The curves are exact on at least this many tokens ..."""
SAMPLE_SHARE = 1 / 32
"""... and on at least this share of a long corpus."""


def calibrate(
    loaded: LoadedModel,
    corpus: Corpus,
    *,
    scores: Sequence[str] = ("neuron_norm",),
    settings: PassSettings | None = None,
) -> Curves:
    """Learn the curves of these scores and the dense loss, in one pass and a pilot of a few hundred tokens.

    Raises:
        InputError: if a score is unknown (with a suggestion).
    """
    for score in scores:
        SCORES[score]
    few = _pilot_part(corpus)
    pilot = _Pilot(loaded.sites, scores, few.n_windows, _grid_targets(corpus))
    # one window at a time: the grid must not depend on how windows are batched
    run_pass(loaded, few, pilot, key="pilot", settings=PassSettings(batch_size=1), head=False)
    observer = _CurveObserver(loaded.sites, pilot.grids(), corpus)
    result = run_pass(
        loaded,
        corpus,
        observer,
        key=f"calibrate {sorted(scores)}",
        settings=settings,
        label="calibration (dense)",
    )
    sampled = int(result.totals.sampled)
    curves = {
        score: ScoreCurve(
            on=score,
            thresholds=torch.stack(observer.grids[score]).numpy(),
            cett=torch.stack(sums.cett).numpy() / sampled,
            ratio=torch.stack(sums.ratio).numpy() / sampled,
        )
        for score, sums in result.totals.scores.items()
    }
    return Curves(
        sites=tuple(site.name for site in loaded.sites),
        scores=curves,
        d_ff=max(site.d_ff for site in loaded.sites),
        sampled_tokens=sampled,
        num_tokens=corpus.num_tokens,
        window_nll=result.nll,
        window_labels=result.labels,
    )


class _Pilot(Observer[Totals]):
    """Keeps `h` and `gate` of a few tokens and chooses the grid of thresholds on them."""

    def __init__(self, sites: Sequence[Site], scores: Sequence[str], n_windows: int, targets: np.ndarray):
        super().__init__(Totals())
        self.needs_gate = any(SCORES[score].needs_gate for score in scores)
        self._sites, self._scores = sites, scores
        self._targets = targets
        self._per_window = -(-PILOT_TOKENS // n_windows)
        self._gate: list[list[torch.Tensor]] = [[] for _ in sites]
        self._h: list[list[torch.Tensor]] = [[] for _ in sites]

    def begin(self, batch: Batch) -> None:
        counted = batch.counted.flatten().nonzero()[:, 0]
        self._rows = counted[:: max(1, len(counted) // self._per_window)][: self._per_window]

    def see(self, index: int, rows: Rows, change: Change | None) -> None:
        chosen = self._rows.to(rows.h.device)
        self._h[index].append(rows.h[chosen].clone())
        self._gate[index].append(rows.gate[chosen].clone() if self.needs_gate else self._h[index][-1])

    def grids(self) -> dict[str, list[torch.Tensor]]:
        """For each score the thresholds of each site, shape `(n_points,)`, float64, rising, on the CPU."""
        return {score: [self._grid(i, score) for i in range(len(self._sites))] for score in self._scores}

    def _grid(self, index: int, name: str) -> torch.Tensor:
        site, score = self._sites[index], SCORES[name]
        h = torch.cat(self._h[index])
        size = sizes(score.value_of(torch.cat(self._gate[index]), h), score.scale(site))
        positive = size[size > 0].double()
        if positive.numel() == 0:  # all neurons are dead, so any threshold drops nothing of size
            return torch.logspace(-6, 0, len(self._targets) + 1, dtype=torch.float64)
        top = positive.max()
        tops = size.amax(-1).double()
        # a massive activation of one token must not hide where the other tokens' neurons lie
        decades = 4 + float((top / tops[tops > 0].median()).log10())
        ladder = (
            torch.logspace(-decades, 0, round(10 * decades), dtype=torch.float64, device=top.device) * top
        )
        weight = site.weight.detach()
        full = output_norm(h, weight)
        values = [cett(h, is_above(size, t), weight, full).mean().double() for t in ladder.tolist()]
        points = inverse(ladder.cpu().numpy(), torch.stack(values).cpu().numpy(), self._targets)
        points = np.maximum.accumulate(points * (1 + 1e-9 * np.arange(len(points))))
        return torch.tensor([*points, 4 * max(float(top), points[-1])], dtype=torch.float64)


@dataclasses.dataclass(eq=False)
class _ScoreSums(Totals):
    """Sums over the sampled tokens at each grid point; one tensor per site, shape `(n_points,)`, float64."""

    cett: list[torch.Tensor]
    ratio: list[torch.Tensor]


@dataclasses.dataclass(eq=False)
class _CurveTotals(Totals):
    sampled: torch.Tensor
    """Sampled tokens, shape `()`, int64."""
    scores: dict[str, _ScoreSums]


class _CurveObserver(Observer[_CurveTotals]):
    """Adds up CETT and ratio at the grid over the sampled tokens."""

    def __init__(self, sites: Sequence[Site], grids: dict[str, list[torch.Tensor]], corpus: Corpus):
        def zeros(grid: list[torch.Tensor]) -> list[torch.Tensor]:
            return [torch.zeros_like(g, device=site.device) for g, site in zip(grid, sites, strict=True)]

        sums = {score: _ScoreSums(cett=zeros(grid), ratio=zeros(grid)) for score, grid in grids.items()}
        super().__init__(_CurveTotals(sampled=torch.zeros((), dtype=torch.int64), scores=sums))
        self.grids = grids
        self.needs_gate = any(SCORES[score].needs_gate for score in grids)
        self._sites = sites
        self._points = {score: [g.tolist() for g in grid] for score, grid in grids.items()}
        self._scales = {score: [SCORES[score].scale(site) for site in sites] for score in grids}
        self._share = min(1.0, max(SAMPLE_SHARE, SAMPLE_TOKENS / max(corpus.num_tokens, 1)))

    def begin(self, batch: Batch) -> None:
        chosen = batch.counted & in_sample(batch.place, self._share)
        self._rows = chosen.flatten().nonzero()[:, 0]
        self.totals.sampled += len(self._rows)

    def see(self, index: int, rows: Rows, change: Change | None) -> None:
        chosen = self._rows.to(rows.h.device)
        h = rows.h[chosen]
        gate = rows.gate[chosen] if self.needs_gate else h
        weight = self._sites[index].weight.detach()
        full = output_norm(h, weight)
        for score, sums in self.totals.scores.items():
            size = sizes(SCORES[score].value_of(gate, h), self._scales[score][index])
            for point, threshold in enumerate(self._points[score][index]):
                active = is_above(size, threshold)
                error = cett(h, active, weight, full)
                sums.cett[index][point] += error.double().sum()
                sums.ratio[index][point] += active.double().sum() / h.shape[-1]


def in_sample(place: torch.Tensor, share: float) -> torch.Tensor:
    """Whether the token at this place of the corpus is sampled: a fixed hash below `share`. Shape of `place`."""
    if share >= 1:
        return torch.ones_like(place, dtype=torch.bool)
    # Fibonacci hashing; the xor breaks up runs of neighbouring tokens
    mixed = (place * 2654435761) & 0xFFFFFFFF
    mixed = ((mixed ^ (mixed >> 15)) * 2246822519) & 0xFFFFFFFF
    return mixed < share * 2**32


def _grid_targets(corpus: Corpus) -> np.ndarray:
    """CETT values for the grid."""
    if corpus.num_tokens > SAMPLE_TOKENS:
        return np.array(GRID_CETT)
    at = np.arange(len(GRID_CETT))
    between = np.linspace(0, at[-1], FINER * at[-1] + 1)
    return np.exp(np.interp(between, at, np.log(GRID_CETT)))


def _pilot_part(corpus: Corpus) -> Corpus:
    """Windows spread evenly over the corpus, just enough for the pilot, chosen by place and not by order."""
    wanted = max(1, min(corpus.n_windows, -(-4 * PILOT_TOKENS // max(1, int(corpus.lengths.mean())))))
    by_place = np.argsort(corpus.starts, kind="stable")
    return corpus.part(by_place[np.linspace(0, corpus.n_windows - 1, wanted).round().astype(int)])
