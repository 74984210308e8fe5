"""One import makes the model known to lm-eval. Without this import the package has no effect on other programs."""

from __future__ import annotations

import subprocess
import sys


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_one_import_is_enough(lm_eval):
    program = """
import sparsing.evaluation.model.plugin
from lm_eval.api.model import LM
from lm_eval.api.registry import get_model
from sparsing.evaluation.model.harness import make_sparsing_lm
print(get_model("sparsing") is make_sparsing_lm(), issubclass(get_model("sparsing"), LM))
"""
    assert run(program) == "True True"


def test_lm_evals_own_models_stay(lm_eval):
    """lm-eval registers its own models only while its registry is empty."""
    program = """
import sparsing.evaluation.model.plugin
from lm_eval.api.registry import get_model
print(get_model("dummy").__module__)
"""
    assert run(program) == "lm_eval.models.dummy"


def test_the_import_loads_no_model_code(lm_eval):
    program = """
import sys
import sparsing.evaluation.model.plugin
print("sparsing.evaluation.model.harness" in sys.modules)
"""
    assert run(program) == "False"


def test_without_lm_eval_the_import_does_nothing():
    program = """
import importlib.util
importlib.util.find_spec = lambda name: None
import sparsing.evaluation.model.plugin, sys
print("lm_eval" in sys.modules)
"""
    assert run(program) == "False"


def test_importing_torch_loads_no_plugin():
    assert (
        run("import torch, sys; print('lm_eval' in sys.modules, 'sparsing' in sys.modules)") == "False False"
    )
