"""Reads small files of JSON, TOML and text: a size limit before parsing, a checked type after it, one kind of error.

Every reader of this package starts here. `check` compares parsed values with type annotations (msgspec), so a file with
a wrong type anywhere inside ends in an `InputError` that names the place.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec
import numpy as np

from sparsing.errors import InputError

MAX_BYTES = 2**28
"""Largest text file that is read. Arrays are in other files."""
T = TypeVar("T")


def read_utf8(path: str | Path, *, hint: str, limit: int = MAX_BYTES) -> str:
    """The content of a UTF-8 file.

    Args:
        hint: What to do if there is no such file; ends the error message.

    Raises:
        InputError: If there is no file, it is larger than `limit` bytes, cannot be read or is not UTF-8.
    """
    path = Path(path)
    try:
        with path.open("rb") as handle:
            data = handle.read(limit + 1)
        if len(data) > limit:
            raise InputError(f"{str(path)!r} has more than {limit:,} bytes, which is not plausible; {hint}")
        return data.decode("utf-8")
    except FileNotFoundError:
        raise InputError(f"no file {str(path)!r}; {hint}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{str(path)!r} is not text in UTF-8 ({error}); {hint}") from None
    except (OSError, ValueError) as error:  # a name with a null byte is a ValueError
        raise InputError(f"{str(path)!r} cannot be read ({error}); {hint}") from None


def file_in_run(path: str | Path, name: str) -> Path:
    """`path` if it is no folder; else the file `name` in the folder, or the only one in its subfolders.

    The folder of a measurement holds one such file, the folder of a run holds one per measurement.

    Raises:
        InputError: If a folder holds no such file, or several.
    """
    path = Path(path)
    if not os.path.isdir(path):  # noqa: PTH112  (Path.is_dir raises OSError for a name that is too long)
        return path
    own = path / name
    found = [own] if own.is_file() else sorted(path.glob(f"*/{name}"))
    if len(found) == 1:
        return found[0]
    choice = f"give one of them: {' '.join(map(str, found))}" if found else "`sparsing measure` writes it"
    raise InputError(f"the folder {str(path)!r} holds {len(found)} files {name}; {choice}")


def read_json(path: str | Path, *, hint: str, limit: int = MAX_BYTES) -> Any:
    """The parsed content of a JSON file. Raises as `read_utf8`, and if the file is not JSON."""
    return parse_json(read_utf8(path, hint=hint, limit=limit), name=repr(str(path)), hint=hint)


def parse_json(text: str, *, name: str, hint: str) -> Any:
    """The value of a JSON text.

    Raises:
        InputError: If the text is not JSON, is nested too deeply, or contains a number or a character that has no
            meaning, such as half of a surrogate pair.
    """
    try:
        value = json.loads(text)
        if "\\u" in text:  # only an escape can stand for half of a surrogate pair
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise InputError(f"{name} is nested too deeply; {hint}") from None
    except ValueError as error:  # also an integer of more than 4,300 digits
        raise InputError(f"{name} is not JSON ({error}); {hint}") from None
    return value


def parse_object(text: str, *, name: str, hint: str) -> dict[str, Any]:
    """As `parse_json`, and raises InputError if the value is not an object."""
    return as_object(parse_json(text, name=name, hint=hint), name=name, hint=hint)


def read_object(path: str | Path, *, hint: str, limit: int = MAX_BYTES) -> dict[str, Any]:
    """As `read_json`, and raises InputError if the file does not hold an object."""
    return as_object(read_json(path, hint=hint, limit=limit), name=repr(str(path)), hint=hint)


def as_object(value: Any, *, name: str, hint: str) -> dict[str, Any]:
    """`value` if it is a JSON object, else InputError."""
    if not isinstance(value, dict):
        raise InputError(f"{name} holds a {type(value).__name__}, not a JSON object with fields; {hint}")
    return cast("dict[str, Any]", value)


def read_toml(path: str | Path, *, hint: str) -> dict[str, Any]:
    """The tables of a TOML file. Raises as `read_utf8`, and if the file is not TOML."""
    text = read_utf8(path, hint=hint, limit=2**24)
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise InputError(f"{str(path)!r} is nested too deeply; {hint}") from None
    except ValueError as error:  # TOMLDecodeError, and an integer of more than 4,300 digits
        raise InputError(f"{str(path)!r} is not a TOML file ({error}); {hint}") from None


def check(value: Any, annotation: type[T], *, name: str, hint: str) -> T:
    """`value` as an instance of `annotation`, which may be a dataclass with nested annotations.

    Unknown keys are ignored, so that files of later versions load. Arrays of numpy pass as they are.

    Raises:
        InputError: If a field is missing or a value has another type; the message names the field.
    """
    try:
        return msgspec.convert(value, annotation, dec_hook=_array_only)
    except (msgspec.ValidationError, RecursionError, OverflowError) as error:
        raise InputError(f"{name}: {error}; {hint}") from None


def _array_only(annotation: Any, value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return cast("np.ndarray[Any, Any]", value)
    raise TypeError(f"Expected an array, got `{type(value).__name__}`")


def quietly(read: Callable[[], T]) -> T | None:
    """The value of `read`, or None if it raises InputError. For files that are rebuilt if they are damaged."""
    try:
        return read()
    except InputError:
        return None
