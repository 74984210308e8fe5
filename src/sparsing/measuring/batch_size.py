"""How many windows a batch has. Accelerators begin with a large batch, which is halved when memory runs out."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, cast

import torch

from sparsing.measuring.window_loss import LOGITS_BYTES
from sparsing.sites.effective_weight import device_of

if TYPE_CHECKING:
    from sparsing.models.loading import LoadedModel
    from sparsing.text.corpus import Corpus

CPU_TOKENS = 2048
"""Tokens of a batch on a CPU, unless a single window is longer. More tokens are not faster there."""
ACCELERATOR_TOKENS = 2**16
"""Tokens of the first batch that is tried on an accelerator."""


def default_batch_size(loaded: LoadedModel, corpus: Corpus, *, processes: int = 1) -> int:
    """Windows per batch: on a CPU about two thousand tokens with at most `LOGITS_BYTES` of logits, else many tokens.

    Args:
        processes: Processes that share the batches. On accelerators each of them has a batch.
    """
    if input_device(loaded).type != "cpu":
        return max(1, min(ACCELERATOR_TOKENS // corpus.width, -(-corpus.n_windows // processes)))
    config = cast("Any", loaded.model.config)  # Transformers does not annotate `get_text_config` fully
    vocab: int = config.get_text_config().vocab_size
    return max(1, min(CPU_TOKENS, LOGITS_BYTES // (4 * vocab)) // corpus.width)


def input_device(loaded: LoadedModel) -> torch.device:
    """The device of the input embedding, to which token ids are moved."""
    return device_of(loaded.model.get_input_embeddings())


@dataclasses.dataclass(eq=False)
class BatchLimit:
    """The largest batch that has room in memory, shared by all passes of a run."""

    windows: int | None = None
    """None until memory has run out once."""

    def apply(self, wanted: int) -> int:
        """`wanted`, or the limit if it is smaller."""
        return wanted if self.windows is None else min(wanted, self.windows)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of PyTorch says that memory ran out, on an accelerator or on the CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(
        part in str(error) for part in ("can't allocate memory", "out of memory")
    )
