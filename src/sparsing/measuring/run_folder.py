"""A run folder: a journal to resume from, and results that appear when they are whole.

The journal lies in `<folder>/.journal` until the run is done; its keys hold what decides the figures (model,
tokens, dtype, device, threads, batch size, versions), so a changed command never picks up foreign sums.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import sparsing
from sparsing.base.results import write_text
from sparsing.errors import InputError
from sparsing.measuring.journal import Journal

if TYPE_CHECKING:
    from torch import nn

    from sparsing.measuring.measurement import Measurement
    from sparsing.models.loading import LoadedModel
    from sparsing.text.corpus import Corpus

MEASUREMENT_FILE = "measurement.json"
THRESHOLDS_FILE = "thresholds.json"


def check_writable(folder: Path) -> Path:
    """Make the folder and write to it, before any work.

    Raises:
        InputError: it cannot be made or written.
    """
    probe = folder / ".writable"
    write_text(probe, "")
    probe.unlink()
    return folder


def open_journal(
    folder: Path, loaded: LoadedModel, corpus: Corpus, *, batch_size: int | None = None
) -> Journal:
    """The journal of this model on this corpus in this folder."""
    import torch
    import transformers

    return Journal(
        folder / ".journal",
        {
            "format": 2,  # of the totals that a pass keeps
            "model": fingerprint(loaded.model),
            "corpus": corpus.sha256(),
            "dtype": loaded.dtype,
            "device": loaded.device,
            "threads": torch.get_num_threads(),
            "batch_size": batch_size,
            "versions": (sparsing.__version__, torch.__version__, transformers.__version__),
        },
    )


def fingerprint(model: nn.Module) -> str:
    """Digest of the configuration and of two sums of every parameter."""
    digest = hashlib.sha256(str(getattr(model, "config", "")).encode())
    for name, parameter in model.named_parameters():
        value = (
            () if parameter.is_meta else (parameter.double().sum().item(), parameter.double().norm().item())
        )
        digest.update(repr((name, tuple(parameter.shape), value)).encode())
    return digest.hexdigest()


def save_measurement(result: Measurement, folder: Path) -> None:
    """Write `measurement.json` and its `thresholds.json` into `folder`.

    The thresholds are written last, so a folder with `thresholds.json` is complete.
    """
    result.save(folder / MEASUREMENT_FILE)
    result.thresholds.save(folder / THRESHOLDS_FILE)


def default_folder(model: str) -> Path:
    """`outputs/<last part of the model's name>`."""
    name = Path(model).expanduser().resolve().name if Path(model).exists() else model.rpartition("/")[2]
    if not name:
        raise InputError("cannot name an output folder after this model; give one with -o")
    return Path("outputs") / name
