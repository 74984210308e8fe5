"""The place of this process among those that `torchrun` or `accelerate launch` started, from the environment."""

from __future__ import annotations

import os

_SET_BY_LAUNCHERS = ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT")


def num_processes() -> int:
    """The number of processes of this command; 1 without `torchrun`.

    Scripts of clusters may set some of the variables for all programs, so a launcher counts only if all are set.
    """
    return _number("WORLD_SIZE", 1)


def rank() -> int:
    """The number of this process, counted from 0."""
    return _number("RANK", 0)


def local_rank() -> int:
    """The number of this process among those on the same machine, counted from 0."""
    return _number("LOCAL_RANK", 0)


def num_local_processes() -> int:
    """The number of processes on this machine."""
    return _number("LOCAL_WORLD_SIZE", 1)


def _number(name: str, alone: int) -> int:
    launched = all(os.environ.get(needed) for needed in _SET_BY_LAUNCHERS)
    return int(os.environ.get(name) or alone) if launched else alone
