"""A trained tiny checkpoint and a text, on disk, as a user has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..helpers.measuring import source_text, trained
from ..helpers.tiny import save_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """A folder with a tiny Llama that pruning hurts; read-only."""
    return save_checkpoint(tmp_path_factory.mktemp("trained") / "tiny", trained().model)


@pytest.fixture(scope="session")
def text(tmp_path_factory) -> Path:
    """A text file of some thousand tokens, one per character."""
    path = tmp_path_factory.mktemp("text") / "book.txt"
    path.write_text(source_text()[:4000], encoding="utf-8")
    return path
