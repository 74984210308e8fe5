"""The place of this process among those that `torchrun` or `accelerate launch` started, from the environment."""

from __future__ import annotations

import os


def num_processes() -> int:
    """The number of processes of this command; 1 without `torchrun`."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """The number of this process, counted from 0."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """The number of this process among those on the same machine, counted from 0."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def num_local_processes() -> int:
    """The number of processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
