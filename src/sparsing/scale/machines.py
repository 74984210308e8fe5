"""The machines that a plan can be made for: their peak speeds, and the share of them that is assumed to be reached."""

from __future__ import annotations

import dataclasses

from sparsing.base.registry import Registry

REACHED_FLOPS = 0.4
"""Share of the peak operations that a forward pass of a large model usually reaches on a data-centre GPU."""
REACHED_BANDWIDTH = 0.8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
    """One or several machines with equal devices."""

    name: str
    devices: int
    """All devices together."""
    peak_flops: float
    """Operations per second of a device in bfloat16, dense matrices, from its data sheet."""
    peak_bandwidth: float
    """Bytes per second of a device."""
    memory_gb: float
    """Memory of a device, 1e9 bytes."""
    devices_each: int = 8
    """Devices of one machine; a copy of a model must fit into one machine."""


MACHINES: Registry[Machine] = Registry("machine")
for _machine in (
    Machine(name="a100", devices=1, peak_flops=312e12, peak_bandwidth=2.0e12, memory_gb=80),
    Machine(name="h100", devices=1, peak_flops=989e12, peak_bandwidth=3.35e12, memory_gb=80),
    Machine(name="h200", devices=1, peak_flops=989e12, peak_bandwidth=4.8e12, memory_gb=141),
    Machine(name="8xh200", devices=8, peak_flops=989e12, peak_bandwidth=4.8e12, memory_gb=141),
    Machine(name="8xh100", devices=8, peak_flops=989e12, peak_bandwidth=3.35e12, memory_gb=80),
    Machine(name="64xh100", devices=64, peak_flops=989e12, peak_bandwidth=3.35e12, memory_gb=80),
):
    MACHINES.register(_machine.name, _machine)
