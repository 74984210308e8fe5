"""The public names: each loads, none is hidden by a module of the same name, importing the package is cheap."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import sparsing


def test_every_public_name_loads_and_is_no_module():
    for module in pkgutil.walk_packages(sparsing.__path__, "sparsing."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in sparsing.__all__:
        assert type(getattr(sparsing, name)).__name__ != "module", f"a module hides sparsing.{name}"


def test_importing_the_package_loads_no_library():
    code = "import sys, sparsing; print({'torch', 'numpy', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
