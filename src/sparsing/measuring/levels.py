"""`measure_levels`: the thresholds of several PPL-p% levels for an evaluation.

Each level is measured once per model and text and saved; later calls read the saved thresholds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sparsing.measuring.run_folder import THRESHOLDS_FILE, fingerprint, open_journal, save_measurement
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
    """Thresholds of PPL-p% for each percentage, in the order of `percents`.

    Args:
        heldout: Held-out text for the measurements; None for no held-out part.
        percents: Rises of perplexity, in percent.
        folder: Measurements and thresholds are saved in `folder/<digest of model and corpus>/ppl-<p>/`.

    Raises:
        TargetError: If no level reaches one of the percentages.
    """
    from sparsing.measuring._measure import measure
    from sparsing.measuring.subject import Subject

    digest = hashlib.sha256(f"{fingerprint(loaded.model)} {corpus.sha256()} {loaded.dtype}".encode())
    folder = folder / digest.hexdigest()[:16]
    subject: Subject | None = None
    levels: list[Thresholds] = []
    for p in percents:
        place = folder / f"ppl-{p:g}"
        if not (place / THRESHOLDS_FILE).exists():  # written last, so the measurement is there too
            if subject is None:  # not earlier: creating a subject calibrates the model
                journal = open_journal(folder, loaded, corpus)
                subject = Subject(
                    loaded,
                    corpus,
                    scores=["neuron_norm"],
                    heldout=heldout,
                    journal=journal,
                    progress=progress,
                )
            save_measurement(measure(subject, "cett", ppl_ratio=1 + p / 100), place)
        levels.append(Thresholds.load(place / THRESHOLDS_FILE))
    if subject is not None:
        subject.journal.clear()
    return levels
