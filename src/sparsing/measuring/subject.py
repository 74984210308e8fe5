"""`Subject`: a model and a corpus, calibrated with one dense pass, on which rules are measured.

`measure` (in `_measure.py`) is the main user of this class. It calls `search` for the level of a rule, then
`sparse_pass` and `held_out` for the values to report. The totals of every pass are stored in the journal.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, cast

import numpy as np

from sparsing.base.progress import Progress
from sparsing.base.provenance import made_now
from sparsing.errors import InputError
from sparsing.measuring.active_counts import ActiveTotals
from sparsing.measuring.active_sets import (
    ActiveSetObserver,
    SetTotals,
    find_savings,
    windows_of_sets,
)
from sparsing.measuring.calibration import calibrate, row_names
from sparsing.measuring.cost import Meter
from sparsing.measuring.counted_passes import CountedPasses, StageOfPass, named
from sparsing.measuring.earlier_searches import EarlierSearches
from sparsing.measuring.even_strengths import SAME_STRENGTHS, EvenStrengths
from sparsing.measuring.expected_ratios import ExpectedRatios
from sparsing.measuring.finite import exp_of_nats
from sparsing.measuring.hints import NO_HINTS
from sparsing.measuring.intervals import ratio_interval
from sparsing.measuring.journal import Journal
from sparsing.measuring.measurement import HeldOut, Interval
from sparsing.measuring.observation import Observation
from sparsing.measuring.observers import DenseErrorObserver, SparseObserver, SparseTotals
from sparsing.measuring.overlap import OverlapObserver
from sparsing.measuring.passes import LossOnly, Observer, PassResult, PassSettings, Totals, run_pass
from sparsing.measuring.savings import Savings
from sparsing.measuring.search import TOLERANCE, search
from sparsing.measuring.search_result import SearchResult
from sparsing.measuring.stages import Stages, part_windows
from sparsing.measuring.target_interval import (
    log_distance,
    resampled_at_target,
    scaled_ratios,
    target_interval,
)
from sparsing.models.tokenizer import check_token_ids
from sparsing.rules import Rule
from sparsing.rules.coverage import covering
from sparsing.rules.mask import Mask
from sparsing.rules.thresholds import Thresholds, thresholds_at
from sparsing.text.corpus import Corpus

if TYPE_CHECKING:
    from sparsing.models.loading import LoadedModel
    from sparsing.rules.curves import Curves
    from sparsing.sites.site import Site

T = TypeVar("T", bound=Totals)

USUAL_TRIES = 6
"""Passes of a usual search, over the part or over all tokens."""


class Outcome(TypedDict):
    """Activation ratio and perplexity ratio at a level on the whole corpus; the keys are fields of `Measurement`."""

    activation_ratio: float
    activation_ratio_interval: Interval | None
    ppl_ratio: float
    ppl_ratio_interval: Interval | None


class Subject:
    """A model on a corpus.

    All rules share the curves, the dense loss and the journal, so a second rule needs no second calibration.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        corpus: Corpus,
        *,
        scores: Sequence[str] = ("neuron_norm", "gate"),
        heldout: Corpus | None = None,
        journal: Journal | None = None,
        batch_size: int | None = None,
        progress: Progress | None = None,
        per_expert: bool = False,
        longer_windows: bool = False,
    ):
        """Calibrates.

        Args:
            scores: Names of the scores of the rules that will be measured.
            longer_windows: Allows windows that are longer than the number of positions of the model, as the reference
                does.
            per_expert: Gives each routed expert its own threshold, and not one threshold to all experts of a layer.
        """
        check_token_ids(loaded.model, loaded.tokenizer, corpus.token_ids())
        if not longer_windows:
            _check_window(loaded, corpus)
        self.loaded, self.corpus, self.heldout = loaded, corpus, heldout
        self.journal = journal or Journal()
        self.is_half_precision = loaded.dtype in ("bfloat16", "float16")
        """Whether rounding moves the loss of each pass by an amount that matters for the search."""
        self.progress = progress or Progress(False)
        self.meter = Meter(loaded, corpus)
        self.progress.pace(self.meter.dense_sec / corpus.num_tokens)
        self.provenance = made_now(**loaded.provenance(), **corpus.provenance())
        self._settings = PassSettings(
            journal=self.journal, batch_size=batch_size, progress=progress, shared=True
        )
        self.curves: Curves = calibrate(
            loaded,
            corpus,
            scores=scores,
            settings=self._settings,
            per_expert=per_expert,
        )
        perplexity(self.curves.window_nll, self.curves.window_labels)  # an error now, not after the search
        self.meter.add(corpus)
        self.meter.share()
        self.part = part_windows(corpus.n_windows, corpus.width)
        """Indices of the windows of the bracketing part of a search; None if the corpus is too short to have a part."""
        self._known: dict[str, list[Observation]] = {}
        self._counted = CountedPasses(
            corpus,
            self.curves.window_nll,
            self.part,
            sites=self.sites,
            run=self._run,
            journal=self.journal,
        )
        self._earlier = EarlierSearches(self.curves, self.part)
        self._even: dict[SearchResult, EvenStrengths] = {}
        """The strengths along which each search stepped."""
        self._expected = ExpectedRatios(self.curves, corpus)
        self._dense_errors: dict[str, np.ndarray] = {}
        self._errors_with_shared: dict[str, dict[str, float]] = {}
        self._per_expert = per_expert
        self._covering: dict[str, LoadedModel] = {}

    def covering(self, score: str) -> LoadedModel:
        """The model with the sites on which a score is defined as its `sites`."""
        if score not in self._covering:
            self._covering[score] = covering(self.loaded, score)
        return self._covering[score]

    def sites(self, score: str) -> list[Site]:
        """The sites on which a score is defined, in the order of every result on them."""
        return self.covering(score).sites

    def widths(self, score: str) -> np.ndarray:
        """Neurons that a token passes at each site on which the score is defined, shape `(n_sites,)`."""
        return np.array([site.width for site in self.sites(score)])

    def thresholds(self, rule: Rule, level: float, target: float | None = None) -> Thresholds:
        """The thresholds of the rule at this level for this model."""
        return thresholds_at(
            rule,
            level,
            sites=[name for site in self.sites(rule.score) for name in row_names(site, self._per_expert)],
            curves=self.curves,
            target_ppl_ratio=target,
            provenance=self.provenance,
        )

    def observe(
        self, rule: Rule, level: float, on_all: bool, label: str = "", *, counts_only: bool = False
    ) -> Observation:
        """Run a sparse pass for the search, on the whole corpus or on the bracketing part.

        Args:
            label: Text of the progress bar.
            counts_only: Runs `counted_pass` in place of `sparse_pass`.
        """
        thresholds = self.thresholds(rule, level)
        dense = self.curves.window_nll
        if on_all:
            run = self.counted_pass if counts_only else self.sparse_pass
            result = run(thresholds, label)
        else:
            assert self.part is not None
            dense = dense[self.part]
            result = self._counted.stage(thresholds, 0, label)
        return Observation(
            strength=rule.strength(level),
            rise=result.nll - dense,
            labels=result.labels,
            on_all=on_all,
            level=level,
            ratio=self._ratio_on_part(result.totals, on_all, rule.score),
        )

    def _ratio_on_part(self, totals: ActiveTotals, on_all: bool, score: str) -> float:
        """Activation ratio on the bracketing part, mean over sites, so that passes of both kinds can be compared."""
        windows = self.part if on_all and self.part is not None else slice(None)
        active = window_counts(totals)[windows].sum(0)
        return float((active / self.widths(score)).mean() / totals.tokens.numpy()[windows].sum())

    def sparse_pass(self, thresholds: Thresholds, label: str = "") -> PassResult[SparseTotals]:
        """Run a sparse pass over the whole corpus, or take it from the journal."""
        label = label or f"{named(thresholds)}, all tokens"
        return self._sparse(self.corpus, thresholds, f"all {thresholds.identity}", label)

    def counted_pass(self, thresholds: Thresholds, label: str = "") -> PassResult[ActiveTotals]:
        """As `sparse_pass`, but only counts active neurons, which is faster; a complete `sparse_pass` serves too.

        It goes on with the pass over the bracketing part at this level, if the search has run one.
        """
        if self.journal.complete(f"all {thresholds.identity}", self.corpus.n_windows):
            return self.sparse_pass(thresholds)
        return self._counted.whole(thresholds, label)

    def search(
        self, rule: Rule, target: float, *, tolerance: float = TOLERANCE, compared: bool = False
    ) -> SearchResult:
        """The level of `rule` at which perplexity rises by the factor `target`.

        Passes of earlier searches with the same rule are reused.

        Args:
            compared: For a comparison of rules: uses what the searches of other rules have found
                (`earlier_searches.py`), and ends as soon as `ratios_at_target` can move the figures of the nearest
                pass along the curve. Its passes count active neurons only.
        """
        known = self._known.setdefault(_key(rule), [])

        def run(level: float, on_all: bool) -> Observation:
            label = _try_label(rule, level, on_all, known)
            known.append(self.observe(rule, level, on_all, label, counts_only=compared))
            return known[-1]

        before = len(known)
        reach, hints = self._earlier.start(rule, target) if compared else (rule.reach(self.curves), NO_HINTS)
        found = search(
            rule,
            run,
            ppl_ratio=target,
            reach=reach,
            part=self.part,
            tolerance=tolerance,
            noisy=self.is_half_precision,
            # a measurement reports passes at one level only
            known=[one for one in known if compared or not one.stages],
            hints=hints,
            by_curve=compared,
            stages=self._stages(rule, known) if compared and self.part is not None else None,
        )
        self._even[found] = hints.even or SAME_STRENGTHS
        if compared and found.converged and found.fitted_strength is not None:
            at_target = rule.level(found.fitted_strength)
            if self.part is not None and self._expected.needs_pass(rule, at_target, known):
                run(at_target, False)
        self._earlier.add(rule, found, known[before:])
        return found

    def _stages(self, rule: Rule, known: list[Observation]) -> Stages:
        """How a comparison runs the stages of a pass with this rule."""
        windows = self._counted.stages

        def run(level: float, stage: int) -> Observation:
            label = f"{rule.label} {level:.4g}, stage {stage + 1} of {len(windows)}"
            result = self._counted.stage(self.thresholds(rule, level), stage, label)
            return Observation(
                strength=rule.strength(level),
                rise=result.nll - self.curves.window_nll[windows[stage]],
                labels=result.labels,
                on_all=False,
                level=level,
            )

        def keep(one: Observation) -> None:
            assert one.level is not None
            expected = partial(self._expected.at, rule)
            stages = [
                StageOfPass(
                    self.thresholds(rule, stage.level),
                    stage.rise_factor,
                    expected(one.level) / max(expected(stage.level), 1e-12),
                )
                for stage in one.stages
            ]
            self._counted.join(self.thresholds(rule, one.level), stages)
            known.append(one)

        return Stages(windows=windows, run=run, keep=keep)

    def site_weights(self, rule: Rule) -> np.ndarray | None:
        """How much an error at each site of the rule hurts, as the searches of a comparison have shown.

        Up to a common factor (`expected_rise.py`), shape `(n_sites,)`; None if the rule has no curve.
        """
        return self._earlier.weights(rule)

    def passes_of(self, rule: Rule) -> tuple[Observation, ...]:
        """The passes that the searches of this rule have run, on the whole corpus and on the bracketing part."""
        return tuple(self._known.get(_key(rule), ()))

    def outcome(
        self, thresholds: Thresholds, rule: Rule | None = None, found: SearchResult | None = None
    ) -> Outcome:
        """Activation and perplexity ratio with their intervals.

        If a search of `rule` has `found` the level, the interval of the activation ratio is the one at the target
        perplexity; otherwise it is the one at the level.
        """
        result = self.counted_pass(thresholds)
        totals, labels, dense = result.totals, result.labels, self.curves.window_nll
        if rule is not None and found is not None:
            interval = self.ratio_interval(rule, found, thresholds)
        else:
            interval = ratio_interval(self.window_ratios(thresholds), totals.tokens.numpy())
        return {
            "activation_ratio": float(self.ratios(thresholds).mean()),
            "activation_ratio_interval": interval,
            "ppl_ratio": ppl_ratio(result.nll, dense, labels),
            "ppl_ratio_interval": ppl_ratio_interval(result.nll - dense, labels),
        }

    def ratio_interval(self, rule: Rule, found: SearchResult, thresholds: Thresholds) -> Interval | None:
        """95% interval of the activation ratio at the target perplexity (`target_interval.py`).

        Returns: None for a single window.
        """
        return target_interval(self.window_ratios(thresholds), *self._at_target(rule, found, thresholds))

    def resampled_ratios(
        self, rule: Rule, found: SearchResult, thresholds: Thresholds, *, seed: int
    ) -> np.ndarray:
        """Activation ratio of each site at the target perplexity in each resample, shape `(RESAMPLES, n_sites)`.

        Args:
            seed: Of the errors of the level; another one for each rule.
        """
        active = window_counts(self.counted_pass(thresholds).totals) / self.widths(thresholds.on)
        return resampled_at_target(active, *self._at_target(rule, found, thresholds), seed=seed)

    def ratios_at_target(self, rule: Rule, found: SearchResult, thresholds: Thresholds) -> np.ndarray:
        """Activation ratio of each site at the target, shape `(n_sites,)`.

        It is the ratio of the pass at `found.level`, moved along the curve to where the curve meets the target.
        """
        _, observed, found, factor = self._at_target(rule, found, thresholds)
        shift = np.array([log_distance(found, observed.strength)])
        return scaled_ratios(self.ratios(thresholds), factor(shift))

    def _at_target(
        self, rule: Rule, found: SearchResult, thresholds: Thresholds
    ) -> tuple[np.ndarray, Observation, SearchResult, Callable[[np.ndarray], np.ndarray]]:
        """The arguments of `target_interval` after the first: tokens, the pass, the search, the factor of the ratio.

        Strengths, slopes and shifts are those of even strengths, so that they hold on both sides of a cliff.
        """
        result, even, stretch = (
            self.counted_pass(thresholds),
            self.even_strengths(rule, found),
            found.stretch or 1.0,
        )
        observed = Observation(
            strength=even.even(rule.strength(found.level)),
            rise=result.nll - self.curves.window_nll,
            labels=result.labels,
            on_all=True,
        )
        fitted = found.fitted_strength
        # without convergence the figures are those of the pass, and no curve leads to the target
        found = dataclasses.replace(
            found,
            slope=found.exponent,
            slope_sd=found.slope_sd / stretch,
            level_sd=found.level_sd * stretch,
            fitted_strength=even.even(fitted) if found.converged and fitted is not None else None,
        )
        factor = partial(self._expected.factor, rule, found.level, even=even, passes=self.passes_of(rule))
        return result.totals.tokens.numpy(), observed, found, factor

    def even_strengths(self, rule: Rule, found: SearchResult) -> EvenStrengths:
        """The strengths along which the search of this rule stepped."""
        if found.stretch is None:
            return SAME_STRENGTHS
        if found in self._even:
            return self._even[found]
        # a search of another subject
        near, curves = found.fitted_strength or rule.strength(found.level), self.curves
        if near <= 0:
            return SAME_STRENGTHS
        return (
            EvenStrengths.of(rule, near, rule.reach(curves).most, curves, self.site_weights(rule))
            or SAME_STRENGTHS
        )

    def dense_error(self, thresholds: Thresholds) -> np.ndarray:
        """Realised CETT of each site on dense inputs, exact, shape `(n_sites,)`."""
        if thresholds.identity not in self._dense_errors:
            self.find_dense_errors([thresholds])
        return self._dense_errors[thresholds.identity]

    def error_with_shared(self, thresholds: Thresholds) -> dict[str, float]:
        """Realised CETT of routed and shared experts together on dense inputs, by the name of the routed site."""
        self.dense_error(thresholds)
        return self._errors_with_shared[thresholds.identity]

    def find_dense_errors(self, several: Sequence[Thresholds]) -> None:
        """Run one dense pass that computes `dense_error` for all of these thresholds."""
        new = [one for one in several if one.identity not in self._dense_errors]
        for score in dict.fromkeys(one.on for one in new):
            self._find_dense_errors([one for one in new if one.on == score], score)

    def _find_dense_errors(self, several: Sequence[Thresholds], score: str) -> None:
        """Run the dense pass for thresholds of one score, which have the same sites."""
        observer = DenseErrorObserver(self.sites(score), several)
        key = "error " + " and ".join(thresholds.identity for thresholds in several)
        result = self._run(self.corpus, observer, None, key, "realised CETT (dense)", head=False, on=score)
        errors = result.totals.stacked_cett.numpy() / self.corpus.num_tokens  # (n_sites, thresholds)
        for thresholds, error in zip(several, errors.T, strict=True):
            self._dense_errors[thresholds.identity] = error
        for place, thresholds in enumerate(several):
            self._errors_with_shared[thresholds.identity] = {
                name: float(total[place]) / self.corpus.num_tokens
                for name, total in result.totals.with_shared.items()
            }

    def savings(self, thresholds: Thresholds, *, compared: bool = False) -> Savings:
        """The weights that these thresholds let a decoder skip, with groups and unions on a part of the corpus.

        Args:
            compared: For a comparison of rules: takes groups and unions from the counted pass if it has found them,
                which sorts the neurons by their counts on other windows.
        """
        totals, sites = self._sets(thresholds, compared=compared), self.sites(thresholds.on)
        return find_savings(self.loaded, sites, thresholds, self.ratios(thresholds), totals)

    def _sets(self, thresholds: Thresholds, *, compared: bool) -> SetTotals:
        """Groups and unions of active neurons: those that a counted pass has found, or those of a pass of their own."""
        if compared and (found := self._counted.sets(thresholds)) is not None:
            return found
        counts = [counts.numpy() for counts in self.counted_pass(thresholds).totals.neuron]
        sites, some = self.sites(thresholds.on), self.corpus.part(windows_of_sets(self.corpus))
        observer, mask = ActiveSetObserver(sites, counts), Mask(sites, thresholds)
        key = f"active sets {thresholds.identity}"
        return self._run(some, observer, mask, key, "groups and unions", on=thresholds.on, head=False).totals

    def overlap(self, several: Sequence[Thresholds]) -> np.ndarray:
        """Jaccard overlap of the active sets of each pair of thresholds, on dense inputs of a part of the corpus.

        Returns: shape `(n, n)`; NaN for thresholds that act on different sites.
        """
        found = np.full((len(several), len(several)), np.nan)
        np.fill_diagonal(found, 1.0)
        part = self.corpus.part(windows_of_sets(self.corpus))
        groups = dict[tuple[str, ...], list[int]]()
        for place, thresholds in enumerate(several):
            names = tuple(site.name for site in self.sites(thresholds.on))
            groups.setdefault(names, []).append(place)
        for places in groups.values():
            chosen = [several[place] for place in places]
            observer = OverlapObserver(self.sites(chosen[0].on), chosen)
            key = "overlap " + " and ".join(thresholds.identity for thresholds in chosen)
            self._run(part, observer, None, key, "overlap (dense)", on=chosen[0].on, head=False)
            for (i, j), share in observer.jaccard().items():
                found[places[i], places[j]] = found[places[j], places[i]] = share
        return found

    def held_out(self, thresholds: Thresholds) -> HeldOut | None:
        """Measure the thresholds on the held-out tokens; None if the subject has no held-out tokens."""
        if self.heldout is None:
            return None
        dense = self._run(
            self.heldout, LossOnly(), None, "held-out dense", "held out, dense", on=thresholds.on
        )
        key, label = f"held-out {thresholds.identity}", "held out, sparse"
        sparse = self._sparse(self.heldout, thresholds, key, label)
        labels = dense.labels
        return HeldOut(
            num_tokens=int(sparse.totals.tokens.sum()),
            ppl_dense=perplexity(dense.nll, labels),
            ppl_sparse=perplexity(sparse.nll, labels),
            ppl_ratio=ppl_ratio(sparse.nll, dense.nll, labels),
            ppl_ratio_interval=ppl_ratio_interval(sparse.nll - dense.nll, labels),
            activation_ratio=float(
                (window_counts(sparse.totals).sum(0) / self.widths(thresholds.on)).mean()
                / sparse.totals.tokens.numpy().sum()
            ),
        )

    def ratios(self, thresholds: Thresholds) -> np.ndarray:
        """Activation ratio of each site over all counted tokens, shape `(n_sites,)`."""
        totals = self.counted_pass(thresholds).totals
        return window_counts(totals).sum(0) / totals.tokens.numpy().sum() / self.widths(thresholds.on)

    def window_ratios(self, thresholds: Thresholds) -> np.ndarray:
        """Activation ratio, mean over sites, summed over the tokens of each window, shape `(n_windows,)`."""
        return (window_counts(self.counted_pass(thresholds).totals) / self.widths(thresholds.on)).mean(1)

    def _sparse(
        self, corpus: Corpus, thresholds: Thresholds, key: str, label: str
    ) -> PassResult[SparseTotals]:
        sites = self.sites(thresholds.on)
        observer, mask = SparseObserver(sites, corpus), Mask(sites, thresholds)
        return self._run(corpus, observer, mask, key, label, on=thresholds.on)

    def _run(
        self,
        corpus: Corpus,
        observer: Observer[T],
        mask: Mask | None,
        key: str,
        label: str,
        *,
        on: str,
        head: bool = True,
    ) -> PassResult[T]:
        """Run a pass that watches the sites of the score `on`, or take it from the journal."""
        if not self.journal.complete(key, corpus.n_windows):
            self.meter.add(corpus)
        loaded = self.covering(on)
        return run_pass(
            loaded, corpus, observer, mask, key=key, settings=self._settings, label=label, head=head
        )


