"""A model's other projections while it decodes on a CPU: attention's and the head's, read at the speed of memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from sparsing.decode.kernels.dispatch import MAX_TOKENS

if TYPE_CHECKING:
    from sparsing.sites.site import Site

OWN, TORCH = "kernel", "torch"
"""The two ways of a projection."""


class FastLinear:
    """Takes calls of up to `MAX_TOKENS` rows by the kernel unless torch was faster, all others by torch."""

    def __init__(self, module: nn.Linear, dtype: torch.dtype | None = None):
        from sparsing.decode.kernels.cpu.linear import CpuLinear

        weight = module.weight.detach()
        self._own_forward, self._dtype = module.forward, weight.dtype
        self._weight = weight if dtype is None else weight.to(dtype)
        self._kernel = CpuLinear(self._weight, None if module.bias is None else module.bias.detach())
        self._d_in, self._d_out = module.in_features, module.out_features
        self.choice: dict[int, str] = {}
        """Rows at once -> way; what is not in it goes by the kernel."""
        self.mode = "sparse"

    @property
    def weight_bytes(self) -> int:
        return self._weight.numel() * self._weight.element_size()

    @property
    def signature(self) -> str:
        """What decides its speed beside the machine and the number of rows."""
        return f"linear {self._d_in} -> {self._d_out} {self._weight.dtype}"

    def tensors(self) -> list[torch.Tensor]:
        """What is held in memory for it."""
        return [self._weight]

    def sample(self, rows: int) -> torch.Tensor:
        """Random input of `rows` rows."""
        x = torch.randn(rows, self._d_in, generator=torch.Generator().manual_seed(rows))
        return x.to(self._dtype)

    def ways(self, x: torch.Tensor) -> dict[str, Callable[[], torch.Tensor]]:
        """Both ways, ready to be timed on `x (rows, in)`."""
        return {OWN: lambda: self._kernel(x), TORCH: lambda: self._own_forward(x)}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """In place of the module's own; `x (..., in)`."""
        rows = x.numel() // x.shape[-1]
        by_torch = rows > MAX_TOKENS or self.mode == "torch" or self.choice.get(rows) == TORCH
        if by_torch or x.requires_grad:  # kernels have no gradient
            return self._own_forward(x)
        return self._kernel(x.reshape(rows, self._d_in)).view(*x.shape[:-1], self._d_out)


def other_linears(model: nn.Module, sites: Sequence[Site]) -> Iterator[tuple[str, nn.Linear]]:
    """Plain linear layers that belong to none of these blocks and whose weights the kernel takes, by name."""
    taken = {id(module) for site in sites for module in (*site.projections, site.down_proj)}
    for name, module in model.named_modules():
        # a subclass may compute something else
        if not isinstance(module, nn.Linear) or type(module) is not nn.Linear or id(module) in taken:
            continue
        if module.weight.dtype in (torch.float32, torch.bfloat16):
            yield name, module
