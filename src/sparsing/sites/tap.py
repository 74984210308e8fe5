"""The one place where a running model is read and changed: hooks on each block's activation and `down_proj`."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from sparsing.sites.site import FFNSite

    OnFFN = Callable[[int, torch.Tensor, torch.Tensor], torch.Tensor | None]
    OnOutput = Callable[[int, torch.Tensor], None]


def attach(
    sites: Sequence[FFNSite], on_ffn: OnFFN, *, gate: bool, on_output: OnOutput | None = None
) -> list[Any]:
    """Call `on_ffn(layer, gate, h)` in each forward of each block; what it returns (not None) replaces `h`.

    `gate` and `h` have shape `(..., d_ff)`. With `gate=False` the activation is not read and `h` is given in
    its place. `on_output(layer, y)` sees what `down_proj` then gives, shape `(..., d_model)`. Returns the
    hook handles; `handle.remove()` undoes.
    """
    held: dict[int, torch.Tensor] = {}
    handles = []

    def keep(layer: int) -> Callable[..., None]:
        def hook(module: Any, inputs: Any, output: torch.Tensor) -> None:
            held[layer] = output

        return hook

    def replace(layer: int) -> Callable[..., tuple[torch.Tensor, ...] | None]:
        def hook(module: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
            h = inputs[0]
            out = on_ffn(layer, held.pop(layer, h).reshape(h.shape), h)
            return None if out is None else (out, *inputs[1:])

        return hook

    for layer, site in enumerate(sites):
        if gate and site.gate_act is not None:
            handles.append(site.gate_act.register_forward_hook(keep(layer)))
        handles.append(site.down_proj.register_forward_pre_hook(replace(layer)))
        if on_output is not None:
            see = functools.partial(_seen, on_output, layer)
            handles.append(site.down_proj.register_forward_hook(see))
    return handles


def _seen(on_output: OnOutput, layer: int, module: Any, inputs: Any, output: torch.Tensor) -> None:
    on_output(layer, output)


@contextlib.contextmanager
def tapped(
    sites: Sequence[FFNSite], on_ffn: OnFFN | None, *, gate: bool, on_output: OnOutput | None = None
) -> Iterator[None]:
    """`attach` for the length of a `with` block (nothing for None); the hooks are gone after it, come what may."""
    handles = [] if on_ffn is None else attach(sites, on_ffn, gate=gate, on_output=on_output)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
