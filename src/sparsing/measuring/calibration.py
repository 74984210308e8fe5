"""One dense streaming pass that learns, per layer, threshold against CETT against activation ratio.

A short pilot over a fixed set of tokens chooses a grid of thresholds; the pass then measures CETT and ratio
at the grid, exactly, on a sample of the tokens (all of them when the text is short). A token is in the
sample by its place in the corpus, so neither batch size nor batch order changes what is learned.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from sparsing.base.progress import Progress
from sparsing.base.results import Result
from sparsing.errors import InputError
from sparsing.measuring.cett import cett, output_norm
from sparsing.measuring.journal import Journal
from sparsing.measuring.passes import Watcher, run_pass
from sparsing.rules.scores import SCORES, sizes
from sparsing.text.corpus import Batch, Corpus

if TYPE_CHECKING:
    from sparsing.models.loading import LoadedModel
    from sparsing.sites.site import FFNSite

GRID_CETT = (0.01, 0.02, 0.04, 0.07, 0.1, 0.14, 0.18, 0.22, 0.27, 0.33, 0.4, 0.5, 0.65, 0.8, 0.95)
"""CETT values the grid aims at, by the pilot; a last point drops everything."""
FINER = 4
"""Points put between two of them on a short text, whose curves are rough and cheap."""
PILOT_TOKENS = 256
SAMPLE_TOKENS = 4096
"""Tokens on which the curves are exact at least ..."""
SAMPLE_SHARE = 1 / 32
"""... and the share of a long corpus."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ScoreCurve(Result):
    """Per layer: what a cut of one score costs and keeps. Arrays have shape `(n_layers, n_points)`."""

    kind = "score_curve"

    on: str
    """The score that is cut."""
    thresholds: np.ndarray
    """Rising along the second axis."""
    cett: np.ndarray
    """Mean CETT of the sampled tokens."""
    ratio: np.ndarray
    """Activation ratio of the sampled tokens."""

    def threshold_at_cett(self, target: float) -> np.ndarray:
        """The threshold of each layer whose CETT is `target`, shape `(n_layers,)`; 0 for a target of 0.

        Monotone cubic interpolation of `log t` over `log CETT`; below the grid a straight line in the logs;
        where CETT is not monotone (neurons that cancel), the first crossing.
        """
        return np.array([_threshold(t, c, target) for t, c in zip(self.thresholds, self.cett, strict=True)])

    def ratio_at(self, thresholds: np.ndarray) -> np.ndarray:
        """Activation ratio of each layer at its threshold, linear in `log t`, shape `(n_layers,)`."""
        rows = zip(thresholds, self.thresholds, self.ratio, strict=True)
        with np.errstate(divide="ignore"):
            return np.array([np.interp(np.log(t), np.log(grid), ratio) for t, grid, ratio in rows])


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Curves(Result):
    """What the dense pass has learned."""

    kind = "curves"

    scores: dict[str, ScoreCurve]
    """A curve for each score asked for."""
    d_ff: int
    """Neurons per layer (of the widest layer)."""
    sampled_tokens: int
    """Tokens the curves were measured on."""
    num_tokens: int
    """Tokens of the corpus."""
    window_nll: np.ndarray
    """Dense negative log-likelihood summed over each window, nats, shape `(n_windows,)`."""
    window_labels: np.ndarray
    """Predicted tokens of each window, shape `(n_windows,)`."""

    def __getitem__(self, score: str) -> ScoreCurve:
        if score not in self.scores:
            raise InputError(
                f"curves hold {sorted(self.scores)}, not {score!r}; calibrate with scores=[{score!r}]"
            )
        return self.scores[score]

    @property
    def ppl(self) -> float:
        """Perplexity of the dense model on the corpus."""
        return float(np.exp(self.window_nll.sum() / self.window_labels.sum()))


