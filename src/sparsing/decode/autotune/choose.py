"""Gives every block and projection of an accelerated model the way that is fastest, by number of rows at once.

Blocks of one shape whose activation ratio is alike (to one digit) share their timings, and so do equal projections.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from sparsing.decode.autotune.timings import TOKEN_COUNTS, Chooser, Ways, enough, fastest, next_count
from sparsing.decode.kernels.dispatch import MAX_TOKENS

if TYPE_CHECKING:
    from sparsing.decode.accelerated_block import FastBlock
    from sparsing.decode.accelerated_linear import FastLinear


def choose_block_ways(blocks: Mapping[str, FastBlock], inputs: Mapping[str, torch.Tensor]) -> None:
    """Time `predicted`, `exact` and `torch` on real inputs `(tokens, d_model)`, which give the ratio too."""
    groups: dict[str, list[tuple[FastBlock, torch.Tensor]]] = {}
    for name, block in blocks.items():
        x = inputs[name]
        groups.setdefault(f"{block.signature}, ratio {block.ratio_on(x):.0e}", []).append((block, x))
    chooser = _chooser(next(iter(blocks.values())).packed.gate.device)
    for what, members in groups.items():
        timed = members[: enough([block.weight_bytes for block, _ in members])]
        seconds = {
            count: chooser.seconds(
                f"{what}, {count} rows", lambda n=count, m=timed: [_ways(block, x, n) for block, x in m]
            )
            for count in TOKEN_COUNTS
        }
        for block, _ in members:
            block.seconds = seconds
            block.choice = {
                rows: fastest({way: sec for way, sec in seconds[next_count(rows)].items() if way != "dense"})
                for rows in range(1, MAX_TOKENS + 1)
            }
    for block in blocks.values():
        block.reset()
    chooser.save()


def choose_linear_ways(linears: Mapping[str, FastLinear]) -> None:
    """Time the kernel against torch on random inputs."""
    groups: dict[str, list[FastLinear]] = {}
    for linear in linears.values():
        groups.setdefault(linear.signature, []).append(linear)
    chooser = _chooser(torch.device("cpu"))
    for what, members in groups.items():
        timed = members[: enough([linear.weight_bytes for linear in members])]
        chosen = {}
        for count in TOKEN_COUNTS:
            seconds = chooser.seconds(
                f"{what}, {count} rows",
                lambda n=count, m=timed: [linear.ways(linear.sample(n)) for linear in m],
            )
            chosen[count] = fastest(seconds)
        for linear in members:
            linear.choice = {rows: chosen[next_count(rows)] for rows in range(1, MAX_TOKENS + 1)}
    chooser.save()


def _ways(block: FastBlock, x: torch.Tensor, rows: int) -> Ways:
    """Ways on `rows` tokens of the sample, spread over it."""
    return block.ways(x[torch.linspace(0, len(x) - 1, rows).long().to(x.device)])


def _chooser(device: torch.device) -> Chooser:
    return Chooser(device, torch.get_num_threads())
