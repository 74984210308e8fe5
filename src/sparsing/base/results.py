"""Saving and loading of results: `Result` is the base class of every record that goes to disk.

A result is a frozen dataclass. `save` writes its numbers, strings, tuples and nested results as JSON, and its
`numpy.ndarray` fields as safetensors in a second file beside the JSON. `load` reads both files back and checks every
value. Every file is written atomically: a reader sees the old file or the new file, never a part of either. The JSON
contains a digest of the arrays, so that a JSON file is never read with the arrays of another result.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import tempfile
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import numpy as np

from sparsing.base.checked_files import check, parse_object, read_object, read_utf8
from sparsing.errors import InputError

_ARRAY = "$array"
"""Key of the JSON object that stands for an array; its value is the name of the array in the safetensors file."""
_DIGEST = "arrays_sha256"
"""Key of the digest of the arrays, in the JSON file and in the safetensors file."""
_KINDS: dict[str, str] = {}
"""Every kind with the full name of its class, so that a kind used twice fails at import."""


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Calls `write` with a temporary path in the same folder, then moves the temporary file over `path`.

    Raises:
        InputError: If the folder cannot be made or written, or if the disk is full. `path` is then unchanged.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    except OSError as error:
        raise _unwritable(path, error) from error
    os.close(fd)
    temporary = Path(name)
    try:
        write(temporary)
        # without fsync a power cut after the rename may leave an empty file in place of the old one
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.chmod(0o666 & ~_umask())  # mkstemp allows the owner only
        temporary.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from error
    except InputError:  # of a second file that `write` has written
        raise
    except Exception as error:
        if "No space left" in str(error):  # safetensors wraps the OSError in its own exception class
            raise _unwritable(path, error) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes `text` as UTF-8, atomically. Raises as `write_atomic`."""
    # a file name that is not UTF-8 has characters that UTF-8 cannot encode
    data = text.encode("utf-8", "backslashreplace")
    write_atomic(path, lambda temporary: temporary.write_bytes(data))


