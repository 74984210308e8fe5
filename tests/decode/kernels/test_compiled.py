"""Saved machine code is used again only if no file of the engine or of the kernels has changed."""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba", reason="the CPU kernels need numba")

from numba.core.dispatcher import Dispatcher

import sparsing.decode.engine
import sparsing.decode.kernels.cpu
from sparsing.decode.kernels.cpu import compiled as home

MODULE = """
from sparsing.decode.kernels.cpu.compiled import compiled

@compiled()
def doubled(x):
    return 2 * x
"""


def test_a_change_of_another_file_compiles_again(tmp_path, monkeypatch):
    """An engine whose constants had changed never ended: Numba looked only at the file of each function."""
    (tmp_path / "module_for_compiled.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)

    def hits(sources: str) -> int:
        monkeypatch.setattr(home, "_SOURCES", sources)
        sys.modules.pop("module_for_compiled", None)
        function = importlib.import_module("module_for_compiled").doubled
        assert function(21) == 42
        return sum(function.stats.cache_hits.values())

    assert [hits(sources) for sources in ("one", "one", "two", "two", "one")] == [0, 1, 0, 1, 0]


def test_the_digest_changes_with_the_text_and_the_names_of_the_files(tmp_path):
    file = tmp_path / "kernels" / "cpu" / "rows.py"
    file.parent.mkdir(parents=True)
    seen = [home.digest(tmp_path)]
    for text in ("PAGE = 4096", "PAGE = 8192"):
        file.write_text(text)
        seen.append(home.digest(tmp_path))
    file = file.rename(file.with_name("lines.py"))
    seen.append(home.digest(tmp_path))
    file.with_name(".#lines.py").symlink_to("nobody@nowhere")  # the lock file of an editor
    assert home.digest(tmp_path) == seen[-1]
    assert len(set(seen)) == len(seen) == 4


def test_without_a_compiler_or_a_folder_the_functions_work(tmp_path):
    """Read-only containers have no folder for saved code."""
    code = "from sparsing.decode.kernels.cpu.block_kernel import group_size as f; print(f(100, 2))"
    no_folder = "import numba.core.caching as c; c.CacheImpl._locator_classes = []; "
    for environment, before in (({"NUMBA_DISABLE_JIT": "1"}, ""), ({}, no_folder)):
        done = subprocess.run(
            [sys.executable, "-c", before + code],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout == "16\n", done.stderr


def test_compiled_functions_take_constants_only_from_files_that_the_digest_reads():
    root = Path(sparsing.decode.engine.__file__).parents[1]
    users = [path for path in root.rglob("*.py") if "import compiled" in path.read_text()]
    assert len(users) >= 8
    for path in users:
        imported = re.findall(r"^from (sparsing\S*) import", path.read_text(), re.MULTILINE)
        assert all(name.startswith("sparsing.decode.") for name in imported), path


def test_every_compiled_function_is_stamped_with_all_sources():
    found = 0
    for package in (sparsing.decode.engine, sparsing.decode.kernels.cpu):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            if module.name.startswith("sparsing.decode.engine"):
                pytest.importorskip("gguf", reason="the engine needs the extra engine")
            for value in vars(importlib.import_module(module.name)).values():
                if isinstance(value, Dispatcher):
                    found += 1
                    saved = value._cache._cache_file
                    assert saved._source_stamp[1] == home.digest(
                        Path(sparsing.decode.engine.__file__).parents[1]
                    )
    assert found > 40
