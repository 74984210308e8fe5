"""The inputs `x` of gated blocks, taken by hooks on the block's first projection."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from sparsing.rules.mask import Mask
from sparsing.sites.tap import tapped

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from sparsing.rules.thresholds import Thresholds
    from sparsing.sites.site import Site

    OnInput = Callable[[int, torch.Tensor], None]


@contextlib.contextmanager
def inputs_tapped(sites: Sequence[Site], on_input: OnInput) -> Iterator[None]:
    """Within this context, call `on_input(layer, x)` before each gated block runs, `x` of shape `(..., d_model)`."""

    def hook(layer: int) -> Callable[[Any, tuple[torch.Tensor, ...]], None]:
        return lambda module, inputs: on_input(layer, inputs[0])

    gated = [(layer, site.projections[0]) for layer, site in enumerate(sites) if site.projections]
    handles = [module.register_forward_pre_hook(hook(layer)) for layer, module in gated]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def sample_inputs(
    model: PreTrainedModel,
    sites: Sequence[Site],
    thresholds: Thresholds | None,
    ids: torch.Tensor | None = None,
) -> dict[int, torch.Tensor]:
    """Inputs of each gated block while the model reads `ids` under `thresholds`.

    Args:
        thresholds: None for a dense model.
        ids: Token ids, shape `(1, tokens)`; None for 64 random ones.

    Returns:
        Layer number to inputs, shape `(tokens, d_model)`, in the dtype and on the device of the layer.
    """
    if ids is None:
        vocab = model.get_input_embeddings().get_parameter("weight").shape[0]
        ids = torch.randint(vocab, (1, 64), generator=torch.Generator().manual_seed(0))
    kept: dict[int, torch.Tensor] = {}

    def keep(layer: int, x: torch.Tensor) -> None:
        kept[layer] = x.detach().reshape(-1, x.shape[-1])

    mask = None if thresholds is None else Mask(sites, thresholds)
    device = next(model.parameters()).device
    see, gate, extra = (None, False, ()) if mask is None else (mask.masked, mask.needs_gate, mask.extra)
    with torch.no_grad(), inputs_tapped(sites, keep), tapped(sites, see, gate=gate, extra=extra):
        model(input_ids=ids.to(device), use_cache=False)
    return kept
