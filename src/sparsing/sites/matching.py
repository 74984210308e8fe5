"""Finds feed-forward blocks in the records of one run: matrices whose input is `act(a)` or `act(a) * b`.

`a` and `b` are outputs of other matrices of the same layer. A block is found if the recorded numbers agree for every
token and every neuron, so a coincidence is impossible, and the names of modules are not read. `proof.py` then checks
that the block does nothing else with its neurons.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, cast

import torch

from sparsing.sites.probe import Calls

if TYPE_CHECKING:
    from torch import nn

EXPERT = re.compile(r"\bexperts\.\d+\.")
"""In the path of a module: one of several experts, which runs on the tokens that are routed to it."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Match:
    """A feed-forward block that agrees with the records of a run."""

    block: str
    """Path of the smallest module that contains all matrices of the block."""
    layer: str
    """Path of the layer, the entry of a list of layers."""
    down: Calls
    gate: Calls
    """The matrix whose output enters the activation; it is also the up-projection of a block without a gate."""
    up: Calls | None
    """The matrix whose output is multiplied by the gate; the same as `gate` if one matrix computes both."""
    halves: str | None = None
    """Of one matrix that computes gate and up: `first` if the gate is the first half, `last` if it is the last."""
    act: nn.Module | None
    """The activation, a module of the block or a module that computes the same; None if only `h` is known."""
    own_act: bool
    """True if `act` is a module of this block that runs once, so that a hook on it sees the gate."""
    exact: bool
    """True if `h = act(a)` or `h = act(a) * b`; False if something scales or normalizes in between."""

    @property
    def width(self) -> int:
        """`d_model`, the width of the output of `down`."""
        return 0 if self.down.y is None else self.down.y.shape[1]

    @property
    def fused(self) -> bool:
        return self.up is self.gate

    def split(self, a: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The two halves of the output of a matrix that computes both: input of the activation, and `up`."""
        first, last = a.chunk(2, dim=-1)
        return (first, last) if self.halves == "first" else (last, first)


def close(
    x: torch.Tensor, y: torch.Tensor, *, roundings: float = 4, scale: torch.Tensor | None = None
) -> bool:
    """Whether two results are equal up to a few roundings of the less precise dtype of the two.

    Args:
        roundings: How many relative roundings may separate them.
        scale: Values whose largest entry sets the absolute rounding error; None takes `y`.
    """
    if x.shape != y.shape:
        return False
    limit = roundings * max(torch.finfo(x.dtype).eps, torch.finfo(y.dtype).eps)
    x, y = x.double(), y.double()
    size = (y if scale is None else scale.double()).abs().amax()
    return bool(((x - y).abs() <= limit * (y.abs() + size)).all())


def match_blocks(calls: dict[str, Calls]) -> Iterator[Match]:
    """The blocks that agree with `calls`, in the order in which they ran."""
    layers: dict[str, list[Calls]] = {}
    for call in sorted(calls.values(), key=lambda call: call.order):
        layer = layer_of(call.name)
        if layer is not None and not EXPERT.search(call.name) and call.x is not None and call.y is not None:
            layers.setdefault(layer, []).append(call)
    for layer, members in layers.items():
        for down in members:
            if down.is_matrix and (found := _match(layer, down, members)) is not None:
                yield found


def layer_of(name: str) -> str | None:
    """The path up to the first number, e.g. `model.layers.3` of `model.layers.3.mlp.down_proj`."""
    found = re.match(r"(.*?\.\d+)(\.|$)", name)
    return found.group(1) if found else None


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class _Inputs:
    """Two projections that may be the factors of `h`, with the tensors `a` (enters the activation) and `b`."""

    gate: Calls
    up: Calls | None
    halves: str | None
    a: torch.Tensor
    b: torch.Tensor | None

    def gives(self, act: Callable[[torch.Tensor], torch.Tensor], h: torch.Tensor) -> bool:
        """Whether `h` is `act(a)` times `b`; a few neurons are compared before all are."""
        for n in (4, h.shape[1]):
            value = act(self.a[:, :n])
            if not close(value if self.b is None else value * self.b[:, :n], h[:, :n]):
                return False
        return True


def _match(layer: str, down: Calls, members: list[Calls]) -> Match | None:
    assert down.x is not None
    assert down.y is not None
    before = [call for call in members if call.order < down.order]
    others = [call for call in before if not call.is_matrix]
    inputs = list(_inputs([call for call in before if call.is_matrix], down.x.shape[1], down.y.shape[1]))
    for h, direct in _candidates(down.x, others):
        for pair, act, call in _formulas(h, inputs, others):
            names = [pair.gate.name, down.name] + ([] if pair.up is None else [pair.up.name])
            block = _common_parent(names)
            exact = call is None or (call.x is not None and close(call.x, pair.a))
            return Match(
                block=block,
                layer=layer,
                down=down,
                gate=pair.gate,
                up=pair.up,
                halves=pair.halves,
                act=act,
                own_act=call is not None and call.count == 1 and call.name.startswith(block + "."),
                exact=exact and direct,
            )
    return None


def _formulas(
    h: torch.Tensor, inputs: list[_Inputs], others: list[Calls]
) -> Iterator[tuple[_Inputs, nn.Module, Calls | None]]:
    """The projections and activations that give `h`; the call of the activation if it is a module of the model."""
    for pair in inputs:
        act, call = _own_activation(pair, h, others) or (_known_activation(pair, h), None)
        if act is not None:
            yield pair, act, call
    # something may stand between the gate and the activation, such as a clamp; then `up` alone proves the product, and
    # the gate is the nearest other projection
    for pair in sorted((pair for pair in inputs if pair.up is not None), key=_distance):
        if found := _own_activation(pair, h, others, changed=True):
            yield pair, *found


def _distance(pair: _Inputs) -> int:
    """How far apart the two projections are: steps from the module that contains both."""
    assert pair.up is not None
    return pair.gate.name.count(".") - _common_parent([pair.gate.name, pair.up.name]).count(".")


def _inputs(matrices: list[Calls], d_ff: int, d_model: int) -> Iterator[_Inputs]:
    """Gated pairs first: `act(a) * b` contains `act(a)`, but not the other way round."""
    fitting = [call for call in matrices if call.x is not None and call.x.shape[1] == d_model]
    plain = [call for call in fitting if call.y is not None and call.y.shape[1] == d_ff]
    for gate in plain:
        for up in plain:
            if gate is not up and gate.y is not None:
                yield _Inputs(gate=gate, up=up, halves=None, a=gate.y, b=up.y)
    for call in fitting:
        if call.y is not None and call.y.shape[1] == 2 * d_ff:
            first, last = call.y.chunk(2, dim=-1)
            yield _Inputs(gate=call, up=call, halves="first", a=first, b=last)
            yield _Inputs(gate=call, up=call, halves="last", a=last, b=first)
    for call in plain:
        if call.y is not None:
            yield _Inputs(gate=call, up=None, halves=None, a=call.y, b=None)


def _candidates(x: torch.Tensor, others: list[Calls]) -> Iterator[tuple[torch.Tensor, bool]]:
    """`x`, the input of a matrix, and the inputs of modules such as a norm whose output is `x`.

    Each comes with a flag: whether it is `x` itself."""
    yield x, True
    for call in others:
        if call.x is None or call.y is None or not call.x.shape == call.y.shape == x.shape:
            continue
        if torch.equal(call.y, x) and not torch.equal(call.x, x):
            yield call.x, False


def _own_activation(
    pair: _Inputs, h: torch.Tensor, others: list[Calls], *, changed: bool = False
) -> tuple[nn.Module, Calls] | None:
    """The module of the model that computes the activation, from a multiple of `a` or, if `changed`, from anything."""
    for call in others:
        x, y = call.x, call.y
        if x is None or y is None or x.shape != h.shape or y.shape != h.shape or close(y, pair.a):
            continue
        if pair.gives(lambda part, y=y: y[:, : part.shape[1]], h):
            ratio = x / pair.a
            multiple = close(ratio, ratio[:1, :1].expand_as(ratio))
            if (multiple or changed) and _is_elementwise(call.module, x):
                return call.module, call
    return None


def _is_elementwise(module: nn.Module, x: torch.Tensor) -> bool:
    """Whether each output depends on its own input alone: an activation does, a norm does not."""
    with torch.no_grad():
        changed = x.clone()
        changed[:, ::2] *= 3
        # `forward`, because hooks on the module belong to others
        return close(module.forward(changed)[:, 1::2], module.forward(x)[:, 1::2])


def _known_activation(pair: _Inputs, h: torch.Tensor) -> nn.Module | None:
    """The function that the code of the block calls itself, among those that transformers knows."""
    return next((act for act in known_activations() if pair.gives(act, h)), None)


@functools.cache
def known_activations() -> tuple[nn.Module, ...]:
    """The activation functions without parameters that transformers knows, one module for each function."""
    from transformers.activations import ACT2FN

    table = cast("Mapping[str, nn.Module]", ACT2FN)
    x = torch.linspace(-8, 8, 257)
    found: list[tuple[nn.Module, torch.Tensor]] = []
    for name in ("silu", "gelu", "gelu_pytorch_tanh", "relu", "relu2", "sigmoid", "tanh", *sorted(table)):
        if name in ("linear", "prelu", "xielu"):  # no activation, and two with parameters
            continue
        act = table[name]
        y = act(x)
        if not any(float((y - other).abs().max()) < 1e-6 for _, other in found):
            found.append((act, y))
    return tuple(act for act, _ in found)


def _common_parent(names: list[str]) -> str:
    """Path of the smallest module that contains all of these modules."""
    paths = [name.split(".")[:-1] for name in names]
    depth = next(
        (i for i, parts in enumerate(zip(*paths, strict=False)) if len(set(parts)) > 1), min(map(len, paths))
    )
    return ".".join(paths[0][:depth])
