"""`calibrate`: one dense streaming pass that measures the calibration curves of a model.

A curve relates, for one site, the threshold of a score to CETT and activation ratio. A short pilot pass over a fixed
set of tokens first chooses a grid of thresholds. The main pass then measures CETT and ratio at the grid, exactly, on a
sample of the tokens (on all tokens if the text is short). The place of a token in the corpus decides whether it is in
the sample, so neither the batch size nor the order of batches changes the curves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from sparsing.measuring.cett import norm, relative_error, site_cett
from sparsing.measuring.passes import Observer, PassSettings, Totals, run_pass
from sparsing.rules.curves import Curves, ScoreCurve, inverse
from sparsing.rules.mask import Change
from sparsing.rules.scores import SCORES, is_above, row_scale, sizes
from sparsing.sites.neuron_output import neuron_output
from sparsing.sites.tap import Rows
from sparsing.text.corpus import Batch, Corpus

if TYPE_CHECKING:
    from sparsing.models.loading import LoadedModel
    from sparsing.sites.site import Site

GRID_CETT = (0.01, 0.02, 0.04, 0.07, 0.1, 0.14, 0.18, 0.22, 0.27, 0.33, 0.4, 0.5, 0.65, 0.8, 0.95)
"""CETT values of the grid points, as the pilot estimates them. One more point drops every neuron."""
FINER = 4
"""On a short text each step of `GRID_CETT` is divided into this many, since few tokens give rough but cheap curves."""
PILOT_TOKENS = 256
"""Tokens of the pilot pass."""
SAMPLE_TOKENS = 2048
"""The curves are exact on at least this many tokens ..."""
SAMPLE_SHARE = 1 / 32
"""... and on at least this share of a long corpus."""


def calibrate(
    loaded: LoadedModel,
    corpus: Corpus,
    *,
    scores: Sequence[str] = ("neuron_norm",),
    settings: PassSettings | None = None,
    per_expert: bool = False,
) -> Curves:
    """The calibration curves of these scores and the dense loss, from one pass and a pilot of a few hundred tokens.

    Args:
        scores: Names of scores.
        per_expert: Gives each routed expert a curve of its own, from the errors of its own outputs. An expert without
            a sampled token has the curve of its layer.

    Raises:
        InputError: If a score is unknown. The message suggests the nearest name.
    """
    for score in scores:
        SCORES[score]  # raises for an unknown name before the model runs
    few = _pilot_part(corpus)
    pilot = _Pilot(loaded.sites, scores, few.n_windows, _grid_targets(corpus))
    # One window at a time: products of matrices round differently in other batch sizes, and the grid, which the curves
    # rest on, must not depend on the batch size.
    run_pass(loaded, few, pilot, key="pilot", settings=PassSettings(batch_size=1), head=False)
    observer = _CurveObserver(loaded.sites, pilot.grids(), corpus, per_expert=per_expert)
    result = run_pass(
        loaded,
        corpus,
        observer,
        key=f"calibrate {sorted(scores)}{' per expert' if per_expert else ''}",
        settings=settings,
        label="calibration (dense)",
    )
    sampled = int(result.totals.sampled)
    curves = {score: observer.curve(score) for score in result.totals.scores}
    return Curves(
        sites=tuple(name for site in loaded.sites for name in _row_names(site, per_expert)),
        scores=curves,
        d_ff=max(site.width for site in loaded.sites),
        sampled_tokens=sampled,
        num_tokens=corpus.num_tokens,
        window_nll=result.nll,
        window_labels=result.labels,
    )


def _row_names(site: Site, per_expert: bool) -> list[str]:
    split = per_expert and site.kind == "expert"
    return [f"{site.name}.{expert}" for expert in range(site.n_experts)] if split else [site.name]


class _Pilot(Observer[Totals]):
    """Keeps the rows of a few tokens and chooses the grid of thresholds from them."""

    def __init__(
        self, sites: Sequence[Site], scores: Sequence[str], n_windows: int, targets: NDArray[np.float64]
    ):
        super().__init__(Totals())
        self.needs_gate = any(SCORES[score].needs_gate for score in scores)
        self._sites, self._scores = sites, scores
        self._targets = targets
        self._per_window = -(-PILOT_TOKENS // n_windows)  # rounded up
        self._kept: list[list[Rows]] = [[] for _ in sites]

    def begin(self, batch: Batch) -> None:
        counted = batch.counted.flatten().nonzero()[:, 0]
        # evenly spaced tokens of the window
        self._tokens = counted[:: max(1, len(counted) // self._per_window)][: self._per_window]

    def see(self, index: int, rows: Rows, change: Change | None) -> None:
        self._kept[index].append(rows.of_tokens(self._tokens.to(rows.h.device), gate=self.needs_gate))

    def grids(self) -> dict[str, list[torch.Tensor]]:
        """Score name to the grid of each site: rising thresholds, shape `(n_points,)`, float64, on the CPU."""
        return {score: [self._grid(i, score) for i in range(len(self._sites))] for score in self._scores}

    def _grid(self, index: int, name: str) -> torch.Tensor:
        site, score = self._sites[index], SCORES[name]
        rows = Rows.joined(self._kept[index])
        size = sizes(score.value_of(rows.gate, rows.h), row_scale(score.scale(site), rows))
        positive = size[size > 0].double()
        if positive.numel() == 0:  # every neuron is zero on these tokens, so any grid is as good as another
            return torch.logspace(-6, 0, len(self._targets) + 1, dtype=torch.float64)
        top = positive.max()
        tops = size.amax(-1).double()
        # One token may have a massive activation. The ladder then reaches further down, to the sizes of neurons at
        # the other tokens.
        decades = 4 + float((top / tops[tops > 0].median()).log10())
        ladder = (
            torch.logspace(-decades, 0, round(10 * decades), dtype=torch.float64, device=top.device) * top
        )
        full = norm(neuron_output(site, rows.h, rows))
        values = [site_cett(site, rows, is_above(size, t), full).mean().double() for t in _numbers(ladder)]
        points = inverse(ladder.cpu().numpy(), torch.stack(values).cpu().numpy(), self._targets)
        # interpolation over the logarithms needs distinct points, also where CETT jumps over several targets
        points = np.maximum.accumulate(points * (1 + 1e-9 * np.arange(len(points))))
        return torch.tensor([*points, 4 * max(float(top), points[-1])], dtype=torch.float64)


@dataclasses.dataclass(eq=False)
class _ScoreSums(Totals):
    """Sums over the sampled tokens at each grid point; one tensor per site, shape `(n_points,)`, float64."""

    cett: list[torch.Tensor]
    """Sums of the CETT of a token."""
    ratio: list[torch.Tensor]
    """Sums of the activation ratio of a token."""
    nonzero: list[torch.Tensor]
    """Sums of the share of scores that are not zero, shape `()`."""
    experts: dict[str, _ExpertSums]
    """Sums of each routed expert, by the name of the site; empty unless experts have curves of their own."""


@dataclasses.dataclass(eq=False)
class _ExpertSums(Totals):
    """Sums over the sampled rows of each expert of a layer, float64."""

    rows: torch.Tensor
    """Number of rows, shape `(n_experts,)`."""
    cett: torch.Tensor
    """Sums of the CETT of a row, shape `(n_experts, n_points)`."""
    ratio: torch.Tensor
    """Sums of the activation ratio of a row, same shape."""
    nonzero: torch.Tensor
    """Sums of the share of scores that are not zero, shape `(n_experts,)`."""

    @classmethod
    def empty(cls, site: Site, points: int) -> _ExpertSums:
        """Sums before the first batch."""
        shapes = ((), (points,), (points,), ())
        return cls(
            *(torch.zeros(site.n_experts, *s, dtype=torch.float64, device=site.device) for s in shapes)
        )


@dataclasses.dataclass(eq=False)
class _CurveTotals(Totals):
    """Totals of the main pass."""

    sampled: torch.Tensor
    """Number of sampled tokens, shape `()`, int64, on the CPU."""
    scores: dict[str, _ScoreSums]
    """Score name to its sums."""


class _CurveObserver(Observer[_CurveTotals]):
    """Adds up CETT and ratio at the grid over the sampled tokens."""

    def __init__(
        self,
        sites: Sequence[Site],
        grids: dict[str, list[torch.Tensor]],
        corpus: Corpus,
        *,
        per_expert: bool,
    ):
        def zeros(grid: list[torch.Tensor]) -> list[torch.Tensor]:
            return [torch.zeros_like(g, device=site.device) for g, site in zip(grid, sites, strict=True)]

        def scalars() -> list[torch.Tensor]:
            return [torch.zeros((), dtype=torch.float64, device=site.device) for site in sites]

        sums = {
            score: _ScoreSums(
                cett=zeros(grid),
                ratio=zeros(grid),
                nonzero=scalars(),
                experts={
                    site.name: _ExpertSums.empty(site, len(points))
                    for site, points in zip(sites, grid, strict=True)
                    if per_expert and site.kind == "expert"
                },
            )
            for score, grid in grids.items()
        }
        super().__init__(_CurveTotals(sampled=torch.zeros((), dtype=torch.int64), scores=sums))
        self.grids = grids
        self.needs_gate = any(SCORES[score].needs_gate for score in grids)
        self._sites = sites
        # As Python numbers, since `see` may not read a number from a tensor: that would wait for the device.
        self._points = {score: [_numbers(g) for g in grid] for score, grid in grids.items()}
        self._scales = {score: [SCORES[score].scale(site) for site in sites] for score in grids}
        self._share = min(1.0, max(SAMPLE_SHARE, SAMPLE_TOKENS / max(corpus.num_tokens, 1)))

    def begin(self, batch: Batch) -> None:
        chosen = batch.counted & in_sample(batch.place, self._share)
        self._tokens = chosen.flatten().nonzero()[:, 0]
        self.totals.sampled += len(self._tokens)

    def see(self, index: int, rows: Rows, change: Change | None) -> None:
        site = self._sites[index]
        rows = rows.of_tokens(self._tokens.to(rows.h.device), gate=self.needs_gate)
        full = norm(neuron_output(site, rows.h, rows))
        for score, sums in self.totals.scores.items():
            # summed in float64, so that the sums of millions of tokens keep all their digits
            scale = row_scale(self._scales[score][index], rows)
            size = sizes(SCORES[score].value_of(rows.gate, rows.h), scale)
            sums.nonzero[index] += is_above(size, 0.0).double().sum() / site.width
            for point, threshold in enumerate(self._points[score][index]):
                active = is_above(size, threshold)
                error = site_cett(site, rows, active, full)
                sums.cett[index][point] += error.double().sum()
                sums.ratio[index][point] += active.double().sum() / site.width
            if site.name in sums.experts:
                self._add_experts(sums.experts[site.name], site, rows, size, self._points[score][index])

    def _add_experts(
        self, sums: _ExpertSums, site: Site, rows: Rows, size: torch.Tensor, points: Sequence[float]
    ) -> None:
        """Adds up the error of each row on its own, by expert. The routing weight cancels in it."""
        assert rows.routing is not None
        expert, weight = rows.routing.expert, site.weight.detach()
        full = norm(rows.routing.outputs(rows.h, weight))

        def add(total: torch.Tensor, per_row: torch.Tensor) -> None:
            total.index_add_(0, expert, per_row.double())

        add(sums.rows, torch.ones_like(full))
        add(sums.nonzero, is_above(size, 0.0).double().mean(-1))
        for point, threshold in enumerate(points):
            active = is_above(size, threshold)
            dropped = norm(rows.routing.outputs(rows.h * ~active, weight))
            add(sums.cett[:, point], relative_error(dropped, full))
            add(sums.ratio[:, point], active.double().mean(-1))

    def curve(self, score: str) -> ScoreCurve:
        """The curve of a score, after the pass."""
        sums, sampled = self.totals.scores[score], int(self.totals.sampled)
        rows: list[list[np.ndarray]] = []
        for index, site in enumerate(self._sites):
            grid = self.grids[score][index].numpy()
            pooled = [a[index].numpy() / sampled for a in (sums.cett, sums.ratio, sums.nonzero)]
            own = sums.experts.get(site.name)
            if own is None:
                rows.append([grid, *pooled, np.ones(())])
                continue
            for expert, count in enumerate(own.rows.numpy()):
                values = [a[expert].numpy() / max(count, 1) for a in (own.cett, own.ratio, own.nonzero)]
                rows.append([grid, *(values if count else pooled), count / own.rows.numpy().sum()])
        thresholds, cett, ratio, nonzero, share = (np.stack(column) for column in zip(*rows, strict=True))
        return ScoreCurve(
            on=score,
            thresholds=thresholds,
            cett=cett,
            ratio=ratio,
            nonzero=nonzero,
            share=share / len(self._sites) if sums.experts else None,
        )


def _numbers(tensor: torch.Tensor) -> list[float]:
    return cast("Any", tensor).tolist()  # PyTorch annotates a bare list


def in_sample(place: torch.Tensor, share: float) -> torch.Tensor:
    """Whether the token at this place of the corpus is sampled, same shape as `place`, bool.

    A token is sampled if a fixed hash of its place, read as a fraction, is below `share`.
    """
    if share >= 1:
        return torch.ones_like(place, dtype=torch.bool)
    # Fibonacci hashing (Knuth, volume 3, section 6.4). The xor breaks up the regular gaps between neighbouring places.
    mixed = (place * 2654435761) & 0xFFFFFFFF
    mixed = ((mixed ^ (mixed >> 15)) * 2246822519) & 0xFFFFFFFF
    return mixed < share * 2**32


def _grid_targets(corpus: Corpus) -> NDArray[np.float64]:
    """CETT values of the grid points: `GRID_CETT`, with points between on a short text."""
    if corpus.num_tokens > SAMPLE_TOKENS:
        return np.array(GRID_CETT)
    steps = len(GRID_CETT) - 1
    between = np.linspace(0, steps, FINER * steps + 1)
    return np.exp(np.interp(between, np.arange(steps + 1), np.log(GRID_CETT)))


def _pilot_part(corpus: Corpus) -> Corpus:
    """Windows for the pilot, spread evenly over the corpus by their place in it, whatever their order."""
    # four times the pilot's tokens, since a window counts fewer tokens than it holds if windows overlap
    wanted = max(1, min(corpus.n_windows, -(-4 * PILOT_TOKENS // max(1, int(corpus.lengths.mean())))))
    by_place = np.argsort(corpus.starts, kind="stable")
    return corpus.part(by_place[np.linspace(0, corpus.n_windows - 1, wanted).round().astype(int)])
