"""Writes docs/models.md and the list behind `sparsing models`: every causal-LM type of transformers, tested.

Each type is built small from its own configuration classes, its blocks are found by structure, and the properties of
tests/helpers/model_properties.py are tested on it. It takes about four minutes on one core.

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
sys.path.insert(0, str(REPOSITORY))  # the properties and the small models belong to the tests

import transformers  # noqa: E402
from tests.helpers.model_properties import missing_property  # noqa: E402
from tests.helpers.model_types import (  # noqa: E402
    TooManyParametersError,
    composite_types,
    model_types,
    small_model,
)

from sparsing.errors import SparsityError  # noqa: E402
from sparsing.models.model_types import LIST, ModelType  # noqa: E402
from sparsing.sites.discovery import discover  # noqa: E402

_COMPOSITE = """
## Vision-language types

These {total} types have no causal-LM class of their own. `load_model` loads them too. Their text part is found, and
they are measured on text alone.

{counts}

"""

_SENTENCES = {
    "passes": "{} types pass all four tests.",
    "not built": "{} could not be built.",
    "no feed-forward block": "{} have no feed-forward block.",
    "refused": "{} are refused.",
    "fails a test": "{} fail a test.",
}
"""Status to the sentence that gives its number of types."""

PAGE = REPOSITORY / "docs" / "models.md"

_HEAD = """# Model types

`find_sites` knows no model type. It runs the model on twelve tokens, finds the matrices whose input is `act(a)` or
`act(a) * b` of two other matrices, and proves with planted values that a block does nothing else with its neurons (see
`src/sparsing/sites/discovery.py`). So a type that is missing here may work too.

The table covers the {total} model types of transformers {version} that have a causal language-model head. Each was
built with four layers, small sizes and random weights, and four properties were tested on it
(`tests/helpers/model_properties.py`):

- a threshold of 0 gives the logits of the dense model bit for bit;
- the model is unchanged afterwards, also after an exception;
- padding and the order of a batch change nothing;
- the activation ratio is that of a count by definition.

{counts}

The column "blocks" gives the path of each block and what its neurons compute. "The block does more, but not with its
neurons" means that the block adds something to its output that does not depend on its neurons, such as its own input.

`python scripts/model_table.py` makes this page and the list that `sparsing models` prints. `make test` tests
30 of the types, `make test-slow` tests all.

MiniCPM checkpoints are loaded as Granite, which is the same architecture.

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
        status, reason = "not built", _why_not_built(error)
    else:
        try:
            found = discover(model)
            how, without = found.how, len(found.layers_without_site)
            if reason := missing_property(model) or "":
                status = "fails a test"
        except SparsityError as error:
            none = "No feed-forward block" in str(error)
            status, reason = "no feed-forward block" if none else "refused", why_refused(str(error))
        except Exception as error:  # the forward of a model may need more than text
            status, reason = "fails a test", f"the code of the model raises {type(error).__name__}"
    blocks = tuple(sorted({re.sub(r"^\d+ x ", "", line) for line in how}))
    composite = name in composite_types()
    return ModelType(
        name=name, status=status, blocks=blocks, without=without, composite=composite, reason=reason
    )


def _why_not_built(error: Exception) -> str:
    if isinstance(error, TooManyParametersError):
        return str(error)
    if isinstance(error, ImportError):
        return str(error).partition(" but ")[0]  # names the package that is needed
    return f"transformers could not build it with small sizes ({type(error).__name__})"


def why_refused(message: str) -> str:
    """The first clause of an error message, with the errors of other packages by their class alone."""
    clause = re.sub(r"\((\w+): .*", r"(\1)", message.strip(), flags=re.DOTALL)
    clause = re.sub("^No feed-forward block was found in .*?: ", "", clause)
    return clause.partition(". Its modules")[0].partition("; ")[0]


def page(rows: list[ModelType], version: str = transformers.__version__) -> str:
    """The text of docs/models.md for the types of a version of transformers."""
    causal, composite = [r for r in rows if not r.composite], [r for r in rows if r.composite]
    head = _HEAD.format(total=len(causal), version=version, counts=_counts(causal))
    middle = _COMPOSITE.format(total=len(composite), counts=_counts(composite))
    return head + _table(causal) + middle + _table(composite)


def _counts(rows: list[ModelType]) -> str:
    counts = Counter(row.status for row in rows).most_common()
    return " ".join(_SENTENCES[status].format(count) for status, count in counts)


def _table(rows: list[ModelType]) -> str:
    lines = [
        "| type | tests | blocks | layers without a feed-forward block | why not |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        blocks = "<br>".join(line.replace("*", r"\*").replace("|", r"\|") for line in row.blocks)
        reason = row.reason.replace("|", r"\|").replace("*", r"\*")
        lines.append(f"| `{row.name}` | {row.status} | {blocks} | {row.without or ''} | {reason} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
