"""Compiles each prompt template of a task once per run.

lm-eval compiles the Jinja templates of a task again for every field of every item and of every example in a prompt.
A compiled template renders the same text each time, so caching it does not change the prompts.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

from sparsing.evaluation.model.lm_eval_internals import template_environment

_CACHED_TEMPLATES = 512
"""The 57 subjects of MMLU have three templates each."""


@contextlib.contextmanager
def compile_templates_once() -> Iterator[None]:
    """Inside the block lm-eval compiles each template only when it is first used."""
    env = template_environment()
    # An attribute of the instance hides the method of the class until it is deleted.
    vars(env)["from_string"] = functools.lru_cache(_CACHED_TEMPLATES)(env.from_string)
    try:
        yield
    finally:
        del vars(env)["from_string"]
