"""Writing figures: formats, atomic writes, reproducible bytes, and matplotlib settings left unchanged."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET

import matplotlib
import matplotlib.image
import pytest

from sparsing.errors import InputError
from sparsing.report import style
from sparsing.report.chart import Axis, Chart, Picture, Series
from sparsing.report.static import save_picture


@style.styled()
def simple_figure():
    figure = style.new_figure(2.0, "Title with $ and _", "subtitle")
    figure.subplots().plot([1, 2], [3, 4])
    return figure


def test_save_picture_writes_png_and_svg(tmp_path):
    chart = Chart(title="t", x=Axis(label="x"), y=Axis(label="y"), series=[Series(name="s", x=[1], y=[2])])
    paths = save_picture(Picture(title="t", charts=[chart]), tmp_path / "new folder", "plot")
    assert [path.name for path in paths] == ["plot.png", "plot.svg"]
    assert matplotlib.image.imread(paths[0]).shape[1] == 990  # 6.6 inches at 150 dpi
    assert ET.parse(paths[1]).getroot().tag.endswith("svg")
    assert sorted(p.name for p in paths[0].parent.iterdir()) == ["plot.png", "plot.svg"]


def test_a_jpg_for_the_drop_in_command(tmp_path):
    path = style.save_image(simple_figure(), tmp_path / "activation.jpg")
    assert path.read_bytes()[:3] == b"\xff\xd8\xff"


def test_another_suffix_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"cannot write an image as 'plot.bmp'; use one of the suffixes"):
        style.save_image(simple_figure(), tmp_path / "plot.bmp")


def test_a_failing_write_leaves_the_old_picture(tmp_path, monkeypatch):
    path = style.save_image(simple_figure(), tmp_path / "plot.png")
    before, figure = path.read_bytes(), simple_figure()

    def full_disk(target, **_):
        target.write_bytes(b"half a pic")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(figure, "savefig", full_disk)
    with pytest.raises(InputError, match="No space left"):
        style.save_image(figure, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_callers_settings_neither_show_nor_change(tmp_path):
    def saved_bytes():
        paths = [style.save_image(simple_figure(), tmp_path / f"plot.{kind}") for kind in style.FORMATS]
        return [path.read_bytes() for path in paths]

    plain = saved_bytes()
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "text.parse_math": True}):
        before = dict(matplotlib.rcParams)
        again = saved_bytes()
        assert dict(matplotlib.rcParams) == before
    assert again == plain


def test_whiskers_skip_what_has_no_finite_interval():
    axes = simple_figure().axes[0]
    nan = float("nan")
    style.whiskers(axes, [0, 1, 2, 3], [(1, 2), None, (nan, nan), (None, None)], colour="k")
    assert [segment.tolist() for segment in axes.collections[0].get_segments()] == [[[0, 1], [0, 2]]]
    style.whiskers(axes, [0, 1], None, colour="k")
    assert len(axes.collections) == 1


def test_depth_colours_differ_and_stand_off_from_white():
    colours = style.depth_colours(12).colors
    assert len({tuple(colour) for colour in colours}) == 12
    assert all(min(colour[:3]) < 0.4 for colour in colours)


def test_the_package_imports_neither_torch_nor_pyplot():
    code = (
        "import sys; import sparsing.report.document, sparsing.report.static, sparsing.report.page;"
        "print(sorted({'torch', 'transformers', 'matplotlib.pyplot'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
