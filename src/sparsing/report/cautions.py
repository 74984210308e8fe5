"""What weakens the figures of a measurement or an evaluation, in sentences; nothing where nothing does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparsing.report.chart import is_interval

if TYPE_CHECKING:
    from sparsing.evaluation.outcome import Evaluation, Row
    from sparsing.measuring.measurement import Measurement

FEW_TOKENS = 10_000
FEW_WINDOWS = 10
WIDE = 0.1
"""An interval is wide when half of it is more than this share of the figure."""
OFF_TARGET = 2.0
"""Held-out text is off when its rise of perplexity is more than this many times the one asked for."""

FEW_ITEMS = 100
NEAR_CHANCE = 2.0
"""Standard errors above chance below which a score is as good as guessed."""


def measurement_cautions(result: Measurement) -> list[str]:
    """Sentences for the first screen."""
    return [*_text(result), *_interval(result), *_search(result), *_held_out(result)]


def _text(result: Measurement) -> list[str]:
    notes = []
    if result.num_tokens < FEW_TOKENS:
        notes.append(f"Only {result.num_tokens:,} tokens were measured; {FEW_TOKENS:,} or more are advised.")
    if 1 < result.n_windows < FEW_WINDOWS:
        notes.append(
            f"Intervals rest on {result.n_windows} windows; give more text or a smaller --window to trust them."
        )
    return notes


def _interval(result: Measurement) -> list[str]:
    interval = result.activation_ratio_interval
    if interval is None or not is_interval(interval):
        return ["The activation ratio has no interval: one window, or a level that few resamples reach."]
    half = (interval[1] - interval[0]) / 2
    if half > WIDE * result.activation_ratio:
        return [
            f"The interval is wide: \u00b1{100 * half:.1f} points on {100 * result.activation_ratio:.1f}%;"
            " more text narrows it."
        ]
    return []


def _search(result: Measurement) -> list[str]:
    notes = []
    if not result.converged:
        notes.append(f"The target was not met: perplexity ratio {result.ppl_ratio:.5f}.")
    if not result.monotone:
        notes.append("Perplexity is not monotone in the level; the level found is one of several.")
    dense = [str(layer) for layer, ratio in enumerate(result.layer_activation_ratio) if ratio == 1]
    if dense:
        notes.append(f"No neuron is ever inactive in layer {', '.join(dense)}.")
    return notes


def _held_out(result: Measurement) -> list[str]:
    held, target = result.heldout, result.target_ppl_ratio
    if held is None or target is None or held.ppl_ratio - 1 <= OFF_TARGET * (target - 1):
        return []
    return [
        f"On held-out tokens perplexity rises by {100 * (held.ppl_ratio - 1):.2f}%, not {100 * (target - 1):.4g}%:"
        " the thresholds fit the text they were found on better than other text."
    ]


def evaluation_cautions(evaluation: Evaluation) -> list[str]:
    """Sentences for the first screen, on the dense scores that all changes start from."""
    from sparsing.evaluation.outcome import DENSE

    dense = [row for row in evaluation.rows if row.level == DENSE]
    few = [row.title for row in dense if row.num_items < FEW_ITEMS]
    guessed = [row.title for row in dense if _near_chance(row)]
    notes = []
    if few:
        notes.append(f"Fewer than {FEW_ITEMS} items: {_of(few, dense)}. More items narrow the intervals.")
    if guessed:
        notes.append(
            f"The dense model does no better than guessing, or has nothing right: {_of(guessed, dense)}."
            " A score at its floor cannot fall, whatever is dropped."
        )
    return notes


def _near_chance(row: Row) -> bool:
    """Within a few standard errors of chance, or of zero where there are no options to guess among."""
    return row.stderr is not None and row.score - (row.chance or 0) <= NEAR_CHANCE * row.stderr


def _of(titles: list[str], rows: list[Row]) -> str:
    return f"all {len(rows)} scores" if len(titles) == len(rows) > 1 else ", ".join(titles)
