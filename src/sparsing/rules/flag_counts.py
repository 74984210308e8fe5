"""Counts of set flags along one axis of a boolean tensor, eight flags at a time.

PyTorch sums booleans one by one. A flag is one byte, so eight neighbours are one 64-bit integer, and sums of such
integers count eight columns at once as long as no byte exceeds 255.
PyTorch is imported by the functions, since a report loads the rules without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sparsing.rules.flags import as_array, on_cpu

if TYPE_CHECKING:
    import torch

_MOST = 255
"""Largest count that a byte holds."""


def count_all(flags: torch.Tensor) -> torch.Tensor:
    """Flags that are set, shape `()`, int64."""
    import torch

    if on_cpu(flags):
        return torch.tensor(int(np.count_nonzero(as_array(flags.view(torch.uint8)))))
    return flags.sum()


def count_over_tokens(flags: torch.Tensor) -> torch.Tensor:
    """Tokens at which each flag is set.

    Args:
        flags: Shape `(windows, tokens, n)`, bool.

    Returns: Shape `(windows, n)`, int32.
    """
    import torch

    words = _words(flags)
    parts = [words[:, at : at + _MOST].sum(1).view(torch.uint8) for at in range(0, words.shape[1], _MOST)]
    counts = parts[0].int() if len(parts) == 1 else torch.stack(parts).sum(0, dtype=torch.int32)
    return counts[..., : flags.shape[-1]]


def count_over_neurons(flags: torch.Tensor) -> torch.Tensor:
    """Flags that are set at each token.

    Args:
        flags: Shape `(..., n)`, bool.

    Returns: Shape `(...,)`, int32.
    """
    import torch

    words = _words(flags)
    starts = range(0, words.shape[-1], _MOST)
    lanes = [words[..., at : at + _MOST].sum(-1, keepdim=True).view(torch.uint8) for at in starts]
    return torch.cat(lanes, dim=-1).sum(-1, dtype=torch.int32)


def _words(flags: torch.Tensor) -> torch.Tensor:
    """Eight flags as one integer, shape `(..., n / 8 rounded up)`, int64."""
    import torch

    missing = -flags.shape[-1] % 8
    padded = torch.nn.functional.pad(flags, (0, missing)) if missing else flags.contiguous()
    return padded.view(torch.int64)
