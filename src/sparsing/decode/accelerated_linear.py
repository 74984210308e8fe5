"""Projections outside the feed-forward blocks, accelerated on a CPU: those of attention, and the head.

They are dense, but a kernel that reads at the speed of memory is faster than torch's matrix product for a few rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from sparsing.decode.kernels.interface import MAX_TOKENS

if TYPE_CHECKING:
    from sparsing.sites.site import Site

OWN, TORCH = "kernel", "torch"
"""The two ways to compute a projection."""


class AcceleratedLinear:
    """Computes calls of up to `MAX_TOKENS` rows by the kernel, unless torch was faster; larger calls by torch."""

    def __init__(self, module: nn.Linear, dtype: torch.dtype | None = None):
        # Numba is an optional extra, so it is imported only when a kernel is made
        from sparsing.decode.kernels.cpu.linear import CpuLinear

        weight = module.weight.detach()
        self._own_forward, self._dtype = module.forward, weight.dtype
        self._weight = weight if dtype is None else weight.to(dtype)
        self._kernel = CpuLinear(self._weight, None if module.bias is None else module.bias.detach())
        self._d_in, self._d_out = module.in_features, module.out_features
        self.choice: dict[int, str] = {}
        """Number of rows to the chosen way. Numbers that are missing go by the kernel."""
        self.mode = "sparse"
        """`torch` makes all calls go by torch; `sparse` and `dense` mean the same here."""

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights that the kernel reads."""
        return self._weight.numel() * self._weight.element_size()

    @property
    def signature(self) -> str:
        """Everything besides the machine and the number of rows that decides its speed."""
        return f"linear {self._d_in} -> {self._d_out} {self._weight.dtype}"

    def tensors(self) -> list[torch.Tensor]:
        """The tensors that it holds in memory."""
        return [self._weight]

    def sample(self, rows: int) -> torch.Tensor:
        """A random input with `rows` rows, to be timed on."""
        x = torch.randn(rows, self._d_in, generator=torch.Generator().manual_seed(rows))
        return x.to(self._dtype)

    def ways(self, x: torch.Tensor) -> dict[str, Callable[[], torch.Tensor]]:
        """Both ways as functions that compute the output for `x (rows, in)`, to be timed."""
        return {OWN: lambda: self._kernel(x), TORCH: lambda: self._own_forward(x)}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Replaces the module's own forward; `x (..., in)`."""
        rows = x.numel() // x.shape[-1]
        by_torch = rows > MAX_TOKENS or self.mode == "torch" or self.choice.get(rows) == TORCH
        if by_torch or x.requires_grad:  # kernels have no gradient
            return self._own_forward(x)
        return self._kernel(x.reshape(rows, self._d_in)).view(*x.shape[:-1], self._d_out)


def other_linears(model: nn.Module, sites: Sequence[Site]) -> Iterator[tuple[str, nn.Linear]]:
    """The plain linear layers outside these blocks whose weights the kernel takes, with their names."""
    taken = {id(module) for site in sites for module in (*site.projections, site.down_proj)}
    for name, module in model.named_modules():
        # the exact type, since a subclass may compute something else
        if not isinstance(module, nn.Linear) or type(module) is not nn.Linear or id(module) in taken:
            continue
        if module.weight.dtype in (torch.float32, torch.bfloat16):
            yield name, module
