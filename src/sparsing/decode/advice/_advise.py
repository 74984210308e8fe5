"""Finds out whether skipping neurons pays on this machine, for each rule and perplexity target.

`advise` first asks the bytes (`bounds.py`): how few neurons would have to be active, and does perplexity allow it? Only
where this leaves hope is decoding timed. Speeds are medians of short greedy runs in alternating pairs, dense against
sparse, by the same kernels in the same process. A rule without kernels (top-k) gets the speed that its bytes predict.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from sparsing.decode._accelerate import Accelerated, accelerate
from sparsing.decode.advice.bounds import Bound, find_bounds
from sparsing.decode.advice.result import Advice, AdviceRow
from sparsing.decode.advice.roofline import Roofline
from sparsing.decode.advice.wording import recommendation, with_sentence
from sparsing.decode.autotune.threads import fastest_threads
from sparsing.decode.predict.effect import with_effect
from sparsing.decode.predict.predictor import Predictor, calibrate_predictor
from sparsing.decode.timed_generation import generate_timed
from sparsing.hardware.bandwidth import measure_bandwidth
from sparsing.hardware.threads import use_threads
from sparsing.measuring.finite import finite_logits
from sparsing.measuring.weight_bytes import WeightBytes, weight_bytes
from sparsing.rules import make_rule
from sparsing.rules.selections import cuts_blocks

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from sparsing.measuring.subject import Subject
    from sparsing.rules import Rule
    from sparsing.rules.thresholds import Thresholds

MIN_PAIRS, MAX_PAIRS = 3, 25
"""Pairs of dense and sparse runs of one row."""
TIMING_SEC = 5.0
"""After this time no further pair is started, unless fewer than `MIN_PAIRS` are complete."""
TOLERANCE = 1e-3
"""Allowed distance of the perplexity ratio from its target; a speed does not depend on the fourth digit."""
_PROMPT_TOKENS = 16


class _PairSpeeds(NamedTuple):
    """Tokens per second of a dense run and of a sparse run that followed each other."""

    dense: float
    sparse: float


def advise(
    subject: Subject,
    *,
    rules: Sequence[str] = ("cett",),
    ppl_ratios: Sequence[float] = (1.01,),
    bits: int | None = 4,
    new_tokens: int = 48,
    threads: int | None = None,
) -> Advice:
    """Find the bound of every rule at every perplexity target, and time decoding where the bound leaves hope.

    Exact kernels are timed, and kernels with a predictor.

    Args:
        subject: Model and corpus. Decoding is timed on the model's device.
        rules: Names of rules.
        ppl_ratios: Perplexity targets, each above 1.
        bits: Width of the predictor's copy of the weights, 4 or 8; None times no predictor.
        new_tokens: Tokens of a timed run.
        threads: CPU threads; None takes the fastest number, at most `torch.get_num_threads()`.

    Raises:
        InputError: if a rule is unknown, a target is 1 or below, or the device has no kernels.
        NonFiniteError: if activations or logits are NaN or infinite.
        TargetError: if a rule reaches a target at no level.
        UnsupportedModelError: if no block of the model has a kernel.
    """
    model = subject.loaded.model
    with use_threads(threads or fastest_threads(model)):
        weights = weight_bytes(subject.loaded)
        # before anything is accelerated, so that it is the speed of the model's own code
        with (
            finite_logits(subject.loaded, [_named_prompt(subject)]),
            subject.progress.bar(
                "dense decoding, the model's own code", MIN_PAIRS + 1, usual=False
            ) as advance,
        ):
            torch_speed = _dense_speed(model, _prompt(subject), new_tokens, advance)
        bounds, rows = [], []
        for rule in map(make_rule, rules):
            has_kernels = cuts_blocks(rule.score, rule.selection)
            of_rule = find_bounds(subject, rule, ppl_ratios, weights, bits) if has_kernels else []
            bounds += of_rule
            hopeless = {bound.target_ppl_ratio for bound in of_rule if not bound.leaves_hope}
            for target in ppl_ratios:
                if target not in hopeless:
                    rows += _rows_of_rule(subject, rule, target, weights, bits, new_tokens)
        return _advice(subject, bounds, rows, weights, torch_speed, new_tokens)


def _advice(
    subject: Subject,
    bounds: Sequence[Bound],
    rows: Sequence[AdviceRow],
    weights: WeightBytes,
    torch_speed: float,
    new_tokens: int,
) -> Advice:
    """The advice, with all sentences, and with predicted speeds for the rows that were not timed."""
    dense_speeds = [row.dense_tok_per_sec for row in rows if row.measured]
    roofline = Roofline(
        bandwidth=measure_bandwidth(device=subject.loaded.device),
        dense_bytes=weights.total_bytes,
        dense_tok_per_sec=statistics.median(dense_speeds) if dense_speeds else torch_speed,
    )
    worded = tuple(with_sentence(_with_predicted_speed(row, roofline), weights) for row in rows)
    return Advice(
        rows=worded,
        bounds=tuple(bounds),
        weights=weights,
        roofline=roofline,
        torch_tok_per_sec=torch_speed,
        threads=torch.get_num_threads(),
        new_tokens=new_tokens,
        sentence=recommendation(worded, weights, bounds),
        provenance=subject.provenance,
    )


def _rows_of_rule(
    subject: Subject, rule: Rule, ppl_ratio: float, weights: WeightBytes, bits: int | None, new_tokens: int
) -> Iterator[AdviceRow]:
    """The rows of one rule at one perplexity target: one per way to find the active neurons."""
    level = subject.search(rule, ppl_ratio, tolerance=TOLERANCE).level
    thresholds = subject.thresholds(rule, level, ppl_ratio)
    outcome = subject.outcome(thresholds)
    row = AdviceRow(
        rule=rule.label,
        level=level,
        target_ppl_ratio=ppl_ratio,
        ppl_ratio=outcome["ppl_ratio"],
        activation_ratio=outcome["activation_ratio"],
        dense_bytes=weights.total_bytes,
        step_bytes=weights.sparse_bytes(outcome["activation_ratio"]),
        ceiling=weights.speedup_ceiling(outcome["activation_ratio"]),
    )
    if not thresholds.cuts_blocks:  # top-k, for example, has to see all scores first
        yield row
        return
    yield _timed_row(subject, row, thresholds, None, new_tokens)
    if bits is not None:
        progress = subject.progress
        predictor = calibrate_predictor(
            subject.loaded, subject.corpus, thresholds, bits=bits, progress=progress
        )
        # the effect is measured on the whole corpus, since the held-out part is too short for it
        predictor = with_effect(subject.loaded, subject.corpus, predictor, progress=progress)
        yield _timed_row(subject, row, thresholds, predictor, new_tokens)


def _timed_row(
    subject: Subject, row: AdviceRow, thresholds: Thresholds, predictor: Predictor | None, new_tokens: int
) -> AdviceRow:
    """The row with the speeds and the bytes that were measured under `thresholds`."""
    prompt, way = _prompt(subject), "exact" if predictor is None else f"{predictor.bits}-bit"
    threads = torch.get_num_threads()
    # one unit for the preparation, one for the timing
    with (
        finite_logits(subject.loaded, [_named_prompt(subject)]),
        subject.progress.bar(f"timing {row.rule}, {way}", 2, usual=False) as advance,
        accelerate(
            subject.loaded.model, thresholds, predictor=predictor, sample=prompt, threads=threads
        ) as fast,
    ):
        advance(1)
        pairs = _time_pairs(fast, subject.loaded.model, prompt, new_tokens)
        advance(1)
        stats = fast.stats()
    low, median, high = statistics.quantiles(
        [pair.sparse / pair.dense for pair in pairs], n=4, method="inclusive"
    )
    effect = predictor.effect if predictor is not None else None
    return dataclasses.replace(
        row,
        way=way,
        measured=True,
        step_bytes=stats.bytes_per_step,
        dense_bytes=stats.dense_bytes_per_step,
        tok_per_sec=statistics.median(pair.sparse for pair in pairs),
        dense_tok_per_sec=statistics.median(pair.dense for pair in pairs),
        speedup_quartiles=(low, median, high),
        predictor_ppl_change=None if effect is None else effect.ppl_change,
        predictor_recall=None if predictor is None else predictor.mean_recall,
        torch_layers=sum(layer.ways.get("1") == "torch" for layer in stats.layers),
    )


def _time_pairs(
    fast: Accelerated, model: PreTrainedModel, prompt: torch.Tensor, new_tokens: int
) -> list[_PairSpeeds]:
    """Time dense and sparse greedy runs in turn; the statistics of `fast` are then those of the last sparse run.

    Args:
        fast: Accelerated form of `model`; its mode is changed.
        prompt: Token ids, shape `(1, tokens)`.
        new_tokens: Tokens that a run decodes.

    Returns:
        `MIN_PAIRS` to `MAX_PAIRS` pairs, as many as fit into `TIMING_SEC`.
    """
    pairs: list[_PairSpeeds] = []
    began = time.monotonic()
    # `<=`, since the first pair only warms up
    while len(pairs) <= MIN_PAIRS or (len(pairs) <= MAX_PAIRS and time.monotonic() - began < TIMING_SEC):
        speeds = {}
        # the order alternates, so that a steady drift of the machine's speed cancels out
        for mode in ("dense", "sparse") if len(pairs) % 2 else ("sparse", "dense"):
            fast.mode = mode
            if mode == "sparse":
                fast.reset_stats()
            speeds[mode] = _speed(model, prompt, new_tokens)
        pairs.append(_PairSpeeds(**speeds))
    return pairs[1:]


def _speed(model: PreTrainedModel, prompt: torch.Tensor, new_tokens: int) -> float:
    """Tokens per second of one greedy run."""
    return generate_timed(model, prompt, max_new_tokens=new_tokens, ignore_eos=True).tok_per_sec


def _dense_speed(
    model: PreTrainedModel, prompt: torch.Tensor, new_tokens: int, advance: Callable[[int], None]
) -> float:
    """Median tokens per second of the model's own code; the first run warms up."""
    speeds = []
    for _ in range(MIN_PAIRS + 1):
        speeds.append(_speed(model, prompt, new_tokens))
        advance(1)
    return statistics.median(speeds[1:])


def _with_predicted_speed(row: AdviceRow, roofline: Roofline) -> AdviceRow:
    """The row, with speeds predicted from bytes if it was not timed."""
    if row.measured:
        return row
    return dataclasses.replace(
        row, tok_per_sec=roofline.tok_per_sec(row.step_bytes), dense_tok_per_sec=roofline.dense_tok_per_sec
    )


def _named_prompt(subject: Subject) -> tuple[str, torch.Tensor]:
    """The prompt as `finite_logits` takes it."""
    return f"text after the first {_PROMPT_TOKENS} tokens", _prompt(subject).to(subject.loaded.model.device)


def _prompt(subject: Subject) -> torch.Tensor:
    """The first tokens of the corpus, shape `(1, tokens)`."""
    return next(subject.corpus.batches(1)).ids[:, :_PROMPT_TOKENS]
