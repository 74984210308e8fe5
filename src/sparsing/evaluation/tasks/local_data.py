"""Items of benchmarks from local files, as their own repositories publish them, for the harness's own tasks.

`items(folder, task, splits)` looks in `folder/<benchmark>/` and below for the files of a harness task and gives
its rows per split, with the columns that the harness expects. Nothing is downloaded and nothing is written.
"""

from __future__ import annotations

import csv
import dataclasses
import gzip
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from sparsing.errors import InputError

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """Where a benchmark's files lie and how its rows become the harness's."""

    folder: str
    """Under the folder of all benchmarks."""
    files: dict[str, tuple[str, ...]]
    """Patterns per split of the harness, the first one that matches counts; `{part}` is the subset's name."""
    convert: Callable[[Iterable[Row], str], Iterable[Row]] = lambda rows, part: rows
    """Called with the rows and the subset's name."""


def _boolq(rows: Iterable[Row], part: str) -> Iterator[Row]:
    for row in rows:  # SuperGLUE's form has the label, the original one a truth value
        yield row if "label" in row else {**row, "label": int(row["answer"])}


def _siqa(rows: Iterable[Row], part: str) -> Iterator[Row]:
    for row in rows:
        yield {**row, "label": str(row["label"])}


def _mbpp(rows: Iterable[Row], part: str) -> Iterator[Row]:
    return (row for row in rows if 11 <= row["task_id"] <= 510)  # the published test split


def _bbh(rows: Iterable[Row], part: str) -> Iterator[Row]:
    for row in rows:  # the repository's files are one object with the examples in it
        yield from row.get("examples", [row])


_LANGUAGES = {
    **{"ar": "arabic", "bn": "bengali", "en": "english", "fi": "finnish", "id": "indonesian"},
    **{"ko": "korean", "ru": "russian", "sw": "swahili", "te": "telugu"},
}


def _tydiqa(rows: Iterable[Row], part: str) -> Iterator[Row]:
    """The rows of one language: ids begin with its name."""
    for row in rows:
        for item in [row] if "data" not in row else _squad(row["data"]):
            if item["id"].startswith(_LANGUAGES[part]):
                yield item


def _squad(articles: Iterable[Row]) -> Iterator[Row]:
    """Questions in SQuAD's form, as the repository publishes them."""
    for article in articles:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                answers = question["answers"]
                yield {
                    "id": question["id"],
                    "title": article.get("title", ""),
                    "context": paragraph["context"],
                    "question": question["question"],
                    "answers": {key: [one[key] for one in answers] for key in ("text", "answer_start")},
                }


_CHOICE_EN = "Q: {} Answer Choices: {}\nA: Among A through {}, the answer is"
_CHOICE_ZH = "问题\uff1a{} 选项\uff1a{}\n答案\uff1a从A到{}, 我们应选择"
_CLOZE_EN = "Q: {}\nA: The answer is"
_CLOZE_ZH = "问题\uff1a{}\n答案\uff1a"


def _agieval(rows: Iterable[Row], part: str) -> Iterator[Row]:
    """The zero-shot prompts of AGIEval's own `dataset_loader.py`, which the hub's copies hold ready-made."""
    chinese = part != "gaokao-english" and part.startswith(("gaokao", "jec", "logiqa-zh"))
    for row in rows:
        if "query" in row:
            yield row
        else:
            yield _choice(row, chinese) if row["options"] else _cloze(row, chinese)


def _choice(row: Row, chinese: bool) -> Row:
    letters, options = "ABCDEFG"[: len(row["options"])], " ".join(row["options"])
    ask = _CHOICE_ZH if chinese else _CHOICE_EN
    query = (row["passage"] or "") + ask.format(row["question"], options, letters[-1])
    gold = [letters.index(letter) for letter in "".join(row["label"]) if letter in letters]
    return {"query": query, "choices": row["options"], "gold": gold}


def _cloze(row: Row, chinese: bool) -> Row:
    ask = _CLOZE_ZH if chinese else _CLOZE_EN
    return {"query": (row["passage"] or "") + ask.format(row["question"]), "answer": str(row["answer"])}


def _validation(folder: str, **fields: Any) -> Source:
    patterns = ("validation.jsonl", "valid.jsonl", "dev.jsonl", "val.jsonl", "*val*.jsonl", "*dev*.jsonl")
    return Source(folder=folder, files={"validation": patterns, "train": ("train.jsonl",)}, **fields)


