"""What decides the figures of a task besides the model: its definition, its items and its few-shot examples, as text.

A finished task is used again only if these texts are the same. Functions of a definition, such as the rule that turns a
row into a prompt, stand in Python files beside the definition; the content of these files is a part of the text.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def definition_text(part: Any) -> str:
    """The configuration of a task of lm-eval, with the source of its functions.

    Args:
        part: lm-eval's task object.
    """
    config = {key: value for key, value in part.dump_config().items() if key != "custom_dataset"}
    return json.dumps(config, sort_keys=True, default=_source)


def item_rows(part: Any) -> Iterator[str]:
    """Every row that the model may see, as JSON: the items, and after them the few-shot examples if there are any."""
    for row in part.eval_docs:
        yield json.dumps(row, sort_keys=True, default=str)
    if part.config.num_fewshot:
        yield "few-shot examples"
        for row in part.fewshot_docs():
            yield json.dumps(row, sort_keys=True, default=str)


def _source(value: Any) -> str:
    """Name and source of a function; its `repr` has an address that differs from run to run."""
    name = getattr(value, "__qualname__", None) or type(value).__qualname__
    try:
        file = inspect.getsourcefile(value)
    except TypeError:  # neither a function nor a class
        return name
    return f"{name} {Path(file).read_text(encoding='utf-8')}" if file and Path(file).is_file() else name