def read_lines(path: str | Path) -> list[dict[str, Any]]:
    """The JSON objects of a file with one object per line; an empty list if there is no file.

    A last line without a line break is left out: the process that wrote it was killed.
    """
    hint = "delete the file, or restore it from a copy"
    if not Path(path).exists():
        return []
    lines = read_utf8(path, hint=hint).split("\n")[:-1]
    return [
        parse_object(line, name=f"line {i} of {str(path)!r}", hint=hint) for i, line in enumerate(lines, 1)
    ]


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes named arrays and their digest as safetensors, atomically. Raises as `write_atomic`."""
    import safetensors.numpy

    library = cast("Any", safetensors.numpy)  # its annotation of the path is incomplete

    # safetensors copies the memory of an array as it lies, so a transposed view would be saved wrongly
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    digest = digest_arrays(contiguous)
    write_atomic(path, lambda temporary: library.save_file(contiguous, temporary, metadata={_DIGEST: digest}))


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """The named arrays that `write_arrays` wrote.

    Raises:
        InputError: If the file cannot be read, or the arrays differ from the digest in the file. Files of earlier
            versions have no digest.
    """
    import safetensors

    open_file = cast("Any", safetensors.safe_open)  # its annotations are incomplete
    try:
        with open_file(path, framework="np") as file:
            metadata: dict[str, str] = file.metadata() or {}
            arrays: dict[str, np.ndarray] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    except Exception as error:  # safetensors and numpy raise many classes for a damaged file
        raise InputError(f"the arrays in {str(path)!r} cannot be read: {error}") from error
    if metadata.get(_DIGEST, digest := digest_arrays(arrays)) != digest:
        raise InputError(f"the arrays in {str(path)!r} are damaged: their bytes differ from their digest")
    return arrays


def digest_arrays(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of the names, dtypes, shapes and bytes of arrays, in the order of the names."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        # safetensors gives a scalar one axis
        digest.update(repr((name, array.dtype.str, array.shape or (1,))).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


# `eq=False`, since a subclass with `eq=False` would inherit an equality that compares no fields
@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """Base class of the records that the stages pass to each other and that can be saved."""

    kind: ClassVar[str]
    """Name of the class in saved files, e.g. `rule_comparison`. Every class declares its own; no two are equal."""
    former_kind: ClassVar[str]
    """The `kind` in files of schema 1: the name that the class had then. Default: its present name."""
    schema_version: ClassVar[int] = 2
    """Version of the fields. When fields change, raise this number and convert older files in `upgraded`."""
    oldest_schema: ClassVar[int] = 1
    """The oldest version that `load` still reads."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        home = f"{cls.__module__}.{cls.__qualname__}"
        # looked up in the class itself, since a subclass would inherit the kind of its base
        if "kind" not in cls.__dict__:
            raise TypeError(
                f"{home} declares no kind; every Result class names its kind, e.g. kind = 'law_fit'"
            )
        if "former_kind" not in cls.__dict__:
            cls.former_kind = cls.__name__
        if (owner := _KINDS.setdefault(cls.kind, home)) != home:
            raise ValueError(
                f"kind {cls.kind!r} of {home} is already the kind of {owner}; choose another name"
            )

    @classmethod
    def upgraded(cls, document: dict[str, Any], version: int) -> dict[str, Any]:
        """Converts the fields of an older schema `version` to the present schema. The default changes nothing."""
        return document

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values. Arrays become nested lists; NaN and infinity become None."""
        return _plain(self)

    def save(self, path: str | Path) -> Path:
        """Writes `path` (.json) and, if the result has arrays, a .safetensors file of the same stem beside it.

        Returns: `path`.

        Raises:
            InputError: If `path` does not end in .json, if the folder is not writable, or if the disk is full.
        """
        path = Path(path)
        if path.suffix != ".json":
            raise InputError(f"a result is saved as .json, got {path.name!r}; name it {path.name}.json")
        arrays: dict[str, np.ndarray] = {}
        document: dict[str, Any] = {"kind": self.kind, "schema_version": self.schema_version}
        document |= _plain(self, arrays)
        if arrays:
            document[_DIGEST] = digest_arrays(arrays)
        text = json.dumps(document, indent=1, allow_nan=False) + "\n"

        def write(temporary: Path) -> None:
            temporary.write_text(text, encoding="utf-8")
            if arrays:  # after the JSON has found its place on the disk, and before it refers to the arrays
                write_arrays(path.with_suffix(".safetensors"), arrays)

        write_atomic(path, write)
        return path

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads a result that `save` wrote.

        Raises:
            InputError: If there is no such file, if the file holds another kind of result or a schema that this
                version does not read, if a field or an array is missing or has another type, or if the arrays belong
                to another result.
        """
        path = Path(path)
        name, hint = repr(str(path)), "give the .json that a run has written"
        document = read_object(path, hint=hint)
        kind = document.pop("kind", None)
        if kind not in (cls.kind, cls.former_kind):
            raise InputError(f"{name} holds {kind or 'no result'}, not a {cls.kind}; give another file")
        version = document.pop("schema_version", None)
        if not (type(version) is int and cls.oldest_schema <= version <= cls.schema_version):
            raise InputError(
                f"{name} has {cls.kind} schema {version}, this version of sparsing reads"
                f" {cls.oldest_schema} to {cls.schema_version}; measure again, or use the version that wrote it"
            )
        arrays = _read_arrays(path, document.pop(_DIGEST, None))
        older = version if version < cls.schema_version else None
        hint = f"it is not a complete {cls.kind}, run the command again"
        try:
            fields = _Resolver(arrays, older).resolve(cls, document)
        except KeyError as error:
            raise InputError(
                f"{name}: array {error} is not in {path.with_suffix('.safetensors').name!r} beside it;"
                " copy both files together"
            ) from None
        return check(fields, cls, name=name, hint=hint)


