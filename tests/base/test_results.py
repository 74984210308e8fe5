"""Saved results: a round trip changes nothing, writes are atomic, and invalid files raise helpful errors."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import os
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import sparsing
from sparsing.base.results import Result, write_arrays, write_atomic, write_text
from sparsing.errors import InputError
from sparsing.rules.curves import ScoreCurve

from ..helpers.results import same


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner(Result):
    kind = "inner_of_the_tests"
    name: str
    pair: tuple[float, float] | None = None
    table: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Outer(Result):
    kind = "outer_of_the_tests"
    number: float
    count: int
    flag: bool = True
    text: str = '\u6c34 "quoted"\n'
    maybe: float | None = None
    pairs: tuple[tuple[float, float], ...] | None = None
    inner: Inner
    many: tuple[Inner, ...] = ()
    by_name: dict[str, Inner] = dataclasses.field(default_factory=dict)
    plain: dict[str, int] = dataclasses.field(default_factory=dict)
    array: np.ndarray


def whole(**changes) -> Outer:
    table = np.arange(6, dtype=np.int64).reshape(2, 3)
    fields = {
        "number": 0.1,
        "count": 3,
        "pairs": ((0.5, 1.0), (2.0, 3.0)),
        "inner": Inner(name="i", pair=(1.0, 2.0), table=table),
        "many": (Inner(name="a"), Inner(name="b", table=table[::-1].T)),
        "by_name": {"x.y": Inner(name="c", table=np.zeros(0)), "z": Inner(name="d")},
        "plain": {"k": 1},
        "array": np.array([[1.5, np.nan], [np.inf, -0.0]], dtype=np.float32),
    }
    return Outer(**(fields | changes))


def test_everything_comes_back(tmp_path):
    for result in (whole(), whole(pairs=None, maybe=2.5, flag=False, many=(), by_name={})):
        assert same(Outer.load(result.save(tmp_path / "deep" / "r.json")), result)


def test_results_with_arrays_are_equal_only_to_themselves():
    """A comparison that the base class generates would compare no fields, and all results would be equal."""
    first, second = (
        ScoreCurve(on="h", thresholds=np.zeros((1, n)), cett=np.zeros((1, n)), ratio=np.zeros((1, n)))
        for n in (2, 3)
    )
    assert first == first
    assert first != second
    assert len({first, second}) == 2


def test_nan_comes_back_and_infinity_as_nan(tmp_path):
    read = Outer.load(
        whole(number=math.nan, pairs=((math.nan, 1.0),), maybe=math.nan).save(tmp_path / "r.json")
    )
    assert math.isnan(read.number)
    assert math.isnan(read.pairs[0][0])
    assert read.pairs[0][1] == 1.0
    assert read.maybe is None
    assert math.isnan(Outer.load(whole(number=math.inf).save(tmp_path / "r.json")).number)


def test_the_json_is_strict_and_holds_no_array(tmp_path):
    path = whole(number=math.nan).save(tmp_path / "r.json")
    document = json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert document["kind"] == "outer_of_the_tests"
    assert document["schema_version"] == 2
    assert document["array"] == {"$array": "array"}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["r.json", "r.safetensors"]


def test_to_dict_is_plain_json():
    document = whole(number=np.float64(0.5)).to_dict()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["array"] == [[1.5, None], [None, -0.0]]
    assert document["inner"]["table"] == [[0, 1, 2], [3, 4, 5]]


def test_a_result_without_arrays_is_one_file(tmp_path):
    Inner(name="x").save(tmp_path / "r.json")
    assert [file.name for file in tmp_path.iterdir()] == ["r.json"]


def test_a_name_that_is_not_json(tmp_path):
    with pytest.raises(InputError, match=r"saved as \.json, got 'r\.txt'; name it r\.txt\.json"):
        whole().save(tmp_path / "r.txt")
    assert list(tmp_path.iterdir()) == []


def edit(path: Path, **changes) -> Path:
    document = json.loads(path.read_text()) | changes
    path.write_text(
        json.dumps({key: value for key, value in document.items() if value is not ...}, default=str)
    )
    return path


def test_another_kind_schema_or_file(tmp_path):
    path = whole().save(tmp_path / "r.json")
    with pytest.raises(
        InputError, match="holds outer_of_the_tests, not a inner_of_the_tests; give another file"
    ):
        Inner.load(path)
    with pytest.raises(
        InputError, match="outer_of_the_tests schema 3, this version of sparsing reads 1 to 2; measure again"
    ):
        Outer.load(edit(path, schema_version=3))
    with pytest.raises(InputError, match=r"no file .*none\.json'; give the \.json that a run has written"):
        Outer.load(tmp_path / "none.json")
    for text in ("{", "\xff", "[1]", '"x"', "{}"):
        path.write_text(text, encoding="latin-1")
        with pytest.raises(
            InputError, match=r"is not JSON|in UTF-8|not a JSON object|holds no result, not a outer"
        ):
            Outer.load(path)


def test_a_lost_array_file_and_a_lost_field(tmp_path):
    path = whole().save(tmp_path / "r.json")
    arrays = path.with_suffix(".safetensors").read_bytes()
    path.with_suffix(".safetensors").unlink()
    with pytest.raises(InputError, match=r"r\.safetensors.* beside it"):
        Outer.load(path)
    path.with_suffix(".safetensors").write_bytes(arrays[:20])
    with pytest.raises(InputError, match=r"r\.safetensors"):
        Outer.load(path)
    path.with_suffix(".safetensors").write_bytes(arrays)
    document = json.loads(path.read_text())
    del document["count"]
    path.write_text(json.dumps(document))
    with pytest.raises(
        InputError, match=r"missing required field `count`; it is not a complete outer_of_the_tests"
    ):
        Outer.load(path)


def test_the_json_of_one_result_and_the_arrays_of_another(tmp_path):
    """A process that is killed between the two renames leaves new arrays beside an old JSON file."""
    old = whole().save(tmp_path / "old.json")
    new = whole(array=np.zeros((2, 2), np.float32)).save(tmp_path / "new.json")
    new.with_suffix(".safetensors").replace(old.with_suffix(".safetensors"))
    with pytest.raises(InputError, match=r"old\.safetensors' beside .*belongs to another result"):
        Outer.load(old)


def test_a_file_of_an_earlier_version_has_no_digest(tmp_path):
    path = edit(whole().save(tmp_path / "r.json"), arrays_sha256=...)
    assert same(Outer.load(path), whole())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("number", "0.1"),
        ("number", [0.1]),
        ("count", 3.5),
        ("count", True),
        ("count", None),
        ("flag", 1),
        ("text", 5),
        ("maybe", "1"),
        ("pairs", [[1.0]]),
        ("pairs", [[1.0, 2.0, 3.0]]),
        ("pairs", 7),
        ("inner", []),
        ("inner", {"name": 3}),
        ("many", {"a": 1}),
        ("by_name", []),
        ("by_name", {"x": 1}),
        ("plain", {"k": "v"}),
        ("array", [1.0]),
        ("array", {"$array": 3}),
        ("array", {"$array": "none"}),
    ],
)
def test_a_value_of_another_type_is_named(field, value, tmp_path):
    path = edit(whole().save(tmp_path / "r.json"), **{field: value})
    with pytest.raises(InputError, match=r"r\.json'.*(\$\." + field + "|array)"):
        Outer.load(path)


def test_a_name_that_is_not_utf8_is_saved(tmp_path):
    name = os.fsdecode(b"model-\xff")
    assert Inner.load(Inner(name=name).save(tmp_path / "r.json")).name == r"model-\udcff"


def subclasses(cls: type[Result]) -> Iterator[type[Result]]:
    for subclass in cls.__subclasses__():
        yield subclass
        yield from subclasses(subclass)


def test_every_result_of_the_package_declares_its_own_kind():
    for module in pkgutil.walk_packages(sparsing.__path__, "sparsing."):
        if not module.name.endswith("__main__"):  # importing it runs the command line
            importlib.import_module(module.name)
    ours = {cls for cls in subclasses(Result) if cls.__module__.startswith("sparsing.")}
    assert len(ours) > 40
    assert not [cls for cls in ours if "kind" not in cls.__dict__]
    kinds = [cls.kind for cls in ours]
    assert sorted(set(kinds)) == sorted(kinds)


def test_a_class_without_a_kind_and_a_kind_used_twice():
    with pytest.raises(TypeError, match=r"Nameless declares no kind; every Result class names its kind"):

        class Nameless(Inner):
            pass

    with pytest.raises(
        ValueError, match=r"kind 'inner_of_the_tests' of .*Copy is already the kind of .*Inner"
    ):

        class Copy(Result):
            kind = "inner_of_the_tests"


def test_a_file_of_schema_1_has_the_former_kind(tmp_path):
    path = edit(whole().save(tmp_path / "r.json"), kind="Outer", schema_version=1)
    assert same(Outer.load(path), whole())


def test_unknown_fields_are_ignored(tmp_path):
    assert same(Outer.load(edit(whole().save(tmp_path / "r.json"), later=1)), whole())


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise KeyError("inside")

    with pytest.raises(KeyError):
        write_atomic(path, fail)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]
    write_text(path, "new")
    assert path.read_text() == "new"


def test_permissions_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a.txt", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"cannot write .*file/r\.json'.*choose another folder with -o"):
        whole().save(tmp_path / "file" / "r.json")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere; run as another user")
def test_a_folder_that_may_not_be_written(tmp_path):
    folder = tmp_path / "locked"
    path = whole().save(folder / "r.json")
    folder.chmod(0o555)
    try:
        with pytest.raises(InputError, match="Permission denied"):
            whole(count=9).save(path)
    finally:
        folder.chmod(0o755)
    assert Outer.load(path).count == 3


def test_a_full_disk_leaves_the_old_files(small_disk):
    path = whole().save(small_disk / "r.json")
    with pytest.raises(InputError, match=r"cannot write .*r\.safetensors'.*No space left"):
        whole(array=np.zeros(10**6)).save(path)
    assert same(Outer.load(path), whole())
    with pytest.raises(InputError, match=r"cannot write .*r\.json'.*No space left.*; free some space"):
        whole(array=np.zeros(1), text="x" * 10**6).save(path)
    assert same(Outer.load(path), whole())
    write_arrays(small_disk / "ok.safetensors", {"a": np.zeros(2)})
    assert not [file.name for file in small_disk.iterdir() if "partial" in file.name]
