"""The study's answers on constructed cells with a known answer: every rule can give each of its three answers."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from sparsing.laws import fit

STUDY = Path(__file__).resolve().parents[2] / "studies" / "nano"


@pytest.fixture(scope="module")
def study() -> Iterator[ModuleType]:
    """The module `findings` of the study, which is a folder of scripts."""
    before = [*sys.path]
    sys.path.insert(0, str(STUDY))
    yield importlib.import_module("findings")
    sys.path[:] = before


@pytest.fixture(scope="module")
def example(study):
    """A cell with the checkpoints, losses and intervals of a real one."""
    return study.CellResult.load(STUDY / "results" / "0.3M-relu-seed1.json")


def make_cell(example, curve, *, preset="nano-0.3M", act="relu", loss=0.0, noise=2e-4, **fields):
    """The cell with the ratios of `curve(tokens)`, held-out losses shifted by `loss`."""
    rng = np.random.default_rng(len(preset) + len(act))
    points = []
    for point in example.track.points:
        ratio = float(curve(point.tokens) + rng.normal(0, noise))
        interval = (ratio - 1e-3, ratio + 1e-3)
        points.append(
            dataclasses.replace(
                point, activation_ratio=ratio, activation_ratio_interval=interval, loss=point.loss + loss
            )
        )
    track = dataclasses.replace(example.track, points=tuple(points))
    name = f"{preset.removeprefix('nano-')}-{act}-seed{fields.get('seed', 1)}"
    return dataclasses.replace(example, name=name, preset=preset, hidden_act=act, track=track, **fields)


def falling(tokens: float) -> float:
    return 0.2 - 0.02 * math.log(tokens / 1e5)


def rising(tokens: float) -> float:
    return 0.3 + 0.02 * math.log(tokens / 1e5)


def scales(example, relu, silu):
    return [
        make_cell(example, curve, preset=preset, act=act)
        for preset in ("nano-0.3M", "nano-0.9M")
        for act, curve in (("relu", relu), ("silu", silu))
    ]


@pytest.fixture
def quick(study, monkeypatch):
    """Fits without a step that decides nothing here: the choice of early points."""
    fit_line = functools.partial(fit, form="log_line", drop=2, num_resamples=0)
    monkeypatch.setattr(study, "fit_law", lambda cell: fit_line(study.points_of(cell)))


@pytest.mark.usefixtures("quick")
def test_direction(study, example):
    assert study.direction(scales(example, falling, rising)).answer == study.YES
    assert study.direction(scales(example, rising, falling)).answer == study.NO
    assert study.direction(scales(example, falling, falling)).answer == study.OPEN
    assert study.direction(scales(example, falling, rising)[:3]).answer == study.OPEN, "one SiLU is too few"


def test_equal_quality(study, example):
    assert study.equal_quality(scales(example, falling, rising)).answer == study.YES
    assert study.equal_quality(scales(example, rising, falling)).answer == study.NO
    assert study.equal_quality(scales(example, falling, falling)).answer == study.OPEN
    assert study.equal_quality(scales(example, falling, rising)[:2]).answer == study.OPEN


def test_the_gap_is_taken_at_the_lowest_loss_that_both_reach(study, example):
    relu = make_cell(example, lambda tokens: 0.1, noise=0)
    silu = make_cell(example, lambda tokens: 0.3, act="silu", loss=0.5, noise=0)
    gap = study.gap_at_equal_loss(relu, silu)
    assert gap.loss == pytest.approx(min(point.loss for point in silu.track.points))
    assert (gap.relu, gap.silu) == pytest.approx((0.1, 0.3))
    assert (gap.low, gap.high) == pytest.approx((-0.2 - 1e-3 * 2**0.5, -0.2 + 1e-3 * 2**0.5))


def shapes(example, curve):
    """The seven shapes, with the ratio `curve(width over depth)`."""
    sizes = ((256, 1), (176, 2), (144, 3), (112, 5), (96, 7), (80, 10), (64, 15))
    return [
        make_cell(
            example,
            lambda tokens, at=d_model / n_layers: curve(at),
            preset=f"nano-{d_model}x{n_layers}",
            d_model=d_model,
            n_layers=n_layers,
            noise=1e-4,
        )
        for d_model, n_layers in sizes
    ]


def test_width_against_depth(study, example):
    def answer(curve) -> str:
        return study.width_depth(shapes(example, curve), math.nan).answer

    assert answer(lambda at: 0.05 + 0.001 * min(at, 60)) == study.YES
    assert answer(lambda at: 0.03 * at**0.35) == study.OPEN, (
        "a power law has a smaller error with one coefficient less"
    )
    assert answer(lambda at: 0.05 + 0.02 * math.log(at)) == study.OPEN
    assert answer(lambda at: 0.2 - 0.0005 * at) == study.NO
    assert study.width_depth(shapes(example, lambda at: 0.1)[:4], math.nan).answer == study.OPEN


def test_scale_limit(study, example, monkeypatch):
    # one form for both, whose limit these points identify
    fit_silu = functools.cache(lambda points: fit(points, "silu", drop=0, num_resamples=0))
    monkeypatch.setattr(study, "fit_law", lambda cell: fit_silu(study.points_of(cell)))

    def cell(preset: str, act: str, limit: float):
        return make_cell(example, lambda tokens: limit - 0.1 * (tokens / 1e5) ** -1.0, preset=preset, act=act)

    first = [cell("nano-0.3M", act, 0.4) for act in ("relu", "silu")]
    same, lower = ([cell("nano-0.9M", act, limit) for act in ("relu", "silu")] for limit in (0.4, 0.35))

    def answer(*cells, spread: float = 0.01) -> str:
        return study.scale_limit(cells, spread).answer

    assert answer(*first, *same) == study.YES
    assert answer(*first, *lower) == study.NO
    assert answer(*first, *lower, spread=0.03) == study.OPEN, "another seed could give this difference"
    assert answer(*first, *lower, spread=math.nan) == study.OPEN
    assert answer(*first, same[0], lower[1]) == study.OPEN, "the activations differ"
    assert answer(first[0], same[0]) == study.OPEN, "one activation is half of the claim"


@pytest.mark.usefixtures("quick")
def test_the_page_is_written_from_any_cells(study, example, monkeypatch):
    monkeypatch.setattr(
        study, "scale_limit", lambda cells, spread: study.equal_quality(cells)
    )  # a line in ln D has no limit
    report = importlib.import_module("report")
    cells = {cell.name: cell for cell in scales(example, falling, rising)}
    page = report.page(cells)
    assert page.count("**shows up**") == 3
    assert "No preset has a second seed yet." in page
    assert "peak learning rate 0.01" in page
    again = make_cell(example, falling, preset="nano-0.9M", seed=2)
    assert re.search(
        r"nano-0.9M, ReLU: 12\.\d+% \(seed 1\), 12\.\d+% \(seed 2\)", report.page(cells | {again.name: again})
    )