def calibrate(
    loaded: LoadedModel,
    corpus: Corpus,
    *,
    scores: Sequence[str] = ("neuron_norm",),
    journal: Journal | None = None,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Curves:
    """Learn the curves of these scores and the dense loss, in one pass and a pilot of a few hundred tokens.

    Raises:
        InputError: unknown score (with a suggestion).
    """
    for score in scores:
        SCORES[score]
    journal = journal or Journal()
    few = _pilot_part(corpus)
    pilot = _Pilot(loaded.sites, scores, few.n_windows, _grid_targets(corpus))
    # windows one by one: the grid must not depend on how they are batched
    run_pass(loaded, few, pilot, key="pilot", journal=Journal(), batch_size=1, head=False)
    watcher = _CurveWatcher(loaded.sites, pilot.grids(), corpus)
    totals = run_pass(
        loaded,
        corpus,
        watcher,
        key=f"calibrate {sorted(scores)}",
        journal=journal,
        batch_size=batch_size,
        progress=progress,
        label="calibration (dense)",
    )
    sampled = int(totals["sampled"][0])
    curves = {
        score: ScoreCurve(
            on=score,
            thresholds=watcher.grids[score].cpu().numpy(),
            cett=totals[f"cett {score}"] / sampled,
            ratio=totals[f"ratio {score}"] / sampled,
        )
        for score in scores
    }
    return Curves(
        scores=curves,
        d_ff=max(site.d_ff for site in loaded.sites),
        sampled_tokens=sampled,
        num_tokens=corpus.num_tokens,
        window_nll=totals["nll"],
        window_labels=totals["labels"],
    )


class _Pilot(Watcher):
    """Keeps `h` and `gate` of a few tokens and places the grid on them."""

    def __init__(self, sites: Sequence[FFNSite], scores: Sequence[str], n_windows: int, targets: np.ndarray):
        super().__init__()
        self.needs_gate = any(SCORES[score].value == "gate" for score in scores)
        self._sites, self._scores = sites, scores
        self._targets = targets
        self._per_window = -(-PILOT_TOKENS // n_windows)
        self._kept: list[list[tuple[torch.Tensor, torch.Tensor]]] = [[] for _ in sites]

    def begin(self, batch: Batch) -> None:
        counted = batch.counted.flatten().nonzero()[:, 0]
        self._rows = counted[:: max(1, len(counted) // self._per_window)][: self._per_window]

    def on_ffn(self, layer: int, gate: torch.Tensor, h: torch.Tensor) -> None:
        rows = self._rows.to(h.device)
        flat = h.reshape(-1, h.shape[-1])[rows].clone()
        self._kept[layer].append(
            (gate.reshape(-1, h.shape[-1])[rows].clone() if self.needs_gate else flat, flat)
        )

    def grids(self) -> dict[str, torch.Tensor]:
        """For each score the thresholds, shape `(n_layers, n_points)`, float64."""
        return {
            score: torch.stack([self._grid(i, score) for i in range(len(self._sites))])
            for score in self._scores
        }

    def _grid(self, layer: int, name: str) -> torch.Tensor:
        site, score = self._sites[layer], SCORES[name]
        gate, h = (torch.cat(part) for part in zip(*self._kept[layer], strict=True))
        size = sizes(gate if score.value == "gate" else h, _to(score.scale(site), h))
        positive = size[size > 0].double()
        if positive.numel() == 0:  # a layer of dead neurons: any threshold drops nothing of size
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
        values = [cett(h, size > t, weight, full).mean().double() for t in ladder.tolist()]
        points = _threshold(ladder.cpu().numpy(), torch.stack(values).cpu().numpy(), self._targets)
        points = np.maximum.accumulate(points * (1 + 1e-9 * np.arange(len(points))))
        return torch.tensor([*points, 4 * max(float(top), points[-1])], dtype=torch.float64)


class _CurveWatcher(Watcher):
    """Adds up CETT and ratio at the grid over the sampled tokens."""

    def __init__(self, sites: Sequence[FFNSite], grids: dict[str, torch.Tensor], corpus: Corpus):
        super().__init__()
        self.grids = grids
        self.needs_gate = any(SCORES[score].value == "gate" for score in grids)
        self._sites = sites
        self._scales = {score: [SCORES[score].scale(site) for site in sites] for score in grids}
        self._share = min(1.0, max(SAMPLE_SHARE, SAMPLE_TOKENS / max(corpus.num_tokens, 1)))
        self.totals = {"sampled": torch.zeros(1, dtype=torch.int64)}
        for score, grid in grids.items():
            self.totals[f"cett {score}"] = torch.zeros_like(grid)
            self.totals[f"ratio {score}"] = torch.zeros_like(grid)

    def begin(self, batch: Batch) -> None:
        chosen = batch.counted & in_sample(batch.place, self._share)
        self._rows = chosen.flatten().nonzero()[:, 0]
        self.totals["sampled"] += len(self._rows)

    def on_ffn(self, layer: int, gate: torch.Tensor, h: torch.Tensor) -> None:
        rows = self._rows.to(h.device)
        site = self._sites[layer]
        h_rows = h.reshape(-1, h.shape[-1])[rows]
        gate_rows = gate.reshape(-1, h.shape[-1])[rows] if self.needs_gate else h_rows
        weight = site.weight.detach()
        full = output_norm(h_rows, weight)
        for score, grid in self.grids.items():
            scale = self._scales[score][layer] = _to(self._scales[score][layer], h)
            size = sizes(gate_rows if SCORES[score].value == "gate" else h_rows, scale)
            for point, threshold in enumerate(grid[layer].tolist()):
                active = size > threshold
                error = cett(h_rows, active, weight, full)
                self.totals[f"cett {score}"][layer, point] += error.double().sum().cpu()
                self.totals[f"ratio {score}"][layer, point] += active.double().sum().cpu() / h.shape[-1]


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
    """Windows spread evenly over the corpus, just enough for the pilot, named by place and not by order."""
    wanted = max(1, min(corpus.n_windows, -(-4 * PILOT_TOKENS // max(1, int(corpus.lengths.mean())))))
    by_place = np.argsort(corpus.starts, kind="stable")
    return corpus.part(by_place[np.linspace(0, corpus.n_windows - 1, wanted).round().astype(int)])


def _threshold(thresholds: np.ndarray, values: np.ndarray, target: float | np.ndarray) -> np.ndarray:
    """Inverse of threshold -> CETT at `target`, see `ScoreCurve.threshold_at_cett`."""
    from scipy.interpolate import PchipInterpolator

    rising = np.flatnonzero(np.diff(np.maximum.accumulate(values), prepend=0) > 0)
    target = np.asarray(target, dtype=np.float64)
    if len(rising) == 0:  # nothing that can be dropped has a size
        return np.where(target > 0, thresholds[-1], 0.0)
    log_t, log_c = np.log(thresholds[rising]), np.log(values[rising])
    with np.errstate(divide="ignore"):
        wanted = np.log(np.maximum(target, 0))
    if len(rising) == 1:
        return np.where(target > 0, np.exp(log_t[0] + np.minimum(wanted - log_c[0], 0)), 0.0)
    inside = PchipInterpolator(log_c, log_t)(np.clip(wanted, log_c[0], log_c[-1]))
    slope = (log_t[1] - log_t[0]) / (log_c[1] - log_c[0])
    below = log_t[0] + np.where(np.isfinite(wanted), wanted - log_c[0], -np.inf) * slope
    return np.exp(np.where(wanted < log_c[0], below, inside))


def _to(scale: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor | None:
    return None if scale is None else scale.to(like.device)
