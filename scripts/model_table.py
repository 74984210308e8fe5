"""Writes docs/models.md and the list behind `sparsing models`: every causal-LM type of transformers, with its laws.

Each type is built small from its own configuration classes, its blocks are found by structure, and the laws of
tests/helpers/laws.py run over it. It takes about four minutes on one core.

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
from tests.helpers.model_types import composite_types, model_types, small_model  # noqa: E402

from sparsing.errors import SparsityError  # noqa: E402
from sparsing.models.model_types import LIST, ModelType  # noqa: E402
from sparsing.sites.discovery import discover  # noqa: E402

_COMPOSITE = """
## Vision-language types

These {total} types have no causal-LM class of their own. `load_model` loads them too. Their text part is found, and
they are measured on text alone.

{counts}

"""

PAGE = REPOSITORY / "docs" / "models.md"

_HEAD = """# Model types

`find_sites` knows no model type. It runs the model on twelve tokens, finds the matrices whose input is `act(a)` or
`act(a) * b` of two other matrices, and proves with planted values that a block does nothing else with its neurons (see
`src/sparsing/sites/discovery.py`). So a type that is missing here may work too.

The table covers the {total} model types of transformers {version} that have a causal language-model head. Each was
built with small sizes and random weights, and four properties ("laws", `tests/helpers/laws.py`) were tested on it:

- a threshold of 0 gives the logits of the dense model bit for bit;
- the model is as before afterwards, also after an exception;
- padding and the order of a batch change nothing;
- the activation ratio is that of a count by definition.

{counts}

`python scripts/model_table.py` makes this page and the list that `sparsing models` prints. `make test` tests
30 of the types, `make test-slow` tests all.

`transformers` also loads MiniCPM checkpoints here: they are Granite by another name.

"""


def main() -> None:
    """Checks all types and writes the files, or prints the types that are given on the command line."""
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    chosen = sys.argv[1:]
    rows = []
    for name in chosen or [*model_types(), *composite_types()]:
        rows.append(check(name))
        print(f"{name}: {rows[-1].status} {rows[-1].reason}", file=sys.stderr, flush=True)
    if not chosen:
        LIST.write_text(
            json.dumps([dataclasses.asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8"
        )
        PAGE.write_text(page(rows), encoding="utf-8")


def check(name: str) -> ModelType:
    """Builds the type, finds its blocks and runs the laws."""
    status, how, without, reason = "passes", (), 0, ""
    try:
        model = small_model(name)
    except Exception as error:  # transformers raises anything for a configuration that does not fit
        status, reason = "not built", _first_line(error)
    else:
        try:
            found = discover(model)
            how, without = found.how, len(found.layers_without_site)
            if reason := broken_law(model) or "":
                status = "breaks a law"
        except SparsityError as error:
            none = "No feed-forward block" in str(error)
            status, reason = "no feed-forward block" if none else "refused", _first_line(error)
        except Exception as error:  # the forward of a model may need more than text
            status, reason = "breaks a law", f"{type(error).__name__}: {_first_line(error)}"
    blocks = tuple(sorted({re.sub(r"^\d+ x ", "", line) for line in how}))
    composite = name in composite_types()
    return ModelType(
        name=name, status=status, blocks=blocks, without=without, composite=composite, reason=reason
    )


def _first_line(error: Exception) -> str:
    text = str(error).strip().partition(". Its modules")[0].splitlines()
    return text[0][:200] if text else type(error).__name__


def page(rows: list[ModelType]) -> str:
    """The text of docs/models.md."""
    causal, composite = [r for r in rows if not r.composite], [r for r in rows if r.composite]
    head = _HEAD.format(total=len(causal), version=transformers.__version__, counts=_counts(causal))
    middle = _COMPOSITE.format(total=len(composite), counts=_counts(composite))
    return head + _table(causal) + middle + _table(composite)


def _counts(rows: list[ModelType]) -> str:
    return "\n".join(f"- {count} {status}" for status, count in Counter(r.status for r in rows).most_common())


def _table(rows: list[ModelType]) -> str:
    lines = ["| type | laws | blocks | layers without a block, of 4 | why not |", "|---|---|---|---|---|"]
    for row in rows:
        blocks = "<br>".join(line.replace("*", r"\*").replace("|", r"\|") for line in row.blocks)
        reason = row.reason.replace("|", r"\|").replace("*", r"\*")
        lines.append(f"| `{row.name}` | {row.status} | {blocks} | {row.without or ''} | {reason} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
