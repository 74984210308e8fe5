"""The data of the page's text view: tokens, their activation ratio in each layer, and their strongest neurons."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sparsing.report.interactive import packed_array, rounded, smallest_integers
from sparsing.report.labels import escape_unprintable

if TYPE_CHECKING:
    from sparsing.measuring.measurement import Measurement

LONGEST = 60
"""Characters of a token that are shown; the middle of a longer token is left out."""
JOINERS = "\u200c\u200d\ufe0e\ufe0f"
"""Invisible characters that some scripts and emoji need between others; they are not escaped."""
RATIO_SCALE = 1000
"""Ratios are stored as whole thousandths, which the page shows exactly enough."""
NORM_SCALE = 2**16 - 1
"""Norms are stored as fractions of the largest norm with this denominator."""


def text_view(result: Measurement) -> dict[str, Any] | None:
    """The data that `assets/text.js` reads; None if the measurement holds no tokens."""
    if not result.token_text:
        return None
    ratios = np.nan_to_num(result.token_activation_ratio)
    view = {
        "tokens": [page_text(text) for text in result.token_text],
        "ratios": packed_array((ratios * RATIO_SCALE).round().astype(np.uint16)),
        "name": result.name,
        # label of the site, beginning of the names of its neurons, neurons of each routed expert
        "sites": [[name.label, name.prefix, name.d_expert] for name in result.site_names],
    }
    if result.token_top_neuron is not None and result.token_top_norm is not None:
        most = float(result.token_top_norm.max()) or 1.0  # all norms 0: avoids a division by zero
        view["neurons"] = packed_array(smallest_integers(result.token_top_neuron))
        view["norms"] = packed_array((result.token_top_norm / most * NORM_SCALE).round().astype(np.uint16))
        view["largest_norm"] = rounded(most)
    return view


def page_text(text: str, *, longest: int = LONGEST) -> str:
    """A text for the page: invisible characters except newlines and tabs are escaped, a long text loses its middle."""
    if len(text) > longest:
        half = longest // 2
        text = f"{text[:half]}\u2026[{len(text) - 2 * half:,} more characters]\u2026{text[-half:]}"
    return escape_unprintable(text, keep="\n\t" + JOINERS)
