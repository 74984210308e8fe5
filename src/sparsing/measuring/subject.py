"""The main job: the sparsity of a model under a rule, at a level or at a perplexity cost, verified.

    measure(loaded, corpus, "cett", ppl_ratio=1.01)     PPL-1%
    measure(loaded, corpus, "fat", level=0.0)           exact zeros

The level is found on calibration curves and real sparse passes (`search`); what is reported is then measured
exactly: perplexity, ratios, the realised CETT of each layer on dense and on sparse inputs, and the same on
held-out tokens.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsing.base.progress import Progress
from sparsing.base.provenance import made_now
from sparsing.errors import InputError
from sparsing.measuring.calibration import Curves, calibrate
from sparsing.measuring.cost import Meter
from sparsing.measuring.intervals import percentiles, ratio_interval, resampled
from sparsing.measuring.journal import Journal
from sparsing.measuring.measurement import HeldOut, Measurement
from sparsing.measuring.observers import DenseErrorWatcher, MaskWatcher, SparseWatcher
from sparsing.measuring.passes import Watcher, run_pass
from sparsing.measuring.search import TOLERANCE, SearchResult, part_windows, search
from sparsing.measuring.weight_bytes import weight_bytes
from sparsing.rules import Rule, make_rule
from sparsing.rules.thresholds import Thresholds, thresholds_at
from sparsing.text.corpus import Corpus
from sparsing.text.token_text import token_texts

if TYPE_CHECKING:
    from sparsing.models.loading import LoadedModel

DEAD_BELOW = 1e-3
"""A neuron is dead when active on less than this share of tokens (Sparsing Law, section 5)."""


class Subject:
    """A model on a corpus with its dense pass done, on which rules are tried.

    Holds what every rule shares (curves, dense loss, journal), so that measuring a second rule does not
    calibrate again.
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
    ):
        self.loaded, self.corpus, self.heldout = loaded, corpus, heldout
        self.journal = journal or Journal()
        self.meter = Meter(loaded, corpus)
        self.provenance = made_now(**loaded.provenance(), **corpus.provenance())
        self._passing = {"journal": self.journal, "batch_size": batch_size, "progress": progress}
        self.curves: Curves = calibrate(loaded, corpus, scores=scores, **self._passing)
        self.meter.add(corpus)
        self.meter.shared()
        self._part = part_windows(corpus.n_windows, corpus.width)

    @property
    def has_part(self) -> bool:
        """Whether the corpus is long enough for a search to bracket on a part of it first."""
        return self._part is not None

    def thresholds(self, rule: Rule, level: float, target: float | None = None) -> Thresholds:
        """The rule at this level on this model."""
        return thresholds_at(
            rule,
            level,
            curves=self.curves,
            n_layers=len(self.loaded.sites),
            target_ppl_ratio=target,
            provenance=self.provenance,
        )

    def ppl_ratio(self, rule: Rule, level: float, on_all: bool) -> float:
        """Perplexity ratio of a real sparse pass, on the whole corpus or on the bracketing part."""
        thresholds = self.thresholds(rule, level)
        if on_all:
            totals = self.sparse_pass(thresholds)
            return _ppl_ratio(totals["nll"], self.curves.window_nll, totals["labels"])
        assert self._part is not None
        corpus = self.corpus.part(self._part)
        watcher = MaskWatcher(self.loaded.sites, thresholds)
        totals = self._run(corpus, watcher, _key("part", thresholds), f"search {rule.name} on a part")
        return _ppl_ratio(totals["nll"], self.curves.window_nll[self._part], totals["labels"])

    def sparse_pass(self, thresholds: Thresholds) -> dict[str, np.ndarray]:
        """Totals of `SparseWatcher` over the whole corpus."""
        watcher = SparseWatcher(self.loaded.sites, thresholds, self.corpus)
        return self._run(self.corpus, watcher, _key("all", thresholds), f"{thresholds.rule}, all tokens")

    def search(self, rule: Rule, ppl_ratio: float, *, tolerance: float = TOLERANCE) -> SearchResult:
        """The level of `rule` at which perplexity rises by `ppl_ratio`."""
        return search(
            rule,
            lambda level, on_all: self.ppl_ratio(rule, level, on_all),
            ppl_ratio=ppl_ratio,
            reach=rule.reach(self.curves),
            part_first=self.has_part,
            tolerance=tolerance,
        )

    def outcome(self, thresholds: Thresholds) -> dict[str, Any]:
        """Activation and perplexity ratio with their intervals, by the field names of `Measurement`."""
        totals = self.sparse_pass(thresholds)
        labels, dense = totals["labels"], self.curves.window_nll
        per_window = (totals["active"] / _widths(self.loaded)).mean(1)
        return {
            "activation_ratio": float(_ratios(totals, self.loaded).mean()),
            "activation_ratio_interval": ratio_interval(per_window, totals["tokens"]),
            "ppl_ratio": _ppl_ratio(totals["nll"], dense, labels),
            "ppl_ratio_interval": _exp_interval(totals["nll"] - dense, labels),
        }

    def ratio_interval(
        self, rule: Rule, found: SearchResult, thresholds: Thresholds
    ) -> tuple[float, float] | None:
        """95% interval of the activation ratio at the target perplexity, over windows.

        On other text the target would be met at another level: each resample moves the level to where its
        own perplexity ratio meets the target, along the slopes of the search and of the calibration curves.
        """
        if self.corpus.n_windows < 2:
            return None
        totals = self.sparse_pass(thresholds)
        active = (totals["active"] / _widths(self.loaded)).mean(1)
        rise = totals["nll"] - self.curves.window_nll
        columns = np.stack([active, totals["tokens"], rise, totals["labels"]], axis=1)
        active, tokens, rise, labels = resampled(columns).T
        with np.errstate(invalid="ignore", divide="ignore"):
            shift = (math.log(math.log(found.target_ppl_ratio)) - np.log(rise / labels)) / found.slope
        ratios = active / tokens + self._ratio_slope(rule, found.level) * shift
        return percentiles(np.clip(np.where(np.isfinite(shift), ratios, np.nan), 0, 1))

    def _ratio_slope(self, rule: Rule, level: float) -> float:
        """d activation ratio / d log(strength) by the calibration curves, over a tenth to either side."""
        strength = rule.strength(level)
        low, high = (rule.expected_ratio(rule.level(strength * f), self.curves) for f in (1 / 1.1, 1.1))
        return (high - low) / (2 * math.log(1.1))

    def dense_error(self, thresholds: Thresholds) -> np.ndarray:
        """Realised CETT of each layer on dense inputs, exact, shape `(n_layers,)`."""
        watcher = DenseErrorWatcher(self.loaded.sites, thresholds)
        totals = self._run(
            self.corpus, watcher, _key("error", thresholds), "realised CETT (dense)", head=False
        )
        return totals["cett"] / self.corpus.num_tokens

    def held_out(self, thresholds: Thresholds) -> HeldOut | None:
        """The same thresholds on held-out tokens; None when there are none."""
        if self.heldout is None:
            return None
        dense = self._run(self.heldout, Watcher(), "held-out dense", "held out, dense")
        watcher = SparseWatcher(self.loaded.sites, thresholds, self.heldout)
        sparse = self._run(self.heldout, watcher, _key("held-out", thresholds), "held out, sparse")
        labels = dense["labels"]
        return HeldOut(
            num_tokens=int(sparse["tokens"].sum()),
            ppl_dense=_ppl(dense["nll"], labels),
            ppl_sparse=_ppl(sparse["nll"], labels),
            ppl_ratio=_ppl_ratio(sparse["nll"], dense["nll"], labels),
            ppl_ratio_interval=_exp_interval(sparse["nll"] - dense["nll"], labels),
            activation_ratio=float(_ratios(sparse, self.loaded).mean()),
        )

    def _run(
        self, corpus: Corpus, watcher: Watcher, key: str, label: str, *, head: bool = True
    ) -> dict[str, np.ndarray]:
        known = self.journal.complete(key, corpus.n_windows)
        if not known:
            self.meter.add(corpus)
        return run_pass(self.loaded, corpus, watcher, key=key, label=label, head=head, **self._passing)


