"""`read_points`: points from CSV files, from the JSON of the published raw data, or from saved measurements.

Measurements are recognised by the `kind` in their JSON and read as plain JSON, so that this package does not depend on
the package that measures.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparsing.errors import InputError
from sparsing.laws.points import BILLION, Points, make_points

_MEASUREMENT_KINDS = ("measurement", "Measurement")
"""`kind` of saved measurements; the second name stands in files of schema 1."""


def read_points(paths: Sequence[str | Path], *, tokens_per_step: float | None = None) -> list[Points]:
    """All series in these files.

    Args:
        paths: CSV files; JSON files with the lists `token_passed` and `activation_ratio`; and measurements, each a JSON
            file or a folder that holds `measurement.json`. All measurements together form one series, ordered by their
            tokens. Every other file holds one or more series. A CSV has the column `activation_ratio`, and
            one of `tokens`, `tokens_billion`, `width_depth` or the pair `d_model`, `n_layers`; the optional column
            `series` names the series of each row.
        tokens_per_step: Training tokens per step, for measurements that record their step and not their tokens.

    Raises:
        InputError: If no path is given, a file is missing or not of these kinds, a column or field is missing, or a
            value is not a number.
    """
    series: list[Points] = []
    checkpoints: list[tuple[float, float]] = []
    names: list[str] = []
    for path in map(Path, paths):
        path = path / "measurement.json" if path.is_dir() else path
        if path.suffix == ".csv":
            series += _read_csv(path)
            continue
        document = _read_json(path)
        if document.get("kind") in _MEASUREMENT_KINDS:
            checkpoints.append(_read_measurement(path, document, tokens_per_step))
            names.append(path.parent.name if path.name == "measurement.json" else path.stem)
        else:
            series.append(_read_raw_series(path, document))
    if checkpoints:
        checkpoints.sort()
        x, ratio = zip(*checkpoints, strict=True)
        series.append(make_points(x, ratio, name=names[0] if len(names) == 1 else "measurements"))
    if not series:
        raise InputError("no points given; name a CSV, a JSON of points, or saved measurements")
    return series


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"no file {str(path)!r}; give a CSV, a JSON of points or a measurement") from None
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{str(path)!r} is not JSON ({error}); CSV files must end in .csv") from error
    if not isinstance(document, dict):
        raise InputError(f"{str(path)!r} holds a {type(document).__name__}; give a JSON object with fields")
    return document


def _read_raw_series(path: Path, document: dict[str, Any]) -> Points:
    """A series in the form of the published raw data: two lists, tokens as a count."""
    columns = ("token_passed", "activation_ratio")
    missing = [key for key in columns if not isinstance(document.get(key), list)]
    if missing:
        raise InputError(
            f"{str(path)!r} has no list {' and '.join(missing)} and is not a measurement"
            f" (kind: {document.get('kind', 'none')})"
        )
    x, ratio = ([_number(path, key, value) for value in document[key]] for key in columns)
    return make_points(x, ratio, name=path.stem)


def _read_measurement(
    path: Path, document: dict[str, Any], tokens_per_step: float | None
) -> tuple[float, float]:
    """Training tokens and activation ratio of one checkpoint."""
    provenance = document.get("provenance") or {}
    ratio = _number(path, "activation_ratio", document.get("activation_ratio"))
    if provenance.get("train_tokens") is not None:
        return _number(path, "provenance.train_tokens", provenance["train_tokens"]), ratio
    if provenance.get("train_step") is None:
        raise InputError(
            f"{str(path)!r} does not say how long its checkpoint was trained (provenance.train_tokens and"
            " train_step are empty); write the points into a CSV with the columns tokens, activation_ratio"
        )
    if tokens_per_step is None:
        raise InputError(
            f"{str(path)!r} records its step but not its tokens; give --tokens-per-step (batch size times"
            " sequence length)"
        )
    return _number(path, "provenance.train_step", provenance["train_step"]) * tokens_per_step, ratio


def _read_csv(path: Path) -> list[Points]:
    try:
        # utf-8-sig: spreadsheets write a byte order mark before the first column name.
        with path.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.DictReader(line for line in handle if not line.startswith("#"))
            rows, columns = list(reader), [name.strip() for name in reader.fieldnames or ()]
    except FileNotFoundError:
        raise InputError(f"no file {str(path)!r}; give a CSV, a JSON of points or a measurement") from None
    except (UnicodeDecodeError, OSError, csv.Error) as error:
        raise InputError(f"{str(path)!r} is not a CSV in UTF-8 ({error})") from error
    rows = [{(key or "").strip(): value for key, value in row.items()} for row in rows]
    variable = _variable(path, columns)
    groups: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        name = (row.get("series") or path.stem).strip()
        ratio = _number(path, "activation_ratio", row["activation_ratio"])
        groups.setdefault(name, []).append((_abscissa(path, row), ratio))
    if not groups:
        raise InputError(f"{str(path)!r} has a header but no rows; add one row per checkpoint")
    return [
        make_points([x for x, _ in pairs], [y for _, y in pairs], name=name, variable=variable)
        for name, pairs in groups.items()
    ]


def _variable(path: Path, columns: list[str]) -> str:
    tokens = "tokens" in columns or "tokens_billion" in columns
    shapes = "width_depth" in columns or {"d_model", "n_layers"} <= set(columns)
    if "activation_ratio" not in columns or not (tokens or shapes):
        raise InputError(
            f"{str(path)!r} has the columns {', '.join(columns) or 'none'}; it needs activation_ratio and one of"
            " tokens, tokens_billion, width_depth, or d_model with n_layers"
        )
    return "tokens" if tokens else "width_depth"


def _abscissa(path: Path, row: dict[str, Any]) -> float:
    for column, unit in (("tokens", 1.0), ("tokens_billion", BILLION), ("width_depth", 1.0)):
        if row.get(column) not in (None, ""):
            return _number(path, column, row[column]) * unit
    layers = _number(path, "n_layers", row.get("n_layers"))
    if not layers > 0:
        raise InputError(f"{str(path)!r}: n_layers must be above 0, got {layers:g}")
    return _number(path, "d_model", row.get("d_model")) / layers


def _number(path: Path, field: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise InputError(
            f"{str(path)!r}: {field} must be a number, got {value!r}; correct the file"
        ) from None
