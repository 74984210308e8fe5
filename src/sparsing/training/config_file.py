"""A training configuration from a TOML file, a preset and `key=value` pairs, every key and type checked."""

from __future__ import annotations

import dataclasses
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsing.base.registry import Registry
from sparsing.errors import InputError
from sparsing.models.paper_shapes import PRESETS
from sparsing.training.config import TrainConfig

_REQUIRED = {
    "model.d_model": "give a preset, or the shape under [model]",
    "model.n_layers": "give a preset, or the shape under [model]",
    "model.n_heads": "give a preset, or the shape under [model]",
    "training.tokens": "say under [training] how many tokens to train on, e.g. tokens = 10_000_000",
}


def read_train_config(
    path: str | Path | None = None, *, preset: str = "", overrides: Mapping[str, Any] | None = None
) -> TrainConfig:
    """The configuration of a run.

    Args:
        path: A TOML file with the tables of `TrainConfig` and, above them, perhaps `preset = "name"`; None
            for defaults alone.
        preset: Name of a shape of `PRESETS`; goes before the file's.
        overrides: Dotted keys to values, e.g. `{"training.lr": 0.02}`; go before everything else.

    Raises:
        InputError: no such file, not TOML, an unknown key or preset, a value of another type or out of bounds.
    """
    tables = _read(Path(path)) if path is not None else {}
    overrides = dict(overrides or {})
    named = overrides.pop("preset", "") or preset or tables.pop("preset", "")
    tables.pop("preset", None)
    merged = PRESETS[str(named)].tables() if named else {}
    _merge(merged, tables)
    for key, value in overrides.items():
        _set(merged, key, value)
    return build_train_config(merged)


def build_train_config(tables: dict[str, Any]) -> TrainConfig:
    """A configuration from plain tables, as `TrainConfig.to_dict` gives them.

    Raises:
        InputError: as `read_train_config`.
    """
    return _build(TrainConfig, tables, "")


def parse_pair(text: str) -> tuple[str, Any]:
    """`key=value` as key and value; the value is read as TOML, and as a plain word where it is none.

    Raises:
        InputError: no equals sign.
    """
    key, sign, value = text.partition("=")
    if not sign or not key.strip():
        raise InputError(f"--set wants key=value, got {text!r}; e.g. --set training.lr=0.02")
    try:
        return key.strip(), tomllib.loads(f"v = {value}")["v"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()


def parse_pairs(texts: Sequence[str]) -> dict[str, Any]:
    """Several `key=value`; the last of the same key counts."""
    return dict(parse_pair(text) for text in texts)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"no file {str(path)!r}; give a TOML file, or a preset alone") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{str(path)!r} is not a TOML file ({error}); correct it there") from None


def _merge(into: dict[str, Any], tables: dict[str, Any]) -> None:
    for name, value in tables.items():
        if isinstance(value, dict) and isinstance(into.get(name), dict):
            into[name] |= value
        else:
            into[name] = value


def _set(tables: dict[str, Any], key: str, value: Any) -> None:
    section, dot, name = key.partition(".")
    if not dot:
        raise InputError(
            f"unknown key {key!r}; a key has its table in front, e.g. training.lr or model.hidden_act"
        )
    table = tables.setdefault(section, {})
    if not isinstance(table, dict):
        raise InputError(f"{section} must be a table, got {table!r}; write [{section}] and its keys below")
    table[name] = value


def _build(cls: type, table: dict[str, Any], at: str) -> Any:
    """An object of `cls` from this table; `at` is the dotted key so far."""
    hints = typing.get_type_hints(cls)
    known: Registry[Any] = Registry(f"key of [{at}]" if at else "table or key")
    for field in dataclasses.fields(cls):
        known.register(field.name, hints[field.name])
    values = {
        name: _convert(known[name], value, f"{at}.{name}" if at else name) for name, value in table.items()
    }
    for field in dataclasses.fields(cls):
        if field.name in values or field.default is not dataclasses.MISSING:
            continue
        if not at:
            values[field.name] = _build(hints[field.name], {}, field.name)
        else:
            key = f"{at}.{field.name}"
            raise InputError(f"{key} is missing; {_REQUIRED[key]}")
    return cls(**values)


def _convert(annotation: Any, value: Any, key: str) -> Any:
    """`value` as the annotation says."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _convert(args[0], value, key)
    if dataclasses.is_dataclass(annotation):
        if not isinstance(value, dict):
            raise InputError(f"{key} must be a table, got {value!r}; write [{key}] and its keys below")
        return _build(annotation, value, key)  # pyright: ignore[reportArgumentType]
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(_convert(args[0], item, key) for item in value)
    if annotation in (int, float) and isinstance(value, (int, float)) and not isinstance(value, bool):
        if annotation is float or float(value).is_integer():
            return annotation(value)
    elif annotation is str and isinstance(value, str):
        return value
    wanted = {int: "a whole number", float: "a number", str: "a text in quotes"}.get(annotation, "a list")
    raise InputError(f"{key} must be {wanted}, got {value!r}; correct it in the configuration")
