"""The identity of a task covers its definition, the source of its functions, its items and its few-shot examples."""

from __future__ import annotations

import importlib.util
import types
from pathlib import Path
from typing import Any

from sparsing.evaluation.tasks.identity import definition_text, item_rows


def part(shots: int = 0, examples: tuple[Any, ...] = ({"q": 1},), **config: Any) -> Any:
    return types.SimpleNamespace(
        config=types.SimpleNamespace(num_fewshot=shots),
        eval_docs=[{"q": 2}],
        fewshot_docs=lambda: list(examples),
        dump_config=lambda: {"task": "t", "custom_dataset": object(), **config},
    )


def test_examples_count_only_with_shots():
    assert list(item_rows(part())) == list(item_rows(part(examples=({"q": 9},))))
    assert list(item_rows(part(2))) != list(item_rows(part(2, examples=({"q": 9},))))
    assert list(item_rows(part(2))) != list(item_rows(part()))


def test_the_definition_and_the_source_of_its_functions(tmp_path):
    assert definition_text(part()) != definition_text(part(doc_to_text="{{q}}"))
    one, two = (function(tmp_path, f"return {n}") for n in (1, 2))
    assert definition_text(part(process_docs=one)) != definition_text(part(process_docs=two))
    assert definition_text(part(process_docs=one)) == definition_text(part(process_docs=one))


def function(folder: Path, body: str) -> Any:
    """A function `process` that stands in a module made for it."""
    path = folder / f"utils_{body[-1]}.py"
    path.write_text(f"def process(docs):\n    {body}\n")
    spec = importlib.util.spec_from_file_location("utils", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.process
