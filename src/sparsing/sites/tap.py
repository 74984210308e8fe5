"""Reads and changes a running model, by hooks on the activation and on `down_proj` of each site.

This is the only module that taps sites. A tap gives its caller `Rows`, one row per token, whatever shape the block
itself works on. So no caller has to know whether a block flattens windows and tokens. Routed experts have one row per
token and expert, and `routed.py` taps them.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Generator, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

import torch

from sparsing.errors import UnsupportedModelError
from sparsing.sites.compiled import CompiledGraphs, uncompiled
from sparsing.sites.routed import ExpertTap, tap_experts
from sparsing.sites.routing import Routing

if TYPE_CHECKING:
    from sparsing.sites.site import Site

    See = Callable[[int, "Rows"], torch.Tensor | None]
    """Receives the index of a site and its rows; returns the new `h`, or None to leave `h` as it is."""
    SeeOutput = Callable[[int, torch.Tensor], None]
    """Receives the index of a site and the output of its `down_proj`."""

Extra = Literal["up", "pre_gate"]
"""Activations of a feed-forward block with a gate that a tap reads on request only."""


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Rows:
    """The activations of one site in one forward pass. Row `i` belongs to token `i` unless there is a `routing`."""

    gate: torch.Tensor
    """Output of the activation, shape `(rows, d_ff)`. It is `h` if the site has no gate or the tap skips the gate."""
    h: torch.Tensor
    """Input of `down_proj`, shape `(rows, d_ff)`."""
    leading: tuple[int, ...]
    """Shape of the block's own input without its last axis: `(windows, tokens)` or `(windows * tokens,)`."""
    routing: Routing | None = None
    """Token, expert and weight of each row of routed experts; None if row `i` is token `i` of the flattened batch."""
    up: torch.Tensor | None = None
    """Output of `up_proj`, shape `(rows, d_ff)`; None if the tap does not read it or the block has no gate."""
    pre_gate: torch.Tensor | None = None
    """Input of the activation, shape `(rows, d_ff)`; None if the tap does not read it or the block has no gate."""

    @property
    def n_tokens(self) -> int:
        """Tokens of the flattened batch."""
        return len(self.h) if self.routing is None else self.routing.n_tokens

    def of_tokens(self, chosen: torch.Tensor, *, gate: bool = True) -> Rows:
        """The rows of some tokens.

        Args:
            chosen: Indices of tokens in the flattened batch, shape `(chosen,)`, int64.
            gate: False copies no gate, and `gate` is then `h`.
        """
        routing, rows = None, chosen
        if self.routing is not None:
            rows, routing = self.routing.of_tokens(chosen)
        h = self.h.index_select(0, rows)
        extras = (
            None if value is None else value.index_select(0, rows) for value in (self.up, self.pre_gate)
        )
        return Rows(self.gate.index_select(0, rows) if gate else h, h, (len(chosen),), routing, *extras)

    def per_token(self, values: torch.Tensor) -> torch.Tensor:
        """The values of each token, over all of its experts. Shape `(rows, n)` becomes `(tokens, top_k * n)`."""
        return values if self.routing is None else self.routing.per_token(values).flatten(1)

    def per_row(self, values: torch.Tensor) -> torch.Tensor:
        """The inverse of `per_token`. Shape `(tokens, top_k * n)` becomes `(rows, n)`."""
        if self.routing is None:
            return values
        return self.routing.per_row(values.view(len(values), self.routing.top_k, -1))

    @classmethod
    def joined(cls, parts: Sequence[Rows]) -> Rows:
        """The rows of several forwards of one site, as if their tokens were one flattened batch."""
        gate, h = (torch.cat([getattr(part, name) for part in parts]) for name in ("gate", "h"))
        routings = [part.routing for part in parts if part.routing is not None]
        routing = Routing.joined(routings) if routings else None
        n_tokens = sum(part.n_tokens for part in parts)
        up, pre_gate = (_joined([getattr(part, name) for part in parts]) for name in ("up", "pre_gate"))
        return cls(gate, h, (n_tokens,), routing, up, pre_gate)


