"""`find_sites`: the sites of a model, by its model type.

`families/` has one file per shape of feed-forward block. Each file registers the model types of that shape.
No other part of the package names a model class.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from sparsing.sites.families.experts import blocks_beside_experts, routed_sites
from sparsing.sites.layouts import FAMILIES, model_type, unsupported_model

if TYPE_CHECKING:
    from torch import nn

    from sparsing.sites.site import Site

importlib.import_module("sparsing.sites.families")  # the families register their model types


def find_sites(model: nn.Module) -> list[Site]:
    """The sites of a causal LM, in layer order.

    The routed experts of a layer are one site of kind `expert`, and a shared expert is an ordinary site.

    Raises:
        UnsupportedModelError: If no family knows `model.config.model_type`, or if the model's modules are not
            where its family expects them. The message shows the module tree of one layer.
    """
    name = model_type(model)
    if name in FAMILIES:
        return FAMILIES[name](model)
    routed = routed_sites(model)
    if not routed:
        raise unsupported_model(model, f"No family knows the model type {name!r}")
    return sorted(blocks_beside_experts(model) + routed, key=lambda site: site.layer)
