"""What `sparsing demo` needs without a download: two small trained models and a text they never saw.

The models lie in `models/`, a few checkpoints along training each; `docs/demo-models.md` says how they were
made. Importing this costs nothing: no torch, no file is read.
"""

from __future__ import annotations

import json
from pathlib import Path

from sparsing.errors import InputError
from sparsing.text.standard_library import library_documents

MODELS = Path(__file__).parent / "models"
DEMO_ACTIVATIONS = ("relu", "silu")


def checkpoints(activation: str) -> list[Path]:
    """Folders of the model with this activation in training order, each loads by itself.

    Raises:
        InputError: not one of `DEMO_ACTIVATIONS`, or the package was installed without its models.
    """
    if activation not in DEMO_ACTIVATIONS:
        raise InputError(f"activation must be one of {', '.join(DEMO_ACTIVATIONS)}, got {activation!r}")
    states = (MODELS / activation).glob("*/training_state.json")
    folders = [state.parent for state in sorted(states, key=_trained_tokens)]
    if not folders:
        raise InputError(f"no demo models in {str(MODELS)!r}; install the package again")
    return folders


def heldout_text() -> str:
    """The documents of the standard library that no demo model was trained on, a blank line between them."""
    return "\n\n".join(library_documents("heldout"))


def _trained_tokens(state: Path) -> int:
    return json.loads(state.read_text(encoding="utf-8"))["tokens"]
