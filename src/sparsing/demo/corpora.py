"""The held-out text of the demo by kind (code, docstrings, Python's manual), for the study of neurons."""

from __future__ import annotations

import ast
import warnings

from sparsing.text.standard_library import named_library_documents


def heldout_corpora() -> dict[str, str]:
    """The text of each kind. No demo model was trained on any of it. The code includes its docstrings."""
    code, docstrings, manual = [], [], []
    for name, text in named_library_documents("heldout"):
        if name.startswith("topics#"):
            manual.append(text)
        else:
            code.append(text)
            docstrings += _docstrings(text)
    kinds = {"code": code, "docstrings": docstrings, "manual": manual}
    # some distributions of Python come without the manual
    return {kind: "\n\n".join(texts) for kind, texts in kinds.items() if texts}


def _docstrings(source: str) -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # parsing warns of invalid escapes in the source
        tree = ast.parse(source)
    nodes = (n for n in ast.walk(tree) if isinstance(n, (ast.Module, ast.ClassDef, ast.FunctionDef)))
    return [text for node in nodes if (text := ast.get_docstring(node))]
