"""`measure_levels`: the thresholds of several PPL-p% levels for an evaluation.

Each level is measured once per model and text and saved; later calls read the saved thresholds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sparsing.base.checked_files import quietly
from sparsing.base.run_lock import lock_folder
from sparsing.measuring.run_folder import open_journal, save_measurement
from sparsing.models.identity import identify
from sparsing.rules.thresholds import THRESHOLDS_FILE, Thresholds

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
    identity = identify(loaded)
    digest = hashlib.sha256(f"{identity} {corpus.sha256()} {loaded.dtype}".encode())
    with lock_folder(folder / digest.hexdigest()[:16]) as place:
        saved = {p: _saved(place / f"ppl-{p:g}") for p in percents}
        if missing := [p for p in percents if saved[p] is None]:
            saved |= _measure(loaded, corpus, heldout, missing, place, identity, progress)
    return [thresholds for p in percents if (thresholds := saved[p]) is not None]


def _saved(folder: Path) -> Thresholds | None:
    """The thresholds of a level that was measured; None if it has to be measured."""
    path = folder / THRESHOLDS_FILE
    # the thresholds are written last, so the measurement is there too
    return quietly(lambda: Thresholds.load(path)) if path.exists() else None


def _measure(
    loaded: LoadedModel,
    corpus: Corpus,
    heldout: Corpus | None,
    percents: Sequence[float],
    folder: Path,
    identity: dict[str, str],
    progress: Progress | None,
) -> dict[float, Thresholds]:
    from sparsing.measuring._measure import measure
    from sparsing.measuring.subject import Subject

    journal = open_journal(folder, loaded, corpus, identity=identity)
    subject = Subject(
        loaded, corpus, scores=["neuron_norm"], heldout=heldout, journal=journal, progress=progress
    )
    levels: dict[float, Thresholds] = {}
    for p in percents:
        measured = measure(subject, "cett", ppl_ratio=1 + p / 100)
        save_measurement(measured, folder / f"ppl-{p:g}")
        levels[p] = measured.thresholds
    journal.clear()
    return levels
