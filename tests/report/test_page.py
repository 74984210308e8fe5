"""The page as a file: escaping, security policy, contents and size."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from sparsing.base.provenance import Provenance
from sparsing.errors import InputError
from sparsing.measuring.weight_bytes import WeightBytes
from sparsing.report.document import build_document
from sparsing.report.page import is_numeric, render, script_json, write_report
from sparsing.report.saved_results import Runs

from ..helpers.measurements import make_measurement

NASTY = "</script><script>alert('1')</script> &amp; \"q\" \x00\ud800\u202e\u2028"


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.text, self.scripts, self._in = [], [], [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._in = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self._in = ""

    def handle_data(self, data):
        if self._in == "script":
            self.scripts[-1] += data
        else:
            self.text.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def page_of(*results, **options) -> Page:
    return Page(render(build_document(Runs(measurements=results), **options)))


def test_text_of_any_origin_is_escaped():
    result = make_measurement(
        model=NASTY, corpus=NASTY, command=NASTY, versions={NASTY: NASTY}, created=NASTY
    )
    page = page_of(result, title=NASTY)
    assert len(page.scripts) == 3
    shown = "</script><script>alert('1')</script> &amp; \"q\" \\x00\\ud800\\u202e\\u2028"
    assert page.text.count(shown) >= 4  # title, heading, command, made
    data = json.loads(page.scripts[0])
    assert "<script>" in data["panels"][0]["text"]["tokens"]


def test_the_policy_names_the_scripts_and_nothing_else():
    page = page_of(make_measurement())
    policy = next(attrs["content"] for attrs in page.all("meta") if "http-equiv" in attrs)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    wanted = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in page.scripts[1:]]
    assert re.findall(r"'sha256-([^']+)'", policy) == wanted
    assert not re.search(r"https?:|unsafe-eval|script-src[^;]*unsafe-inline", policy)
    assert not [
        attrs for _, attrs in page.tags if "src" in attrs or any(name.startswith("on") for name in attrs)
    ]
    assert {attrs["href"][:5] for _, attrs in page.tags if "href" in attrs} <= {
        "data:",
        "#part",
        "#insi",
        "#orig",
    }


def test_json_for_a_script_ends_neither_the_script_nor_a_line():
    value = {"a": ["</script>", "<!--", "\u2028\u2029", "\ud800", "\u05d0", '"', "&"]}
    text = script_json(value)
    assert text.isascii()
    assert not set("<>&") & set(text)
    assert json.loads(text) == value
    with pytest.raises(ValueError, match="not JSON compliant"):
        script_json(float("nan"))


def test_first_screen():
    weights = WeightBytes(total_bytes=2 * 10**9, ffn_bytes=10**9)
    result = make_measurement(
        num_tokens=16, activation_ratio=0.4, weights=weights, monotone=False, converged=False
    )
    words = page_of(result).text
    for word in ("40.0%", "95% interval", "2 GB", "1.4 GB", "1.43x", "PPL-1%"):
        assert any(word in text for text in words), word
    cautions = " ".join(words)
    for word in ("Only 5,000 tokens", "rest on 8 windows", "lower perplexity", "target was not met"):
        assert word in cautions, word


def test_a_sound_measurement_has_no_caution():
    document = build_document(
        Runs(measurements=[make_measurement(n_windows=100, **{"provenance": Provenance(model="m")})])
    )
    assert [text for text in document.cards[0].cautions if "5,000" not in text] == []


def test_a_large_model_stays_small(tmp_path):
    """32 layers of 11,008 neurons, five measures, a token of ten million characters."""
    rng = np.random.default_rng(0)
    shape = (512, 32, 3)
    results = [
        make_measurement(
            n_layers=32, d_ff=11_008, num_tokens=512, width=2048, level=level,
            token_text=("x" * 10_000_000, *["token"] * 511),
            token_top_neuron=rng.integers(0, 11_008, shape).astype(np.int32),
            token_top_norm=rng.random(shape).astype(np.float32),
        )
        for level in (0.1, 0.2, 0.3, 0.4, 0.5)
    ]  # fmt: skip
    path = write_report(build_document(Runs(measurements=results)), tmp_path / "report.html")
    assert path.stat().st_size < 8_000_000
    page = Page(path.read_text(encoding="utf-8"))
    panels = json.loads(page.scripts[0])["panels"]
    assert "[9,999,940 more characters]" in panels[0]["text"]["tokens"][0]
    assert [panel["text"] is None for panel in panels] == [False, False, True, True, True]


def test_an_unwritable_place(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        write_report(build_document(Runs(measurements=[make_measurement()])), tmp_path / "file" / "r.html")


@pytest.mark.parametrize(
    ("cells", "numeric"),
    [
        (["0.63 [0.62, 0.64]", "1"], True),
        (["-1.5e-3", "12%", "3 s", "2.4B", "-", ""], True),
        (["1,234", "nan"], True),
        (["-0.60 to +1.25", "-"], True),
        (["-", "[0.01 MB, 0.08 MB]"], True),
        (["2.15 MB", "10.2 kB"], True),
        (["-", "-"], True),
        (["dense to low"], False),
        (["0 drops zeros", "1"], False),
        (["", ""], False),
        (["PPL-1%"], False),
    ],
)
def test_numbers_are_set_flush_right(cells, numeric):
    assert is_numeric(cells) == numeric
