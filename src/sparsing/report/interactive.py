"""The renderer for the page: turns charts, arrays and colours into the JSON that `assets/*.js` draw with Plotly.

Traces are made in the browser, since the reader changes colours and scales there; this file holds the data alone.
"""

from __future__ import annotations

import base64
import dataclasses
import math
from typing import Any

import numpy as np

from sparsing.report.chart import Chart
from sparsing.report.style import DARK_DEPTHS, LIGHT_DEPTHS, THEMES, depth_stops

DIGITS = 6
"""Significant digits of the page's numbers: more than a reader can see, few enough to keep the page small."""


def chart_data(chart: Chart) -> dict[str, Any]:
    """The chart as plain JSON values. Numbers that are not finite become None; default values are left out."""
    return _plain(chart)


def theme_css() -> str:
    """The colours of `style.py` as CSS variables, each with its light and its dark value."""
    return " ".join(f"--{name}: light-dark({light}, {dark});" for name, (light, dark) in THEMES.items())


def depth_scale() -> dict[str, Any]:
    """The colours of layers, and the part of their scale that is used on a light and on a dark page."""
    return {"stops": depth_stops(), "light": LIGHT_DEPTHS, "dark": DARK_DEPTHS}


def rounded(value: float) -> float | int | None:
    """The number to `DIGITS` significant digits; None for NaN and infinity."""
    if isinstance(value, (int, np.integer)):
        return int(value)
    value = float(value)
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None


def packed_array(array: np.ndarray) -> dict[str, Any]:
    """The array as base64 of its little-endian bytes, which takes a third of the space of its digits."""
    raw = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return {
        "dtype": array.dtype.name,
        "shape": list(array.shape),
        "data": base64.b64encode(raw.tobytes()).decode("ascii"),
    }


def smallest_integers(numbers: np.ndarray) -> np.ndarray:
    """Whole numbers in the smallest dtype that the page can read."""
    return numbers.astype(np.uint16 if numbers.size == 0 or numbers.max() < 2**16 else np.int32)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        items = ((field.name, getattr(value, field.name), field.default) for field in fields)
        return {name: _plain(item) for name, item, default in items if not _is_default(item, default)}
    if isinstance(value, (list, tuple, range, np.ndarray)):
        return [_plain(item) for item in value]
    if isinstance(value, (bool, str)) or value is None:
        return value
    return rounded(value)


def _is_default(value: Any, default: Any) -> bool:
    # the types are compared first, since an array compared with a tuple gives an array
    return default is not dataclasses.MISSING and type(value) is type(default) and bool(value == default)
