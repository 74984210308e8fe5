"""`calibrate`: one dense streaming pass that measures the calibration curves of a model.

A curve relates, for one site, the threshold of a score to CETT and activation ratio. A short pilot pass over a fixed
set of tokens first chooses a grid of thresholds (`threshold_grid.py`). The main pass then measures CETT and ratio at
the grid, exactly, on a sample of the tokens (on all tokens if the text is short). The place of a token in the corpus
decides whether it is in the sample, so neither the batch size nor the order of batches changes the curves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from sparsing.errors import InputError
from sparsing.measuring.cett import norm, relative_error, site_cett_above, site_norm
from sparsing.measuring.passes import Observer, PassSettings, Totals, run_pass
from sparsing.measuring.threshold_grid import (
    INPUT_STEP,
    Pilot,
    SiteGrid,
    cett_targets,
    from_mode,
    is_input,
    pilot_part,
)
from sparsing.rules.coverage import covering_all
from sparsing.rules.curves import Curves, ScoreCurve
from sparsing.rules.flags import as_array, as_tensor, kept, on_cpu
from sparsing.rules.mask import Change
from sparsing.rules.scores import SCORES, is_above, row_scale, scores_of
from sparsing.sites.tap import Rows
from sparsing.text.corpus import Batch, Corpus

if TYPE_CHECKING:
    from sparsing.models.loading import LoadedModel
    from sparsing.sites.site import Site

SAMPLE_TOKENS = 2048
"""The curves are exact on at least this many tokens ..."""
SAMPLE_SHARE = 1 / 32
"""... and on at least this share of a long corpus."""

Floats = NDArray[np.float64]


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
        scores: Names of scores, also of joint rules. A score with a sign has no curve.
        per_expert: Gives each routed expert a curve of its own, from the errors of its own outputs. An expert without
            a sampled token has the curve of its layer.

    Raises:
        InputError: If a score is unknown (the message suggests the nearest name), or a score of linear inputs is
            calibrated per expert.
    """
    parts = {score.name: score for name in scores for score in scores_of(name)}
    # a value with a sign is cut by no threshold, so it has no curve
    names = sorted(name for name, score in parts.items() if not score.signed)
    blocks, loaded = loaded, covering_all(loaded, names)
    sites = loaded.sites
    if per_expert and any(is_input(site) for site in sites):
        raise InputError(
            f"curves per expert are for scores of feed-forward blocks, got {sorted(scores)}; leave out --per-expert"
            " or the scores of linear inputs"
        )
    few = pilot_part(corpus)
    # few tokens give rough but cheap curves, so a short text has a finer grid
    targets = cett_targets(finer=corpus.num_tokens <= SAMPLE_TOKENS)
    pilot = Pilot(sites, names, few.n_windows, targets)
    # One window at a time: products of matrices round differently in other batch sizes, and the grid, which the curves
    # rest on, must not depend on the batch size.
    run_pass(loaded, few, pilot, key="pilot", settings=PassSettings(batch_size=1), head=False)
    observer = _CurveObserver(sites, pilot.grids(), corpus, per_expert=per_expert)
    result = run_pass(
        loaded,
        corpus,
        observer,
        key=f"calibrate {names}{' per expert' if per_expert else ''}",
        settings=settings,
        label="calibration (dense)",
    )
    return Curves(
        sites=tuple(name for site in blocks.sites for name in row_names(site, per_expert)),
        scores={name: observer.curve(name) for name in names},
        d_ff=max(site.width for site in sites),
        sampled_tokens=int(result.totals.sampled),
        num_tokens=corpus.num_tokens,
        attention_inputs=tuple(site.name for site in sites if not site.in_block),
        window_nll=result.nll,
        window_labels=result.labels,
    )


def row_names(site: Site, per_expert: bool) -> list[str]:
    """Names of the rows of a curve that belong to this site: one, or one per expert."""
    split = per_expert and site.kind == "expert"
    return [f"{site.name}.{expert}" for expert in range(site.n_experts)] if split else [site.name]


@dataclasses.dataclass(eq=False)
class _ExpertSums(Totals):
    """Sums over the sampled rows of each expert of a layer, float64."""

    rows: torch.Tensor
    """Number of rows, shape `(n_experts,)`."""
    cett: torch.Tensor
    """Sums of the CETT of a row, shape `(n_experts, n_points)`."""
    ratio: torch.Tensor
    """Sums of the activation ratio of a row, same shape."""
    quantile_ratio: torch.Tensor
    """Sums of the activation ratio of a row at each quantile, shape `(n_experts, n_quantiles)`."""
    nonzero: torch.Tensor
    """Sums of the share of scores that are not zero, shape `(n_experts,)`."""


