"""What has to be settled before lm-eval is imported, and what a process of `torchrun` works on."""

from __future__ import annotations

import os
import sys
from typing import Any


def hush(*, show: bool) -> bool:
    """Whether the harness shows progress bars: when they are wanted, on a terminal. Before it is imported."""
    shown = show and sys.stderr.isatty()
    if not shown:
        os.environ.setdefault("TQDM_DISABLE", "1")  # for the bars that have no switch of their own
    return shown


def world_size() -> int:
    """Processes of `torchrun` or `accelerate launch`; 1 without them."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def process_device(device: str | None) -> str | None:
    """The device of this process: its own GPU where `torchrun` started several, else as asked for."""
    if world_size() == 1 or device is not None:
        return device
    import torch

    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"


def accelerator_of_launch() -> Any:
    """The process group of `torchrun` or `accelerate launch`, by which lm-eval shares out the items; else None."""
    if world_size() == 1:
        return None
    from accelerate import Accelerator

    return Accelerator()


def gathered(value: Any) -> list:
    """The value of every process, in all of them."""
    import torch.distributed as dist

    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
