"""`measure`, the main job: the sparsity of a model under a rule, at a level or at a perplexity cost, verified.

    measure(Subject(loaded, corpus), "cett", ppl_ratio=1.01)     PPL-1%
    measure(Subject(loaded, corpus), "fat", level=0.0)           exact zeros

The level is found on calibration curves and real sparse passes (`search.py`). What is reported is then
measured exactly: perplexity, ratios, the realised CETT of each layer on dense and on sparse inputs, and the
same on held-out tokens.
"""

from __future__ import annotations

import dataclasses
import warnings
from typing import TypedDict

import numpy as np

from sparsing.errors import InputError
from sparsing.measuring.intervals import ratio_interval
from sparsing.measuring.measurement import DEAD_BELOW, Measurement
from sparsing.measuring.observers import SparseTotals
from sparsing.measuring.search import SearchResult
from sparsing.measuring.subject import Subject, perplexity, window_counts
from sparsing.measuring.token_record import TokenRecord
from sparsing.measuring.weight_bytes import weight_bytes
from sparsing.rules import RULES, Rule, make_rule
from sparsing.rules.thresholds import Thresholds
from sparsing.text.token_text import token_texts


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
        InputError: if none or several of the three are given, if a level is out of bounds, or if the
            thresholds are for another model.
        TargetError: if no level of the rule reaches `ppl_ratio`.
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
    """Everything that is measured exactly at these thresholds."""
    sparse = subject.sparse_pass(thresholds)
    totals, labels = sparse.totals, sparse.labels
    tokens, widths = totals.tokens.numpy(), subject.widths
    per_layer = window_counts(totals) / widths  # (n_windows, n_sites), token ratios summed
    frequency = _frequency(totals)
    with np.errstate(invalid="ignore"):
        dead = (frequency < DEAD_BELOW).sum(1) / widths  # comparisons with NaN are false
    intervals = [ratio_interval(column, tokens) for column in per_layer.T]
    return Measurement(
        sites=subject.curves.sites,
        rule=thresholds.rule,
        level=thresholds.level,
        level_name=RULES[thresholds.rule].level_name,
        target_ppl_ratio=thresholds.target_ppl_ratio,
        layer_activation_ratio=tuple(subject.ratios(totals).tolist()),
        layer_activation_ratio_interval=tuple(i for i in intervals if i is not None) or None,
        ppl_dense=perplexity(subject.curves.window_nll, labels),
        ppl_sparse=perplexity(sparse.nll, labels),
        **subject.outcome(thresholds),
        cett_dense_inputs=tuple(subject.dense_error(thresholds).tolist()),
        cett_sparse_inputs=tuple((totals.stacked_cett.numpy() / tokens.sum()).tolist()),
        dead_neuron_ratio=tuple(dead.tolist()),
        num_tokens=int(tokens.sum()),
        n_windows=subject.corpus.n_windows,
        converged=found.converged if found else True,
        monotone=found.monotone if found else True,
        tries=found.tries if found else (),
        thresholds=thresholds,
        heldout=subject.held_out(thresholds),
        neuron_frequency=frequency,
        position_activation_ratio=_by_position(totals, widths),
        **_first_tokens(subject, totals.record),
        weights=weight_bytes(subject.loaded),
        cost=subject.meter.cost(),
        provenance=subject.provenance,
    )


def _frequency(totals: SparseTotals) -> np.ndarray:
    """Share of tokens on which each neuron is active, shape `(n_sites, widest d_ff)`, float32, NaN beyond a site."""
    widest = max(len(counts) for counts in totals.neuron)
    frequency = np.full((len(totals.neuron), widest), np.nan, dtype=np.float32)
    for row, counts in zip(frequency, totals.neuron, strict=True):
        row[: len(counts)] = counts.numpy() / totals.tokens.numpy().sum()
    return frequency


def _by_position(totals: SparseTotals, widths: np.ndarray) -> np.ndarray:
    """Mean activation ratio over sites and windows by position in the window, shape `(width,)`, float32."""
    counts = np.stack([position.numpy() for position in totals.position])  # (n_sites, width)
    with np.errstate(invalid="ignore"):
        ratio = (counts / widths[:, None]).mean(0) / totals.position_tokens.numpy()
    return ratio.astype(np.float32)


class _FirstTokens(TypedDict):
    """The first counted tokens one by one, by the field names of `Measurement`."""

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
