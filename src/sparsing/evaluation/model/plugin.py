"""Makes `lm_eval --model sparsing` known to lm-eval, which up to 0.4.13 looks for no plugins.

Later versions read the entry points `lm_eval.models`. For 0.4.13 the entry point `torch.backends` serves:
torch calls `register` when it is imported, and lm-eval imports torch before it looks a model up. It does
nothing in a process that has not loaded lm-eval. `TORCH_DEVICE_BACKEND_AUTOLOAD=0` turns it off.
"""

from __future__ import annotations

import importlib
import sys

TARGET = "sparsing.evaluation.model.harness:SparsingLM"


def register() -> None:
    """Name the model in lm-eval's registry, as a placeholder that is imported when it is asked for."""
    registry = getattr(sys.modules.get("lm_eval.api.registry"), "model_registry", None)
    if registry is None:
        return
    importlib.import_module("lm_eval.models")  # names lm-eval's own, which it does only while there are none
    if "sparsing" not in registry:
        registry.register("sparsing", target=TARGET)
