"""`covered_sites`: the sites of a model to which a rule applies, by the kinds of site of its scores.

A joint rule has one score for the feed-forward blocks and one for linear inputs. It covers the feed-forward blocks, and
the linear inputs that belong to no such block: those of the attention.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sparsing.errors import InputError
from sparsing.rules.scores import SCORES, scores_of
from sparsing.sites.families.linear_inputs import linear_input_sites

if TYPE_CHECKING:
    from torch import nn

    from sparsing.models.loading import LoadedModel
    from sparsing.sites.site import Site


def covering(loaded: LoadedModel, score: str) -> LoadedModel:
    """The same model with the covered sites as its `sites`, so that passes watch and change these sites."""
    return dataclasses.replace(loaded, sites=covered_sites(loaded.model, loaded.sites, score))


def covering_all(loaded: LoadedModel, scores: Sequence[str]) -> LoadedModel:
    """The same model with the sites of all of these scores, each on its own: blocks, linear inputs or both."""
    kinds = {kind for name in scores for kind in SCORES[name].kinds}
    blocks = [site for site in loaded.sites if site.kind in kinds or not kinds]
    inputs = linear_input_sites(loaded.model, loaded.sites) if "linear_input" in kinds else []
    return dataclasses.replace(loaded, sites=[*blocks, *inputs])


def covered_sites(model: nn.Module, blocks: Sequence[Site], score: str) -> list[Site]:
    """The sites on which a score, or the scores of a joint rule, are defined: blocks first, then linear inputs.

    Args:
        blocks: The feed-forward sites of the model.
        score: Name of a score, or two names joined by `+`.

    Raises:
        InputError: If the score is for feed-forward blocks, but not for routed experts, and the model has them.
    """
    kinds = {kind for part in scores_of(score) for kind in part.kinds}
    sites = [site for site in blocks if site.kind in kinds]
    if "ffn" in kinds and len(sites) < len(blocks):
        (name, *_) = (site.name for site in blocks if site.kind not in kinds)
        raise InputError(f"score {score!r} is not defined on {name!r}; choose a rule with another score")
    if "linear_input" not in kinds:
        return sites
    inputs = linear_input_sites(model, blocks)
    return [*sites, *(site for site in inputs if not sites or not site.in_block)]
