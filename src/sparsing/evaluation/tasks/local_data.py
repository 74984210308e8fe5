"""Reads the items of benchmarks from local files, in the form in which the benchmarks' repositories publish them.

`read_items(folder, task, splits)` looks in `folder/<benchmark>/` and below for the files of an lm-eval task and
returns its items per split, with the columns that lm-eval expects. Nothing is downloaded and nothing is written.
`SOURCES` says for each task which files to look for and how to convert them.
"""

from __future__ import annotations

import csv
import dataclasses
import gzip
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from sparsing.base.checked_files import parse_object, read_utf8
from sparsing.errors import InputError

Item = dict[str, Any]
"""One item of a benchmark: column to value."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ItemSource:
    """Where the files of a benchmark are, and how their rows become items with lm-eval's columns."""

    folder: str
    """Name of the subfolder in the folder of all benchmarks."""
    files: dict[str, tuple[str, ...]]
    """Glob patterns per split; the first pattern with a match is used. `{part}` is the name of the subset."""
    convert: Callable[[Iterable[Item], str], Iterable[Item]] = lambda rows, part: rows
    """Called with the rows and the name of the subset."""


def _boolq(rows: Iterable[Item], part: str) -> Iterator[Item]:
    for row in rows:  # SuperGLUE's files have a label, the original files a truth value
        yield row if "label" in row else {**row, "label": int(row["answer"])}


def _siqa(rows: Iterable[Item], part: str) -> Iterator[Item]:
    for row in rows:
        yield {**row, "label": str(row["label"])}


def _mbpp(rows: Iterable[Item], part: str) -> Iterator[Item]:
    return (row for row in rows if 11 <= row["task_id"] <= 510)  # the test split of the publication


def _bbh(rows: Iterable[Item], part: str) -> Iterator[Item]:
    for row in rows:  # a file of the repository is one object that contains all examples
        yield from row.get("examples", [row])


_MAX_BYTES = 2**29
"""Largest file of items, decompressed."""
_LANGUAGES = {
    **{"ar": "arabic", "bn": "bengali", "en": "english", "fi": "finnish", "id": "indonesian"},
    **{"ko": "korean", "ru": "russian", "sw": "swahili", "te": "telugu"},
}


def _tydiqa(rows: Iterable[Item], part: str) -> Iterator[Item]:
    """The rows of one language. The files hold all languages; an id begins with the name of its language."""
    for row in rows:
        for item in [row] if "data" not in row else _squad(row["data"]):
            if item["id"].startswith(_LANGUAGES[part]):
                yield item


def _squad(articles: Iterable[Item]) -> Iterator[Item]:
    """The questions of articles in the SQuAD format, in which the repository publishes them."""
    for article in articles:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                answers = question["answers"]
                yield {
                    "id": question["id"],
                    "title": article.get("title", ""),
                    "context": paragraph["context"],
                    "question": question["question"],
                    "answers": {key: [answer[key] for answer in answers] for key in ("text", "answer_start")},
                }


_CHOICE_EN = "Q: {} Answer Choices: {}\nA: Among A through {}, the answer is"
_CHOICE_ZH = "问题\uff1a{} 选项\uff1a{}\n答案\uff1a从A到{}, 我们应选择"
_CLOZE_EN = "Q: {}\nA: The answer is"
_CLOZE_ZH = "问题\uff1a{}\n答案\uff1a"


def _agieval(rows: Iterable[Item], part: str) -> Iterator[Item]:
    """The zero-shot prompts of AGIEval's `dataset_loader.py`. The copies on the hub already contain them."""
    chinese = part != "gaokao-english" and part.startswith(("gaokao", "jec", "logiqa-zh"))
    for row in rows:
        if "query" in row:
            yield row
        else:
            yield _choice(row, chinese) if row["options"] else _cloze(row, chinese)


def _choice(row: Item, chinese: bool) -> Item:
    letters, options = "ABCDEFG"[: len(row["options"])], " ".join(row["options"])
    ask = _CHOICE_ZH if chinese else _CHOICE_EN
    query = (row["passage"] or "") + ask.format(row["question"], options, letters[-1])
    gold = [letters.index(letter) for letter in "".join(row["label"]) if letter in letters]
    return {"query": query, "choices": row["options"], "gold": gold}


def _cloze(row: Item, chinese: bool) -> Item:
    ask = _CLOZE_ZH if chinese else _CLOZE_EN
    return {"query": (row["passage"] or "") + ask.format(row["question"]), "answer": str(row["answer"])}


