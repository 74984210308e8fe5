"""Where a figure comes from: model, data, versions, device and the command line that made it."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import platform
import shlex
import sys
from pathlib import Path
from typing import Any

from sparsing.base.results import Result

_PACKAGES = ("sparsing", "torch", "transformers", "numpy")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Provenance(Result):
    """What is needed to make a result again."""

    kind = "provenance"

    model: str = ""
    """Name on the hub, or folder, as the caller gave it."""
    revision: str | None = None
    """Commit of the checkpoint on the hub; None for a local folder."""
    model_type: str = ""
    num_parameters: int = 0
    dtype: str = ""
    device: str = ""
    train_step: int | None = None
    """Training step of the checkpoint, where its folder says so."""
    train_tokens: int | None = None
    """Tokens the checkpoint was trained on, where its folder says so."""
    corpus: str = ""
    """Source of the text, as the caller gave it."""
    corpus_sha256: str = ""
    """Digest of the token ids and of what counts, so that two runs on the same tokens can be told."""
    num_tokens: int = 0
    """Counted tokens."""
    seed: int = 0
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    platform: str = ""
    command: str = ""
    created: str = ""
    """UTC, ISO 8601."""


def made_now(**fields: Any) -> Provenance:
    """The provenance of something made now, by this command; `fields` say of what."""
    return Provenance(
        **fields,
        versions={"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
        platform=f"{platform.system()} {platform.machine()}",
        command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