def measure(
    subject: Subject,
    rule: str | Rule = "cett",
    *,
    level: float | None = None,
    ppl_ratio: float | None = None,
    thresholds: Thresholds | None = None,
) -> Measurement:
    """Measure a rule at a level, at a perplexity cost, or given thresholds: exactly one of the three.

    Raises:
        InputError: none or several of the three, a level out of bounds, thresholds for another model.
        TargetError: no level of the rule reaches `ppl_ratio`.
    """
    asked = {"level": level, "ppl_ratio": ppl_ratio, "thresholds": thresholds}
    given = [name for name, value in asked.items() if value is not None]
    if len(given) != 1:
        raise InputError(f"give exactly one of level, ppl_ratio, thresholds; got {given or 'none'}")
    subject.meter.restart()
    found = None
    if thresholds is None:
        rule = make_rule(rule)
        if ppl_ratio is not None:
            found = subject.search(rule, ppl_ratio)
            level = found.level
        assert level is not None
        thresholds = subject.thresholds(rule, level, ppl_ratio)
    result = _verified(subject, thresholds, found)
    if found is not None:
        spread = subject.ratio_interval(make_rule(rule), found, thresholds)
        result = dataclasses.replace(result, activation_ratio_interval=spread)
    _warn(result)
    return result


def _verified(subject: Subject, thresholds: Thresholds, found: SearchResult | None) -> Measurement:
    totals = subject.sparse_pass(thresholds)
    labels, dense_nll = totals["labels"], subject.curves.window_nll
    ratios = _ratios(totals, subject.loaded)  # (n_layers,)
    tokens = totals["tokens"]
    d_ff = _widths(subject.loaded)
    per_layer = totals["active"] / d_ff  # (n_windows, n_layers), token-ratios summed
    frequency = (totals["neuron"] / tokens.sum()).astype(np.float32)
    frequency[np.arange(frequency.shape[1]) >= d_ff[:, None]] = np.nan  # layers may differ in width
    dead = (frequency < DEAD_BELOW).sum(1) / d_ff
    intervals = [ratio_interval(column, tokens) for column in per_layer.T]
    with np.errstate(invalid="ignore"):
        by_position = totals["position"] / totals["position_tokens"]
    return Measurement(
        rule=thresholds.rule,
        level=thresholds.level,
        level_name=_level_name(thresholds),
        target_ppl_ratio=thresholds.target_ppl_ratio,
        layer_activation_ratio=tuple(ratios.tolist()),
        layer_activation_ratio_interval=tuple(i for i in intervals if i is not None) or None,
        ppl_dense=_ppl(dense_nll, labels),
        ppl_sparse=_ppl(totals["nll"], labels),
        **subject.outcome(thresholds),
        cett_dense_inputs=tuple(subject.dense_error(thresholds).tolist()),
        cett_sparse_inputs=tuple((totals["cett"] / tokens.sum()).tolist()),
        dead_neuron_ratio=tuple(dead.tolist()),
        num_tokens=int(tokens.sum()),
        n_windows=subject.corpus.n_windows,
        converged=found.converged if found else True,
        monotone=found.monotone if found else True,
        tries=found.tries if found else (),
        thresholds=thresholds,
        heldout=subject.held_out(thresholds),
        neuron_frequency=frequency,
        position_activation_ratio=by_position.astype(np.float32),
        **_shown(subject, totals),
        weights=weight_bytes(subject.loaded),
        cost=subject.meter.cost(),
        provenance=subject.provenance,
    )


