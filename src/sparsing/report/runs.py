"""What a report is made from: the saved results in the folders and files that a user names. Nothing is computed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsing.errors import InputError

if TYPE_CHECKING:
    from sparsing.frontier import Comparison
    from sparsing.laws.lawfit import LawFit
    from sparsing.measurement import Measurement


@dataclasses.dataclass(frozen=True, kw_only=True)
class Runs:
    """Everything that one report shows, in the order given."""

    measurements: Sequence[Measurement] = ()
    comparisons: Sequence[Comparison] = ()
    """Of rules, one per model."""
    laws: Sequence[LawFit] = ()


def read_runs(paths: Iterable[str | Path]) -> Runs:
    """All results in these run folders and files; results saved twice, as copies, are shown once.

    Raises:
        InputError: no such file or folder, or nothing in it that a report could show.
    """
    found: dict[str, list[Any]] = {"Measurement": [], "Comparison": [], "LawFit": []}
    for path in map(Path, paths):
        before = sum(map(len, found.values()))
        for file in _files(path):
            kind = _kind(file)
            if kind in found:
                found[kind].append(_reader(kind).load(file))
        if before == sum(map(len, found.values())):
            raise InputError(
                f"nothing to report in {str(path)!r}; give the folder that `sparsing measure`, `compare`,"
                " `demo` or `fit` has written"
            )
    return Runs(
        measurements=_once(found["Measurement"]),
        comparisons=_once(found["Comparison"]),
        laws=_once(found["LawFit"]),
    )


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"no run at {str(path)!r}; give the folder that a command has written with -o")
    hidden = (part for part in path.rglob("*.json"))
    return sorted(file for file in hidden if not any(p.startswith(".") for p in file.relative_to(path).parts))


def _kind(file: Path) -> str | None:
    """What a file holds; None for what is no result, or one that a report does not show."""
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{str(file)!r} is not a saved result ({error})") from error
    if not isinstance(document, dict):
        return None
    kind = document.get("kind")
    # `sparsing fit` saves a comparison of laws, which has no tokens behind it, under the same name
    return None if kind == "Comparison" and "provenance" not in document else kind


def _reader(kind: str) -> Any:
    from sparsing.frontier import Comparison
    from sparsing.laws.lawfit import LawFit
    from sparsing.measurement import Measurement

    return {"Measurement": Measurement, "Comparison": Comparison, "LawFit": LawFit}[kind]


def _once(results: list[Any]) -> list[Any]:
    seen: dict[str, Any] = {}
    for result in results:
        seen.setdefault(json.dumps(result.to_dict(), sort_keys=True), result)
    return list(seen.values())
