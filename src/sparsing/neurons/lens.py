"""What a neuron writes: the vocabulary items that its column of `down_proj` promotes and demotes.

`E W[:, i]`, the output embedding times the column (Geva et al., "Transformer Feed-Forward Layers Build
Predictions by Promoting Concepts in the Vocabulary Space", 2022; a logit lens without the final norm). A gated
neuron may fire with either sign: where `h < 0` it promotes what is listed as demoted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from sparsing.models.loading import LoadedModel
    from sparsing.sites.site import Site

ITEMS = 6
"""Vocabulary items kept in each direction."""
_LOGITS = 2**24
"""Numbers of a block of logits."""


def promoted(loaded: LoadedModel, site: Site, items: int = ITEMS) -> tuple[np.ndarray, np.ndarray] | None:
    """Token ids that each neuron of the layer promotes and demotes most, shape `(d_ff, items)`, int32.

    None where the model's head is not one matrix of the residual stream's width.
    """
    head = loaded.model.get_output_embeddings()
    weight = getattr(head, "weight", None)
    if weight is None or weight.shape[1] != site.d_model:
        return None
    columns = site.weight.detach()
    # rows beyond the tokenizer are padding of the matrix
    rows = weight.detach()[: len(loaded.tokenizer)].to(columns.device).float()
    step = max(1, _LOGITS // len(rows))
    up, down = [], []
    for begin in range(0, site.d_ff, step):
        logits = rows @ columns[:, begin : begin + step].float()  # (vocabulary, neurons)
        up.append(logits.topk(items, dim=0).indices.T)
        down.append(logits.topk(items, dim=0, largest=False).indices.T)
    return tuple(torch.cat(part).int().cpu().numpy() for part in (up, down))  # pyright: ignore
