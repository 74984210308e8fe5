"""What the text view of the page needs: tokens, their ratio in each layer, and the neurons that say most there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sparsing.report.interactive import packed_array, rounded, smallest_integers
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
        "tokens": [page_text(text) for text in result.token_text],
        "ratios": packed_array((ratios * RATIO_SCALE).round().astype(np.uint16)),
        "name": result.name,
    }
    if result.token_top_neuron is not None and result.token_top_norm is not None:
        most = float(result.token_top_norm.max()) or 1.0
        view["neurons"] = packed_array(smallest_integers(result.token_top_neuron))
        view["norms"] = packed_array((result.token_top_norm / most * NORM_SCALE).round().astype(np.uint16))
        view["largest_norm"] = rounded(most)
    return view


def page_text(text: str, *, longest: int = LONGEST) -> str:
    """A text as it is put on the page: newlines and tabs stay, what cannot be seen is escaped, long ones cut."""
    if len(text) > longest:
        half = longest // 2
        text = f"{text[:half]}\u2026[{len(text) - 2 * half:,} more characters]\u2026{text[-half:]}"
    return escape_unprintable(text, keep="\n\t" + JOINERS)
