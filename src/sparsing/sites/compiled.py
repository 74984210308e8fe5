"""Graphs that `torch.compile` made before hooks were set.

Such a graph contains the calls that a module made when it was compiled, so a hook that is set later does not run, and
nothing reports it. `generate(cache_implementation="static")` compiles by itself on an accelerator. This module makes
hooks act on compiled models: either the graphs are discarded and the next call compiles again, with the hooks, or the
model runs without the compiler for a while and keeps its graphs.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Generator
from typing import TYPE_CHECKING

from sparsing.errors import UnsupportedModelError

if TYPE_CHECKING:
    from torch import nn


class CompiledGraphs:
    """Discards compiled graphs when hooks are set and, by `remove`, when they are removed. Used like a hook handle."""

    def __init__(self) -> None:
        self.remove()

    def remove(self) -> None:
        """Discards the compiled graphs of this process; the next call of a compiled model compiles it again."""
        if _compiler_is_loaded():
            import torch

            torch.compiler.reset()


@contextlib.contextmanager
def uncompiled() -> Generator[None]:
    """Runs compiled models by their Python code inside a `with` block. Their graphs are kept for later calls."""
    if not _compiler_is_loaded():
        yield
        return
    import torch

    with torch.compiler.set_stance("force_eager"):
        yield


def refuse_scripted(name: str, module: nn.Module) -> None:
    """Raises UnsupportedModelError for a TorchScript module: it is called from compiled code, which runs no hooks."""
    import torch

    if isinstance(module, torch.jit.ScriptModule):
        raise UnsupportedModelError(
            f"{name} is a TorchScript module ({type(module).__name__}), on which hooks do not run; load the model"
            " from its checkpoint, without torch.jit"
        )


def _compiler_is_loaded() -> bool:
    # nothing can be compiled before this module is imported, and its import takes seconds
    return "torch._dynamo" in sys.modules
