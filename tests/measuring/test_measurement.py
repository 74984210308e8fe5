"""A measurement in Python: loaded from a folder, as a data frame, and as a line."""

from __future__ import annotations

import pytest

from sparsing.errors import InputError
from sparsing.measuring.measurement import Measurement
from sparsing.measuring.run_folder import LAYERS_FILE, save_measurement
from sparsing.measuring.subject import Subject

from ..helpers.measurements import make_measurement
from ..helpers.measuring import text_corpus, tiny_loaded


def test_a_folder_is_loaded(tmp_path):
    result = make_measurement()
    save_measurement(result, tmp_path / "cett-ppl-1")
    for place in (tmp_path, tmp_path / "cett-ppl-1", tmp_path / "cett-ppl-1" / "measurement.json"):
        assert Measurement.load(place).activation_ratio == result.activation_ratio
    save_measurement(result, tmp_path / "fat-0")
    with pytest.raises(
        InputError, match=r"holds 2 files measurement.json; give one of them: .*cett-ppl-1.* .*fat-0"
    ):
        Measurement.load(tmp_path)


def test_layers_as_frame_and_file(tmp_path):
    pandas = pytest.importorskip("pandas")
    result = make_measurement(n_layers=3)
    frame = result.to_frame()
    assert list(frame["site"]) == list(result.sites)
    assert frame["activation_ratio"].mean() == pytest.approx(result.activation_ratio)
    save_measurement(result, tmp_path)
    pandas.testing.assert_frame_equal(pandas.read_csv(tmp_path / LAYERS_FILE), frame)


def test_the_repr_is_one_line():
    assert len(repr(make_measurement())) < 200


def test_windows_longer_than_the_model_are_refused():
    loaded = tiny_loaded()
    length = loaded.model.config.max_position_embeddings
    with pytest.raises(
        InputError, match=f"the model's {length} positions; load the corpus with window={length}"
    ):
        Subject(loaded, text_corpus(400, window=length + 1))