def _validation(folder: str, **fields: Any) -> ItemSource:
    patterns = ("validation.jsonl", "valid.jsonl", "dev.jsonl", "val.jsonl", "*val*.jsonl", "*dev*.jsonl")
    return ItemSource(folder=folder, files={"validation": patterns, "train": ("train.jsonl",)}, **fields)


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
    "lambada_openai": ItemSource(folder="lambada", files={"test": ("test*.jsonl", "*test*.jsonl")}),
    "humaneval": ItemSource(folder="humaneval", files={"test": ("HumanEval.jsonl", "HumanEval.jsonl.gz")}),
    "mbpp": ItemSource(folder="mbpp", files={"test": ("mbpp.jsonl", "test*.jsonl")}, convert=_mbpp),
    "gsm8k": ItemSource(
        folder="gsm8k", files={"test": ("test.jsonl",), "train": ("train.jsonl", "train*.jsonl")}
    ),
    "mmlu_": ItemSource(folder="mmlu", files=_MMLU),
    "bbh_": ItemSource(folder="bbh", files={"test": ("**/{part}.json", "**/{part}.jsonl")}, convert=_bbh),
    "agieval_": ItemSource(
        folder="agieval", files={"test": ("v1/{part}.jsonl", "**/{part}.jsonl")}, convert=_agieval
    ),
    "tydiqa_goldp_": ItemSource(
        folder="tydiqa",
        files={
            "validation": ("*goldp*dev*.json", "*goldp*dev*.jsonl"),
            "train": ("*goldp*train*.json", "*goldp*train*.jsonl"),
        },
        convert=_tydiqa,
    ),
}
"""lm-eval's name of a task to its source; a key that ends in `_` is the prefix of the names of subsets."""
_BBH_VARIANTS = ("cot_fewshot_", "cot_zeroshot_", "fewshot_", "zeroshot_")


def read_items(folder: Path, task: str, splits: Iterable[str]) -> dict[str, list[Item]]:
    """Items per split.

    The files of a task without an entry in `SOURCES` are `folder/<task>/<split>.jsonl`, with lm-eval's columns.

    Args:
        folder: The folder of all benchmarks.
        task: lm-eval's name of the task.
        splits: lm-eval's names of the splits.

    Returns: Split to items, in the order of the file. A split without a file is missing.

    Raises:
        InputError: if a file cannot be read or has another number of labels than items.
    """
    source, part = _find_source(task)
    rows: dict[str, list[Item]] = {}
    for split in splits:
        path = _find(Path(folder) / source.folder, source.files.get(split, (f"{split}.jsonl",)), part)
        if path is not None:
            rows[split] = list(source.convert(_add_labels(path, _read(path)), part))
    return rows


def describe_places(folder: Path, task: str, split: str) -> str:
    """The places where `read_items` looks for a split, as text for a message."""
    source, part = _find_source(task)
    names = [pattern.format(part=part) for pattern in source.files.get(split, (f"{split}.jsonl",))]
    return f"{Path(folder) / source.folder} ({', '.join(names)})"


def _find_source(task: str) -> tuple[ItemSource, str]:
    """The source of a task and the name of the subset in file names; the name is empty for a whole benchmark."""
    if task in SOURCES:
        return SOURCES[task], ""
    for prefix in (name for name in SOURCES if name.endswith("_")):
        if task.startswith(prefix):
            part = task.removeprefix(prefix)
            for variant in _BBH_VARIANTS if prefix == "bbh_" else ():
                part = part.removeprefix(variant)
            return SOURCES[prefix], part.replace("_", "-") if prefix == "agieval_" else part
    return ItemSource(folder=task, files={}), ""


def _find(folder: Path, patterns: Iterable[str], part: str) -> Path | None:
    for pattern in patterns:
        if paths := sorted(folder.glob(pattern.format(part=part))):
            return paths[0]
    return None


def _read(path: Path) -> list[Item]:
    """The rows of a `.jsonl`, `.jsonl.gz`, `.json` (one object) or MMLU `.csv` file."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as handle:
            data = handle.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise InputError(f"{str(path)!r} has more than {_MAX_BYTES:,} bytes, which no benchmark has")
        text = data.decode("utf-8-sig")
        if path.suffix == ".csv":
            return [_mmlu_row(cells) for cells in csv.reader(text.splitlines(keepends=True))]
    except (OSError, EOFError, zlib.error, ValueError, IndexError, csv.Error) as error:
        raise InputError(f"cannot read items from {str(path)!r}: {error}") from error
    hint = "give the file as the benchmark publishes it"
    if path.suffix == ".json":
        return [parse_object(text, name=repr(str(path)), hint=hint)]
    # splitlines would also split at U+2028 and similar characters, which occur inside items
    return [
        parse_object(line, name=f"line {number} of {str(path)!r}", hint=hint)
        for number, line in enumerate(text.split("\n"), 1)
        if line.strip()
    ]


def _mmlu_row(cells: list[str]) -> Item:
    """Cells: the question, four choices, the letter of the answer."""
    return {"question": cells[0], "choices": cells[1:5], "answer": "ABCD".index(cells[5])}


def _add_labels(path: Path, rows: list[Item]) -> list[Item]:
    """Rows with the labels of `<name>-labels.lst`, a file with one label per line that PIQA and SIQA publish."""
    labels = path.with_name(f"{path.stem}-labels.lst")
    if not labels.exists():
        return rows
    values = read_utf8(labels, hint="give the labels as the benchmark publishes them").split()
    if bad := [value for value in values if not (value.isascii() and value.isdigit())]:
        raise InputError(f"{str(labels)!r} has the label {bad[0][:40]!r}; labels are whole numbers")
    if len(values) != len(rows):
        raise InputError(
            f"{str(labels)!r} has {len(values)} labels for {len(rows)} items of {path.name}; there must be one per"
            " item, so take both files from the same release"
        )
    return [{**row, "label": int(value)} for row, value in zip(rows, values, strict=True)]
