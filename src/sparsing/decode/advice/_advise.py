"""Whether skipping pays on this machine: for each rule and cost in perplexity the bytes, the ceiling, the speed.

Speeds are medians of short greedy runs in alternating pairs, dense against sparse, by the same kernels in the same
process. A rule without kernels (top-k) gets the speed that its bytes promise.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from sparsing.decode._accelerate import Accelerated, accelerate
from sparsing.decode.advice.result import Advice, AdviceRow
from sparsing.decode.advice.roofline import Roofline
from sparsing.decode.advice.wording import advised, summed_up
from sparsing.decode.predict.effect import with_effect
from sparsing.decode.predict.predictor import Predictor, calibrate_predictor
from sparsing.decode.timed_generation import generate_timed
from sparsing.hardware.bandwidth import measure_bandwidth
from sparsing.measuring.weight_bytes import weight_bytes
from sparsing.rules import make_rule

if TYPE_CHECKING:
    from sparsing.measuring.subject import Subject
    from sparsing.models.loading import LoadedModel
    from sparsing.rules.thresholds import Thresholds

FEWEST, MOST, ENOUGH_SEC = 3, 25, 5.0
"""Pairs of dense and sparse runs of a row; the medians count."""
TOLERANCE = 1e-3
"""Distance of the perplexity ratio from its target that is near enough for advice."""


def advise(
    subject: Subject,
    *,
    rules: Sequence[str] = ("cett", "fat", "top_k"),
    ppl_ratios: Sequence[float] = (1.01, 1.05),
    bits: int | None = 4,
    new_tokens: int = 48,
) -> Advice:
    """Measure every rule at every cost, exact and with a predictor.

    Args:
        bits: Of the predictor's copy, 4 or 8; None leaves the predictor out.
        new_tokens: Length of a timed run.

    Raises:
        InputError: an unknown rule, a target of 1 or below, no kernels for the device.
        TargetError: a rule that reaches a target at no level.
        UnsupportedModelError: no block of the model has a kernel.
    """
    loaded = subject.loaded
    torch_speed = _model_speed(loaded, subject, new_tokens)
    measured = [
        row
        for name in rules
        for ppl_ratio in ppl_ratios
        for row in _measured(subject, name, ppl_ratio, bits, new_tokens)
    ]
    known = [row.dense_tok_per_sec for row in measured if row.measured]
    weights = weight_bytes(loaded)
    roofline = Roofline(
        bandwidth=measure_bandwidth(device="cpu" if loaded.device == "cpu" else loaded.device),
        dense_bytes=weights.total_bytes,
        dense_tok_per_sec=statistics.median(known) if known else torch_speed,
    )
    rows = tuple(advised(_promised(row, roofline), weights) for row in measured)
    return Advice(
        rows=rows,
        weights=weights,
        roofline=roofline,
        torch_tok_per_sec=torch_speed,
        threads=torch.get_num_threads(),
        new_tokens=new_tokens,
        sentence=summed_up(rows, weights),
        provenance=subject.provenance,
    )


def _measured(
    subject: Subject, name: str, ppl_ratio: float, bits: int | None, new_tokens: int
) -> Iterator[AdviceRow]:
    """Rows of a rule at a cost: one for each way its active set is found."""
    rule = make_rule(name)
    found = subject.search(rule, ppl_ratio, tolerance=TOLERANCE)
    thresholds = subject.thresholds(rule, found.level, ppl_ratio)
    outcome = subject.outcome(thresholds)
    weights = weight_bytes(subject.loaded)
    base = AdviceRow(
        rule=name,
        level=found.level,
        target_ppl_ratio=ppl_ratio,
        ppl_ratio=outcome["ppl_ratio"],
        activation_ratio=outcome["activation_ratio"],
        dense_bytes=weights.total_bytes,
        step_bytes=weights.sparse_bytes(outcome["activation_ratio"]),
        ceiling=weights.speedup_ceiling(outcome["activation_ratio"]),
    )
    if not thresholds.selection.is_threshold:
        yield base
        return
    yield _timed(subject, base, thresholds, None, new_tokens)
    if bits is not None:
        predictor = _predictor(subject, thresholds, bits)
        yield _timed(subject, base, thresholds, predictor, new_tokens)


def _predictor(subject: Subject, thresholds: Thresholds, bits: int) -> Predictor:
    made = calibrate_predictor(subject.loaded, subject.corpus, thresholds, bits=bits)
    return with_effect(subject.loaded, subject.corpus, made)  # the held-out part is too short to tell


def _timed(
    subject: Subject, base: AdviceRow, thresholds: Thresholds, predictor: Predictor | None, new_tokens: int
) -> AdviceRow:
    prompt = _prompt(subject)
    with accelerate(subject.loaded.model, thresholds, predictor=predictor, sample=prompt) as fast:
        pairs = alternating(fast, prompt, new_tokens)
        stats = fast.stats()
    effect = predictor.effect if predictor is not None else None
    return dataclasses.replace(
        base,
        way="exact" if predictor is None else f"{predictor.bits}-bit",
        measured=True,
        step_bytes=stats.bytes_per_step,
        dense_bytes=stats.dense_bytes_per_step,
        tok_per_sec=statistics.median(sparse for _, sparse in pairs),
        dense_tok_per_sec=statistics.median(dense for dense, _ in pairs),
        speedup_quartiles=_quartiles([sparse / dense for dense, sparse in pairs]),
        predictor_ppl_change=None if effect is None else effect.ppl_change,
        predictor_recall=None if predictor is None else predictor.mean_recall,
        torch_layers=sum(
            way == "torch" for layer in stats.layers for n, way in layer.ways.items() if n == "1"
        ),
    )


def alternating(fast: Accelerated, prompt: torch.Tensor, new_tokens: int) -> list[tuple[float, float]]:
    """`(dense, sparse)` tokens per second of greedy runs in turn; statistics are then those of the last sparse one.

    As many pairs as fit into a few seconds, within bounds.
    """
    found, began = [], time.monotonic()
    while len(found) <= FEWEST or (len(found) <= MOST and time.monotonic() - began < ENOUGH_SEC):
        speeds = {}
        for mode in ("dense", "sparse") if len(found) % 2 else ("sparse", "dense"):
            fast.mode = mode
            if mode == "sparse":
                fast.reset_stats()
            run = generate_timed(fast.model, prompt, max_new_tokens=new_tokens, to_the_end=True)  # pyright: ignore
            speeds[mode] = run.tok_per_sec
        found.append((speeds["dense"], speeds["sparse"]))
    return found[1:]  # the first pair warms up


def _quartiles(values: list[float]) -> tuple[float, float, float]:
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high


def _model_speed(loaded: LoadedModel, subject: Subject, new_tokens: int) -> float:
    """Median tokens per second of the model's own code."""
    prompt = _prompt(subject)
    runs = [
        generate_timed(loaded.model, prompt, max_new_tokens=new_tokens, to_the_end=True)
        for _ in range(FEWEST + 1)
    ]
    return statistics.median(run.tok_per_sec for run in runs[1:])


def _promised(row: AdviceRow, roofline: Roofline) -> AdviceRow:
    """Speeds from bytes for what was not timed."""
    if row.measured:
        return row
    return dataclasses.replace(
        row, tok_per_sec=roofline.tok_per_sec(row.step_bytes), dense_tok_per_sec=roofline.dense_tok_per_sec
    )


def _prompt(subject: Subject) -> torch.Tensor:
    """The first tokens of the corpus, shape `(1, tokens)`."""
    return next(subject.corpus.batches(1)).ids[:, :16]
