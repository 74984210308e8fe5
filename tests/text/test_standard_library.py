"""The standard library as text: equal on every call, disjoint splits, without data tables and tests."""

from pathlib import Path

import pytest

from sparsing.errors import InputError
from sparsing.text.standard_library import library_documents, named_library_documents


@pytest.fixture(scope="module")
def splits() -> dict[str, list[tuple[str, str]]]:
    return {
        "train": list(named_library_documents("train")),
        "heldout": list(named_library_documents("heldout")),
    }


def library(folder: Path, modules: dict[str, bytes]) -> Path:
    for name, source in modules.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source)
    return folder


def names_below(root: Path) -> set[str]:
    return {name for split in ("train", "heldout") for name, _ in named_library_documents(split, root=root)}


def test_second_pass_gives_the_same_documents(splits):
    assert list(named_library_documents("heldout")) == splits["heldout"]
    assert list(library_documents("heldout")) == [text for _, text in splits["heldout"]]


def test_no_document_is_in_both_splits(splits):
    train, heldout = dict(splits["train"]), dict(splits["heldout"])
    assert len(train) == len(splits["train"])
    assert train.keys().isdisjoint(heldout)
    assert set(train.values()).isdisjoint(heldout.values())


def test_about_a_twentieth_is_held_out(splits):
    size = {split: sum(len(text) for _, text in named) for split, named in splits.items()}
    assert 0.02 < size["heldout"] / (size["heldout"] + size["train"]) < 0.10


def test_code_and_manual_are_both_there(splits):
    names = {name for named in splits.values() for name, _ in named}
    assert {"argparse", "json", "json.decoder"} <= names
    assert any(name.startswith("topics#") for name in names)


def test_the_split_depends_on_the_name_alone(tmp_path, splits):
    for split in ("train", "heldout"):
        name = next(name for name, _ in splits[split] if "#" not in name and "." not in name)
        root = library(tmp_path / split, {f"{name}.py": b"other = 1\n"})
        assert list(library_documents(split, root=root)) == ["other = 1\n"]
        package = library(tmp_path / f"{split}-package", {f"{name}/__init__.py": b"other = 2\n"})
        assert list(library_documents(split, root=package)) == ["other = 2\n"]


def test_tests_tables_and_unreadable_files_are_left_out(tmp_path):
    root = library(
        tmp_path,
        {
            "kept.py": b"# kept\n",
            "latin.py": "# -*- coding: latin-1 -*-\n# caf\xe9\n".encode("latin-1"),
            "empty.py": b"\n",
            "broken.py": b"# \xff\xfe is not UTF-8\n",
            "unknown.py": b"# -*- coding: no-such-encoding -*-\n",
            "test/test_x.py": b"a = 1\n",
            "pkg/tests/helper.py": b"a = 1\n",
            "idlelib/run.py": b"a = 1\n",
            "encodings/cp037.py": b"a = 1\n",
            "site-packages/other.py": b"a = 1\n",
            "config-3.11/makesetup.py": b"a = 1\n",
            "_sysconfigdata_x.py": b"a = 1\n",
            "html/entities.py": b"a = 1\n",
        },
    )
    assert names_below(root) == {"kept", "latin"}
    texts = [text for split in ("train", "heldout") for text in library_documents(split, root=root)]
    assert any("caf\xe9" in text for text in texts)


def test_bad_arguments_say_what_to_do(tmp_path):
    with pytest.raises(InputError, match="train, heldout, got 'test'"):
        next(library_documents("test"))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no Python source below"):
        next(library_documents("train", root=tmp_path / "absent"))
