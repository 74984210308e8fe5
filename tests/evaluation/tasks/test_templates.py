"""Inside the block each template is compiled once and renders the same text; afterwards nothing is left of it."""

from __future__ import annotations

import pytest

from sparsing.evaluation.tasks.templates import compile_templates_once

TEMPLATE = "Question: {{question}}\n{% for c in choices %}{{c}}\n{% endfor %}Answer:"
DOCUMENTS = [
    {"question": "Why is it so?", "choices": ["a", "b"]},
    {"question": "{{not a template}}", "choices": []},
]


@pytest.fixture
def compiled(lm_eval, monkeypatch):
    """The templates that lm-eval has compiled, in order."""
    from lm_eval.utils import env

    seen = []
    original = type(env).compile
    monkeypatch.setattr(
        type(env),
        "compile",
        lambda self, source, *a, **k: seen.append(source) or original(self, source, *a, **k),
    )
    return seen


def render() -> list[str]:
    from lm_eval.utils import apply_template

    return [apply_template(TEMPLATE, document) for document in DOCUMENTS]


def test_compiled_once_and_rendered_as_before(compiled):
    before = render()
    assert compiled == [TEMPLATE] * 2
    with compile_templates_once():
        assert render() == before
    assert compiled == [TEMPLATE] * 3


def test_nothing_stays_behind(compiled):
    with pytest.raises(KeyError), compile_templates_once():
        raise KeyError
    render()
    assert compiled == [TEMPLATE] * 2
