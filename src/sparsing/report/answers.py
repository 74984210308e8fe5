"""The result of a measurement in one sentence, for the title of the page and the last lines of the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparsing.report.chart import is_interval
from sparsing.report.labels import model_label

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sparsing.measuring.measurement import Measurement

LITTLE_GAIN = 1.15
"""Below this ceiling of the speed-up the kernels' own overhead is larger than the gain."""


def main_measurement(results: Sequence[Measurement]) -> Measurement:
    """The paper's measure (CETT at PPL-1%), otherwise another that was searched for, otherwise the first."""
    searched = [result for result in results if result.target_ppl_ratio is not None]
    paper = [
        result
        for result in searched
        if result.rule == "cett" and abs((result.target_ppl_ratio or 0) - 1.01) < 1e-9
    ]
    return (paper or searched or list(results))[0]


def answer(result: Measurement) -> str:
    """What was asked of a model, and the answer with its interval, in one sentence."""
    bounds = result.activation_ratio_interval
    kept = f"{100 * result.activation_ratio:.1f}% of the feed-forward neurons"
    if bounds is not None and is_interval(bounds):
        kept += f" (95% interval {100 * bounds[0]:.1f} to {100 * bounds[1]:.1f}%)"
    if result.target_ppl_ratio is None:
        start = f"{kept} are active with {result.name}"
    else:
        start = (
            f"{kept} must stay active if perplexity may rise by {100 * (result.target_ppl_ratio - 1):.3g}%"
        )
    if result.weights is None:
        return f"{model_label(result.provenance)}: {start}."
    ceiling = result.weights.speedup_ceiling(result.activation_ratio)
    gain = f"decoding can become at most {ceiling:.2f} times as fast by skipping the others"
    if ceiling < LITTLE_GAIN:
        gain = (
            f"skipping the others cannot pay: it saves at most {1 - 1 / ceiling:.0%} of the bytes per token"
        )
    return f"{model_label(result.provenance)}: {start}; {gain}."
