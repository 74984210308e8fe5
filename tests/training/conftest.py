"""Fixtures: the text of the tiny runs, and a finished tiny run."""

from __future__ import annotations

from pathlib import Path

import pytest

from .runs import tiny_config, write_text


@pytest.fixture(scope="session", name="training_text")
def _training_text(tmp_path_factory) -> Path:
    """A folder of forty short documents."""
    return write_text(tmp_path_factory.mktemp("text") / "documents")


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory, training_text) -> Path:
    """The folder of a finished tiny run. Tests must not change it."""
    from sparsing.training.trainer import train

    folder = tmp_path_factory.mktemp("run") / "tiny"
    train(tiny_config(training_text), folder)
    return folder
