"""Tracking: order of checkpoints, the CETT of `search_jointly`, the figures of `measure`, and resuming."""

from __future__ import annotations

import json
import weakref
from pathlib import Path

import pytest

import sparsing.measuring.passes
from sparsing.errors import InputError, TargetError
from sparsing.laws import read_points
from sparsing.measuring._measure import measure
from sparsing.measuring.joint_search import search_jointly
from sparsing.measuring.measurement import Measurement
from sparsing.measuring.subject import Subject
from sparsing.measuring.window_loss import WindowLoss
from sparsing.models.loading import load_model
from sparsing.rules import make_rule
from sparsing.rules.thresholds import read_thresholds
from sparsing.text.corpus import load_corpus, split_holdout
from sparsing.training import tracking
from sparsing.training.track_result import Track
from sparsing.training.tracking import find_checkpoints, track

from ..helpers.measuring import source_text, trained
from ..helpers.tiny import build, save_checkpoint

STEPS = (20, 100, 120)


def read(loaded):
    corpus = load_corpus([source_text()[:2500]], loaded.tokenizer, window=48, name="source")
    return split_holdout(corpus, 0.1)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Three checkpoints in the layout of the Trainer, interpolated between a random and a trained model."""
    folder = tmp_path_factory.mktemp("runs") / "tiny-run"
    begin, end = build("llama").state_dict(), trained().model.state_dict()
    for step in STEPS:
        model = build("llama")
        share = step / STEPS[-1]
        model.load_state_dict({name: begin[name].lerp(end[name], share) for name in begin})
        place = save_checkpoint(folder / f"checkpoint-{step}", model)
        state = {"global_step": step, "num_input_tokens_seen": step * 1000}
        (place / "trainer_state.json").write_text(json.dumps(state))
    (folder / "logs").mkdir()
    return folder


@pytest.fixture(scope="module")
def tracked(run, tmp_path_factory) -> tuple[Track, Path]:
    folder = tmp_path_factory.mktemp("track")
    return track(find_checkpoints(run), read, folder, last=2, ppl_ratio=1.05), folder


def test_checkpoints_are_found_in_the_order_of_training(run):
    assert [path.name for path in find_checkpoints(run)] == [f"checkpoint-{step}" for step in STEPS]


def test_the_demo_models_are_a_run():
    from sparsing.demo import MODELS, checkpoints

    assert find_checkpoints(MODELS / "relu") == checkpoints("relu")


def test_one_cett_is_found_on_the_last_checkpoints_jointly(run, tracked):
    result, _ = tracked
    subjects = []
    for path in find_checkpoints(run)[-2:]:
        loaded = load_model(path)
        corpus, heldout = read(loaded)
        subjects.append(Subject(loaded, corpus, heldout=heldout, scores=("neuron_norm",)))
    found = search_jointly(subjects, make_rule("cett"), 1.05)
    assert result.level == found.level
    assert result.joint == ("checkpoint-100", "checkpoint-120")
    mean = sum(point.ppl_ratio for point in result.points[-2:]) / 2
    assert mean == pytest.approx(1.05, abs=1e-3)  # as nearly as so short a text can tell
    exact = measure(subjects[-1], "cett", level=found.level)
    point = result.points[-1]
    assert point.activation_ratio == exact.activation_ratio
    assert point.activation_ratio_interval == exact.activation_ratio_interval
    assert point.layer_activation_ratio == exact.layer_activation_ratio
    assert point.ppl_dense == exact.ppl_dense


def test_points_have_their_step_and_tokens(tracked):
    points = tracked[0].points
    assert [(point.step, point.tokens) for point in points] == [(step, step * 1000) for step in STEPS]
    assert points[-1].loss < points[0].loss
    assert tracked[0].name == "tiny-run"


def test_fit_reads_the_points(tracked):
    result, folder = tracked
    (series,) = read_points([folder / "points.csv"])
    assert series.name == "tiny-run"
    assert series.x == tuple(point.tokens for point in result.points)
    assert series.ratio == pytest.approx([point.activation_ratio for point in result.points])
    (same,) = read_points([folder / point.name for point in result.points])
    assert same.ratio == series.ratio


def test_everything_is_saved_and_loads_again(tracked):
    result, folder = tracked
    assert Track.load(folder / "track.json") == result
    for point in result.points:
        measured = Measurement.load(folder / point.name / "measurement.json")
        assert measured.level == result.level
        assert measured.provenance.train_tokens == point.tokens
        assert read_thresholds(folder / point.name / "thresholds.json") == measured.thresholds
    assert not (folder / ".journal").exists()


def test_a_run_that_was_cut_off_resumes(run, tracked, tmp_path, monkeypatch):
    """A run killed during the second checkpoint ends with the same figures, and no finished pass runs again."""
    calls = [0]

    class CountAndStop(WindowLoss):
        def __call__(self, batch):
            calls[0] += 1
            if calls[0] == limit:
                raise KeyboardInterrupt
            return super().__call__(batch)

    def go(folder: Path) -> Track:
        return track(find_checkpoints(run), read, folder, last=2, ppl_ratio=1.05)

    monkeypatch.setattr(sparsing.measuring.passes, "WindowLoss", CountAndStop)
    limit = -1
    go(tmp_path / "whole")
    whole, calls[0] = calls[0], 0
    limit = whole - 4
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "cut")
    limit, calls[0] = -1, 0
    again = go(tmp_path / "cut")
    assert calls[0] <= 4 + 2, (
        f"of {whole} batches only the remaining ones, and the interrupted pass from its start"
    )
    assert again.points == tracked[0].points
    assert again.search == tracked[0].search


def test_one_model_is_in_memory_at_a_time(run, tmp_path):
    alive: list[weakref.ref] = []
    most = [0]

    def load(path):
        loaded = load_model(path)
        alive.append(weakref.ref(loaded.model))
        most[0] = max(most[0], sum(reference() is not None for reference in alive))
        return loaded

    track(find_checkpoints(run)[1:], read, tmp_path, last=2, ppl_ratio=1.05, load=load)
    assert len(alive) > 6, "models are loaded again for every try"
    assert most[0] <= 2, "the loaded model, and the previous one until it is released"


def test_unknown_tokens_are_refused(run, tmp_path):
    import shutil

    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    for state in copy.glob("*/trainer_state.json"):
        state.unlink()
    paths = find_checkpoints(copy)
    assert [path.name for path in paths] == [f"checkpoint-{step}" for step in STEPS]
    with pytest.raises(InputError, match="--tokens-per-step"):
        track(paths, read, tmp_path / "track")
    result = track(paths[-1:], read, tmp_path / "track", ppl_ratio=1.05, tokens_per_step=7)
    assert [point.tokens for point in result.points] == [STEPS[-1] * 7]


def test_bad_input_is_refused_before_a_model_is_loaded(run, tmp_path):
    def never(path):
        pytest.fail("a model was loaded")

    paths = find_checkpoints(run)
    for wrong, message in (
        ({"ppl_ratio": 1.0}, "above 1"),
        ({"last": 0}, "at least 1"),
    ):
        with pytest.raises(InputError, match=message):
            track(paths, read, tmp_path, load=never, **wrong)
    with pytest.raises(InputError, match="must rise"):
        track(paths[::-1], read, tmp_path, load=never)
    with pytest.raises(InputError, match="same name"):
        track([paths[0], paths[0]], read, tmp_path, load=never)
    with pytest.raises(InputError, match="no checkpoints"):
        track([], read, tmp_path, load=never)


def test_folders_without_checkpoints_are_refused(tmp_path):
    with pytest.raises(InputError, match="no checkpoints in"):
        find_checkpoints(tmp_path)
    save_checkpoint(tmp_path / "final", build("llama"))
    with pytest.raises(InputError, match=r"training step of .* is not known"):
        find_checkpoints(tmp_path)


def test_another_tokenizer_is_refused(run, tmp_path):
    import shutil

    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    path = copy / "checkpoint-100" / "tokenizer.json"
    path.write_text(path.read_text().replace('"q"', '"Q!"'))
    with pytest.raises(InputError, match="another tokenizer"):
        track(find_checkpoints(copy), read, tmp_path / "track", ppl_ratio=1.05)


def test_a_target_that_no_level_reaches_is_refused(run, tmp_path):
    with pytest.raises(TargetError):
        track(find_checkpoints(run)[-1:], read, tmp_path, ppl_ratio=1e9)


def test_the_untrained_model_is_tracked_but_not_in_the_csv(run, tmp_path):
    import shutil

    copy = tmp_path / "run"
    shutil.copytree(run / "checkpoint-120", copy / "checkpoint-120")
    place = save_checkpoint(copy / "checkpoint-0", build("llama"))
    (place / "training_state.json").write_text('{"step": 0, "tokens": 0}')
    result = track(find_checkpoints(copy), read, tmp_path / "track", last=1, ppl_ratio=1.05)
    assert [point.tokens for point in result.points] == [0, 120_000]
    assert len(result.points_csv().splitlines()) == 2
    assert tracking.JOINT_CHECKPOINTS == 5
