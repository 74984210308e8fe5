"""What has to be settled before lm-eval is imported, and what a process of `torchrun` works on."""

from __future__ import annotations

import os
import sys


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
