"""The model types on which this package was tested, with the results that `scripts/model_table.py` found.

This is a record for readers. Nothing depends on it: whether a model can be used is decided by its own structure.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Literal

LIST = Path(__file__).with_name("model_types.json")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelType:
    """A causal-LM type of transformers, built small."""

    name: str
    """`config.model_type`."""
    status: Literal["passes", "fails a test", "refused", "no feed-forward block", "not built"]
    """`passes` if its blocks were found and it passes all tests."""
    blocks: tuple[str, ...]
    """One sentence per kind of block: where it is and what it computes."""
    without: int
    """Number of its four layers that have no block."""
    composite: bool
    """True for a vision-language type without a causal-LM class of its own; it is measured on text alone."""
    reason: str
    """Why the type does not pass; empty if it does."""


def checked_types() -> list[ModelType]:
    """All types, in alphabetical order."""
    rows = json.loads(LIST.read_text(encoding="utf-8"))
    return [ModelType(**row | {"blocks": tuple(row["blocks"])}) for row in rows]
