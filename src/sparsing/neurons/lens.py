"""The words of a neuron: the vocabulary items that its column of `down_proj` promotes and demotes.

The score of an item is `E W[:, i]`, its output embedding times the column (Geva et al., "Transformer Feed-Forward
Layers Build Predictions by Promoting Concepts in the Vocabulary Space", 2022; a logit lens without the final norm). A
gated neuron may fire with either sign: where `h < 0` it promotes the items that are listed as demoted.
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
"""Largest number of logits in memory at a time (64 MiB in float32)."""


def promoted_tokens(
    loaded: LoadedModel, site: Site, items: int = ITEMS
) -> tuple[np.ndarray, np.ndarray] | None:
    """Ids of the tokens that each neuron of the layer promotes and demotes most, each `(n_neurons, items)`, int32.

    Returns None if the model's head is not a single matrix over the residual stream.
    """
    head = loaded.model.get_output_embeddings()
    weight = getattr(head, "weight", None)
    if weight is None or weight.shape[1] != site.d_model:
        return None
    columns = site.weight.detach()
    if site.kind == "expert":
        columns = columns.transpose(0, 1).flatten(1)  # (d_model, n_neurons)
    # Rows beyond the tokenizer's vocabulary pad the matrix to a round size and belong to no token.
    rows = weight.detach()[: len(loaded.tokenizer)].to(columns.device).float()
    step = max(1, _LOGITS // len(rows))
    up, down = [], []
    for begin in range(0, site.n_neurons, step):
        logits = rows @ columns[:, begin : begin + step].float()  # (vocabulary, neurons)
        up.append(logits.topk(items, dim=0).indices.T)
        down.append(logits.topk(items, dim=0, largest=False).indices.T)
    promoted, demoted = (torch.cat(parts).int().cpu().numpy() for parts in (up, down))
    return promoted, demoted
