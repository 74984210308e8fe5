"""Warnings about weak results (few tokens, wide intervals, ...) as sentences for the first screen of the report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparsing.measuring.measurement import NOISY_SHARE, TOO_WIDE
from sparsing.report.chart import is_interval

if TYPE_CHECKING:
    from sparsing.evaluation.outcome import Evaluation, Row
    from sparsing.measuring.measurement import Measurement

FEW_TOKENS = 10_000
"""Fewer measured tokens than this give a warning."""
FEW_WINDOWS = 10
"""Intervals over fewer windows than this give a warning."""
WIDE = 0.1
"""An interval is wide if half of its length is above this share of the activation ratio."""
OFF_TARGET = 2.0
"""The rise of held-out perplexity gives a warning above this multiple of the requested rise."""

FEW_ITEMS = 100
"""Scores over fewer items than this give a warning."""
NEAR_CHANCE = 2.0
"""A score within this many standard errors above chance cannot be told from guessing."""


def measurement_cautions(result: Measurement) -> list[str]:
    """The warnings of a measurement; empty if there are none."""
    return [*_text(result), *_interval(result), *_search(result), *_held_out(result)]


def _text(result: Measurement) -> list[str]:
    notes = []
    if result.num_tokens < FEW_TOKENS:
        notes.append(f"Only {result.num_tokens:,} tokens were measured; {FEW_TOKENS:,} or more are advised.")
    if 1 < result.n_windows < FEW_WINDOWS:
        notes.append(
            f"Intervals rest on {result.n_windows} windows, which is few; give more text or a smaller --window."
        )
    if without := result.provenance.layers_without_site:
        names = ", ".join(without[:3]) + (", ..." if len(without) > 3 else "")
        notes.append(f"{len(without)} layers have no feed-forward block and are not counted: {names}.")
    return notes


def _interval(result: Measurement) -> list[str]:
    interval = result.activation_ratio_interval
    if interval is None or not is_interval(interval):
        if result.n_windows == 1:
            window = max(1, result.num_tokens // FEW_WINDOWS)
            return [
                "The activation ratio has no interval, because the text is a single window; give more text, or"
                f" --window {window} to divide it."
            ]
        return [
            "The activation ratio has no interval, because few resamples reach the level; give more text."
        ]
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
        notes.append("A sparser level had the lower perplexity; other levels may meet the target too.")
    target, interval = result.target_ppl_ratio, result.ppl_ratio_interval
    if target is not None and interval is not None and interval[1] - interval[0] > TOO_WIDE * (target - 1):
        notes.append(
            f"The text is too short to distinguish levels: the 95% interval of the perplexity ratio is"
            f" [{interval[0]:.4f}, {interval[1]:.4f}]."
        )
    noise = result.ppl_ratio_noise
    if target is not None and noise is not None and noise > NOISY_SHARE * (target - 1):
        notes.append(
            f"Rounding in {result.provenance.dtype} moves the perplexity ratio by {noise:.4f} (one standard"
            f" deviation).{_covered(result)} --dtype float32 removes this error."
        )
    dtype = result.provenance.dtype
    if target is not None and noise is None and dtype in ("bfloat16", "float16"):
        notes.append(
            f"Rounding in {dtype} moves the perplexity ratio by an unknown amount, which no interval includes; give"
            " more text, or use --dtype float32."
        )
    ratios = zip(result.site_labels, result.layer_activation_ratio, strict=True)
    dense = [label for label, ratio in ratios if ratio == 1]
    if dense:
        notes.append(f"All neurons are always active in layer {', '.join(dense)}.")
    return notes


def _covered(result: Measurement) -> str:
    interval = result.activation_ratio_interval
    covered = interval is not None and is_interval(interval)
    return " The interval of the activation ratio includes this error." if covered else ""


def _held_out(result: Measurement) -> list[str]:
    held, target = result.heldout, result.target_ppl_ratio
    if held is not None and held.ppl_ratio_interval is None:
        return ["The held-out text is a single window, so its perplexity ratio has no interval."]
    if held is None or target is None or held.ppl_ratio - 1 <= OFF_TARGET * (target - 1):
        return []
    return [
        f"On held-out tokens perplexity rises by {100 * (held.ppl_ratio - 1):.2f}%, not {100 * (target - 1):.4g}%:"
        " the thresholds fit the text they were found on better than other text."
    ]


def evaluation_cautions(evaluation: Evaluation) -> list[str]:
    """The warnings of an evaluation, about the dense scores from which all changes are counted."""
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
            " Such a score cannot fall further, so its change shows nothing."
        )
    return notes


def _near_chance(row: Row) -> bool:
    """True if the score is within `NEAR_CHANCE` standard errors of chance, or of 0 for a task without options."""
    return row.stderr is not None and row.score - (row.chance or 0) <= NEAR_CHANCE * row.stderr


def _of(titles: list[str], rows: list[Row]) -> str:
    return f"all {len(rows)} scores" if len(titles) == len(rows) > 1 else ", ".join(titles)