@dataclasses.dataclass(eq=False)
class _ScoreSums(Totals):
    """Sums over the sampled tokens; one tensor per site on which the score is defined, float64."""

    cett: list[torch.Tensor]
    """Sums of the CETT of a token at each grid point, shape `(n_points,)`."""
    ratio: list[torch.Tensor]
    """Sums of the activation ratio of a token at each grid point, shape `(n_points,)`."""
    quantile_ratio: list[torch.Tensor]
    """Sums of the activation ratio of a token at each quantile, shape `(n_quantiles,)`."""
    nonzero: list[torch.Tensor]
    """Sums of the share of scores that are not zero, shape `()`."""
    experts: dict[str, _ExpertSums]
    """Sums of each routed expert, by the name of the site; empty unless experts have curves of their own."""

    @classmethod
    def of(cls, grids: Sequence[SiteGrid], sites: Sequence[Site], *, per_expert: bool) -> _ScoreSums:
        """Zeros on the device of each site."""

        def zeros(grid: SiteGrid, *shape: int) -> torch.Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=sites[grid.site].device)

        def of_experts(grid: SiteGrid) -> _ExpertSums:
            n, points, quantiles = sites[grid.site].n_experts, len(grid.thresholds), len(grid.quantiles)
            shapes = ((n,), (n, points), (n, points), (n, quantiles), (n,))
            return _ExpertSums(*(zeros(grid, *shape) for shape in shapes))

        return cls(
            cett=[zeros(grid, len(grid.thresholds)) for grid in grids],
            ratio=[zeros(grid, len(grid.thresholds)) for grid in grids],
            quantile_ratio=[zeros(grid, len(grid.quantiles)) for grid in grids],
            nonzero=[zeros(grid) for grid in grids],
            experts={
                sites[grid.site].name: of_experts(grid)
                for grid in grids
                if per_expert and sites[grid.site].kind == "expert"
            },
        )


@dataclasses.dataclass(eq=False)
class _CurveTotals(Totals):
    """Totals of the main pass."""

    sampled: torch.Tensor
    """Number of sampled tokens, shape `()`, int64, on the CPU."""
    sampled_inputs: torch.Tensor
    """Number of tokens that the curves of linear inputs rest on, shape `()`, int64, on the CPU."""
    scores: dict[str, _ScoreSums]
    """Score name to its sums."""


