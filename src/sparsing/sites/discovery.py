"""`find_sites`: the feed-forward blocks of a model, found by structure and proved by numbers.

No model type is listed. `probe.py` runs the model on twelve tokens and records what its matrices and activations
compute. `matching.py` finds the matrices whose input is `act(a)` or `act(a) * b`. `proof.py` runs the model once more
with planted values and proves what each block does with its neurons. A block for which a proof fails is refused. No
part of the package names a model class.
"""

from __future__ import annotations

import dataclasses
import logging
import re
import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from sparsing.errors import UnsupportedModelError
from sparsing.sites.effective_weight import check_weight
from sparsing.sites.families.experts import expert_modules, routed_sites
from sparsing.sites.matching import EXPERT, Match, match_blocks
from sparsing.sites.module_tree import model_type, named_modules, unsupported_model
from sparsing.sites.probe import matrices, matrix_shape, record
from sparsing.sites.proof import Proof, is_transposed, prove
from sparsing.sites.site import Site
from sparsing.sites.wrappers import unwrapped

if TYPE_CHECKING:
    from torch import nn

logger = logging.getLogger(__name__)

_Structure = tuple[tuple[str, int], ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Discovery:
    """The sites of a model and how they were found."""

    sites: list[Site]
    """In layer order."""
    layers_without_site: tuple[str, ...]
    """Module paths of the layers that have no feed-forward block, such as Mamba or attention alone."""
    how: tuple[str, ...]
    """One sentence per kind of block."""


_found: weakref.WeakKeyDictionary[nn.Module, tuple[_Structure, Discovery]] = weakref.WeakKeyDictionary()


def find_sites(model: nn.Module) -> list[Site]:
    """The sites of a causal LM, in layer order. Raises as `discover`.

    The model may be wrapped by `torch.compile`, DDP or PEFT.
    """
    return discover(model).sites


def discover(model: nn.Module) -> Discovery:
    """The sites of a causal LM and how they were found.

    The model runs twice on twelve tokens. It is then as before, and so are its training flags and the state of the
    random generators. The result is kept until a module of the model is replaced.

    Raises:
        UnsupportedModelError: If no block is found, if a block does something else with its neurons, if the model
            cannot run on text alone, or if its weights are quantized or not in memory.
    """
    model = unwrapped(model)
    structure = tuple((name, id(module)) for name, module in named_modules(model))
    known = _found.get(model)
    if known is not None and known[0] == structure:
        return known[1]
    check_structure(model)
    result = _search(model)
    for line in result.how:
        logger.info("%s: %s", type(model).__name__, line)
    _found[model] = (structure, result)
    return result


def _search(model: nn.Module) -> Discovery:
    _check_weights(model)
    routed = routed_sites(model)
    width = _hidden_size(model)
    # a block of another width does not write to the residual stream: it is a part of a router or of an attention
    matches = [m for m in match_blocks(record(model)) if width is None or m.width == width]
    if not matches and not routed:
        raise unsupported_model(
            model,
            f"No feed-forward block was found in {model_type(model)!r}: no matrix has the input act(a) or act(a) * b",
        )
    proofs = prove(model, matches) if matches else []
    for match, proof in zip(matches, proofs, strict=True):
        if (problem := _problem(match, matches) or proof.problem) is not None:
            raise UnsupportedModelError(
                f"{match.block} has the form of a feed-forward block, but {problem}; figures of this model would be"
                " wrong, so it cannot be measured"
            )
    sites = [_site(match, proof) for match, proof in zip(matches, proofs, strict=True)] + routed
    sites.sort(
        key=lambda site: site.layer
    )  # a stable sort: in a layer, ordinary blocks come in the order in which they run, then routed experts
    how = (*_describe(matches, proofs), *_describe_experts(routed))
    return Discovery(sites, _layers_without(model, sites), how)


def _hidden_size(model: nn.Module) -> int | None:
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    return getattr(text, "hidden_size", None)


def _problem(match: Match, matches: list[Match]) -> str | None:
    if match.down.count > 1:
        return f"it runs {match.down.count} times per token"
    if sum(match.gate is other.gate for other in matches) > 1:
        return "a second matrix reads its neurons"
    return None


def _site(match: Match, proof: Proof) -> Site:
    gated = match.up is not None and match.act is not None
    projections: tuple[nn.Module, ...] = ()
    if gated and proof.formula and match.halves != "last":
        projections = tuple({id(c): c.module for c in (match.gate, match.up) if c is not None}.values())
    inline = gated and not match.own_act
    return Site(
        name=match.down.name,
        layer=_number(match.layer),
        block=match.block,
        down_proj=match.down.module,
        gate_act=match.act if gated else None,
        gate_proj=match.gate.module if inline else None,
        gate_half=("first", "last").index(match.halves) if inline and match.halves else None,
        transposed=is_transposed(match),
        projections=projections,
    )


def _describe(matches: list[Match], proofs: list[Proof]) -> Iterable[str]:
    """One sentence per kind of block: where the blocks are and what was proved."""
    counts: dict[str, int] = {}
    for match, proof in zip(matches, proofs, strict=True):
        act = type(match.act).__name__
        up = "" if match.up is None else f" * {match.up.name.rpartition('.')[2]}"
        form = f"h = {act}({match.gate.name.rpartition('.')[2]}){up}"
        alone = "" if proof.formula else "; the block does more, but not with its neurons"
        path = re.sub(r"\.[0-9]+\.", ".*.", match.down.name)
        line = f"{path}: {form}{alone}"
        counts[line] = counts.get(line, 0) + 1
    return (f"{count} x {line}" for line, count in counts.items())


def _describe_experts(routed: list[Site]) -> Iterable[str]:
    paths = [re.sub(r"\.[0-9]+\.", ".*.", site.name) for site in routed]
    return (f"{paths.count(path)} x {path}: routed experts" for path in sorted(set(paths)))


def _layers_without(model: nn.Module, sites: list[Site]) -> tuple[str, ...]:
    """The entries of the lists of layers that have no site. A list without any site is not a list of layers."""
    with_site = {found.group(1) for site in sites if (found := re.match(r"(.*?\.\d+)\.", site.name))}
    lists = {path.rpartition(".")[0] for path in with_site}
    layers = (
        f"{name}.{entry}" for name in sorted(lists) for entry, _ in model.get_submodule(name).named_children()
    )
    return tuple(path for path in layers if path not in with_site)


def _number(layer: str) -> int:
    return int(layer.rpartition(".")[2])


def check_structure(model: nn.Module) -> None:
    """Checks what can be known without weights; the model may be on the `meta` device.

    Raises:
        UnsupportedModelError: If the model has routed experts that cannot be tapped, or no layer has a matrix.
    """
    known = {name for name, _ in expert_modules(model)}
    number = 0
    for name, module in named_modules(model):
        if re.search(r"\.\d+\.", f".{name}") is None:
            continue
        number += matrix_shape(module) is not None
        stacked = "Expert" in type(module).__name__ and any(
            p.ndim == 3 for p in module.parameters(recurse=False)
        )
        if (stacked and name not in known) or (matrix_shape(module) and EXPERT.search(name)):
            raise unsupported_model(
                model, f"{name} of {model_type(model)!r} holds routed experts in a form that cannot be tapped"
            )
    if not number:
        raise unsupported_model(
            model, f"No feed-forward block was found in {model_type(model)!r}: no layer has a matrix"
        )


def _check_weights(model: nn.Module) -> None:
    for name, module in matrices(model):
        check_weight(module, name)
