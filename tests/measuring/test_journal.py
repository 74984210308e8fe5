"""The journal: totals are found by key and identity, and are deleted when the run is complete."""

from __future__ import annotations

import numpy as np
import pytest

import sparsing.measuring.journal
from sparsing.measuring.journal import Journal


def totals(value: float = 1.5, window: int = 3) -> dict[str, np.ndarray]:
    return {"nll": np.array([value, np.nan, -0.0]), "next_window": np.array([window])}


def same(a: dict[str, np.ndarray] | None, b: dict[str, np.ndarray]) -> bool:
    return a is not None and set(a) == set(b) and all(a[name].tobytes() == b[name].tobytes() for name in b)


def test_in_memory():
    journal = Journal()
    assert journal.get("a") is None
    journal.put("a", totals())
    assert same(journal.get("a"), totals())
    assert journal.get("b") is None
    assert journal.complete("a", 3)
    assert not journal.complete("a", 4)
    assert not journal.complete("b", 0)
    journal.clear()
    assert journal.get("a") is None


def test_another_process_reads_what_was_put(tmp_path):
    Journal(tmp_path / "j", {"model": "x"}).put("a key / with: signs", totals())
    assert same(Journal(tmp_path / "j", {"model": "x"}).get("a key / with: signs"), totals())


@pytest.mark.parametrize("other", [{"model": "y"}, {"model": "x", "batch_size": 1}, {}, None])
def test_another_identity_does_not(other, tmp_path):
    Journal(tmp_path, {"model": "x"}).put("a", totals())
    assert Journal(tmp_path, other).get("a") is None
    assert Journal(tmp_path, {"model": "x"}).get("b") is None


def test_the_order_of_an_identity_does_not_matter(tmp_path):
    Journal(tmp_path, {"a": 1, "b": (2, 3)}).put("k", totals())
    assert same(Journal(tmp_path, {"b": (2, 3), "a": 1}).get("k"), totals())


def test_a_later_put_replaces(tmp_path):
    journal = Journal(tmp_path)
    journal.put("a", totals(1.0, 1))
    journal.put("a", totals(2.0, 2))
    assert same(journal.get("a"), totals(2.0, 2))
    assert same(Journal(tmp_path).get("a"), totals(2.0, 2))


def test_it_is_due_some_seconds_after_the_last_save(monkeypatch):
    journal = Journal()
    assert not journal.due()
    monkeypatch.setattr(sparsing.measuring.journal, "SAVE_EVERY_SEC", 0.0)
    assert journal.due()


def test_clear_takes_the_folder_away_also_after_a_kill_in_the_middle_of_a_write(tmp_path):
    folder = tmp_path / "j"
    journal = Journal(folder)
    journal.put("a", totals())
    (own,) = folder.iterdir()
    (own / ".0123.safetensors.abcd.partial").write_bytes(b"half")
    journal.clear()
    assert not folder.exists()
    journal.clear()
    Journal(tmp_path / "never").clear()


def test_clear_leaves_what_it_did_not_write(tmp_path):
    journal = Journal(tmp_path)
    journal.put("a", totals())
    (tmp_path / "notes.txt").write_text("mine")
    journal.clear()
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("keep", [0, 7, 60, -1])
def test_a_truncated_file_is_dropped_with_a_warning(keep, tmp_path, caplog):
    Journal(tmp_path).put("a", totals())
    (path,) = tmp_path.glob("*/*.safetensors")
    path.write_bytes(path.read_bytes()[:keep])
    journal = Journal(tmp_path)
    assert journal.get("a") is None
    assert "the pass runs again" in caplog.text
    assert not path.exists()
    journal.put("a", totals())
    assert same(Journal(tmp_path).get("a"), totals())


def test_a_changed_byte_is_found(tmp_path):
    Journal(tmp_path).put("a", totals())
    (path,) = tmp_path.glob("*/*.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert Journal(tmp_path).get("a") is None