_MMLU = {
    split: (f"**/{{part}}_{name}.jsonl", f"**/{{part}}_{name}.csv")
    for split, name in (("test", "test"), ("dev", "dev"), ("validation", "val"))
}
SOURCES = {
    "piqa": _validation("piqa"),
    "social_iqa": _validation("siqa", convert=_siqa),
    "hellaswag": _validation("hellaswag"),
    "winogrande": _validation("winogrande"),
    "copa": _validation("copa"),
    "boolq": _validation("boolq", convert=_boolq),
    "lambada_openai": Source(folder="lambada", files={"test": ("test*.jsonl", "*test*.jsonl")}),
    "humaneval": Source(folder="humaneval", files={"test": ("HumanEval.jsonl", "HumanEval.jsonl.gz")}),
    "mbpp": Source(folder="mbpp", files={"test": ("mbpp.jsonl", "test*.jsonl")}, convert=_mbpp),
    "gsm8k": Source(
        folder="gsm8k", files={"test": ("test.jsonl",), "train": ("train.jsonl", "train*.jsonl")}
    ),
    "mmlu_": Source(folder="mmlu", files=_MMLU),
    "bbh_": Source(folder="bbh", files={"test": ("**/{part}.json", "**/{part}.jsonl")}, convert=_bbh),
    "agieval_": Source(
        folder="agieval", files={"test": ("v1/{part}.jsonl", "**/{part}.jsonl")}, convert=_agieval
    ),
    "tydiqa_goldp_": Source(
        folder="tydiqa",
        files={
            "validation": ("*goldp*dev*.json", "*goldp*dev*.jsonl"),
            "train": ("*goldp*train*.json", "*goldp*train*.jsonl"),
        },
        convert=_tydiqa,
    ),
}
"""Harness task, or the beginning of the names of its subsets, to where its items lie."""
_BBH_KINDS = ("cot_fewshot_", "cot_zeroshot_", "fewshot_", "zeroshot_")


def items(folder: Path, task: str, splits: Iterable[str]) -> dict[str, list[Row]]:
    """Rows of each of the harness's `splits` that has a file; a task without an entry in `SOURCES` is looked
    for as `folder/<task>/<split>.jsonl`, with the harness's columns.

    Raises:
        InputError: a file is not JSON lines.
    """
    source, part = _source(task)
    found: dict[str, list[Row]] = {}
    for split in splits:
        path = _find(Path(folder) / source.folder, source.files.get(split, (f"{split}.jsonl",)), part)
        if path is not None:
            found[split] = list(source.convert(_labelled(path, _read(path)), part))
    return found


def looked_for(folder: Path, task: str, split: str) -> str:
    """Where `items` looks, for a message."""
    source, part = _source(task)
    names = [pattern.format(part=part) for pattern in source.files.get(split, (f"{split}.jsonl",))]
    return f"{Path(folder) / source.folder} ({', '.join(names)})"


def _source(task: str) -> tuple[Source, str]:
    if task in SOURCES:
        return SOURCES[task], ""
    for prefix in (name for name in SOURCES if name.endswith("_")):
        if task.startswith(prefix):
            part = task.removeprefix(prefix)
            for kind in _BBH_KINDS if prefix == "bbh_" else ():
                part = part.removeprefix(kind)
            return SOURCES[prefix], part.replace("_", "-") if prefix == "agieval_" else part
    return Source(folder=task, files={}), ""


def _find(folder: Path, patterns: Iterable[str], part: str) -> Path | None:
    for pattern in patterns:
        if paths := sorted(folder.glob(pattern.format(part=part))):
            return paths[0]
    return None


def _read(path: Path) -> list[Row]:
    """Rows of .jsonl, .jsonl.gz, .json (one object) or of MMLU's .csv (question, four choices, letter)."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        text = data.decode("utf-8-sig")
        if path.suffix == ".csv":
            return [_mmlu_row(cells) for cells in csv.reader(text.splitlines(keepends=True))]
        if path.suffix == ".json":
            return [json.loads(text)]
        # not splitlines: items hold other line separators unescaped
        return [json.loads(line) for line in text.split("\n") if line.strip()]
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read items from {str(path)!r}: {error}") from error


def _mmlu_row(cells: list[str]) -> Row:
    return {"question": cells[0], "choices": cells[1:5], "answer": "ABCD".index(cells[5])}


def _labelled(path: Path, rows: list[Row]) -> list[Row]:
    """PIQA and SIQA publish labels beside the items, one a line: `valid-labels.lst`."""
    labels = path.with_name(f"{path.stem}-labels.lst")
    if not labels.exists():
        return rows
    values = labels.read_text(encoding="utf-8").split()
    if len(values) != len(rows):
        raise InputError(f"{str(labels)!r} has {len(values)} labels for {len(rows)} items of {path.name}")
    return [{**row, "label": int(value)} for row, value in zip(rows, values, strict=True)]
