"""Short names of sites and neurons for tables, charts and files.

Results save the module path of each site. A reader knows layers by their number in the model and neurons as
`layer.index`, or as `layer.expert.index` if they belong to a routed expert. This module makes these names. It does not
import torch, so that a report can be made where torch is not installed.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence


@dataclasses.dataclass(frozen=True, kw_only=True)
class SiteName:
    """The name of one site and of its neurons."""

    layer: int
    """Number of the layer, as the model counts its layers; layers without a block have no site."""
    block: str = ""
    """Name of the block, e.g. `shared_experts`, or as much of its path as distinguishes the sites of a layer; empty if
    every layer has at most one site."""
    d_expert: int = 0
    """Neurons of each routed expert; 0 if the site is no site of routed experts."""

    @property
    def label(self) -> str:
        """Number of the layer, with the block if a layer has more than one: `3` or `3 shared_experts`."""
        return f"{self.layer} {self.block}".strip()

    @property
    def prefix(self) -> str:
        """What all names of neurons of the site begin with: `3` or `3.shared_experts`."""
        return f"{self.layer}.{self.block}" if self.block and not self.d_expert else str(self.layer)

    def neuron(self, number: int) -> str:
        """Name of the neuron with this number in the site: `3.17`, `3.shared_experts.17`, or `3.5.17` for neuron 17 of
        routed expert 5."""
        inner = f"{number // self.d_expert}.{number % self.d_expert}" if self.d_expert else str(number)
        return f"{self.prefix}.{inner}"


def site_names(sites: Sequence[str], d_expert: Mapping[str, int]) -> tuple[SiteName, ...]:
    """The names of all sites of a model.

    Args:
        sites: Module path of each site, or `#0`, `#1`, ... where paths are not known.
        d_expert: Neurons of each routed expert, by the path of its site.
    """
    layers = [_layer(site, index) for index, site in enumerate(sites)]
    paths = [re.sub(r"^.*?\d+\.", "", site) for site in sites]  # inside the layer
    inner = [
        path if site in d_expert else path.rpartition(".")[0] for site, path in zip(sites, paths, strict=True)
    ]
    candidates = ([""] * len(sites), [path.rpartition(".")[2] for path in inner], inner, paths)
    blocks = next(
        (names for names in candidates if len(set(zip(layers, names, strict=True))) == len(sites)), paths
    )
    return tuple(
        SiteName(layer=layer, block=block, d_expert=d_expert.get(site, 0))
        for site, layer, block in zip(sites, layers, blocks, strict=True)
    )


def _layer(site: str, index: int) -> int:
    found = re.search(r"[.#](\d+)", site)
    return index if found is None else int(found.group(1))
