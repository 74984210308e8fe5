"""The work of `sparsing demo`: measures the built-in models and saves the results; start at `run_demo`.

Each model is measured along its training in two ways: every checkpoint at its own PPL-1%, and all checkpoints at the
one CETT that the last two have together at PPL-1%, as Sparsing Law (arXiv 2411.02335) does. At the last checkpoint the
rules are compared and the neurons are studied. The text is the part of the standard library that no demo model was
trained on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
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
JOINT_CHECKPOINTS = 2
"""Checkpoints, from the end, on which the one CETT is found; the paper takes the last five of many."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoModel:
    """What the demo has found out about one of the built-in models."""

    activation: str
    """Name of its activation function, one of `DEMO_ACTIVATIONS`."""
    measurements: tuple[Measurement, ...]
    """PPL-1% of each checkpoint, in the order of training."""
    at_one_cett: tuple[Measurement, ...]
    """All checkpoints at the one CETT of the last `JOINT_CHECKPOINTS`, in the order of training."""
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
    from sparsing.measuring.frontier import compare

    text = heldout_text()
    for activation in DEMO_ACTIVATIONS:
        place = folder / activation
        subjects = {
            path.name: _open_subject(path, text, max_tokens, progress) for path in checkpoints(activation)
        }
        measurements, at_one_cett = _measure_along_training(subjects, place)
        subject = [*subjects.values()][-1]
        comparison = compare(subject, COMPARED_RULES, ppl_ratio=1.1)
        comparison.save(place / "comparison.json")
        _study_neurons(subject, measurements[-1].thresholds, place / "neurons", max_tokens // 2, progress)
        yield DemoModel(
            activation=activation,
            measurements=measurements,
            at_one_cett=at_one_cett,
            subject=subject,
            comparison=comparison,
            study=place / "neurons",
        )


def _measure_along_training(
    subjects: Mapping[str, Subject], place: Path
) -> tuple[tuple[Measurement, ...], tuple[Measurement, ...]]:
    """Measures every checkpoint at its own PPL-1%, and all checkpoints at one CETT.

    Args:
        subjects: The checkpoints by name, in the order of training.
    """
    from sparsing.measuring._measure import measure
    from sparsing.measuring.joint_search import search_jointly
    from sparsing.measuring.run_folder import save_measurement
    from sparsing.rules import make_rule

    own = {name: measure(subject, "cett", ppl_ratio=1.01) for name, subject in subjects.items()}
    search = search_jointly([*subjects.values()][-JOINT_CHECKPOINTS:], make_rule("cett"), 1.01)
    search.save(place / "one-cett" / "search.json")
    joint = {name: measure(subject, "cett", level=search.level) for name, subject in subjects.items()}
    for name in subjects:
        save_measurement(own[name], place / name)
        save_measurement(joint[name], place / "one-cett" / name)
    return tuple(own.values()), tuple(joint.values())


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
