"""`read_points`: points from CSV files, from the JSON of the published raw data, or from saved measurements.

Measurements are recognised by the `kind` in their JSON and read as plain JSON, so that this package does not depend on
the package that measures.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sparsing.base.checked_files import as_object, file_in_run, read_object
from sparsing.errors import InputError
from sparsing.laws.points import BILLION, Points, make_points

_MEASUREMENT_KINDS = ("measurement", "Measurement")
"""`kind` of saved measurements; the second name stands in files of schema 1."""
_LEAST_TOKENS = 1e5
"""Fewer training tokens than this, at the end of a run, are taken for billions in the wrong column."""
_MOST_BILLIONS = 1e5
"""More billions of tokens than this are taken for a count in the wrong column."""


def read_points(paths: Sequence[str | Path], *, tokens_per_step: float | None = None) -> list[Points]:
    """All series in these files.

    Args:
        paths: CSV files; JSON files with the lists `token_passed` and `activation_ratio`; and measurements, each a JSON
            file, or the folder of a measurement or of a run with a single measurement. All measurements together form
            one series, ordered by their tokens. Every other file holds one or more series. A CSV has the column
            `activation_ratio`, and one of `tokens`, `tokens_billion`, `width_depth` or the pair `d_model`, `n_layers`;
            the optional column `series` names the series of each row. Columns are separated by commas, semicolons or
            tabs; with semicolons and tabs a decimal comma is read too.
        tokens_per_step: Training tokens per step, for measurements that record their step and not their tokens.

    Raises:
        InputError: If no path is given, a file is missing or not of these kinds, a column or field is missing, a value
            is not a number, tokens are plainly in another unit, or two series have the same name.
    """
    series: list[Points] = []
    checkpoints: list[tuple[float, float]] = []
    names: list[str] = []
    for path in (file_in_run(path, "measurement.json") for path in paths):
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
    return _with_own_names(series, paths)


def _with_own_names(series: list[Points], paths: Sequence[str | Path]) -> list[Points]:
    """Raises InputError if two series have the same name, since the files of their fits would have it too."""
    names = [points.name for points in series]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(
            f"two series are called {repeated[0]!r} in {', '.join(map(str, paths))}; rename a file, or give the rows"
            " different names in a column series"
        )
    return series


def _read_json(path: Path) -> dict[str, Any]:
    return read_object(path, hint="give a CSV (its name must end in .csv), a JSON of points or a measurement")


def _read_raw_series(path: Path, document: dict[str, Any]) -> Points:
    """A series in the form of the published raw data: two lists, tokens as a count."""
    columns = ("token_passed", "activation_ratio")
    missing = [key for key in columns if not isinstance(document.get(key), list)]
    if missing:
        raise InputError(
            f"{str(path)!r} has no list {' and '.join(missing)} and is not a measurement"
            f" (kind: {document.get('kind', 'none')})"
        )
    x, ratio = ([_number(_Place(path), key, value) for value in document[key]] for key in columns)
    x = list(x)
    if x:
        _check_unit(path, x, in_billions=False)
    return make_points(x, ratio, name=path.stem)


def _read_measurement(
    path: Path, document: dict[str, Any], tokens_per_step: float | None
) -> tuple[float, float]:
    """Training tokens and activation ratio of one checkpoint."""
    provenance = as_object(
        document.get("provenance") or {}, name=f"provenance in {str(path)!r}", hint="measure again"
    )
    ratio = _number(_Place(path), "activation_ratio", document.get("activation_ratio"))
    if provenance.get("train_tokens") is not None:
        return _number(_Place(path), "provenance.train_tokens", provenance["train_tokens"]), ratio
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
    return _number(_Place(path), "provenance.train_step", provenance["train_step"]) * tokens_per_step, ratio


def _read_csv(path: Path) -> list[Points]:
    columns, rows, delimiter = _csv_rows(path)
    variable = _variable(path, columns)
    groups: dict[str, list[tuple[float, float]]] = {}
    for line, row in rows:
        where = _Place(path, line, has_decimal_comma=delimiter != ",")
        name = (row.get("series") or path.stem).strip()
        ratio = _number(where, "activation_ratio", row["activation_ratio"])
        groups.setdefault(name, []).append((_abscissa(where, row), ratio))
    if not groups:
        raise InputError(f"{str(path)!r} has a header but no rows; add one row per checkpoint")
    if variable == "tokens":
        _check_unit(
            path, [x for pairs in groups.values() for x, _ in pairs], in_billions="tokens" not in columns
        )
    return [
        make_points([x for x, _ in pairs], [y for _, y in pairs], name=name, variable=variable)
        for name, pairs in groups.items()
    ]


def _csv_rows(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]], str]:
    """The columns, the rows with their line numbers, and the delimiter. Blank lines and comments are left out."""
    try:
        # utf-8-sig: spreadsheets write a byte order mark before the first column name.
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        numbered = [(n, line) for n, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")]
        header = numbered[0][1] if numbered else ""
        delimiter = max(",;\t", key=header.count)
        cells = list(csv.reader([line for _, line in numbered], delimiter=delimiter))
    except FileNotFoundError:
        raise InputError(f"no file {str(path)!r}; give a CSV, a JSON of points or a measurement") from None
    except (UnicodeDecodeError, OSError, csv.Error) as error:
        raise InputError(f"{str(path)!r} is not a CSV in UTF-8 ({error})") from error
    columns = [name.strip() for name in cells[0]] if cells else []
    rows = []
    for (number, _), row in zip(numbered[1:], cells[1:], strict=False):
        if not any(cell.strip() for cell in row):
            continue  # a spreadsheet writes its empty rows as delimiters
        row += [""] * (len(columns) - len(row))  # a cell that is missing counts as empty
        if len(row) > len(columns):
            raise InputError(
                f"{str(path)!r} line {number} has {len(row)} fields, the header has {len(columns)}; a decimal comma"
                " needs semicolons between the columns"
            )
        rows.append((number, dict(zip(columns, row, strict=False))))
    return columns, rows, delimiter


def _check_unit(path: Path, tokens: Sequence[float], *, in_billions: bool) -> None:
    """Raises InputError for counts of tokens that are plainly billions, or billions that are plainly counts."""
    unit = BILLION if in_billions else 1.0
    low, high = min(tokens) / unit, max(tokens) / unit
    if in_billions and high > _MOST_BILLIONS:
        raise InputError(
            f"{str(path)!r}: tokens_billion goes up to {high:g}, which would be {high * BILLION:g} tokens; if the"
            " column counts tokens, name it tokens"
        )
    if not in_billions and high < _LEAST_TOKENS:
        raise InputError(
            f"{str(path)!r}: the tokens go from {low:g} to {high:g}, which is no training run; if they are billions,"
            " name the column tokens_billion (in JSON, multiply token_passed by 1e9)"
        )


def _variable(path: Path, columns: list[str]) -> str:
    tokens = "tokens" in columns or "tokens_billion" in columns
    shapes = "width_depth" in columns or {"d_model", "n_layers"} <= set(columns)
    if "activation_ratio" not in columns or not (tokens or shapes):
        raise InputError(
            f"{str(path)!r} has the columns {', '.join(columns) or 'none'}; it needs activation_ratio and one of"
            " tokens, tokens_billion, width_depth, or d_model with n_layers"
        )
    return "tokens" if tokens else "width_depth"


def _abscissa(where: _Place, row: dict[str, str]) -> float:
    for column, unit in (("tokens", 1.0), ("tokens_billion", BILLION), ("width_depth", 1.0)):
        if row.get(column, "").strip():
            return _number(where, column, row[column]) * unit
        if column in row:
            return _number(where, column, None)
    layers = _number(where, "n_layers", row.get("n_layers"))
    if not layers > 0:
        raise InputError(f"{where}: n_layers must be above 0, got {layers:g}")
    return _number(where, "d_model", row.get("d_model")) / layers


class _Place(NamedTuple):
    """The file, and in a CSV the line, that a value comes from."""

    path: Path
    line: int | None = None
    has_decimal_comma: bool = False

    def __str__(self) -> str:
        return repr(str(self.path)) + ("" if self.line is None else f" line {self.line}")


def _number(where: _Place, field: str, value: Any) -> float:
    if isinstance(value, str):
        value = value.strip()
        if where.has_decimal_comma and value.count(",") == 1 and "." not in value:
            value = value.replace(",", ".")
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):  # an integer may be larger than any float
        got = "nothing" if value in (None, "") else repr(value)
        raise InputError(
            f"{where}: {field} must be a number, got {got}; correct the file (no thousands separators)"
        ) from None
