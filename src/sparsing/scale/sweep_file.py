"""Reads the TOML file of a sweep and lists its cells: models x revisions x texts x rules, then tasks.

models = ["runs/relu/checkpoint-*", "HuggingFaceTB/SmolLM2-135M"]
rules = ["cett", "top_k"]
ppl = [1, 5]                  # or: level = [0.1, 0.2]
tasks = ["piqa"]              # optional: evaluated at all of these levels

[texts]
wikitext = "wikitext:wikitext-2-raw-v1"

[measure]                     # further options of `sparsing measure`
max_tokens = 20_000

[evaluate]                    # further options of `sparsing evaluate`
limit = 100

[run]                         # what a cell may use
cpus = 1
memory_gb = 4
"""

from __future__ import annotations

import dataclasses
import glob
import os
import re
import sys
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsing.base.checked_files import check, read_toml
from sparsing.base.registry import Registry
from sparsing.errors import InputError
from sparsing.measuring.measurement import measurement_slug
from sparsing.measuring.run_folder import default_folder
from sparsing.rules import make_rule
from sparsing.rules.thresholds import THRESHOLDS_FILE
from sparsing.scale.cell import Cell

_LONGEST_NAME = 100
"""Characters of a cell's name in the name of its folder; file systems allow 255 bytes."""
_OF_THE_SWEEP = {
    "model",
    "rule",
    "ppl",
    "level",
    "text",
    "tasks",
    "thresholds",
    "output",
    "revision",
    "json",
    "plan",
}
"""Options that a sweep gives to its cells itself."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunTable:
    """The table `[run]`: what a cell may use."""

    cpus: float = 1
    """Cores of a cell, and its threads."""
    gpus: float = 0
    memory_gb: float | None = None
    """Memory of a cell (1e9 bytes); doubled after it ran out of memory. Default: no limit."""
    retries: int = 2
    """Further attempts of a cell that failed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepFile:
    """The contents of the file of a sweep."""

    models: list[str]
    """Folders or patterns of folders of checkpoints, `.gguf` files, or names on the hub."""
    texts: dict[str, str]
    """Name to source, as for `--text`."""
    revisions: list[str] = dataclasses.field(default_factory=list[str])
    """Revisions of every model on the hub, e.g. its checkpoints. Default: the main one."""
    rules: list[str] = dataclasses.field(default_factory=lambda: ["cett"])
    ppl: list[float] = dataclasses.field(default_factory=list[float])
    """Rises of perplexity in percent. Default: 1, if no level is given."""
    level: list[float] = dataclasses.field(default_factory=list[float])
    tasks: list[str] = dataclasses.field(default_factory=list[str])
    """Benchmarks, each evaluated dense and with the thresholds of all rules and levels."""
    measure: dict[str, Any] = dataclasses.field(default_factory=dict[str, Any])
    evaluate: dict[str, Any] = dataclasses.field(default_factory=dict[str, Any])
    run: RunTable = RunTable()

    def levels(self, rule: str) -> list[str]:
        """Names of the folders that `sparsing measure` writes for the rule.

        Raises:
            InputError: If the rule or its score is unknown.
        """
        label = make_rule(rule).label
        if self.level:
            return [measurement_slug(label, level) for level in self.level]
        return [measurement_slug(label, None, 1 + p / 100) for p in self.ppl or [1.0]]


def read_sweep_file(path: str | Path) -> SweepFile:
    """The contents of the file.

    Raises:
        InputError: If there is no such file, it is not TOML, has an unknown key or a value of another type, names no
            model or no text, or sets an option that the sweep sets itself.
    """
    hint = "see docs/scale.md for the format"
    document = read_toml(path, hint=hint)
    _check_keys(document, SweepFile, "")
    if isinstance(run := document.get("run"), Mapping):
        _check_keys(run, RunTable, "run")
    sweep = check(document, SweepFile, name=repr(str(path)), hint=hint)
    if not (sweep.models and sweep.texts and sweep.rules):
        raise InputError(f"{str(path)!r} needs at least one entry in models, rules and [texts]; {hint}")
    if sweep.ppl and sweep.level:
        raise InputError(f"{str(path)!r} has both ppl and level; leave out one of them")
    for table in ("measure", "evaluate"):
        for key in sorted(_OF_THE_SWEEP & set(getattr(sweep, table))):
            raise InputError(f"{table}.{key} is set by the sweep itself; {hint}")
    if sweep.run.cpus <= 0 or sweep.run.gpus < 0 or sweep.run.retries < 0 or (sweep.run.memory_gb or 1) <= 0:
        raise InputError(f"the values of [run] must be positive, got {dataclasses.asdict(sweep.run)}")
    return sweep


def _check_keys(table: Mapping[str, Any], cls: type, name: str) -> None:
    known: Registry[Any] = Registry(f"key of [{name}]" if name else "key or table of a sweep")
    for key, annotation in typing.get_type_hints(cls).items():
        known.register(key, annotation)
    for key in table:
        known[key]


