"""`Routing`: to which token and expert each row of a routed site belongs, and sums of rows by token and by expert.

A token is routed to `top_k` experts of its layer and has one row for each of them. The output of the routed experts for
a token is the sum over its rows of `weight * (h @ W_e.T)`, where `e` is the expert of the row.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, cast

import torch


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Routing:
    """Token, expert and routing weight of each row. The rows are in any order; every token has `top_k` rows."""

    token: torch.Tensor
    """Index of the token of each row in the flattened batch, shape `(rows,)`, int64."""
    expert: torch.Tensor
    """Index of the expert of each row, shape `(rows,)`, int64."""
    weight: torch.Tensor
    """Factor by which the output of each row is multiplied, shape `(rows,)`; 1 if the model scales inputs instead."""
    n_tokens: int
    """Tokens of the flattened batch."""
    n_experts: int
    """Experts of the layer."""
    by_expert: bool = False
    """True if the rows of expert 0 come first, then those of expert 1, and so on; their sums then need no copy."""

    @property
    def top_k(self) -> int:
        """Rows per token."""
        return len(self.token) // self.n_tokens

    @functools.cached_property
    def sizes(self) -> list[int]:
        """Rows of each expert. The first use waits for the device, as the model's own loop over experts does."""
        counts = self.expert.bincount(minlength=self.n_experts)
        return cast("Any", counts).tolist()  # PyTorch annotates a bare list

    @functools.cached_property
    def _by_expert(self) -> torch.Tensor:
        """Indices of the rows, those of expert 0 first; within an expert the order stays."""
        return self.expert.argsort(stable=True)

    @functools.cached_property
    def _by_token(self) -> torch.Tensor:
        """Indices of the rows, those of token 0 first, shape `(n_tokens, top_k)`."""
        return self.token.argsort(stable=True).view(self.n_tokens, -1)

    @functools.cached_property
    def rows_per_expert(self) -> tuple[torch.Tensor, ...]:
        """Indices of the rows of each expert."""
        return split_rows(self._by_expert, self.sizes)

    def per_token(self, values: torch.Tensor) -> torch.Tensor:
        """The values of the rows of each token. `values`: `(rows, ...)`. Shape `(n_tokens, top_k, ...)`."""
        # `index_select` is several times as fast as an index in brackets on a CPU, here and below
        rows = values.index_select(0, self._by_token.flatten())
        return rows.view(self.n_tokens, -1, *values.shape[1:])

    def per_row(self, values: torch.Tensor) -> torch.Tensor:
        """The inverse of `per_token`. `values`: `(n_tokens, top_k, ...)`. Shape `(rows, ...)`."""
        rows = values.new_empty(len(self.token), *values.shape[2:])
        rows[self._by_token] = values
        return rows

    def of_tokens(self, chosen: torch.Tensor) -> tuple[torch.Tensor, Routing]:
        """The rows of some tokens.

        Args:
            chosen: Indices of tokens, shape `(chosen,)`, int64.

        Returns: Indices of the rows, shape `(chosen * top_k,)`, and their routing, in which token `chosen[i]` is `i`.
        """
        rows = self._by_token[chosen].flatten()
        token = torch.arange(len(chosen), device=chosen.device).repeat_interleave(self.top_k)
        return rows, Routing(
            token=token,
            expert=self.expert[rows],
            weight=self.weight[rows],
            n_tokens=len(chosen),
            n_experts=self.n_experts,
        )

    @classmethod
    def joined(cls, parts: Sequence[Routing]) -> Routing:
        """The routing of the rows of several batches, one after the other."""
        begins = [sum(part.n_tokens for part in parts[:i]) for i in range(len(parts))]
        return cls(
            token=torch.cat([part.token + begin for part, begin in zip(parts, begins, strict=True)]),
            expert=torch.cat([part.expert for part in parts]),
            weight=torch.cat([part.weight for part in parts]),
            n_tokens=sum(part.n_tokens for part in parts),
            n_experts=parts[0].n_experts,
        )

    def scaled(self, per_neuron: torch.Tensor) -> torch.Tensor:
        """A factor per neuron of each expert, times the routing weight.

        Args:
            per_neuron: Shape `(n_experts, d_ff)`.

        Returns: Shape `(rows, d_ff)`, float32.
        """
        return per_neuron.index_select(0, self.expert) * self.weight.detach().float().abs()[:, None]

    def counts_per_expert(self, flags: torch.Tensor) -> torch.Tensor:
        """Rows of each expert in which each flag is set.

        Args:
            flags: Shape `(rows, n)`, bool.

        Returns: Shape `(n_experts, n)`, int32.
        """
        pieces = self._of_experts(flags.view(torch.uint8))
        return torch.stack([cast("Any", piece).sum(0, dtype=torch.int32) for piece in pieces])

    def outputs(self, h: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Output of each row before the routing weight is applied.

        Args:
            h: Shape `(rows, d_ff)`.
            weight: Shape `(n_experts, d_model, d_ff)`.

        Returns: Shape `(rows, d_model)`.
        """
        pieces = self._of_experts(h)
        if self.by_expert:
            return torch.cat([piece @ matrix.T for piece, matrix in zip(pieces, weight, strict=True)])
        result = h.new_empty(len(h), weight.shape[1])
        for expert, (piece, at) in enumerate(zip(pieces, self.rows_per_expert, strict=True)):
            if len(piece):
                result[at] = piece @ weight[expert].T
        return result

    def _of_experts(self, values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The values of the rows of each expert. `values`: `(rows, ...)`."""
        return split_rows(values if self.by_expert else values.index_select(0, self._by_expert), self.sizes)

    def sums(self, h: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Sum over the rows of each token of `weight * output`, as `weighted_sums(outputs(h, weight))`.

        Args:
            h: Shape `(rows, d_ff)`.
            weight: Shape `(n_experts, d_model, d_ff)`.

        Returns: Shape `(n_tokens, d_model)`.
        """
        if not self.by_expert:
            return self.weighted_sums(self.outputs(h, weight))
        dtype = torch.promote_types(h.dtype, self.weight.dtype)
        result = h.new_zeros(self.n_tokens, weight.shape[1], dtype=dtype)
        pieces = (split_rows(values, self.sizes) for values in (h, self.token, self.weight))
        for matrix, rows, token, factor in zip(weight, *pieces, strict=True):
            # an expert has a token only once, so no two rows are added to the same sum in one call
            result.index_add_(0, token, (rows @ matrix.T) * factor[:, None])
        return result

    def divided(self, per_neuron: torch.Tensor) -> torch.Tensor:
        """A number per neuron of each expert, over the magnitude of the routing weight.

        Args:
            per_neuron: Shape `(n_experts, d_ff)`.

        Returns: Shape `(rows, d_ff)`.
        """
        factor = self.weight.detach().float().abs()[:, None]
        if not self.by_expert:
            return per_neuron.index_select(0, self.expert) / factor
        result = per_neuron.new_empty(len(self.expert), per_neuron.shape[1])
        pieces = (split_rows(values, self.sizes) for values in (result, factor))
        for numbers, rows, factors in zip(per_neuron, *pieces, strict=True):
            torch.div(numbers, factors, out=rows)  # without a copy of the numbers for each row
        return result

    def weighted_sums(self, outputs: torch.Tensor) -> torch.Tensor:
        """Sum over the rows of each token of `weight * output`. `outputs`: `(rows, d_model)`. `(n_tokens, d_model)`."""
        return self.per_token(outputs * self.weight[:, None]).sum(1)


def split_rows(values: torch.Tensor, sizes: list[int]) -> tuple[torch.Tensor, ...]:
    """`values.split(sizes)`, which PyTorch annotates incompletely."""
    return cast("Any", values).split(sizes)
