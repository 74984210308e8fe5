"""The folder of a run: whose results it holds, the journal from which the run can be resumed, and the results.

A run folder belongs to one model and mostly to one text: `claim_folder` records them in `run.json` and refuses another
model or text, so results are never mixed. The journal is in `<folder>/.journal` until the run is complete. Its identity
contains all that decides the figures (model, tokens, dtype, device, threads, batch size, versions), so that a run
with other options never resumes from these totals.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

import sparsing
from sparsing.base.checked_files import as_object, read_object
from sparsing.base.results import write_text
from sparsing.errors import InputError
from sparsing.measuring.journal import Journal
from sparsing.measuring.measurement import MEASUREMENT_FILE
from sparsing.models.identity import identify
from sparsing.rules.thresholds import THRESHOLDS_FILE

if TYPE_CHECKING:
    from sparsing.measuring.measurement import Measurement
    from sparsing.models.loading import LoadedModel
    from sparsing.text.corpus import Corpus

logger = logging.getLogger(__name__)

LAYERS_FILE = "layers.csv"
RUN_FILE = "run.json"


def claim_folder(
    folder: Path, loaded: LoadedModel, corpus: Corpus | None = None, *, identity: dict[str, str] | None = None
) -> None:
    """Records in `run.json` that the results in `folder` are of this model, dtype and text.

    Args:
        corpus: The text; None for runs whose results do not depend on one text.
        identity: From `identify(loaded)`, if the caller has it already.

    Raises:
        InputError: If the folder belongs to another model, dtype or text.
    """
    # the dtype also decides the digest of the weights; it is first, because it makes the clearer message
    entries = {"dtype": loaded.dtype}
    entries |= {f"model: {name}": digest for name, digest in (identity or identify(loaded)).items()}
    names = {"model": loaded.name}
    if corpus is not None:
        entries |= {"text": corpus.sha256()}
        names |= {"text": f"{corpus.source}, {corpus.num_tokens:,} tokens"}
    write_claim(folder, entries, names)


def write_claim(folder: Path, entries: dict[str, str], names: dict[str, str]) -> None:
    """Writes `run.json`, or compares `entries` with those of the run that the folder holds.

    Args:
        entries: Everything that all results in the folder have in common. Entries that the file lacks are added.
        names: What the user called model and text, for the error message.

    Raises:
        InputError: If an entry differs.
    """
    path = folder / RUN_FILE
    hint = f"delete {str(path)!r} if the results in the folder may be mixed with new results"
    saved = read_object(path, hint=hint) if path.exists() else {}
    held, held_names = (
        as_object(saved.get(key, {}), name=f"{key} in {str(path)!r}", hint=hint)
        for key in ("entries", "names")
    )
    if differing := [key for key, value in entries.items() if held.get(key, value) != value]:
        part = differing[0].partition(":")[0]
        raise InputError(
            f"{str(folder)!r} holds results of another {differing[0]}: {held_names.get(part, held[differing[0]])},"
            f" this run has {names.get(part, entries[differing[0]])}; choose another folder with -o, or delete"
            f" {str(folder)!r}"
        )
    wanted = {"entries": {**held, **entries}, "names": {**held_names, **names}}
    if wanted["entries"] != held:
        write_text(path, json.dumps(wanted, indent=1) + "\n")


def open_journal(
    folder: Path,
    loaded: LoadedModel,
    corpus: Corpus,
    *,
    batch_size: int | None = None,
    identity: dict[str, str] | None = None,
) -> Journal:
    """The journal of this model on this corpus in this folder.

    Logs a warning if an interrupted run of this model on this corpus had other settings and therefore cannot continue.

    Args:
        identity: From `identify(loaded)`, if the caller has it already.
    """
    import torch
    import transformers

    journal = Journal(
        folder / ".journal",
        {
            "format": 5,  # version of the names of the totals that passes save
            **{f"model: {name}": digest for name, digest in (identity or identify(loaded)).items()},
            "text": corpus.sha256(),
            "dtype": loaded.dtype,
            "device": loaded.device,
            "threads": torch.get_num_threads(),
            "batch size": batch_size,
            "versions": (sparsing.__version__, torch.__version__, transformers.__version__),
        },
    )
    for differing in journal.differences():
        # one folder may hold the journals of several checkpoints and texts, which is no reason for a warning
        if not any(name == "text" or name.startswith("model") for name in differing):
            logger.warning(
                "%s holds an interrupted run with another setting (%s); it is kept, but this run cannot continue it"
                " and starts from the beginning",
                folder,
                ", ".join(differing),
            )
    return journal


def save_measurement(result: Measurement, folder: Path) -> None:
    """Writes `measurement.json`, `layers.csv` (one row per layer) and `thresholds.json` to `folder`.

    The thresholds are written last, so a folder with `thresholds.json` is complete.

    Raises:
        InputError: If the folder is not writable or the disk is full.
    """
    (folder / THRESHOLDS_FILE).unlink(missing_ok=True)
    result.save(folder / MEASUREMENT_FILE)
    columns = result.layer_columns()
    rows = io.StringIO()
    csv.writer(rows, lineterminator="\n").writerows([list(columns), *zip(*columns.values(), strict=True)])
    write_text(folder / LAYERS_FILE, rows.getvalue())
    result.thresholds.save(folder / THRESHOLDS_FILE)


def default_folder(model: str) -> Path:
    """The default output folder of a model: `outputs/` and the last two parts of its name, e.g. `owner--model`.

    A single part stands alone: `outputs/my-checkpoint` for `./my-checkpoint`. A symbolic link keeps its own name.

    Raises:
        InputError: If the name has no last part, e.g. for `/`.
    """
    path = Path(model).expanduser()
    # abspath follows no symbolic links, as Path.resolve does
    whole = Path(os.path.abspath(path))  # noqa: PTH100
    # os.path returns False for a name that is too long for a path, where Path.exists raises OSError
    exists = os.path.exists(path)  # noqa: PTH110
    parts = whole.parts[1:] if exists else tuple(part for part in model.split("/") if part)
    if not parts:
        raise InputError(
            f"the model name {model!r} gives no name for an output folder; choose a folder with -o"
        )
    return Path("outputs") / "--".join(parts[-1:] if len(path.parts) < 2 else parts[-2:])