def list_cells(sweep: SweepFile, folder: Path) -> list[Cell]:
    """All cells, each with a folder below `folder`.

    Raises:
        InputError: If a pattern of models matches nothing, a rule is unknown, or two cells have the same name.
    """
    cells: list[Cell] = []
    for model in _models(sweep.models):
        revisions = [] if _is_local(model) else sweep.revisions
        for revision in revisions or [""]:
            for text in sweep.texts:
                cells += _cells_of(sweep, folder, model, revision, text)
    by_name: dict[str, Cell] = {}
    for cell in cells:
        if (other := by_name.setdefault(cell.name, cell)) is not cell:
            raise InputError(
                f"the cells of {other.labels['model']!r} and {cell.labels['model']!r} have the same name,"
                f" {cell.name!r}: leave out what is listed twice, or rename a folder, since the last two parts of a"
                " path name a model"
            )
    return cells


def _cells_of(sweep: SweepFile, folder: Path, model: str, revision: str, text: str) -> list[Cell]:
    """The cells of one model on one text."""
    name = f"{default_folder(model).name}{f'@{revision}' if revision else ''}.{text}"
    labels = {"model": model} | ({"revision": revision} if revision else {}) | {"text": text}
    of_model = ["--revision", revision] if revision else []
    wanted = ["--level", *map(str, sweep.level)] if sweep.level else ["--ppl", *map(str, sweep.ppl or [1.0])]
    inputs = tuple(Path(place) for place in (model, sweep.texts[text]) if _is_local(place))
    measured = [
        _cell(
            sweep,
            folder,
            f"{name}.{rule}",
            labels | {"rule": rule},
            inputs,
            ["measure", model, *of_model, "--text", sweep.texts[text], "--rule", rule, *wanted],
            _options(sweep.measure),
        )
        for rule in sweep.rules
    ]
    thresholds = [
        str(cell.folder / slug / THRESHOLDS_FILE)
        for cell, rule in zip(measured, sweep.rules, strict=True)
        for slug in sweep.levels(rule)
    ]
    model_options = {
        key: sweep.measure[key] for key in ("dtype", "device", "tokenizer") if key in sweep.measure
    }
    evaluated = [
        dataclasses.replace(
            _cell(
                sweep,
                folder,
                f"{name}.{task}",
                labels | {"task": task},
                inputs,
                ["evaluate", model, *of_model, "--tasks", task, "--thresholds", *thresholds],
                _options(model_options | sweep.evaluate),
            ),
            needs=tuple(cell.name for cell in measured),
        )
        for task in sweep.tasks
    ]
    return measured + evaluated


def _cell(
    sweep: SweepFile,
    folder: Path,
    name: str,
    labels: dict[str, str],
    inputs: tuple[Path, ...],
    words: list[str],
    options: list[str],
) -> Cell:
    """A cell of one command; its folder has a part of its identity in the name, so changed cells never mix."""
    command = (sys.executable, "-m", "sparsing", *words, *options, "--quiet")
    cell = Cell(
        name=name,
        labels=labels,
        folder=folder,
        commands=(command,),
        cpus=sweep.run.cpus,
        gpus=sweep.run.gpus,
        memory_gb=sweep.run.memory_gb,
        inputs=inputs,
    )
    readable = re.sub(r"[^\w.@+=-]", "-", name)[:_LONGEST_NAME]
    own = folder / "cells" / f"{readable}-{cell.identity[:8]}"
    return dataclasses.replace(cell, folder=own, commands=((*command, "-o", str(own)),))


def _is_local(place: str) -> bool:
    # os.path returns False for a name that is too long for a path, where Path.exists raises OSError
    return os.path.exists(place)  # noqa: PTH110


def _models(patterns: list[str]) -> list[str]:
    models: list[str] = []
    for pattern in patterns:
        is_pattern = any(c in pattern for c in "*?[")
        # Path.glob refuses absolute patterns
        found = sorted(glob.glob(pattern), key=_by_numbers) if is_pattern else [pattern]  # noqa: PTH207
        if not found:
            raise InputError(
                f"no checkpoint matches {pattern!r}; give a folder, a pattern or a name on the hub"
            )
        models += found
    return models


def _by_numbers(text: str) -> list[tuple[int, str]]:
    """Sorts `checkpoint-200` before `checkpoint-1000`."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", text)]


def _options(table: Mapping[str, Any]) -> list[str]:
    """The table as options of a command: `max_tokens = 5` as `--max-tokens 5`, `arrays = true` as `--arrays`."""
    words: list[str] = []
    for key, value in table.items():
        if value is False:
            continue
        words.append(f"--{key.replace('_', '-')}")
        if isinstance(value, list):
            words += map(str, value)
        elif value is not True:
            words.append(str(value))
    return words
