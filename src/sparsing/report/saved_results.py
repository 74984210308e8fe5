"""Finds and loads the saved results in the folders and files that a user names for a report."""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from sparsing.base.checked_files import read_json
from sparsing.errors import InputError

if TYPE_CHECKING:
    from sparsing.evaluation.outcome import Evaluation
    from sparsing.laws.lawfit import LawFit
    from sparsing.measuring.frontier import RuleComparison
    from sparsing.measuring.measurement import Measurement
    from sparsing.neurons.study import NeuronStudy

_MODULES = {
    "measurement": "sparsing.measuring.measurement",
    "rule_comparison": "sparsing.measuring.frontier",
    "law_fit": "sparsing.laws.lawfit",
    "neuron_study": "sparsing.neurons.study",
    "evaluation": "sparsing.evaluation.outcome",
}
"""The kinds of results that a page shows, and the modules that define them."""
_FORMER_KINDS = {
    "Measurement": "measurement",
    "Comparison": "rule_comparison",
    "LawFit": "law_fit",
    "NeuronStudy": "neuron_study",
    "Evaluation": "evaluation",
}
"""The kinds in files of schema 1."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Runs:
    """The results that one report shows, in the order of the folders given."""

    measurements: Sequence[Measurement] = ()
    comparisons: Sequence[RuleComparison] = ()
    """Comparisons of rules, one per model."""
    laws: Sequence[LawFit] = ()
    studies: Sequence[StudyFolder] = ()
    evaluations: Sequence[Evaluation] = ()


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class StudyFolder:
    """A study of neurons and the folder of its tables."""

    numbers: NeuronStudy
    folder: Path

    @property
    def neurons(self) -> Path:
        """The table with one row per neuron."""
        return self.folder / "neurons.parquet"

    def words(self) -> dict[int, str]:
        """Text of each token id that occurs in the corpora."""
        import pyarrow.parquet as pq

        table = pq.read_table(self.folder / "vocabulary.parquet", columns=["id", "text"])
        return dict(zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True))


def read_runs(paths: Iterable[str | Path]) -> Runs:
    """All results in these run folders and files. Equal results, such as copies of a file, are kept once.

    Raises:
        InputError: if a path does not exist, or holds no result that a report shows.
    """
    results: dict[str, list[Any]] = {kind: [] for kind in _MODULES}
    for path in map(Path, paths):
        before = sum(map(len, results.values()))
        for file in _json_files(path):
            kind = _result_kind(file)
            if kind in results:
                result = _result_class(kind).load(file)
                results[kind].append(_study_folder(result, file) if kind == "neuron_study" else result)
        if before == sum(map(len, results.values())):
            raise InputError(
                f"there is nothing to report in {str(path)!r}; give a folder that `sparsing measure`, `compare`,"
                " `demo`, `fit`, `neurons`, `evaluate`, `track` or `sweep` has written"
            )
    return Runs(
        measurements=_in_reading_order(_without_copies(results["measurement"])),
        comparisons=_without_copies(results["rule_comparison"]),
        laws=_without_copies(results["law_fit"]),
        studies=results["neuron_study"],
        evaluations=_without_copies(results["evaluation"]),
    )


def _json_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(
            f"there is no run at {str(path)!r}; give a folder that a command has written with -o"
        )
    files = sorted(path.rglob("*.json"))
    # hidden folders hold journals of unfinished runs
    return [file for file in files if not any(part.startswith(".") for part in file.relative_to(path).parts)]


def _result_kind(file: Path) -> str:
    """The kind of the result in a file; empty if the file holds something else."""
    document = read_json(file, hint="it is not a saved result, so leave it out")
    if not isinstance(document, dict):
        return ""
    kind = document.get("kind", "")
    if not isinstance(kind, str):
        return ""
    # in schema 1 a comparison of laws has the same kind as one of rules, but no provenance
    if kind == "Comparison" and "provenance" not in document:
        return ""
    return _FORMER_KINDS.get(kind, kind)


def _result_class(kind: str) -> Any:
    """The class of a kind of result. Only its own module is imported, since a study of neurons needs torch."""
    members = vars(importlib.import_module(_MODULES[kind])).values()
    return next(member for member in members if getattr(member, "kind", None) == kind)


def _study_folder(numbers: NeuronStudy, file: Path) -> StudyFolder:
    study = StudyFolder(numbers=numbers, folder=file.parent)
    for name in ("neurons.parquet", "vocabulary.parquet"):
        if not (study.folder / name).is_file():
            raise InputError(f"{name!r} is missing beside {str(file)!r}; copy the whole folder of the study")
    return study


def _in_reading_order(results: list[Measurement]) -> list[Measurement]:
    """The measures of a folder one after another, and checkpoints by training tokens; by name `10` is before `2`."""
    folders = [str(PurePath(result.provenance.model).parent) for result in results]
    rules = list(dict.fromkeys(result.rule for result in results))

    def place(i: int) -> tuple[float, ...]:
        result = results[i]
        target, tokens = result.target_ppl_ratio, result.provenance.train_tokens or 0
        # every checkpoint has its own level after a search
        measure = (0, target, 0) if target else (1, 0, result.level)
        return folders.index(folders[i]), rules.index(result.rule), *measure, tokens

    order = sorted(range(len(results)), key=place)
    return [results[i] for i in order]


def _without_copies(results: list[Any]) -> list[Any]:
    by_content: dict[str, Any] = {}
    for result in results:
        by_content.setdefault(json.dumps(result.to_dict(), sort_keys=True), result)
    return list(by_content.values())