def _check_window(loaded: LoadedModel, corpus: Corpus) -> None:
    """Raises `InputError` if the windows are longer than the model's number of positions."""
    config = cast(
        "Any", loaded.model.config
    )  # transformers leaves the parameters of `get_text_config` unknown
    length: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    if length is not None and corpus.width > length:
        raise InputError(
            f"windows of {corpus.width} tokens are longer than the model's {length} positions; load the corpus with"
            f" window={length} or less"
        )


def _key(rule: Rule) -> str:
    return f"{rule.label} {rule.selection}"


def _try_label(rule: Rule, level: float, on_all: bool, known: Sequence[Observation]) -> str:
    """Text for the progress of a search: number, level and size of the try, and the result of the last one."""
    tokens = "all tokens" if on_all else "a part"
    number = len(known) + 1
    usual = f" of about {USUAL_TRIES}" if number <= USUAL_TRIES else ""  # a rule may have several targets
    label = f"try {number}{usual}: {rule.label} {level:.4g} on {tokens}"
    if not known:
        return label
    last = known[-1]
    return f"{label} (last: {rule.level(last.strength):.4g} gave ppl_ratio {last.ppl_ratio:.4f})"


def window_counts(totals: ActiveTotals) -> np.ndarray:
    """Active neurons of each window and site, shape `(n_windows, n_sites)`, int64."""
    return np.stack([counts.numpy() for counts in totals.active], axis=1)


def perplexity(nll: np.ndarray, labels: np.ndarray) -> float:
    """`exp` of the mean negative log-likelihood."""
    return exp_of_nats(nll.sum() / labels.sum())


def ppl_ratio(sparse: np.ndarray, dense: np.ndarray, labels: np.ndarray) -> float:
    """`exp` of the mean of `nll_sparse - nll_dense` per predicted token; both losses are from the same windows."""
    return exp_of_nats((sparse - dense).sum() / labels.sum())


def ppl_ratio_interval(delta: np.ndarray, labels: np.ndarray) -> Interval | None:
    """95% interval of the perplexity ratio over windows; None for a single window.

    Args:
        delta: `nll_sparse - nll_dense` of each window, shape `(n_windows,)`.
    """
    interval = ratio_interval(delta, labels)
    return None if interval is None else (exp_of_nats(interval[0]), exp_of_nats(interval[1]))
