"""The folder of a run: it holds the journal from which the run can be resumed, and the results.

The journal is in `<folder>/.journal` until the run is complete. Its identity contains everything that decides the
figures (model, tokens, dtype, device, threads, batch size, versions), so that a run with other options never resumes
from these totals.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

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
    """Creates the folder and tests that a file can be written there, before any work is done. Returns the folder.

    Raises:
        InputError: If the folder cannot be created or written.
    """
    file = folder / ".writable"
    write_text(file, "")
    file.unlink()
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
            "format": 2,  # version of the names of the totals that passes save
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
    """SHA-256 of the configuration and of the sum and the norm of every parameter.

    Two sums identify a checkpoint well enough and are much faster than a digest of all bytes on an accelerator.
    """
    digest = hashlib.sha256(str(getattr(model, "config", "")).encode())
    for name, parameter in model.named_parameters():
        value: tuple[float, ...] = ()
        if not parameter.is_meta:  # a parameter that is offloaded has no values here
            double = cast("Any", parameter.double())  # PyTorch does not annotate the parameters of `norm`
            value = (double.sum().item(), double.norm().item())
        digest.update(repr((name, tuple(parameter.shape), value)).encode())
    return digest.hexdigest()


def save_measurement(result: Measurement, folder: Path) -> None:
    """Writes `measurement.json` and `thresholds.json` to `folder`.

    The thresholds are written last, so a folder with `thresholds.json` is complete.

    Raises:
        InputError: If the folder is not writable or the disk is full.
    """
    result.save(folder / MEASUREMENT_FILE)
    result.thresholds.save(folder / THRESHOLDS_FILE)


def default_folder(model: str) -> Path:
    """The default output folder of a model: `outputs/<last part of its name>`.

    Raises:
        InputError: If the name has no last part, e.g. for `/`.
    """
    name = Path(model).expanduser().resolve().name if Path(model).exists() else model.rpartition("/")[2]
    if not name:
        raise InputError(
            f"the model name {model!r} gives no name for an output folder; choose a folder with -o"
        )
    return Path("outputs") / name
