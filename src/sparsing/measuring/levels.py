"""Levels by perplexity cost for an evaluation: measured once per model and text, then read."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sparsing.measuring.run_folder import fingerprint, open_journal
from sparsing.rules.thresholds import Thresholds

if TYPE_CHECKING:
    from sparsing.base.progress import Progress
    from sparsing.models.loading import LoadedModel
    from sparsing.text.corpus import Corpus


def measure_levels(
    loaded: LoadedModel,
    corpus: Corpus,
    heldout: Corpus | None,
    percents: Sequence[float],
    *,
    folder: Path,
    progress: Progress | None = None,
) -> list[Thresholds]:
    """Thresholds of PPL-p% for each `p`; measurements and thresholds lie in `folder/<digest>/` afterwards.

    Raises:
        TargetError: a cost in perplexity that no level reaches.
    """
    from sparsing.measuring._measure import measure
    from sparsing.measuring.subject import Subject

    digest = hashlib.sha256(f"{fingerprint(loaded.model)} {corpus.sha256()} {loaded.dtype}".encode())
    folder = folder / digest.hexdigest()[:16]
    subject = None
    found = []
    for p in percents:
        path = folder / f"ppl-{p:g}" / "thresholds.json"
        if not path.exists():
            if subject is None:
                journal = open_journal(folder, loaded, corpus)
                subject = Subject(
                    loaded,
                    corpus,
                    scores=["neuron_norm"],
                    heldout=heldout,
                    journal=journal,
                    progress=progress,
                )
            result = measure(subject, "cett", ppl_ratio=1 + p / 100)
            result.save(path.with_name("measurement.json"))
            result.thresholds.save(path)
        found.append(Thresholds.load(path))
    if subject is not None:
        subject.journal.clear()
    return found
