"""The two small trained models of `sparsing demo`, and a text that they were not trained on. Nothing is downloaded.

The models are in `models/`, with a few checkpoints along training each; `docs/demo-models.md` tells how they were made.
Importing this package loads no torch and reads no file.
"""

from __future__ import annotations

import json
from pathlib import Path

from sparsing.errors import InputError
from sparsing.text.standard_library import library_documents

MODELS = Path(__file__).parent / "models"
DEMO_ACTIVATIONS = ("relu", "silu")


def checkpoints(activation: str) -> list[Path]:
    """The checkpoint folders of the model with this activation function, in the order of training.

    Raises:
        InputError: if `activation` is not one of `DEMO_ACTIVATIONS`, or the package was installed without its models.
    """
    if activation not in DEMO_ACTIVATIONS:
        raise InputError(f"activation must be one of {', '.join(DEMO_ACTIVATIONS)}, got {activation!r}")
    states = (MODELS / activation).glob("*/training_state.json")
    folders = [state.parent for state in sorted(states, key=_trained_tokens)]
    if not folders:
        raise InputError(f"no demo models in {str(MODELS)!r}; install the package again")
    return folders


def heldout_text() -> str:
    """The held-out documents of the standard library, separated by a blank line."""
    return "\n\n".join(library_documents("heldout"))


def _trained_tokens(state: Path) -> int:
    return json.loads(state.read_text(encoding="utf-8"))["tokens"]
