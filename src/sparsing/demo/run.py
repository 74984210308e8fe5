"""The work of `sparsing demo`: measures the built-in models and saves the results; start at `run_demo`.

Each model is measured at PPL-1% at every checkpoint along its training. At the last checkpoint the rules are compared
and the neurons are studied. The text is the part of the standard library that no demo model was trained on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sparsing.demo import DEMO_ACTIVATIONS, checkpoints, heldout_text
from sparsing.demo.corpora import heldout_corpora

if TYPE_CHECKING:
    from sparsing.base.progress import Progress
    from sparsing.measuring.frontier import RuleComparison
    from sparsing.measuring.measurement import Measurement
    from sparsing.measuring.subject import Subject
    from sparsing.rules.thresholds import Thresholds

COMPARED_RULES = ("cett", "fat", "top_k")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoModel:
    """What the demo has found out about one of the built-in models."""

    activation: str
    """Name of its activation function, one of `DEMO_ACTIVATIONS`."""
    measurements: tuple[Measurement, ...]
    """PPL-1% of each checkpoint, in the order of training."""
    subject: Subject
    """The last checkpoint, on which the rules were compared."""
    comparison: RuleComparison
    """The rules at the last checkpoint."""
    study: Path
    """Folder with the study of the neurons of the last checkpoint."""


def run_demo(folder: Path, *, max_tokens: int, progress: Progress) -> Iterator[DemoModel]:
    """Measure the built-in models, one after the other. Results are saved in `folder/<activation>/`.

    Args:
        max_tokens: Tokens of text to measure on; each kind of text in the study of neurons has half as many.

    Raises:
        InputError: if the folder is not writable, or there are too few tokens.
    """
    from sparsing.measuring._measure import measure
    from sparsing.measuring.frontier import compare
    from sparsing.measuring.run_folder import save_measurement

    text = heldout_text()
    for activation in DEMO_ACTIVATIONS:
        place, measurements = folder / activation, []
        for checkpoint in checkpoints(activation):
            subject = _open_subject(checkpoint, text, max_tokens, progress)
            measurements.append(measure(subject, "cett", ppl_ratio=1.01))
            save_measurement(measurements[-1], place / checkpoint.name)
        comparison = compare(subject, COMPARED_RULES, ppl_ratio=1.1)
        comparison.save(place / "comparison.json")
        _study_neurons(subject, measurements[-1].thresholds, place / "neurons", max_tokens // 2, progress)
        yield DemoModel(
            activation=activation,
            measurements=tuple(measurements),
            subject=subject,
            comparison=comparison,
            study=place / "neurons",
        )


def _open_subject(checkpoint: Path, text: str, max_tokens: int, progress: Progress) -> Subject:
    from sparsing.measuring.subject import Subject
    from sparsing.models.loading import load_model
    from sparsing.text.corpus import load_corpus, split_holdout

    # float32: bfloat16 arithmetic is slow on most CPUs, and the text is short
    loaded = load_model(checkpoint, dtype="float32", device="cpu")
    window = loaded.model.config.max_position_embeddings
    corpus = load_corpus(
        [text], loaded.tokenizer, window=window, max_tokens=max_tokens, name="held-out standard library"
    )
    corpus, heldout = split_holdout(corpus, 0.1)
    return Subject(loaded, corpus, heldout=heldout, progress=progress)


def _study_neurons(
    subject: Subject, thresholds: Thresholds, folder: Path, max_tokens: int, progress: Progress
) -> None:
    """Study every neuron on each kind of text; a neuron is active above its threshold of PPL-1%."""
    from sparsing.neurons.store import write_study
    from sparsing.text.corpus import load_corpus

    loaded = subject.loaded
    window = loaded.model.config.max_position_embeddings
    corpora = {
        kind: load_corpus([text], loaded.tokenizer, window=window, max_tokens=max_tokens, name=kind)
        for kind, text in heldout_corpora().items()
    }
    write_study(loaded, corpora, folder, thresholds=thresholds, progress=progress)
