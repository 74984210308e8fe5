"""Proves by numbers what a matched block does with its neurons, before a site is made of it.

A second run of the model plants values into each block: equal inputs in every row, chosen outputs of the gate and the
up-projection, chosen inputs and outputs of the down-projection. Each row then has a role (`_Row`), and differences
between rows show that

- `h` of a token depends on that token alone;
- a neuron adds exactly its column of the matrix to the output of `down_proj`;
- the block passes that output on: unchanged, or by a linear function such as a scale, but not clipped or normalized;
- the block has no second path: with the output of `down_proj` held fixed, gate and up change nothing.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import math
import re
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch

from sparsing.sites.effective_weight import is_plain, weight_of
from sparsing.sites.matching import Match, close
from sparsing.sites.probe import N_TOKENS, EndOfProbe, probing

if TYPE_CHECKING:
    from torch import nn


class _Row(enum.IntEnum):
    """Roles of the rows of a planted run. Row 0 has none, because blocks that look back have nothing before it."""

    BASE = 1
    GATE = 2  # every second neuron has another gate input
    UP = 3  # every second neuron has another up
    LARGE = 4  # four times the values, where a clamp would act
    NEGATIVE = 5
    HALF = 6  # every second neuron of `h` is zero
    NONE = 7  # `h` is zero
    ONE = 8  # one neuron is not zero
    TWICE = 9  # the same neuron, twice the value
    PATH = 10  # other gate and up, but the output of `down_proj` is that of BASE
    AGAIN = 11  # as BASE


@dataclasses.dataclass(frozen=True, kw_only=True)
class Proof:
    """What was proved about a block."""

    problem: str | None
    """The first property that does not hold; None if the block can be measured and masked."""
    formula: bool
    """True if the output of the block is `down_proj(act(a) * b)` and nothing else, also for large values.

    Only then may a kernel compute the block from its three matrices."""


def prove(model: nn.Module, matches: Sequence[Match]) -> list[Proof]:
    """One proof per match, from one run of the model.

    Blocks of the same code, settings and form differ in nothing but their weights, so the first of them is proved for
    all, and the run ends after the last block that is needed."""
    kinds = [_kind(model, match) for match in matches]
    plants = {kind: _Plant(model, match) for kind, match in reversed(list(zip(kinds, matches, strict=True)))}
    waiting = set(plants)

    def stop(kind: Hashable) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            waiting.discard(kind)
            if not waiting:
                raise EndOfProbe

        return hook

    with probing(model) as forward:
        for kind, plant in plants.items():
            plant.set_hooks()
            plant.block.register_forward_hook(stop(kind))
        forward()
    proofs = {kind: plant.proof() for kind, plant in plants.items()}
    return [proofs[kind] for kind in kinds]


def _kind(model: nn.Module, match: Match) -> Hashable:
    """Everything but the weights on which the computation of a block depends."""
    block = model.get_submodule(match.block)
    parts = [match.gate.module, match.down.module, *([] if match.up is None else [match.up.module])]
    # a whole layer contains attention too, whose settings do not matter here
    inner = [block, *parts] if match.block == match.layer else [*block.modules(), *parts]
    path = re.sub(r"\d+", "*", match.down.name)
    code = tuple((type(module), _settings(module)) for module in inner)
    return (path, match.halves, type(match.act), match.own_act, match.exact, code)


def _settings(module: nn.Module) -> Hashable:
    """The simple attributes of a module, and its `forward` if the instance has its own."""
    simple = {
        key: value for key, value in vars(module).items() if isinstance(value, (int, float, str, type(None)))
    }
    return (*sorted(simple.items(), key=lambda item: item[0]), vars(module).get("forward"))


class _Plant:
    """The planted values of one block, and what the block computed from them."""

    def __init__(self, model: nn.Module, match: Match):
        assert match.down.x is not None
        assert match.down.y is not None
        self.match = match
        self.block = model.get_submodule(match.block)
        self.whole_layer = match.block == match.layer
        self.dtype, self.device = match.down.y.dtype, match.down.y.device
        self.d_ff, self.d_model = match.down.x.shape[1], match.down.y.shape[1]
        generator = torch.Generator().manual_seed(0)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator).to(self.device, self.dtype)

        self.x = normal(1, self.d_model).expand(N_TOKENS, -1)
        self.a, self.b = self._design(normal), self._design(normal)
        self.a[_Row.UP], self.b[_Row.GATE] = self.a[_Row.BASE], self.b[_Row.BASE]
        self.entered: torch.Tensor | None = None
        self.h: torch.Tensor | None = None
        self.planted_h: torch.Tensor | None = None
        self.y: torch.Tensor | None = None
        self.output: torch.Tensor | None = None

    def _design(self, normal: Callable[..., torch.Tensor]) -> torch.Tensor:
        base, other = normal(self.d_ff), normal(self.d_ff)
        rows = base.repeat(N_TOKENS, 1)  # (tokens, d_ff)
        rows[_Row.GATE, ::2] = rows[_Row.UP, ::2] = other[::2]
        rows[_Row.LARGE] *= 4
        rows[_Row.NEGATIVE] *= -1
        rows[_Row.PATH] = other
        return rows

    def set_hooks(self) -> None:
        """Plants the values and keeps what the block computes from them."""
        match = self.match
        self.block.register_forward_pre_hook(self._plant_input, with_kwargs=True)
        self.block.register_forward_hook(self._see_output)
        match.gate.module.register_forward_pre_hook(self._see_input)
        match.gate.module.register_forward_hook(self._plant_gate)
        match.down.module.register_forward_pre_hook(self._plant_h)
        match.down.module.register_forward_hook(self._plant_y)
        if match.up is not None and not match.fused:
            match.up.module.register_forward_hook(self._plant_up)

    def _plant_input(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        def plant(value: Any) -> Any:
            fits = isinstance(value, torch.Tensor) and value.is_floating_point()
            fits = fits and value.shape[-1] == self.d_model and value.numel() == self.x.numel()
            return self.x.to(value).reshape(value.shape) if fits else value

        return tuple(plant(value) for value in args), {key: plant(value) for key, value in kwargs.items()}

    def _see_input(self, module: Any, args: tuple[Any, ...]) -> None:
        self.entered = _rows(args[0])

    def _plant_gate(self, module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        planted = self.a
        if self.match.fused:
            planted = torch.cat(self.match.split(torch.cat((self.a, self.b), -1)), -1)
        return planted.to(output).reshape(output.shape)

    def _plant_up(self, module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        return self.b.to(output).reshape(output.shape)

    def _plant_h(self, module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        self.h = _rows(args[0])
        h = self.h.clone()
        h[_Row.HALF, ::2] = 0
        h[_Row.NONE : _Row.TWICE + 1] = 0
        h[_Row.ONE, self._neuron], h[_Row.TWICE, self._neuron] = self._value, 2 * self._value
        self.planted_h = h
        return (h.reshape(args[0].shape), *args[1:])

    def _plant_y(self, module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        self.y = _rows(output)
        y = self.y.clone()
        y[_Row.PATH] = y[_Row.BASE]
        return y.reshape(output.shape)

    def _see_output(self, module: Any, args: Any, output: Any) -> None:
        output = cast("Any", output[0]) if isinstance(output, (tuple, list)) else output
        if isinstance(output, torch.Tensor) and output.numel() == self.x.numel():
            self.output = _rows(output)

    @functools.cached_property
    def weight(self) -> torch.Tensor:
        """`W` of `y = h @ W.T`, shape `(d_model, d_ff)`."""
        return down_weight(self.match)

    @property
    def _neuron(self) -> int:
        return self.d_ff // 2

    @property
    def _value(self) -> float:
        """A value that makes one neuron count four times as much as all neurons do on text."""
        column = self.weight[:, self._neuron].abs().max().item()
        usual = self.match.down.y.abs().max().item() if self.match.down.y is not None else 1.0
        return 4 * usual / column if column > 0 else 1.0

    def proof(self) -> Proof:
        """What the rows prove."""
        if self.h is None or self.y is None or self.output is None or self.entered is None:
            return Proof(problem="it did not run a second time", formula=False)
        problem = next((text for holds, text in self._laws(self.h, self.y, self.output) if not holds), None)
        return Proof(
            problem=problem,
            formula=problem is None and self._is_formula(self.h, self.y, self.output, self.entered),
        )

    def _laws(self, h: torch.Tensor, y: torch.Tensor, output: torch.Tensor) -> list[tuple[bool, str]]:
        base, again = _Row.BASE, _Row.AGAIN
        planted = self.planted_h
        assert planted is not None
        expected = (planted[base] - planted).to(self.weight.dtype) @ self.weight.T
        column = self._difference(output, _Row.ONE, _Row.NONE)
        twice = self._difference(output, _Row.TWICE, _Row.NONE)
        return [
            (
                self._close(h[again], h[base]) and self._close(y[again], y[base]),
                "the neurons of a token depend on other tokens",
            ),
            (
                not self._close(h[_Row.GATE], h[base]),
                "its neurons do not depend on the gate",
            ),
            (
                all(
                    close(
                        y[base] - y[row], expected[row], roundings=self._roundings, scale=self._size(y, row)
                    )
                    for row in (_Row.HALF, _Row.NONE, _Row.ONE)
                ),
                "the output of down_proj is not the sum of the columns of its weight times h, to the accuracy of"
                f" {str(self.weight.dtype).removeprefix('torch.')}",
            ),
            (
                self._close(output[_Row.PATH], output[base]),
                "a second path reads the neurons: the output changes while that of down_proj is held fixed",
            ),
            (
                # a whole layer has parts behind its feed-forward block, and these may do anything
                self.whole_layer
                or (bool(column.any()) and close(twice, 2 * column, scale=self._size(output, _Row.TWICE))),
                "its output is not a linear function of the output of down_proj (clipped or normalized)",
            ),
        ]

    def _is_formula(
        self, h: torch.Tensor, y: torch.Tensor, output: torch.Tensor, entered: torch.Tensor
    ) -> bool:
        match = self.match
        if match.act is None or not match.exact or not torch.equal(entered, self.x.to(entered)):
            return False
        with torch.no_grad():
            act = match.act.forward(self.a)
        rest = [row for row in range(N_TOKENS) if row != _Row.PATH]
        return self._close(h, act if match.up is None else act * self.b) and torch.equal(
            output[rest], y[rest]
        )

    def _difference(self, rows: torch.Tensor, row: int, other: int) -> torch.Tensor:
        return rows[row] - rows[other]

    @property
    def _roundings(self) -> float:
        """Roundings of a sum over all neurons; sums in half precision are accumulated in float32."""
        return 4 * (math.sqrt(self.d_ff) if self.dtype.itemsize > 2 else 1)

    def _size(self, rows: torch.Tensor, row: int) -> torch.Tensor:
        return torch.stack((rows[row], rows[_Row.BASE]))

    def _close(self, x: torch.Tensor, y: torch.Tensor) -> bool:
        return close(x, y)


def down_weight(match: Match) -> torch.Tensor:
    """`W` of `y = h @ W.T`, shape `(d_model, d_ff)`, also if the module stores it transposed."""
    if not is_plain(match.down.module):
        return weight_of(match.down.module, match.down.name)
    weight: Any = match.down.module.weight
    return weight.detach().T if is_transposed(match) else weight.detach()


def is_transposed(match: Match) -> bool:
    """True if the matrix of `down_proj` is stored `(d_ff, d_model)`, as in `Conv1D`."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(match.down.module, Conv1D)


def _rows(value: torch.Tensor) -> torch.Tensor:
    return value.detach().reshape(-1, value.shape[-1]).clone()
