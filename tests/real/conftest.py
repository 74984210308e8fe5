"""The real model of `make real`, SmolLM2-135M-Instruct; every test here has the marker `real`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="session")
def gguf_file() -> Path:
    """The GGUF file; `SPARSING_REAL_MODEL` names its folder."""
    pytest.importorskip("gguf", reason="needs the package gguf: pip install 'sparsing[gguf]'")
    path = Path(os.environ.get("SPARSING_REAL_MODEL", ROOT / "real-report" / "model")) / NAME
    if not path.is_file():
        pytest.skip(f"needs {NAME}, which `make real` downloads; SPARSING_REAL_MODEL names its folder")
    return path.resolve()