def _shown(subject: Subject, totals: dict[str, np.ndarray]) -> dict[str, Any]:
    """The first counted tokens one by one, by the field names of `Measurement`."""
    windows, width = totals["shown"].shape[:2]
    batch = next(subject.corpus.batches(windows))
    counted = np.zeros((windows, width), dtype=bool)
    counted[:, : batch.counted.shape[1]] = batch.counted.numpy()
    texts: list[str] = []
    for ids, chosen in zip(batch.ids.numpy(), batch.counted.numpy(), strict=True):
        texts += token_texts(subject.loaded.tokenizer, ids[chosen])
    return {
        "token_activation_ratio": totals["shown"][counted].astype(np.float32),
        "token_text": tuple(texts),
        "token_top_neuron": totals["shown_neuron"][counted],
        "token_top_norm": totals["shown_norm"][counted],
    }


def _ratios(totals: dict[str, np.ndarray], loaded: LoadedModel) -> np.ndarray:
    return totals["active"].sum(0) / totals["tokens"].sum() / _widths(loaded)


def _widths(loaded: LoadedModel) -> np.ndarray:
    """Neurons of each layer, shape `(n_layers,)`."""
    return np.array([site.d_ff for site in loaded.sites])


def _ppl(nll: np.ndarray, labels: np.ndarray) -> float:
    return math.exp(nll.sum() / labels.sum())


def _ppl_ratio(sparse: np.ndarray, dense: np.ndarray, labels: np.ndarray) -> float:
    """`exp(nll_sparse - nll_dense)` per token, paired over the same windows."""
    return math.exp((sparse - dense).sum() / labels.sum())


def _exp_interval(delta: np.ndarray, labels: np.ndarray) -> tuple[float, float] | None:
    interval = ratio_interval(delta, labels)
    return None if interval is None else (math.exp(interval[0]), math.exp(interval[1]))


def _level_name(thresholds: Thresholds) -> str:
    from sparsing.rules import RULES

    return RULES[thresholds.rule].level_name


def _key(what: str, thresholds: Thresholds) -> str:
    return f"{what} {thresholds.on} {thresholds.select} {thresholds.values!r}"


def _warn(result: Measurement) -> None:
    if not result.converged:
        warnings.warn(
            f"{result.name}: no level comes within 1e-4 of ppl_ratio {result.target_ppl_ratio:g};"
            f" the nearest has {result.ppl_ratio:.5f}. More text makes the steps finer",
            stacklevel=3,
        )
    if not result.monotone:
        warnings.warn(
            f"{result.name}: perplexity is not monotone in {result.level_name}; the level found is one of"
            " several (see `tries`)",
            stacklevel=3,
        )
    dense = [layer for layer, ratio in enumerate(result.layer_activation_ratio) if ratio == 1.0]
    if dense:
        warnings.warn(f"{result.name}: layers {dense} stay dense, no neuron is ever inactive", stacklevel=3)