class _CurveObserver(Observer[_CurveTotals]):
    """Adds up CETT and ratio at the grid over the sampled tokens."""

    usual = False

    def __init__(
        self,
        sites: Sequence[Site],
        grids: dict[str, list[SiteGrid]],
        corpus: Corpus,
        *,
        per_expert: bool,
    ):
        sums = {
            name: _ScoreSums.of(of_score, sites, per_expert=per_expert) for name, of_score in grids.items()
        }
        none = torch.zeros((), dtype=torch.int64)
        super().__init__(_CurveTotals(sampled=none, sampled_inputs=none.clone(), scores=sums))
        self.needs_gate = any(SCORES[score].needs_gate for score in grids)
        self.extra = frozenset().union(*(SCORES[score].extra for score in grids))
        self._sites, self._grids = sites, grids
        # score and place in its sums, for each site
        self._places: list[list[tuple[str, int]]] = [[] for _ in sites]
        for name, of_score in grids.items():
            for place, grid in enumerate(of_score):
                self._places[grid.site].append((name, place))

        def on_device(field: str) -> dict[str, list[torch.Tensor]]:
            return {
                name: [getattr(grid, field).float().to(sites[grid.site].device) for grid in of]
                for name, of in grids.items()
            }

        self._points, self._quantiles = on_device("thresholds"), on_device("quantiles")
        self._scales = {
            name: [SCORES[name].scale(sites[grid.site]) for grid in of] for name, of in grids.items()
        }
        share = max(SAMPLE_SHARE, SAMPLE_TOKENS / max(corpus.num_tokens, 1))
        self._share, self._few_share = min(1.0, share), min(1.0, share / INPUT_STEP)

    def begin(self, batch: Batch) -> None:
        chosen = batch.counted & in_sample(batch.place, self._share)
        few = batch.counted & in_sample(batch.place, self._few_share)
        self._tokens, self._few = (mask.flatten().nonzero()[:, 0] for mask in (chosen, few))
        self.totals.sampled += len(self._tokens)
        self.totals.sampled_inputs += len(self._few)

    def see(self, index: int, rows: Rows, change: Change | None) -> None:
        if not self._places[index]:
            return  # no score with a curve is defined on it
        site = self._sites[index]
        tokens = self._few if is_input(site) else self._tokens
        rows = rows.of_tokens(tokens.to(rows.h.device), gate=self.needs_gate)
        full = site_norm(site, rows)
        for name, place in self._places[index]:
            score, sums, mode = SCORES[name], self.totals.scores[name], self._grids[name][place].mode
            scale = row_scale(self._scales[name][place], rows)
            size, centred = score.sizes(score.value_of(rows), scale, mode), from_mode(rows, mode)
            points, quantiles = self._points[name][place], self._quantiles[name][place]
            # summed in float64, so that the sums of millions of tokens keep all their digits
            sums.nonzero[place] += _count_above(size, size.new_zeros(1))[0] / site.width
            sums.quantile_ratio[place] += _count_above(size, quantiles) / site.width
            errors = site_cett_above(site, centred, size, points, full)
            sums.cett[place] += errors.sum(1, dtype=torch.float64)
            sums.ratio[place] += _count_above(size, points) / site.width
            if site.name in sums.experts:
                per_row = _counts_above(size, quantiles)
                self._add_experts(sums.experts[site.name], site, rows, size, points, per_row)

    def _add_experts(
        self,
        sums: _ExpertSums,
        site: Site,
        rows: Rows,
        size: torch.Tensor,
        points: torch.Tensor,
        counts: torch.Tensor,
    ) -> None:
        """Adds up the error of each row on its own, by expert. The routing weight cancels in it."""
        assert rows.routing is not None
        expert, weight = rows.routing.expert, site.weight.detach()
        full = norm(rows.routing.outputs(rows.h, weight))

        def add(total: torch.Tensor, per_row: torch.Tensor) -> None:
            # the sum of the batch is one number, so that totals of several processes are added in the same order
            total += torch.zeros_like(total).index_add_(0, expert, per_row.double())

        add(sums.rows, torch.ones_like(full))
        add(sums.nonzero, is_above(size, 0.0).double().mean(-1))
        add(sums.quantile_ratio, counts / size.shape[-1])
        for point, threshold in enumerate(points):
            active = is_above(size, threshold)
            dropped = norm(rows.routing.outputs(kept(rows.h, ~active), weight))
            add(sums.cett[:, point], relative_error(dropped, full))
            add(sums.ratio[:, point], active.double().mean(-1))

    def curve(self, score: str) -> ScoreCurve:
        """The curve of a score, after the pass."""
        by_site = [self._rows(score, place) for place in range(len(self._grids[score]))]
        rows = [row for of_site in by_site for row in of_site.values()]
        columns = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        share, modes = (columns.pop(name) for name in ("share", "modes"))
        return ScoreCurve(
            on=score,
            sites=tuple(name for of_site in by_site for name in of_site),
            share=share / len(by_site) if self.totals.scores[score].experts else None,
            modes=modes if SCORES[score].centred else None,
            **columns,
        )

    def _rows(self, score: str, place: int) -> dict[str, dict[str, Floats]]:
        """The rows of the curve that belong to one site, by name; the keys of a row are fields of `ScoreCurve`."""
        grid, sums, totals = self._grids[score][place], self.totals.scores[score], self.totals
        site = self._sites[grid.site]
        fields = ("cett", "ratio", "quantile_ratio", "nonzero")
        # linear inputs are measured on a part of the sampled tokens
        sampled = max(1, int(totals.sampled_inputs if is_input(site) else totals.sampled))
        pooled = {name: getattr(sums, name)[place].numpy() / sampled for name in fields}
        pooled |= {
            "thresholds": grid.thresholds.numpy(),
            "quantiles": grid.quantiles.numpy(),
            "modes": np.array(grid.mode),
            "weights": np.array(float(site.d_model * site.width)),
            "share": np.ones(()),
        }
        own = sums.experts.get(site.name)
        if own is None:
            return {site.name: pooled}
        counts, rows = own.rows.numpy(), dict[str, dict[str, Floats]]()
        for expert, name in enumerate(row_names(site, True)):
            rows[name] = pooled | {"share": counts[expert] / counts.sum()}
            # half a row in place of none, since errors are divided by the weights
            rows[name]["weights"] = pooled["weights"] * max(counts[expert], 0.5) / counts.sum()
            if counts[expert]:  # an expert without a token has the curve of its layer
                rows[name] |= {
                    field: getattr(own, field)[expert].numpy() / counts[expert] for field in fields
                }
        return rows


def _count_above(size: torch.Tensor, thresholds: torch.Tensor) -> torch.Tensor:
    """How many sizes are above each of the rising thresholds, shape `(n_thresholds,)`, float64."""
    if not on_cpu(size):
        return _counts_above(size.view(1, -1), thresholds)[0].double()
    # NumPy compares with all thresholds faster than it sorts
    sizes, limits = as_array(size), as_array(thresholds)
    return as_tensor(np.array([np.count_nonzero(sizes > limit) for limit in limits], dtype=np.float64))


def _counts_above(size: torch.Tensor, thresholds: torch.Tensor) -> torch.Tensor:
    """How many sizes of each row are above each of the rising thresholds, shape `(rows, n_thresholds)`, int64."""
    # the number of thresholds below each size; scatter_add_ where bincount would wait for the device
    passed = torch.bucketize(size, thresholds)
    counts = passed.new_zeros(len(size), len(thresholds) + 1)
    counts.scatter_add_(1, passed, torch.ones_like(passed))
    return counts[:, 1:].flip(1).cumsum(1).flip(1)


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
