"""Provenance of a result: model, data, package versions, device and the command line that produced the result.

The caller takes most fields from the loaded model and the corpus:

    made_now(**loaded.provenance(), **corpus.provenance(), seed=0)
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import platform
import shlex
import sys
from pathlib import Path
from typing import Any

from sparsing.base.launched import num_processes
from sparsing.base.results import Result

_PACKAGES = ("sparsing", "torch", "transformers", "numpy")
"""Packages whose version can change a result."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Provenance(Result):
    """Everything that a reader needs to reproduce a result."""

    kind = "provenance"

    model: str = ""
    """Name on the Hugging Face hub or path of a local folder, as the caller gave it."""
    revision: str | None = None
    """Commit of the checkpoint on the hub. None for a local folder."""
    model_type: str = ""
    num_parameters: int = 0
    dtype: str = ""
    device: str = ""
    train_step: int | None = None
    """Training step of the checkpoint. None if its folder does not record the step."""
    train_tokens: int | None = None
    """Number of training tokens up to the checkpoint. None if its folder does not record the number."""
    train_phase: str | None = None
    """`warmup`, `stable` or `decay` of the learning rate. None if its folder does not record the phase."""
    layers_without_site: tuple[str, ...] = ()
    """Module paths of the layers without a feed-forward block, such as Mamba; their activations are not counted."""
    corpus: str = ""
    """Source of the text, as the caller gave it."""
    corpus_sha256: str = ""
    """SHA-256 of the token ids, the windows, and which tokens are counted. Equal digests mean equal counted tokens."""
    num_tokens: int = 0
    """Tokens whose activations are counted."""
    seed: int = 0
    versions: dict[str, str] = dataclasses.field(default_factory=dict[str, str])
    """Version of Python and of each package that can change a result."""
    platform: str = ""
    """Operating system and processor architecture, e.g. `Linux x86_64`."""
    processes: int = 1
    """Processes that shared the work (`torchrun`)."""
    command: str = ""
    """The command line, without the path of the program."""
    created: str = ""
    """Time at which the result was produced, in UTC, ISO 8601."""


def made_now(**fields: Any) -> Provenance:
    """Build the provenance of a result that this process produces now.

    Args:
        fields: Fields of `Provenance`, except versions, platform, processes, command and time, which are added here.
    """
    return Provenance(
        **fields,
        versions={"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
        platform=f"{platform.system()} {platform.machine()}",
        processes=num_processes(),
        command=shlex.join([*_program(), *sys.argv[1:]]),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def _program() -> list[str]:
    """The program as a user types it: the name of the script, or `python -m PACKAGE`."""
    path = Path(sys.argv[0])
    return ["python", "-m", path.parent.name] if path.name == "__main__.py" else [path.name]


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
