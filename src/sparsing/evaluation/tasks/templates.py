"""Templates of tasks compiled once per run instead of once per use.

The harness compiles a task's Jinja templates anew for every field of every item and of every example in its
prompt; a compiled template renders the same text each time, so the prompts do not change.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

_KEPT = 512
"""Templates kept at a time; the 57 subjects of MMLU have three each."""


@contextlib.contextmanager
def compiled_once() -> Iterator[None]:
    """Inside the block the harness compiles each template at its first use only."""
    from lm_eval.utils import env  # pyright: ignore[reportMissingImports]

    env.from_string = functools.lru_cache(_KEPT)(env.from_string)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        del env.from_string
