"""What the text view of the page needs: tokens, their ratio in each layer, and the neurons that say most there."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsing.report.charts import rounded
from sparsing.report.labels import escape_unprintable

if TYPE_CHECKING:
    from sparsing.measuring.measurement import Measurement

LONGEST = 60
"""Characters of a token that are shown; the middle of a longer one is left out."""
JOINERS = "\u200c\u200d\ufe0e\ufe0f"
"""Invisible, but scripts and emoji are made with them."""
RATIO_SCALE = 1000
"""Ratios are sent as whole thousandths."""
NORM_SCALE = 2**16 - 1
"""Norms are sent as whole parts of the largest one."""


def text_view(result: Measurement) -> dict[str, Any] | None:
    """The data of the text view; None where the measurement holds no tokens."""
    if not result.token_text:
        return None
    ratios = np.nan_to_num(result.token_activation_ratio)
    view = {
        "tokens": [shown(text) for text in result.token_text],
        "ratios": packed((ratios * RATIO_SCALE).round().astype(np.uint16)),
        "name": result.name,
    }
    if result.token_top_neuron is not None and result.token_top_norm is not None:
        most = float(result.token_top_norm.max()) or 1.0
        view["neurons"] = packed(smallest(result.token_top_neuron))
        view["norms"] = packed((result.token_top_norm / most * NORM_SCALE).round().astype(np.uint16))
        view["largest_norm"] = rounded(most)
    return view


def shown(text: str, *, longest: int = LONGEST) -> str:
    """A text as it is put on the page: newlines and tabs stay, what cannot be seen is escaped, long ones cut."""
    if len(text) > longest:
        half = longest // 2
        text = f"{text[:half]}\u2026[{len(text) - 2 * half:,} more characters]\u2026{text[-half:]}"
    return escape_unprintable(text, keep="\n\t" + JOINERS)


def smallest(numbers: np.ndarray) -> np.ndarray:
    """Whole numbers in the fewest bytes that the page can read."""
    return numbers.astype(np.uint16 if numbers.size == 0 or numbers.max() < 2**16 else np.int32)


def packed(array: np.ndarray) -> dict[str, Any]:
    """An array as base64 of its little-endian bytes: a third of what its digits would take."""
    raw = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return {
        "dtype": array.dtype.name,
        "shape": list(array.shape),
        "data": base64.b64encode(raw.tobytes()).decode("ascii"),
    }
