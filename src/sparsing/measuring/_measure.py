"""`measure`: measures the sparsity of a model under a rule, at a given level or at a target perplexity ratio.

    measure(Subject(loaded, corpus), "cett", ppl_ratio=1.01)     PPL-1%
    measure(Subject(loaded, corpus), "fat", level=0.0)           exact zeros

For a target, the search (`search.py`) finds the level with calibration curves and real sparse passes. The
reported values are then measured exactly at that level: perplexity, activation ratios, and the realised CETT of
each layer on dense and on sparse inputs. Perplexity and activation ratio are also measured on held-out tokens.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from typing import TypedDict

import numpy as np

from sparsing.errors import InputError, WeakResultWarning
from sparsing.measuring.cost import Lap
from sparsing.measuring.intervals import ratio_interval
from sparsing.measuring.measurement import DEAD_BELOW, NOISY_SHARE, TOO_WIDE, ExpertActivity, Measurement
from sparsing.measuring.observers import SparseTotals
from sparsing.measuring.search import TOLERANCE
from sparsing.measuring.search_result import SearchResult
from sparsing.measuring.subject import Subject, perplexity, window_counts
from sparsing.measuring.threshold_grid import is_input
from sparsing.measuring.token_record import TokenRecord
from sparsing.measuring.weight_bytes import weight_bytes
from sparsing.rules import Rule, make_rule
from sparsing.rules.thresholds import Thresholds
from sparsing.sites.site import Site
from sparsing.text.token_text import token_texts


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """One measurement to run. Exactly one of `level`, `ppl_ratio` and `thresholds` must be given.

    `rule` has no effect if `thresholds` are given.
    """

    rule: str | Rule = "cett"
    level: float | None = None
    ppl_ratio: float | None = None
    thresholds: Thresholds | None = None

    def __post_init__(self) -> None:
        asked = {"level": self.level, "ppl_ratio": self.ppl_ratio, "thresholds": self.thresholds}
        given = [name for name, value in asked.items() if value is not None]
        if len(given) != 1:
            raise InputError(f"give exactly one of level, ppl_ratio, thresholds; got {given or 'none'}")


def measure(
    subject: Subject,
    rule: str | Rule = "cett",
    *,
    level: float | None = None,
    ppl_ratio: float | None = None,
    thresholds: Thresholds | None = None,
    tolerance: float = TOLERANCE,
) -> Measurement:
    """Measure a rule at `level`, a rule at the target `ppl_ratio`, or `thresholds`; give exactly one of the three.

    Args:
        tolerance: Smallest distance from the target `ppl_ratio` that the search tries to reach.

    Raises:
        InputError: if none or several of the three are given, if a level is out of bounds, or if the
            thresholds are for another model.
        TargetError: if no level of the rule reaches `ppl_ratio`.
    """
    request = Request(rule=rule, level=level, ppl_ratio=ppl_ratio, thresholds=thresholds)
    (result,) = measure_all(subject, [request], tolerance=tolerance)
    return result


def measure_all(
    subject: Subject, requests: Sequence[Request], *, tolerance: float = TOLERANCE
) -> list[Measurement]:
    """Measure several requests. Searches share their passes; one dense pass computes the realised CETT of all.

    Raises: as `measure`.
    """
    found: list[_Found] = []
    for request in requests:
        subject.meter.restart()
        found.append(_find(subject, request, tolerance))
    subject.meter.restart()
    subject.find_dense_errors([one.thresholds for one in found])
    shared = subject.meter.lap().part(len(found))
    results = [_verified(subject, one, [one.lap, shared]) for one in found]
    for result in results:
        _warn(result, subject.is_half_precision)
    return results


@dataclasses.dataclass(frozen=True)
class _Found:
    """The thresholds of a request, and the search that found them."""

    thresholds: Thresholds
    rule: Rule | None
    search: SearchResult | None
    """None if the request gave the level or the thresholds."""
    lap: Lap


def _find(subject: Subject, request: Request, tolerance: float) -> _Found:
    if request.thresholds is not None:
        request.thresholds.for_sites(subject.sites(request.thresholds.on))
        return _Found(request.thresholds, None, None, subject.meter.lap())
    rule, level, search = make_rule(request.rule), request.level, None
    if request.ppl_ratio is not None:
        search = subject.search(rule, request.ppl_ratio, tolerance=tolerance)
        level = search.level
    assert level is not None
    thresholds = subject.thresholds(rule, level, request.ppl_ratio)
    return _Found(thresholds, rule, search, subject.meter.lap())


def _verified(subject: Subject, found: _Found, laps: Sequence[Lap]) -> Measurement:
    """Measure everything that is reported for these thresholds."""
    subject.meter.restart()
    thresholds, search = found.thresholds, found.search
    sparse = subject.sparse_pass(thresholds)
    totals, labels = sparse.totals, sparse.labels
    tokens, sites = totals.tokens.numpy(), subject.sites(thresholds.on)
    widths = subject.widths(thresholds.on)
    per_layer = window_counts(totals) / widths  # (n_windows, n_sites), activation ratio summed over tokens
    frequency = _frequency(totals, sites)
    with np.errstate(invalid="ignore"):
        # NaN < x is False
        dead = (frequency < DEAD_BELOW).sum(1) / [site.n_neurons for site in sites]
    intervals = [ratio_interval(column, tokens) for column in per_layer.T]
    return Measurement(
        sites=tuple(site.name for site in sites),
        rule=thresholds.rule,
        level=thresholds.level,
        level_name=make_rule(thresholds.rule).level_name,
        target_ppl_ratio=thresholds.target_ppl_ratio,
        layer_activation_ratio=tuple(subject.ratios(thresholds).tolist()),
        layer_activation_ratio_interval=tuple(i for i in intervals if i is not None) or None,
        ppl_dense=perplexity(subject.curves.window_nll, labels),
        ppl_sparse=perplexity(sparse.nll, labels),
        **subject.outcome(thresholds, found.rule, search),
        cett_dense_inputs=tuple(subject.dense_error(thresholds).tolist()),
        cett_sparse_inputs=_sparse_cett(totals, sites),
        dead_neuron_ratio=tuple(dead.tolist()),
        num_tokens=int(tokens.sum()),
        n_windows=subject.corpus.n_windows,
        converged=search.converged if search else True,
        monotone=search.monotone if search else True,
        tries=search.tries if search else (),
        fitted_ppl_ratio=search.fitted_ppl_ratio if search else None,
        ppl_ratio_noise=search.ppl_ratio_noise if search else None,
        thresholds=thresholds,
        heldout=subject.held_out(thresholds),
        neuron_frequency=frequency,
        position_activation_ratio=_by_position(totals, widths),
        **_first_tokens(subject, totals.record),
        experts=_expert_activity(subject, thresholds, totals),
        weights=weight_bytes(subject.loaded),
        savings=subject.savings(thresholds),
        cost=subject.meter.cost(laps),
        provenance=subject.provenance,
    )


def _sparse_cett(totals: SparseTotals, sites: Sequence[Site]) -> tuple[float, ...]:
    tokens, few = int(totals.tokens.sum()), max(1, int(totals.error_tokens))
    sums = zip(totals.stacked_cett.numpy(), sites, strict=True)
    return tuple(float(total) / (few if is_input(site) else tokens) for total, site in sums)


def _expert_activity(
    subject: Subject, thresholds: Thresholds, totals: SparseTotals
) -> tuple[ExpertActivity, ...]:
    tokens = int(totals.tokens.sum())
    together = subject.error_with_shared(thresholds)
    activities: list[ExpertActivity] = []
    for site, counts in zip(subject.sites(thresholds.on), totals.neuron, strict=True):
        if site.name not in totals.load:
            continue
        load = totals.load[site.name].numpy()
        active = counts.numpy().reshape(site.n_experts, -1).sum(1)  # per expert
        with np.errstate(invalid="ignore"):  # 0 / 0 for an expert without a token
            per_expert = active / (load * site.d_ff)
        activities.append(
            ExpertActivity(
                site=site.name,
                n_experts=site.n_experts,
                top_k=site.top_k,
                d_ff=site.d_ff,
                activation_ratio=float(active.sum() / (tokens * site.width)),
                activation_ratio_of_all=float(active.sum() / (tokens * site.n_neurons)),
                expert_load=load / tokens,
                expert_activation_ratio=per_expert,
                cett_with_shared=together.get(site.name),
            )
        )
    return tuple(activities)


def _frequency(totals: SparseTotals, sites: Sequence[Site]) -> np.ndarray:
    """Share of tokens on which each neuron is active, shape `(n_sites, most neurons)`, float32, NaN beyond a site.

    The neurons of a routed expert have the tokens of this expert; without a token their share is 0.
    """
    most = max(len(counts) for counts in totals.neuron)
    frequency = np.full((len(totals.neuron), most), np.nan, dtype=np.float32)
    for row, counts, site in zip(frequency, totals.neuron, sites, strict=True):
        tokens: np.ndarray = totals.tokens.numpy().sum(keepdims=True)
        if site.name in totals.load:
            tokens = totals.load[site.name].numpy().clip(1).repeat(site.d_ff)
        row[: len(counts)] = counts.numpy() / tokens
    return frequency


def _by_position(totals: SparseTotals, widths: np.ndarray) -> np.ndarray:
    """Mean activation ratio over sites and windows by position in the window, shape `(width,)`, float32."""
    counts = np.stack([position.numpy() for position in totals.position])  # (n_sites, width)
    with np.errstate(invalid="ignore"):
        ratio = (counts / widths[:, None]).mean(0) / totals.position_tokens.numpy()
    return ratio.astype(np.float32)


class _FirstTokens(TypedDict):
    """Values of each of the first counted tokens; the keys are fields of `Measurement`."""

    token_activation_ratio: np.ndarray
    token_text: tuple[str, ...]
    token_top_neuron: np.ndarray
    token_top_norm: np.ndarray


def _first_tokens(subject: Subject, record: TokenRecord) -> _FirstTokens:
    ratio, neuron, norm = (
        np.stack([site.numpy() for site in sites], axis=2)
        for sites in (record.ratio, record.neuron, record.norm)
    )  # (windows, width, n_sites, ...)
    windows, width = ratio.shape[:2]
    batch = next(subject.corpus.batches(windows))
    counted = np.zeros((windows, width), dtype=bool)
    counted[:, : batch.counted.shape[1]] = batch.counted.numpy()
    texts: list[str] = []
    for ids, chosen in zip(batch.ids.numpy(), batch.counted.numpy(), strict=True):
        texts += token_texts(subject.loaded.tokenizer, ids[chosen])
    return {
        "token_activation_ratio": ratio[counted].astype(np.float32),
        "token_text": tuple(texts),
        "token_top_neuron": neuron[counted],
        "token_top_norm": norm[counted],
    }


def _warn(result: Measurement, is_half_precision: bool) -> None:
    if not result.converged:
        assert result.target_ppl_ratio is not None
        warnings.warn(
            f"{result.name}: no level meets the target ppl_ratio {result.target_ppl_ratio:g}; the nearest level has"
            f" {result.ppl_ratio:.5f}. On a short text ppl_ratio changes in steps; give more text",
            WeakResultWarning,
            stacklevel=3,
        )
    if result.target_ppl_ratio is not None and result.ppl_ratio_interval is not None:
        low, high = result.ppl_ratio_interval
        if high - low > TOO_WIDE * (result.target_ppl_ratio - 1):
            warnings.warn(
                f"{result.name}: {result.num_tokens:,} tokens in {result.n_windows} windows are too few to"
                f" distinguish levels: the 95% interval of ppl_ratio is [{low:.4f}, {high:.4f}]; give more text",
                WeakResultWarning,
                stacklevel=3,
            )
    if not result.monotone:
        warnings.warn(
            f"{result.name}: a sparser level had a lower perplexity, and rounding does not explain the difference"
            f" (see `tries`). Other values of {result.level_name} may meet the target too; give more text",
            WeakResultWarning,
            stacklevel=3,
        )
    if result.ppl_ratio_noise is not None and result.target_ppl_ratio is not None:
        share = result.ppl_ratio_noise / (result.target_ppl_ratio - 1)
        if share > NOISY_SHARE:
            warnings.warn(
                f"{result.name}: rounding in {result.provenance.dtype} changes ppl_ratio by"
                f" {result.ppl_ratio_noise:.4f} (one standard deviation), {100 * share:.0f}% of the target rise."
                " The interval includes this error; --dtype float32 removes it",
                WeakResultWarning,
                stacklevel=3,
            )
    if is_half_precision and result.ppl_ratio_noise is None and result.target_ppl_ratio is not None:
        warnings.warn(
            f"{result.name}: rounding in {result.provenance.dtype} changes ppl_ratio by an unknown amount, because too"
            " few passes came near the target to show it. The interval does not include this error; give more text,"
            " or use --dtype float32, which has none",
            WeakResultWarning,
            stacklevel=3,
        )
    dense = [layer for layer, ratio in enumerate(result.layer_activation_ratio) if ratio == 1.0]
    if dense:
        warnings.warn(
            f"{result.name}: layers {dense} stay dense: all neurons are always active",
            WeakResultWarning,
            stacklevel=3,
        )
