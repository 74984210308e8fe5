"""What a report is made from: the saved results in the folders and files that a user names. Nothing is computed."""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from sparsing.errors import InputError

if TYPE_CHECKING:
    from sparsing.evaluation.outcome import Evaluation
    from sparsing.laws.lawfit import LawFit
    from sparsing.measuring.frontier import RuleComparison
    from sparsing.measuring.measurement import Measurement
    from sparsing.neurons.study import NeuronStudy

_CLASSES = {
    "measurement": "sparsing.measuring.measurement:Measurement",
    "rule_comparison": "sparsing.measuring.frontier:Comparison",
    "law_fit": "sparsing.laws.lawfit:LawFit",
    "neuron_study": "sparsing.neurons.study:NeuronStudy",
    "evaluation": "sparsing.evaluation.outcome:Evaluation",
}
"""Kinds of results that a page shows, and where they are defined."""
_SCHEMA_1 = {
    "Measurement": "measurement",
    "Comparison": "rule_comparison",
    "LawFit": "law_fit",
    "NeuronStudy": "neuron_study",
    "Evaluation": "evaluation",
}
"""What files of schema 1 call these kinds."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Runs:
    """Everything that one report shows, in the order given."""

    measurements: Sequence[Measurement] = ()
    comparisons: Sequence[RuleComparison] = ()
    """Of rules, one per model."""
    laws: Sequence[LawFit] = ()
    studies: Sequence[Study] = ()
    evaluations: Sequence[Evaluation] = ()


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Study:
    """A study of neurons and the folder of its tables."""

    numbers: NeuronStudy
    folder: Path

    @property
    def neurons(self) -> Path:
        """A row per neuron."""
        return self.folder / "neurons.parquet"

    def words(self) -> dict[int, str]:
        """Text of each token id that was seen."""
        import pyarrow.parquet as pq

        table = pq.read_table(self.folder / "vocabulary.parquet", columns=["id", "text"])
        return dict(zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True))


def read_runs(paths: Iterable[str | Path]) -> Runs:
    """All results in these run folders and files; results saved twice, as copies, are shown once.

    Raises:
        InputError: no such file or folder, or nothing in it that a report could show.
    """
    found: dict[str, list[Any]] = {kind: [] for kind in _CLASSES}
    for path in map(Path, paths):
        before = sum(map(len, found.values()))
        for file in _files(path):
            kind = _kind(file)
            if kind in found:
                result = _reader(kind).load(file)
                found[kind].append(_study(result, file) if kind == "neuron_study" else result)
        if before == sum(map(len, found.values())):
            raise InputError(
                f"nothing to report in {str(path)!r}; give the folder that `sparsing measure`, `compare`,"
                " `demo`, `fit`, `neurons` or `evaluate` has written"
            )
    return Runs(
        measurements=_in_training_order(_once(found["measurement"])),
        comparisons=_once(found["rule_comparison"]),
        laws=_once(found["law_fit"]),
        studies=found["neuron_study"],
        evaluations=_once(found["evaluation"]),
    )


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"no run at {str(path)!r}; give the folder that a command has written with -o")
    files = sorted(path.rglob("*.json"))
    return [file for file in files if not any(part.startswith(".") for part in file.relative_to(path).parts)]


def _kind(file: Path) -> str | None:
    """What a file holds; None for what is no result, or one that a report does not show."""
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{str(file)!r} is not a saved result ({error})") from error
    if not isinstance(document, dict):
        return None
    kind = document.get("kind")
    if kind == "Comparison" and "provenance" not in document:
        return None  # schema 1 gave comparisons of rules and of laws the same kind; laws have no provenance
    return _SCHEMA_1.get(kind, kind)


def _reader(kind: str) -> Any:
    """The class of a result; only what is needed is imported, since a study of neurons needs torch."""
    module, _, name = _CLASSES[kind].partition(":")
    return getattr(importlib.import_module(module), name)


def _study(numbers: NeuronStudy, file: Path) -> Study:
    study = Study(numbers=numbers, folder=file.parent)
    for name in ("neurons.parquet", "vocabulary.parquet"):
        if not (study.folder / name).is_file():
            raise InputError(f"{name!r} is not beside {str(file)!r}; copy the folder of the study as a whole")
    return study


def _in_training_order(results: list[Measurement]) -> list[Measurement]:
    """Checkpoints of a folder by the tokens they saw, since `10M` sorts before `2M` by name; the rest stays."""
    folders = [str(PurePath(result.provenance.model).parent) for result in results]
    order = sorted(
        range(len(results)),
        key=lambda i: (folders.index(folders[i]), results[i].provenance.train_tokens or 0),
    )
    return [results[i] for i in order]


def _once(results: list[Any]) -> list[Any]:
    seen: dict[str, Any] = {}
    for result in results:
        seen.setdefault(json.dumps(result.to_dict(), sort_keys=True), result)
    return list(seen.values())
