"""Reads a `TrainConfig` from a TOML file, a preset and `key=value` options.

Start at `read_train_config`. Keys and types are checked here, the values of the keys in `config.py`.
"""

from __future__ import annotations

import dataclasses
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsing.base.checked_files import read_toml
from sparsing.base.registry import Registry
from sparsing.errors import InputError
from sparsing.models.paper_shapes import PRESETS
from sparsing.training.config import ConfigTable, TrainConfig

_SHAPE_HINT = "give a preset, or the shape under [model]"
_LARGEST = 2**63
_REQUIRED = {
    "model.d_model": _SHAPE_HINT,
    "model.n_layers": _SHAPE_HINT,
    "model.n_heads": _SHAPE_HINT,
    "training.tokens": "set under [training] how many tokens to train on, e.g. tokens = 10_000_000",
}
"""Keys without a default, each with what to do when it is missing."""


def read_train_config(
    path: str | Path | None = None, *, preset: str = "", overrides: Mapping[str, Any] | None = None
) -> TrainConfig:
    """The configuration of a run. `overrides` win over the file, and the file wins over the preset.

    Args:
        path: A TOML file with the tables of `TrainConfig` and, above them, an optional line `preset = "name"`.
        preset: Name of a shape in `PRESETS`; used instead of the preset that the file names.
        overrides: Dotted keys to values, e.g. `{"training.lr": 0.02}`.

    Raises:
        InputError: if the file does not exist or is not TOML, if a key or the preset is unknown, or if a value has
            the wrong type or is out of bounds.
    """
    tables = _read_toml(Path(path)) if path is not None else {}
    overrides = dict(overrides or {})
    file_preset = tables.pop("preset", "")
    name = overrides.pop("preset", "") or preset or file_preset
    merged = PRESETS[str(name)].tables() if name else {}
    _merge(merged, tables)
    for key, value in overrides.items():
        _set(merged, key, value)
    return build_train_config(merged)


def build_train_config(tables: dict[str, Any]) -> TrainConfig:
    """The configuration that has these tables, which may come from `TrainConfig.to_dict`.

    Raises:
        InputError: as `read_train_config`.
    """
    return _build(TrainConfig, tables, "")


def parse_pair(text: str) -> tuple[str, Any]:
    """Key and value of `key=value`. The value is read as TOML, or as a plain string if it is not TOML.

    Raises:
        InputError: if there is no equals sign or no key.
    """
    key, sign, value = text.partition("=")
    if not sign or not key.strip():
        raise InputError(f"--set needs key=value, got {text!r}; e.g. --set training.lr=0.02")
    try:
        return key.strip(), tomllib.loads(f"v = {value}")["v"]
    except (ValueError, RecursionError):  # not TOML, or an integer of more than 4,300 digits
        return key.strip(), value.strip()


def parse_pairs(texts: Sequence[str]) -> dict[str, Any]:
    """Keys to values of several `key=value`; the last one wins if a key is repeated."""
    return dict(parse_pair(text) for text in texts)


def _read_toml(path: Path) -> dict[str, Any]:
    return read_toml(path, hint="give a TOML file, or a preset without a file")


def _merge(into: dict[str, Any], tables: dict[str, Any]) -> None:
    for name, value in tables.items():
        if isinstance(value, dict) and isinstance(into.get(name), dict):
            into[name] |= value
        else:
            into[name] = value


def _set(tables: dict[str, Any], key: str, value: Any) -> None:
    """Set the dotted `key` in `tables`."""
    section, dot, name = key.partition(".")
    if not dot:
        raise InputError(
            f"unknown key {key!r}; write the table before the key, e.g. training.lr or model.hidden_act"
        )
    table = tables.setdefault(section, {})
    if not isinstance(table, dict):
        raise _not_a_table(section, table)
    table[name] = value


def _build(cls: type, table: dict[str, Any], prefix: str) -> Any:
    """An instance of the dataclass `cls` with the values of `table`; `prefix` is the name of the table, if any."""
    hints = typing.get_type_hints(cls)
    fields = dataclasses.fields(cls)
    known: Registry[Any] = Registry(f"key of [{prefix}]" if prefix else "table or key")
    for field in fields:
        known.register(field.name, hints[field.name])
    values = {
        name: _convert(known[name], value, f"{prefix}.{name}" if prefix else name)
        for name, value in table.items()
    }
    for field in fields:
        if field.name in values or field.default is not dataclasses.MISSING:
            continue
        if prefix:
            key = f"{prefix}.{field.name}"
            raise InputError(f"{key} is missing; {_REQUIRED[key]}")
        # a required table that the file leaves out: the error names its missing keys
        values[field.name] = _build(hints[field.name], {}, field.name)
    return cls(**values)


def _convert(annotation: Any, value: Any, key: str) -> Any:
    """`value` as an instance of `annotation`: TOML has lists for tuples, and 1e6 for a whole number is a float."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):  # only `Table | None` occurs
        return None if value is None else _convert(args[0], value, key)
    if isinstance(annotation, type) and issubclass(annotation, ConfigTable):
        if not isinstance(value, dict):
            raise _not_a_table(key, value)
        return _build(annotation, value, key)
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(_convert(args[0], item, key) for item in value)
    if origin is typing.Literal:
        annotation = str
    # bool is a subclass of int, so True would otherwise count as 1
    if annotation in (int, float) and isinstance(value, (int, float)) and not isinstance(value, bool):
        if annotation is float and isinstance(value, float):
            return value  # the bounds of the key decide about infinity and NaN
        # an integer may be larger than any float
        if abs(value) < _LARGEST and (annotation is float or float(value).is_integer()):
            return annotation(value)
    elif annotation is str and isinstance(value, str):
        return value
    wanted = {int: "a whole number", float: "a number", str: "a text in quotes"}.get(annotation, "a list")
    raise InputError(f"{key} must be {wanted}, got {value!r}; correct it in the configuration")


def _not_a_table(name: str, value: Any) -> InputError:
    return InputError(f"{name} must be a table, got {value!r}; write [{name}] and its keys below")
