"""Provenance: the fields that `made_now` adds, and the fields that a corpus gives."""

from __future__ import annotations

import sys

from sparsing.base.provenance import Provenance, made_now

from ..helpers.measuring import text_corpus


def test_versions_platform_command_and_time_are_added(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/sparsing", "measure", "my model"])
    provenance = made_now(model="a", seed=3)
    assert (provenance.model, provenance.seed) == ("a", 3)
    assert {"python", "sparsing", "torch", "transformers", "numpy"} == set(provenance.versions)
    assert provenance.command == "sparsing measure 'my model'"
    assert provenance.platform
    assert provenance.created.endswith("+00:00")


def test_the_corpus_gives_the_fields_that_it_decides():
    corpus = text_corpus(60, window=16)
    provenance = Provenance(**corpus.provenance())
    assert provenance.corpus == corpus.source
    assert provenance.corpus_sha256 == corpus.sha256()
    assert provenance.num_tokens == corpus.num_tokens == 60


def test_a_module_is_named_as_it_is_run(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/somewhere/sparsing/__main__.py", "demo", "-o", "my demo"])
    assert made_now().command == "python -m sparsing demo -o 'my demo'"
