"""Folders of `save_to_disk` and datasets of the hub, which `datasets` reads."""

from __future__ import annotations

import datasets
import pytest

from sparsing.errors import InputError
from sparsing.text.reading import check_options

from ..helpers.texts import DOCUMENTS, documents


@pytest.fixture(scope="module")
def rows() -> datasets.Dataset:
    return datasets.Dataset.from_dict({"text": DOCUMENTS, "id": list(range(len(DOCUMENTS)))})


def test_a_folder_of_save_to_disk_gives_its_rows(rows, tmp_path):
    """Its `state.json` was measured as prose, with a perplexity of thousands."""
    rows.save_to_disk(tmp_path / "one", num_shards=2)
    assert documents(tmp_path / "one") == DOCUMENTS
    with pytest.raises(InputError, match=r"has no column 'body'; give one of \['text', 'id'\] with --column"):
        documents(tmp_path / "one", column="body")
    with pytest.raises(InputError, match="holds a single part; leave out --split"):
        check_options(tmp_path / "one", split="test")


def test_a_folder_of_several_splits(rows, tmp_path):
    both = datasets.DatasetDict({"train": rows, "test": rows.select([0])})
    both.save_to_disk(tmp_path / "both")
    check_options(tmp_path / "both", split="test")
    assert documents(tmp_path / "both") == DOCUMENTS
    assert documents(tmp_path / "both", split="test") == DOCUMENTS[:1]
    with pytest.raises(InputError, match="has no split 'dev'; give one of train, test with --split"):
        documents(tmp_path / "both", split="dev")
    datasets.DatasetDict({"test": rows}).save_to_disk(tmp_path / "only")
    assert documents(tmp_path / "only") == DOCUMENTS


def test_a_saved_dataset_that_lacks_a_file(rows, tmp_path):
    rows.save_to_disk(tmp_path / "one")
    next((tmp_path / "one").glob("*.arrow")).unlink()
    with pytest.raises(InputError, match=r"cannot be opened .*; save it again with save_to_disk"):
        documents(tmp_path / "one")


def test_a_dataset_of_the_hub_is_streamed_with_its_config_and_split(rows, monkeypatch):
    asked = []

    def load_dataset(*names, **options):
        asked.append((*names, options))
        return rows.to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert documents("owner/set:config", split="test") == documents("owner/set") == DOCUMENTS
    assert asked == [
        ("owner/set", "config", {"split": "test", "streaming": True}),
        ("owner/set", None, {"split": "train", "streaming": True}),
    ]
