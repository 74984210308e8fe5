"""Saving and loading of results: `Result` is the base class of every record that goes to disk.

A result is a frozen dataclass. `save` writes its numbers, strings, tuples and nested results as JSON, and its
`numpy.ndarray` fields as safetensors in a second file beside it. Every file is written atomically: a reader
sees the old file or the new one, never a part.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import tempfile
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from sparsing.errors import InputError

_ARRAY = "$array"
_KINDS: dict[str, str] = {}
"""Every kind with the class that owns it, so that a kind taken twice fails at import."""


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with a temporary path in the same folder, then move it over `path`.

    Raises:
        InputError: the folder cannot be made or written, or the disk is full; `path` is left as it was.
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
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from error
    except Exception as error:
        if "No space left" in str(error):  # safetensors wraps the system's error in its own
            raise _unwritable(path, error) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_lines(path: str | Path) -> list[dict[str, Any]]:
    """The JSON objects of a file, one per line; none where there is no file, nor what a kill has cut short."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write named arrays as safetensors, whole or not at all."""
    from safetensors.numpy import save_file

    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    write_atomic(path, lambda temporary: save_file(contiguous, temporary))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """Base class of records that stages pass to each other and that can be saved."""

    kind: ClassVar[str]
    """Name of this class of results in saved files, e.g. `rule_comparison`; no two classes share one."""
    former_kind: ClassVar[str]
    """The `kind` in files of schema 1, which was the name of the class at that time."""
    schema_version: ClassVar[int] = 2
    """Version of the fields. Raise it when fields change, and convert older files in `upgraded`."""
    oldest_schema: ClassVar[int] = 1
    """The oldest version that `load` still reads."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name in ("kind", "former_kind"):
            if name not in cls.__dict__:
                setattr(cls, name, cls.__name__)
        home = f"{cls.__module__}.{cls.__qualname__}"
        if (taken := _KINDS.setdefault(cls.kind, home)) != home:
            raise ValueError(f"kind {cls.kind!r} of {home} is taken by {taken}")

    @classmethod
    def upgraded(cls, document: dict[str, Any], version: int) -> dict[str, Any]:
        """Fields of an older schema `version` as fields of the present one; by default nothing differs."""
        return document

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; arrays become nested lists, NaN and infinity become None."""
        return _plain(self)

    def save(self, path: str | Path) -> Path:
        """Write `path` (.json) and, when there are arrays, the .safetensors beside it.

        Raises:
            InputError: the folder is not writable or the disk is full.
        """
        path = Path(path)
        if path.suffix != ".json":
            raise InputError(f"a result is saved as .json, got {path.name!r}; name it {path.name}.json")
        arrays: dict[str, np.ndarray] = {}
        document: dict[str, Any] = {"kind": self.kind, "schema_version": self.schema_version}
        document |= _plain(self, arrays)
        if arrays:
            write_arrays(path.with_suffix(".safetensors"), arrays)
        write_text(path, json.dumps(document, indent=1, allow_nan=False) + "\n")
        return path

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            InputError: no such file, another kind of result, a schema this version does not know, or a part
                that is missing.
        """
        path = Path(path)
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(f"no file {str(path)!r}; give the .json that a run has written") from None
        except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
            raise InputError(f"{str(path)!r} is not a saved result ({error})") from error
        kind = document.pop("kind", None) if isinstance(document, dict) else None
        if kind not in (cls.kind, cls.former_kind):
            raise InputError(f"{str(path)!r} holds {kind or 'something else'}, wanted {cls.kind}")
        version = document.pop("schema_version", None)
        if not (isinstance(version, int) and cls.oldest_schema <= version <= cls.schema_version):
            raise InputError(
                f"{str(path)!r} has {cls.kind} schema {version}, this version of sparsing reads"
                f" {cls.oldest_schema} to {cls.schema_version}; measure again, or use the version that wrote it"
            )
        older = version if version < cls.schema_version else None
        try:
            return _Reader(_read_arrays(path.with_suffix(".safetensors")), older).build(cls, document)
        except KeyError as error:
            raise InputError(
                f"{str(path)!r}: array {error} is not in {path.with_suffix('.safetensors').name!r} beside it;"
                " copy both files together"
            ) from None
        except TypeError as error:
            raise InputError(f"{str(path)!r} is not a whole {cls.kind} ({error})") from None


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of this file; none where there is no file."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not path.exists():
        return {}
    try:
        return load_file(path)
    except SafetensorError as error:
        raise InputError(f"the arrays in {str(path)!r} cannot be read: {error}") from error


def _plain(value: Any, arrays: dict[str, np.ndarray] | None = None, at: str = "") -> Any:
    """JSON form of `value`; arrays are moved to `arrays` under their dotted path when it is given."""
    if dataclasses.is_dataclass(value):
        fields = [field.name for field in dataclasses.fields(value)]
        return {name: _plain(getattr(value, name), arrays, f"{at}.{name}" if at else name) for name in fields}
    if isinstance(value, np.ndarray):
        if arrays is None:
            return _plain(value.tolist())
        arrays[at] = value
        return {_ARRAY: at}
    if isinstance(value, dict):
        return {str(key): _plain(item, arrays, f"{at}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, arrays, f"{at}.{index}") for index, item in enumerate(value)]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


@dataclasses.dataclass(frozen=True)
class _Reader:
    """Rebuilds values from their JSON form, led by the type annotations of the fields."""

    arrays: dict[str, np.ndarray]
    older: int | None
    """Schema version of the file if it is older than the class that is loaded; nested results need it too."""

    def build(self, annotation: Any, value: Any) -> Any:
        """Inverse of `_plain`."""
        origin, args = typing.get_origin(annotation), typing.get_args(annotation)
        if isinstance(value, dict) and set(value) == {_ARRAY}:
            return self.arrays[value[_ARRAY]]
        if origin in (typing.Union, types.UnionType):
            if value is None and type(None) in args:
                return None
            return self.build(next(arg for arg in args if arg is not type(None)), value)
        if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
            if self.older is not None and issubclass(annotation, Result):
                value = annotation.upgraded(value, self.older)
            return self.record(annotation, value)
        if origin is tuple:
            item = args[0] if args else Any
            return tuple(self.build(item, element) for element in value)
        if origin in (dict, Mapping):
            return {key: self.build(args[1], element) for key, element in value.items()}
        if annotation is float and value is None:
            return math.nan
        return value

    def record(self, annotation: type[Any], value: Any) -> Any:
        """A dataclass from its fields; fields that the class does not know are left out."""
        hints = typing.get_type_hints(annotation)
        known = {field.name for field in dataclasses.fields(annotation)}
        return annotation(**{k: self.build(hints[k], v) for k, v in value.items() if k in known})


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _unwritable(path: Path, error: Exception) -> InputError:
    return InputError(
        f"cannot write {str(path)!r}: {error}; free some space or choose another folder with -o/--output"
    )
