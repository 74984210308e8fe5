"""The demo: PPL-1% of the built-in models along their training; rules and neurons at the last checkpoints.

The text is the part of the standard library that no demo model was trained on.
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

RULES = ("cett", "fat", "top_k")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoStage:
    """One finished part of the demo."""

    activation: str
    measurement: Measurement | None = None
    """PPL-1% of one checkpoint ..."""
    subject: Subject | None = None
    """... and what it was measured on."""
    comparison: RuleComparison | None = None
    """Or the rules compared at the last checkpoint."""
    study: Path | None = None
    """Or the folder with the study of its neurons."""


def run_demo(folder: Path, *, max_tokens: int, progress: Progress) -> Iterator[DemoStage]:
    """Measure everything; results are saved in `folder/<activation>/` as they come.

    Raises:
        InputError: the folder is not writable, too few tokens.
    """
    from sparsing.measuring.frontier import compare

    text = heldout_text()
    for activation in DEMO_ACTIVATIONS:
        subject = None
        for checkpoint in checkpoints(activation):
            subject = _subject(checkpoint, text, max_tokens, progress)
            yield _measured(subject, activation, folder / activation / checkpoint.name)
        assert subject is not None, "a demo model has at least one checkpoint"
        comparison = compare(subject, RULES, ppl_ratio=1.1)
        comparison.save(folder / activation / "comparison.json")
        yield DemoStage(activation=activation, comparison=comparison)
        yield _studied(subject, activation, folder / activation / "neurons", max_tokens // 2, progress)


def _subject(checkpoint: Path, text: str, max_tokens: int, progress: Progress) -> Subject:
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


def _measured(subject: Subject, activation: str, folder: Path) -> DemoStage:
    from sparsing.measuring._measure import measure

    result = measure(subject, "cett", ppl_ratio=1.01)
    result.save(folder / "measurement.json")
    result.thresholds.save(folder / "thresholds.json")
    return DemoStage(activation=activation, measurement=result, subject=subject)


def _studied(
    subject: Subject, activation: str, folder: Path, max_tokens: int, progress: Progress
) -> DemoStage:
    """Every neuron of the model on each kind of text, active above the thresholds of PPL-1%."""
    from sparsing.neurons.store import write_study
    from sparsing.rules.thresholds import Thresholds
    from sparsing.text.corpus import load_corpus

    loaded = subject.loaded
    window = loaded.model.config.max_position_embeddings
    corpora = {
        kind: load_corpus([text], loaded.tokenizer, window=window, max_tokens=max_tokens, name=kind)
        for kind, text in heldout_corpora().items()
    }
    thresholds = Thresholds.load(folder.parent / checkpoints(activation)[-1].name / "thresholds.json")
    write_study(loaded, corpora, folder, thresholds=thresholds, progress=progress)
    return DemoStage(activation=activation, study=folder)
