"""The internals of lm-eval that this package uses are there, in the version that pyproject.toml allows."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from sparsing.errors import InputError
from sparsing.evaluation.model import lm_eval_internals as internals

PACKAGE = Path(internals.__file__).parents[2]


def test_the_extra_pins_the_tested_versions():
    project = tomllib.loads((PACKAGE.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["optional-dependencies"]["eval"] == [f"lm-eval[hf]{internals.TESTED_VERSIONS}"]


def test_the_installed_version_is_a_tested_one(lm_eval):
    assert internals.harness_version() in SpecifierSet(internals.TESTED_VERSIONS)


def test_no_other_module_imports_internals():
    """Modules of lm-eval whose name begins with `_` are imported in one file only."""
    for path in PACKAGE.rglob("*.py"):
        if path != Path(internals.__file__):
            text = path.read_text(encoding="utf-8")
            assert "lm_eval.tasks._" not in text, path
            assert "._metric_fn_list" not in text, path


def test_definitions_of_a_group_a_tag_and_a_task(lm_eval):
    definitions = internals.TaskDefinitions([internals.task_folder() / "super_glue"])
    assert "copa" in definitions
    assert "copa" in list(definitions)
    assert definitions.members("copa") is None
    assert "copa" in definitions.members("super-glue-lm-eval-v1")
    assert definitions.config("copa", resolve_functions=False)["validation_split"] == "validation"


def test_without_lm_eval(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install .*\[eval\]'"):
        internals.require_lm_eval()