def _joined(values: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    known = [value for value in values if value is not None]
    return torch.cat(known) if known else None


def attach(
    sites: Sequence[Site],
    see: See,
    *,
    gate: bool,
    extra: Collection[Extra] = (),
    see_output: SeeOutput | None = None,
    see_block: SeeOutput | None = None,
) -> list[Any]:
    """Calls `see(index, rows)` in each forward of each site; a returned tensor replaces `h`.

    Compiled graphs are discarded, now and when the hooks are removed, since they would not call the hooks.

    Args:
        see: Receives the index of the site and its rows. It returns the new `h`, shape `(rows, d_ff)`, or None to
            leave `h` as it is.
        gate: False sets no hook on the activation, and `rows.gate` is then `h`.
        extra: Further activations to read. Routed experts have none.
        see_output: Receives the index of the site and the output of `down_proj`, shape `(tokens, d_model)`; of routed
            experts, the weighted sum of the outputs of each token's experts.
        see_block: Receives the index of a site of routed experts and the output of the block around them, which adds
            shared experts, shape `(tokens, d_model)`.

    Returns: Handles; `handle.remove()` removes a hook.
    """
    return [*_set_hooks(sites, see, gate, extra, see_output, see_block), CompiledGraphs()]


def _set_hooks(
    sites: Sequence[Site],
    see: See,
    gate: bool,
    extra: Collection[Extra],
    see_output: SeeOutput | None,
    see_block: SeeOutput | None,
) -> list[Any]:
    # an activation waits here until `down_proj` of the same block runs
    held: dict[tuple[str, int], torch.Tensor] = {}
    handles: list[Any] = []
    pre_gate = "pre_gate" in extra

    def gated(site: Site) -> bool:
        return gate and site.gate_act is not None

    def keep(index: int) -> Callable[..., None]:
        def hook(module: Any, inputs: Any, output: torch.Tensor) -> None:
            if gate:
                held["gate", index] = sites[index].gate_after(output)
            if pre_gate:
                # a copy, since an activation function may work in place
                held["pre_gate", index] = sites[index].pre_gate_of(inputs, output).clone()

        return hook

    def keep_up(index: int, width: int) -> Callable[..., None]:
        def hook(module: Any, inputs: Any, output: torch.Tensor) -> None:
            held["up", index] = output[..., -width:]  # a fused projection has the gate first

        return hook

    def replace(index: int) -> Callable[..., tuple[torch.Tensor, ...] | None]:
        def hook(module: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
            h = inputs[0]

            def rows_of(name: str) -> torch.Tensor | None:
                # `pop`, so that the activation is freed as soon as the block is done
                value = held.pop((name, index), None)
                return None if value is None else value.reshape(-1, h.shape[-1])

            flat = h.reshape(-1, h.shape[-1])
            value = rows_of("gate") if gated(sites[index]) else flat
            if value is None:
                raise UnsupportedModelError(
                    f"{sites[index].block}: down_proj ran, but the activation module did not, so `gate` is not known;"
                    " load the model without fused kernels (such as Liger)"
                )
            rows = Rows(value, flat, tuple(h.shape[:-1]), None, rows_of("up"), rows_of("pre_gate"))
            changed = see(index, rows)
            return None if changed is None else (changed.view(h.shape), *inputs[1:])

        return hook

    def pass_on(index: int, see_output: SeeOutput) -> Callable[..., None]:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            # some blocks return the scores of their router too
            first = cast("torch.Tensor", output[0] if isinstance(output, tuple) else output)
            see_output(index, first.reshape(-1, first.shape[-1]))

        return hook

    def tap(index: int) -> ExpertTap:
        def on_rows(gate: torch.Tensor, h: torch.Tensor, routing: Routing) -> torch.Tensor | None:
            return see(index, Rows(gate, h, (routing.n_tokens,), routing))

        def on_output(output: torch.Tensor) -> None:
            if see_output is not None:
                see_output(index, output)

        return ExpertTap(on_rows, on_output, gate)

    for index, site in enumerate(sites):
        if site.run_experts is not None:
            handles.append(tap_experts(site.down_proj, site.run_experts, tap(index)))
            if see_block is not None and site.moe_block is not None:
                handles.append(site.moe_block.register_forward_hook(pass_on(index, see_block)))
            continue
        if site.gate_source is not None and (gated(site) or pre_gate):
            handles.append(site.gate_source.register_forward_hook(keep(index)))
        if "up" in extra and site.projections:
            handles.append(site.projections[-1].register_forward_hook(keep_up(index, site.d_ff)))
        handles.append(site.down_proj.register_forward_pre_hook(replace(index)))
        if see_output is not None:
            handles.append(site.down_proj.register_forward_hook(pass_on(index, see_output)))
    return handles


@contextlib.contextmanager
def tapped(
    sites: Sequence[Site],
    see: See | None,
    *,
    gate: bool,
    extra: Collection[Extra] = (),
    see_output: SeeOutput | None = None,
    see_block: SeeOutput | None = None,
) -> Generator[None]:
    """`attach` for a `with` block; the hooks are removed at its end, also after an exception.

    `see=None` sets no hook. Compiled models run by their Python code, so they keep their graphs.
    """
    handles = [] if see is None else _set_hooks(sites, see, gate, extra, see_output, see_block)
    try:
        with uncompiled():
            yield
    finally:
        for handle in handles:
            handle.remove()
