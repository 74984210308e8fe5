"""Training with the recipe of the paper, tracking sparsity along training, and methods that make a model sparser.

Public names are loaded on first use.
"""

from __future__ import annotations

from sparsing.base.lazy import lazy_exports

_HOME = {
    "FATReLU": "fatrelu",
    "L1Penalty": "l1",
    "L1Schedule": "l1",
    "SparsityCallback": "sparsity_callback",
    "Track": "track_result",
    "TrainConfig": "config",
    "find_checkpoints": "tracking",
    "read_train_config": "config_file",
    "relufy": "relufication",
    "track": "tracking",
    "train": "trainer",
}
"""Public name to module. No module has the name of a function that it exports, because it would hide the function."""

__all__ = [*sorted(_HOME)]
__getattr__, __dir__ = lazy_exports(__name__, _HOME)
