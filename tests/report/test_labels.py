"""Token text is drawn unchanged if the fonts have its glyphs, and escaped otherwise."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import font_manager

from sparsing.base.provenance import Provenance
from sparsing.report import labels
from sparsing.report.labels import drawable, escape_unprintable, model_label, token_label


@pytest.fixture
def only_the_base_font(monkeypatch):
    """As on a machine without a font for Chinese."""
    monkeypatch.setattr(labels, "CJK_FONTS", ())
    labels.font_families.cache_clear()
    yield
    labels.font_families.cache_clear()


@pytest.mark.parametrize(
    ("text", "label"),
    [
        (" the", "the"),
        ("the", "the"),
        (" ", "\u2423"),
        ("   ", "\u2423\u2423\u2423"),
        ("", ""),
        ("\n", r"\n"),
        ("a\tb\x00", r"a\tb\x00"),
        ("$x_1$", "$x_1$"),
        ("caf\u00e9 \u0416", "caf\u00e9 \u0416"),
        ("\u4f60\u597d", r"\u4f60\u597d"),
        ("\ud800", r"\ud800"),
        ("\u202eab", r"\u202eab"),
        ("a" * 15, "a" * 13 + "\u2026"),
    ],
)
def test_token_labels(only_the_base_font, text, label):
    assert token_label(text) == label


def test_a_second_font_shows_what_the_first_lacks(monkeypatch):
    char = "\ue0f3"  # in the private use area, which STIX fills and isprintable() refuses
    letter = next(c for c in map(chr, _glyphs("STIXGeneral") - _glyphs("DejaVu Sans")) if c.isprintable())
    monkeypatch.setattr(labels, "CJK_FONTS", ("no such font", "STIXGeneral", "STIXNonUnicode"))
    labels.font_families.cache_clear()
    try:
        assert labels.font_families() == ["DejaVu Sans", "STIXGeneral"]
        assert drawable(letter) == letter
        assert drawable(char) == r"\ue0f3"
    finally:
        labels.font_families.cache_clear()
    monkeypatch.setattr(labels, "CJK_FONTS", ())
    assert drawable(letter).startswith("\\")
    labels.font_families.cache_clear()


@given(st.text(st.characters(), max_size=30))
def test_every_label_is_short_and_has_glyphs(text):
    label = token_label(text)
    assert len(label) <= 14
    known = set().union(*(_glyphs(family) for family in labels.font_families()))
    assert all(char.isprintable() and ord(char) in known for char in label)


@given(st.text(st.characters(), max_size=30))
def test_escaping_loses_only_what_cannot_be_printed(text):
    escaped = escape_unprintable(text, keep="\n")
    assert all(char.isprintable() or char == "\n" for char in escaped)
    if text.isprintable():
        assert escaped == text


def test_model_labels():
    assert model_label(Provenance(model="org/sparsing-law-0.1b-relu")) == "org/sparsing-law-0.1b-relu"
    assert model_label(Provenance(model="/data/a/final")) != model_label(Provenance(model="/data/b/final"))
    assert model_label(Provenance(model="runs/relu/step-100", train_step=100)) == "relu/step-100"
    assert model_label(Provenance(model="")) == "model"
    assert len(model_label(Provenance(model="x" * 90))) == 48


def _glyphs(family: str) -> set[int]:
    return set(font_manager.get_font(font_manager.findfont(family)).get_charmap())
