"""Writes docs/models.md and the list behind `sparsing models`: every causal-LM type of transformers, with its laws.

Each type is built small from its own configuration classes, its blocks are found by structure, and the laws of
tests/helpers/laws.py run over it. It takes about two minutes on one core.

    python scripts/model_table.py            # writes both files
    python scripts/model_table.py llama opt  # prints these types and writes nothing
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
import warnings
from collections import Counter
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))  # the laws and the small models belong to the tests

import transformers  # noqa: E402
from tests.helpers.laws import broken_law  # noqa: E402
from tests.helpers.model_types import model_types, small_model  # noqa: E402

from sparsing.errors import SparsityError  # noqa: E402
from sparsing.models.model_types import LIST, ModelType  # noqa: E402
from sparsing.sites.discovery import discover  # noqa: E402

PAGE = REPOSITORY / "docs" / "models.md"

_HEAD = """# Model types

`find_sites` knows no model type. It runs the model on twelve tokens, finds the matrices whose input is `act(a)` or
`act(a) * b` of two other matrices, and proves with planted values that a block does nothing else with its neurons (see
`src/sparsing/sites/discovery.py`). So a type that is missing here may work too.

The table covers the {total} model types of transformers {version} that have a causal language-model head. Each was
built with small sizes and random weights, and four laws were run over it (`tests/helpers/laws.py`):

- a threshold of 0 gives the logits of the dense model bit for bit;
- the model is as before afterwards, also after an exception;
- padding and the order of a batch change nothing;
- the activation ratio is that of a count by definition.

{counts}

`python scripts/model_table.py` makes this page and the list that `sparsing models` prints. `make test` runs the laws
over 30 of the types, `make test-slow` over all.

`transformers` also loads MiniCPM checkpoints here: they are Granite by another name.

"""


def main() -> None:
    """Checks all types and writes the files, or prints the types that are given on the command line."""
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    chosen = sys.argv[1:]
    rows = []
    for name in chosen or model_types():
        rows.append(check(name))
        print(f"{name}: {rows[-1].status} {rows[-1].reason}", file=sys.stderr, flush=True)
    if not chosen:
        LIST.write_text(
            json.dumps([dataclasses.asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8"
        )
        PAGE.write_text(page(rows), encoding="utf-8")


def check(name: str) -> ModelType:
    """Builds the type, finds its blocks and runs the laws."""
    try:
        model = small_model(name)
    except Exception as error:  # transformers raises anything for a configuration that does not fit
        return ModelType(name=name, status="not built", blocks=(), without=0, reason=_first_line(error))
    try:
        found = discover(model)
        broken = broken_law(model)
    except SparsityError as error:
        none = "No feed-forward block" in str(error)
        status = "no feed-forward block" if none else "refused"
        return ModelType(name=name, status=status, blocks=(), without=0, reason=_first_line(error))
    return ModelType(
        name=name,
        status="passes" if broken is None else "breaks a law",
        blocks=tuple(sorted({re.sub(r"^\d+ x ", "", line) for line in found.how})),
        without=len(found.layers_without_site),
        reason=broken or "",
    )


def _first_line(error: Exception) -> str:
    text = str(error).strip().partition(". Its modules")[0].splitlines()
    return text[0][:200] if text else type(error).__name__


def page(rows: list[ModelType]) -> str:
    """The text of docs/models.md."""
    counts = Counter(row.status for row in rows)
    lines = [f"- {count} {status}" for status, count in counts.most_common()]
    head = _HEAD.format(total=len(rows), version=transformers.__version__, counts="\n".join(lines))
    table = ["| type | laws | blocks | layers without a block, of 4 | why not |", "|---|---|---|---|---|"]
    for row in rows:
        blocks = "<br>".join(line.replace("*", r"\*").replace("|", r"\|") for line in row.blocks)
        reason = row.reason.replace("|", r"\|").replace("*", r"\*")
        table.append(f"| `{row.name}` | {row.status} | {blocks} | {row.without or ''} | {reason} |")
    return head + "\n".join(table) + "\n"


if __name__ == "__main__":
    main()
