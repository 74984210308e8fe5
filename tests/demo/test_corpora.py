"""The kinds of held-out text of the demo."""

from __future__ import annotations

from sparsing.demo import heldout_text
from sparsing.demo.corpora import heldout_corpora


def test_kinds_of_held_out_text():
    corpora = heldout_corpora()
    assert {"code", "docstrings"} <= set(corpora)
    whole = heldout_text()
    for kind in ("code", "manual"):
        for document in corpora.get(kind, "").split("\n\n")[:50]:
            assert document in whole
    assert "def " in corpora["code"]
    assert corpora["docstrings"].count("    return ") < corpora["code"].count("    return ") / 5
    assert len(corpora["docstrings"]) > 5000
