"""The data of the page: charts as JSON, packed arrays, colours."""

from __future__ import annotations

import math
import re

import numpy as np

from sparsing.report import style
from sparsing.report.chart import Axis, Chart, Series
from sparsing.report.interactive import chart_data, depth_scale, packed_array, rounded, theme_css


def test_chart_as_json():
    series = Series(name="a", x=range(2), y=np.array([math.nan, 0.123456789]), y_low=[None, 0.1])
    chart = Chart(title="t", x=Axis(label="x"), y=Axis(label="y", scales=("log",)), series=[series])
    assert chart_data(chart) == {
        "title": "t",
        "x": {"label": "x"},
        "y": {"label": "y", "scales": ["log"]},
        "series": [{"name": "a", "x": [0, 1], "y": [None, 0.123457], "y_low": [None, 0.1]}],
    }
    assert rounded(np.int64(12345678)) == 12345678


def test_packed_arrays_are_little_endian():
    assert packed_array(np.array([[1, 258]], dtype=">u2")) == {
        "dtype": "uint16",
        "shape": [1, 2],
        "data": "AQACAQ==",
    }


def test_the_page_has_the_colours_of_the_figures():
    light = dict(re.findall(r"--(\S+): light-dark\((#\w{6}),", theme_css()))
    assert [light[f"c{index}"] for index in range(len(style.PALETTE))] == list(style.PALETTE)
    assert (light["ink"], light["muted"], light["line"]) == (style.INK, style.MUTED, style.FAINT)
    assert depth_scale()["stops"][0] == "#440154"