def _read_arrays(path: Path, digest: object) -> dict[str, np.ndarray]:
    """The arrays beside the JSON file `path`; an empty dict if there is no file.

    Args:
        digest: The digest in the JSON file; None in files of earlier versions.
    """
    place = path.with_suffix(".safetensors")
    arrays = load_arrays(place) if place.exists() else {}
    if digest is not None and arrays and digest != digest_arrays(arrays):
        raise InputError(
            f"{place.name!r} beside {str(path)!r} belongs to another result: a run was killed between writing the"
            " two files, or only one file was copied; run the command again, or copy both files together"
        )
    return arrays


def _plain(value: Any, arrays: dict[str, np.ndarray] | None = None, at: str = "") -> Any:
    """The JSON form of `value`.

    Args:
        arrays: Receives each array under its dotted path `at`. None writes arrays as nested lists.
    """
    if dataclasses.is_dataclass(value):
        fields = [field.name for field in dataclasses.fields(value)]
        return {name: _plain(getattr(value, name), arrays, f"{at}.{name}" if at else name) for name in fields}
    if isinstance(value, np.ndarray):
        if arrays is None:
            return _plain(value.tolist())
        arrays[at] = value
        return {_ARRAY: at}
    if isinstance(value, dict):
        table = cast("dict[Any, Any]", value)
        return {str(key): _plain(item, arrays, f"{at}.{key}") for key, item in table.items()}
    if isinstance(value, (list, tuple)):
        items = cast("Sequence[Any]", value)
        return [_plain(item, arrays, f"{at}.{index}") for index, item in enumerate(items)]
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, np.generic):
        value = cast("Any", value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None  # strict JSON has neither NaN nor infinity
    return value


@dataclasses.dataclass(frozen=True)
class _Resolver:
    """Undoes what `_plain` did to a value, guided by the annotations: arrays, NaN, fields of older schemas.

    A value that does not fit its annotation stays as it is. `checked_files.check` finds it afterwards.
    """

    arrays: dict[str, np.ndarray]
    older: int | None
    """Schema version of the file, if it is older than that of the loaded class. Nested results have no version of
    their own, so they are upgraded from this version too."""

    def resolve(self, annotation: Any, value: Any) -> Any:
        """`value` with its arrays, with NaN in place of null, and with the fields of the present schema.

        Raises:
            KeyError: If an array is missing.
        """
        origin, args = typing.get_origin(annotation), typing.get_args(annotation)
        if _is_array(value):
            return self.arrays[value[_ARRAY]]
        if origin in (typing.Union, types.UnionType):
            if value is None and type(None) in args:
                return None
            return self.resolve(next(arg for arg in args if arg is not type(None)), value)
        if annotation is float and value is None:  # `_plain` writes NaN as null
            return math.nan
        if isinstance(value, list) and origin is tuple and args:
            return [self.resolve(args[0], item) for item in cast("list[Any]", value)]
        if not isinstance(value, dict):
            return cast("Any", value)
        table = cast("dict[str, Any]", value)
        if origin in (dict, Mapping):
            return {key: self.resolve(args[1], item) for key, item in table.items()}
        if dataclasses.is_dataclass(annotation):
            return self._record(cast("type[Any]", annotation), table)
        return table

    def _record(self, annotation: type[Any], table: dict[str, Any]) -> dict[str, Any]:
        if self.older is not None and issubclass(annotation, Result):
            try:
                table = annotation.upgraded(table, self.older)
            except (KeyError, TypeError, AttributeError, ValueError, IndexError):
                return table  # the fields are not those of the older schema either, as `check` finds
        hints = typing.get_type_hints(annotation)
        return {name: self.resolve(hints[name], item) for name, item in table.items() if name in hints}


def _is_array(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and set(cast("dict[str, Any]", value)) == {_ARRAY}
        and isinstance(value[_ARRAY], str)
    )


def _umask() -> int:
    # the only portable way to read the umask is to set it
    current = os.umask(0)
    os.umask(current)
    return current


def _unwritable(path: Path, error: Exception) -> InputError:
    return InputError(
        f"cannot write {str(path)!r}: {error}; free some space or choose another folder with -o/--output"
    )
