"""The page of a folder: everything escaped, nothing from outside, refusals before a broken page is written."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from sparsing.errors import InputError
from sparsing.report.page import Command, Heading, Note, Picture, Table, write_index


class Page(HTMLParser):
    """Tags, attributes and text of a page; raises on a tag that is closed out of turn."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.text, self._open = [], [], []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture
def folder(tmp_path):
    for name in ("ratio.png", "ratio.svg", "a b:c#1.png"):
        (tmp_path / name).write_bytes(b"not looked into")
    return tmp_path


def test_a_page_of_every_block(folder):
    blocks = [
        Note(text="One.\n\nTwo."),
        Heading(text="Ratios"),
        Table(
            caption="per layer",
            header=("layer", "ratio", "note"),
            rows=[(0, 0.51234, None), (1, 0.25, "low")],
        ),
        Picture(path="ratio.png", caption="Ratio per layer"),
        Command(text="sparsing measure\n  --ppl 1"),
        Heading(text="More"),
    ]
    page = Page(write_index(folder, "stories260K", blocks))
    assert [attrs["href"] for attrs in page.all("a")] == ["#part-1", "#part-5", "./ratio.png", "./ratio.svg"]
    assert [attrs["id"] for attrs in page.all("h2")] == ["part-1", "part-5"]
    assert page.all("img")[0] == {"src": "./ratio.png", "alt": "Ratio per layer", "loading": "lazy"}
    assert [attrs.get("class") for attrs in page.all("td")] == ["number", "number", None] * 2
    assert {"One.", "Two.", "0.5123", "low", "sparsing measure\n  --ppl 1"} <= set(page.text)
    assert page.text.count("stories260K") == 2  # the title and the first heading


NASTY = "<script>alert('1')</script> &amp; \"q\" \x00\ud800\u202e"


def test_everything_is_escaped(folder):
    blocks = [
        Note(text=NASTY),
        Heading(text=NASTY),
        Command(text=NASTY),
        Table(caption=NASTY, header=[NASTY], rows=[[NASTY], ["\n"]]),
        Picture(path="ratio.svg", caption=NASTY),
    ]
    page = Page(write_index(folder, NASTY, blocks))
    assert not page.all("script")
    shown = "<script>alert('1')</script> &amp; \"q\" \\x00\\ud800\\u202e"
    assert page.all("img")[0]["alt"] == shown
    assert page.text.count(shown) == 9  # title, h1, link, note, heading, command, caption, header, cell
    assert page.text.count(shown + " ") == 1  # below the picture, before its links
    assert "\\n" in page.text


def test_nothing_comes_from_outside(folder):
    text = write_index(folder, "t", [Picture(path="ratio.png", caption="c")]).read_text(encoding="utf-8")
    assert "://" not in text
    assert "url(" not in text
    assert "@import" not in text
    assert "prefers-color-scheme: dark" in text


def test_names_of_pictures_are_quoted_and_may_be_absolute(folder):
    page = Page(write_index(folder, "t", [Picture(path=folder / "a b:c#1.png", caption="c")]))
    assert page.all("img")[0]["src"] == "./a%20b%3Ac%231.png"


@pytest.mark.parametrize("name", ["missing.png", "../other.png", "/no/such/place.png", "."])
def test_a_picture_outside_the_folder_is_refused(folder, name):
    (folder.parent / "other.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"is not in .*; save it there before the page is written"):
        write_index(folder, "t", [Picture(path=name, caption="c")])
    assert not (folder / "index.html").exists()


def test_a_row_of_the_wrong_length_is_refused():
    with pytest.raises(InputError, match="table 'c' has 2 columns, but a row of 1 cells"):
        Table(caption="c", header=("a", "b"), rows=[(1, 2), (3,)])


@pytest.mark.parametrize(
    ("cells", "numeric"),
    [
        (["0.63 [0.62, 0.64]", "1"], True),
        (["-1.5e-3", "12%", "3 s", "2.4B", "-", ""], True),
        (["1,234", "nan"], True),
        (["0 drops zeros", "1"], False),
        (["", None], False),
        (["PPL-1%"], False),
    ],
)
def test_numbers_are_set_flush_right(tmp_path, cells, numeric):
    page = Page(
        write_index(tmp_path, "t", [Table(caption="c", header=["h"], rows=[[cell] for cell in cells])])
    )
    assert page.all("th")[0].get("class") == ("number" if numeric else None)


def test_an_empty_table_and_an_empty_page(tmp_path):
    page = Page(write_index(tmp_path, "t", [Table(caption="c", header=("a", "b"), rows=[])]))
    assert len(page.all("th")) == 2
    assert not Page(write_index(tmp_path / "new", "t", [])).all("nav")
