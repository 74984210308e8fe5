"""What a command must settle before it imports lm-eval: progress bars, and the share of one process of several."""

from __future__ import annotations

import os
import sys
from typing import Any

from sparsing.base.launched import local_rank, num_processes


def set_progress_bars(*, wanted: bool) -> bool:
    """Whether lm-eval shows progress bars: if they are wanted and stderr is a terminal.

    Call it before lm-eval is imported. Some of its bars have no switch of their own; they obey `TQDM_DISABLE`,
    which tqdm reads on import.
    """
    shown = wanted and sys.stderr.isatty()
    if not shown:
        os.environ.setdefault("TQDM_DISABLE", "1")
    return shown


def process_device(device: str | None) -> str | None:
    """The device of this process: `device` if given, the GPU of this process under `torchrun`, else None."""
    if num_processes() == 1 or device is not None:
        return device
    import torch

    return f"cuda:{local_rank()}" if torch.cuda.is_available() else "cpu"


def launch_accelerator() -> Any:
    """The `Accelerator` by which lm-eval shares the items over the processes; None for a single process."""
    if num_processes() == 1:
        return None
    from accelerate import Accelerator

    return Accelerator()


def gather(value: Any) -> list[Any]:
    """The values of all processes, in the order of their ranks. Every process must call this."""
    import torch.distributed as dist

    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
