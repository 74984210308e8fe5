"""The grid of thresholds of each score and site at which `calibrate` measures a curve, chosen from a few tokens.

A curve has a threshold for each of a list of CETT values, as the few tokens estimate them. It also has the thresholds
below which given shares of the scores are, where only the activation ratio is measured: that is a comparison per neuron
and needs no product with a matrix.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from sparsing.errors import UnsupportedModelError
from sparsing.measuring.cett import site_cett_above, site_norm
from sparsing.measuring.passes import Observer, Totals
from sparsing.rules.curves import inverse_of
from sparsing.rules.mask import Change
from sparsing.rules.order_statistics import rising
from sparsing.rules.scores import SCORES, Score, row_scale
from sparsing.sites.tap import Rows
from sparsing.text.corpus import Batch, Corpus

if TYPE_CHECKING:
    from sparsing.sites.site import Site

GRID_CETT = (0.01, 0.02, 0.04, 0.07, 0.1, 0.14, 0.18, 0.22, 0.27, 0.33, 0.4, 0.5, 0.65, 0.8, 0.95)
"""CETT values of the grid points, as the pilot estimates them. One more point drops every neuron."""
FINER = 4
"""On a short text each step of `GRID_CETT` is divided into this many, since few tokens give rough but cheap curves."""
PILOT_TOKENS = 256
"""Tokens of the pilot pass."""
INPUT_STEP = 4
"""Curves of linear inputs rest on one in so many of these tokens and a coarse grid, since a model has many linears."""
QUANTILES = (
    *(0.002, 0.005, 0.01, 0.02, 0.03, 0.04),
    *(i / 40 for i in range(2, 39)),
    *(0.96, 0.97, 0.98, 0.985, 0.99, 0.995, 0.998, 0.999),
)
"""Shares of the scores of the pilot below the thresholds at which the ratio alone is measured."""


@dataclasses.dataclass(frozen=True, eq=False)
class SiteGrid:
    """The thresholds of one score at one site, rising, float64, on the CPU."""

    site: int
    """Index of the site among all sites of the pass."""
    thresholds: torch.Tensor
    """Thresholds at which CETT and ratio are measured, shape `(n_points,)`."""
    quantiles: torch.Tensor
    """Thresholds at which the ratio alone is measured, shape `(n_quantiles,)`."""
    mode: float
    """The centre of the score; 0 for a score without a centre."""


class Pilot(Observer[Totals]):
    """Keeps the rows of a few tokens and chooses the grid of thresholds from them."""

    def __init__(
        self,
        sites: Sequence[Site],
        scores: Sequence[str],
        n_windows: int,
        targets: NDArray[np.float64],
    ):
        """Args:
        scores: Names of scores.
        n_windows: Windows that the pilot runs on.
        targets: CETT values of the grid points of feed-forward blocks.
        """
        super().__init__(Totals())
        self.needs_gate = any(SCORES[score].needs_gate for score in scores)
        self.extra = frozenset().union(*(SCORES[score].extra for score in scores))
        self._sites, self._scores = sites, scores
        self._targets = targets
        self._per_window = -(-PILOT_TOKENS // n_windows)  # rounded up
        self._kept: list[list[Rows]] = [[] for _ in sites]

    def begin(self, batch: Batch) -> None:
        counted = batch.counted.flatten().nonzero()[:, 0]
        # evenly spaced tokens of the window
        self._tokens = counted[:: max(1, len(counted) // self._per_window)][: self._per_window]

    def see(self, index: int, rows: Rows, change: Change | None) -> None:
        tokens = self._tokens.to(rows.h.device)
        if is_input(self._sites[index]):
            tokens = tokens[::INPUT_STEP]
        self._kept[index].append(rows.of_tokens(tokens, gate=self.needs_gate))

    def grids(self) -> dict[str, list[SiteGrid]]:
        """Score name to the grids of the sites on which the score is defined.

        Raises:
            UnsupportedModelError: If a site did not run, because the model does not call its module.
        """
        grids: dict[str, list[SiteGrid]] = {name: [] for name in self._scores}
        for index, (site, kept) in enumerate(zip(self._sites, self._kept, strict=True)):
            if not kept:
                raise UnsupportedModelError(
                    f"the model does not call {site.name}, so its input cannot be read; choose a rule for"
                    " feed-forward blocks, such as cett"
                )
            rows = Rows.joined(kept)
            for name in self._scores:
                if site.kind in SCORES[name].kinds:
                    grids[name].append(self._grid(index, SCORES[name], rows))
            kept.clear()
        return grids

    def _grid(self, index: int, score: Score, rows: Rows) -> SiteGrid:
        site, value = self._sites[index], score.value_of(rows)
        mode = half_sample_mode(value) if score.centred else 0.0
        size = score.sizes(value, row_scale(score.scale(site), rows), mode)
        targets = cett_targets(finer=False) if is_input(site) else self._targets
        positive = size[size > 0].double()
        if positive.numel() == 0:  # every neuron is zero on these tokens, so any grid is as good as another
            points = torch.logspace(-6, 0, len(targets) + 1, dtype=torch.float64)
            quantiles = torch.logspace(-6, 0, len(QUANTILES) + 1, dtype=torch.float64)
            return SiteGrid(index, points, quantiles, mode)
        points = self._points(site, rows, size, mode, targets)
        return SiteGrid(index, points, _quantiles(positive), mode)

    def _points(
        self, site: Site, rows: Rows, size: torch.Tensor, mode: float, targets: NDArray[np.float64]
    ) -> torch.Tensor:
        """Thresholds at which CETT is about `targets`, and one more that drops every neuron."""
        top = size.max().double()
        tops = size.amax(-1).double()
        # One token may have a massive activation. The ladder then reaches further down, to the sizes of neurons at
        # the other tokens.
        decades = 4 + float((top / tops[tops > 0].median()).log10())
        ladder = (
            torch.logspace(-decades, 0, round(10 * decades), dtype=torch.float64, device=top.device) * top
        )
        full = site_norm(site, rows)
        centred = from_mode(rows, mode)
        values = site_cett_above(site, centred, size, ladder.float(), full).mean(1).double()
        points = inverse_of(ladder.cpu().numpy(), values.cpu().numpy())(targets)
        # interpolation over the logarithms needs distinct points, also where CETT jumps over several targets
        points = np.maximum.accumulate(points * (1 + 1e-9 * np.arange(len(points))))
        return torch.tensor([*points, 4 * max(float(top), points[-1])], dtype=torch.float64)


def _quantiles(positive: torch.Tensor) -> torch.Tensor:
    """Thresholds below which the shares `QUANTILES` of these scores are, and one more that drops every neuron."""
    ordered = rising(positive).cpu()
    places = (torch.tensor(QUANTILES, dtype=torch.float64) * (len(ordered) - 1)).round().long()
    values = np.maximum.accumulate(ordered[places].numpy() * (1 + 1e-9 * np.arange(len(places))))
    return torch.tensor([*values, 4 * float(ordered[-1])], dtype=torch.float64)


def from_mode(rows: Rows, mode: float) -> Rows:
    """The rows with `h - mode` as `h`, whose dropped neurons are lost if inactive neurons are set to the mode."""
    return rows if mode == 0.0 else dataclasses.replace(rows, h=rows.h - mode)


def half_sample_mode(value: torch.Tensor) -> float:
    """The mode of a sample: the densest half is taken again and again (Bickel and Fruehwirth 2006).

    A sample of one value has that value as its mode.
    """
    ordered = value.detach().flatten().double().sort().values
    while len(ordered) > 2:
        half = (len(ordered) + 1) // 2
        # the densest half is the narrowest one
        widths = ordered[half - 1 :] - ordered[: len(ordered) - half + 1]
        start = int(widths.argmin())
        ordered = ordered[start : start + half]
    return float(ordered.mean())


def is_input(site: Site) -> bool:
    """Whether the site is a linear input. A model has many of them, so their curves rest on fewer tokens."""
    return site.kind == "linear_input"


def cett_targets(*, finer: bool) -> NDArray[np.float64]:
    """CETT values of the grid points: `GRID_CETT`, if `finer` with points between."""
    if not finer:
        return np.array(GRID_CETT)
    steps = len(GRID_CETT) - 1
    between = np.linspace(0, steps, FINER * steps + 1)
    return np.exp(np.interp(between, np.arange(steps + 1), np.log(GRID_CETT)))


def pilot_part(corpus: Corpus) -> Corpus:
    """Windows for the pilot, spread evenly over the corpus by their place in it, whatever their order."""
    # four times the pilot's tokens, since a window counts fewer tokens than it holds if windows overlap
    wanted = max(1, min(corpus.n_windows, -(-4 * PILOT_TOKENS // max(1, int(corpus.lengths.mean())))))
    by_place = np.argsort(corpus.starts, kind="stable")
    return corpus.part(by_place[np.linspace(0, corpus.n_windows - 1, wanted).round().astype(int)])
