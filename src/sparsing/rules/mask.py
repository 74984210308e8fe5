"""Applies thresholds to a model: inactive neurons are zeroed before `down_proj`, in `forward` and `generate`.

    with sparsify(model, thresholds) as sparse:
        sparse.generate(...)

Only hooks are set, so after the `with` block the model is the same as before, bit for bit, also after an exception.
The rule acts on every token of every call, on prompt tokens and on generated tokens.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from sparsing.errors import InputError
from sparsing.rules.scores import cut, is_active, row_cut, row_scale, sizes
from sparsing.sites.discovery import find_sites
from sparsing.sites.tap import Rows, attach

if TYPE_CHECKING:
    from torch import nn

    from sparsing.models.loading import LoadedModel
    from sparsing.rules.thresholds import Thresholds
    from sparsing.sites.site import Site


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Change:
    """What an intervention makes of the rows of one site."""

    active: torch.Tensor
    """Neurons that stay, shape `(rows, d_ff)`, bool."""
    h: torch.Tensor
    """The new input of `down_proj`, shape `(rows, d_ff)`."""


class Mask:
    """The intervention of `sparsify`: keeps the active neurons of each site and zeroes the others."""

    def __init__(self, sites: Sequence[Site], thresholds: Thresholds):
        """Prepares the cuts of all sites.

        Raises:
            InputError: If the thresholds are for other sites, or if their score is not defined on this kind of site.
        """
        self._score, self._selection = thresholds.score, thresholds.selection
        numbers = thresholds.for_sites(sites)
        if odd := [site.name for site in sites if site.kind not in self._score.kinds]:
            raise InputError(
                f"score {thresholds.on!r} is not defined on {odd[0]!r}; choose a rule with another score"
            )
        self._scales = [self._score.scale(site) for site in sites]
        self._cuts: list[torch.Tensor | float] = []
        if self._selection.is_threshold:  # computed once: generation compares on every token
            self._cuts = [
                cut(
                    torch.tensor(own, device=site.device)[:, None]
                    if site.n_experts == len(own) > 1
                    else own[0],
                    scale,
                )
                for site, own, scale in zip(sites, numbers, self._scales, strict=True)
            ]
        self._numbers = [own[0] for own in numbers]  # only selections without cuts read them
        self.needs_gate = self._score.needs_gate
        self.real: torch.Tensor | None = None
        """Which tokens of the batch are no padding, shape `(windows, tokens)`; None if all are.

        Only a selection that is not `per_token` reads it."""

    def cut(self, index: int, rows: Rows) -> torch.Tensor | float | None:
        """The cut of `|gate|` or `|h|` of site `index`: a number, or a tensor that broadcasts to `(rows, d_ff)`.

        It is None if the selection is not a threshold."""
        return row_cut(_moved(self._cuts, index, rows.h.device), rows) if self._cuts else None

    def active(self, index: int, rows: Rows) -> torch.Tensor:
        """Which neurons of site `index` are active, shape `(rows, d_ff)`, bool."""
        value = self._score.value_of(rows.gate, rows.h)
        limit = self.cut(index, rows)
        if limit is not None:
            return is_active(value, limit)
        scale = _moved(self._scales, index, value.device)
        if rows.routing is not None:  # the neurons of all experts of a token compete with each other
            value, scale = rows.per_token(sizes(value, row_scale(scale, rows))), None
        windows, tokens = self._layout(rows)
        real = self.real if self.real is not None else value.new_ones((), dtype=torch.bool)
        active = self._selection.active(
            value.view(windows, tokens, -1), scale, self._numbers[index], real.expand(windows, tokens)
        )
        return rows.per_row(active.view(value.shape))

    def change(self, index: int, rows: Rows) -> Change:
        """The active neurons of site `index`, and `h` with the others at zero."""
        active = self.active(index, rows)
        return Change(active, rows.h * active)

    def masked(self, index: int, rows: Rows) -> torch.Tensor:
        """`h` with inactive neurons at zero; this method is the `see` of `tap.attach`."""
        return self.change(index, rows).h

    def _layout(self, rows: Rows) -> tuple[int, int]:
        """`(windows, tokens)` of the rows. Some blocks flatten both axes; then only the batch knows the shape."""
        if self.real is not None:
            return self.real.shape[0], self.real.shape[1]
        # in generation there is no batch object; without padding one long window is as good
        return rows.leading if len(rows.leading) == 2 else (1, rows.leading[0])


def _moved(tensors: list[Any], index: int, device: torch.device) -> Any:
    """Entry `index` on this device. The copy replaces the entry, so only the first forward has to copy."""
    value = tensors[index]
    if isinstance(value, torch.Tensor) and value.device != device:
        value = tensors[index] = value.to(device)
    return value


@contextlib.contextmanager
def sparsify(model: nn.Module, thresholds: Thresholds) -> Generator[nn.Module]:
    """Applies `thresholds` to any supported model inside a `with` block; yields the model.

    Raises:
        UnsupportedModelError: If the sites of the model are not found.
        InputError: If the thresholds are for other sites.
    """
    handles = apply(model, thresholds)
    try:
        yield model
    finally:
        for handle in handles:
            handle.remove()


def apply(model: nn.Module, thresholds: Thresholds) -> list[Any]:
    """Applies `thresholds` until the returned handles are removed (`handle.remove()`). Raises as `sparsify`."""
    sites = find_sites(model)
    mask = Mask(sites, thresholds)
    return attach(sites, mask.masked, gate=mask.needs_gate)


def load_sparse(name_or_path: str, thresholds: Thresholds, **options: Any) -> LoadedModel:
    """Loads a model and applies `thresholds` to it for the lifetime of the model.

    Args:
        options: Keyword arguments of `load_model`.
    """
    from sparsing.models.loading import load_model

    loaded = load_model(name_or_path, **options)
    apply(loaded.model, thresholds)
    return loaded
