"""Applies thresholds to a model: inactive neurons are zeroed before `down_proj`, in `forward` and `generate`.

    with sparsify(model, thresholds) as sparse:
        sparse.generate(...)

Only hooks are set, so after the `with` block the model is the same as before, bit for bit, also after an exception.
The rule acts on every token of every call, on prompt tokens and on generated tokens.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from sparsing.errors import InputError
from sparsing.rules.coverage import covered_sites
from sparsing.rules.flags import kept, nonzero
from sparsing.rules.scores import cut, is_active, row_cut, row_scale, score_for
from sparsing.rules.selections import PromptSelection
from sparsing.sites.discovery import find_sites
from sparsing.sites.tap import Extra, Rows, attach

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
    """The intervention of `sparsify`: keeps the active neurons of each site and sets the others to 0.

    Scores with a centre set inactive neurons to the centre of the site instead."""

    def __init__(self, sites: Sequence[Site], thresholds: Thresholds):
        """Prepares the cuts of all sites.

        Raises:
            InputError: If the thresholds are for other sites, or if their score is not defined on this kind of site.
        """
        self._selection = thresholds.selection
        numbers = thresholds.for_sites(sites)
        self._scores = [score_for(thresholds.scores, site) for site in sites]
        self._centres = thresholds.centres or (0.0,) * len(sites)
        self._scales = [score.scale(site) for score, site in zip(self._scores, sites, strict=True)]
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
        self.needs_gate = any(score.needs_gate for score in self._scores)
        self.extra: frozenset[Extra] = frozenset().union(*(score.extra for score in self._scores))
        """Further activations that a tap must read."""
        self.real: torch.Tensor | None = None
        """Which tokens of the batch are no padding, shape `(windows, tokens)`; None if all are.

        Only a selection that is not `per_token` reads it."""
        self._attended: torch.Tensor | None = None
        """The attention mask of the running forward of `generate`, shape `(windows, tokens so far)`; see `watch`."""
        self._chosen: list[torch.Tensor | None] = [None] * len(sites)
        """The set that a selection chose from the latest prompt of `generate`, shape `(windows, d_ff)`."""

    def cut(self, index: int, rows: Rows) -> torch.Tensor | float | None:
        """The cut of `|value|` of site `index`: a number, or a tensor that broadcasts to `(rows, d_ff)`.

        It is None if no comparison of `|value|` with a cut decides which neurons are active."""
        if not self._cuts or self._scores[index].centred:
            return None
        return row_cut(_moved(self._cuts, index, rows.h.device), rows)

    def value(self, index: int, rows: Rows) -> torch.Tensor:
        """The activation that the score of site `index` is computed from, shape `(rows, d_ff)`."""
        return self._scores[index].value_of(rows)

    def active(self, index: int, rows: Rows) -> torch.Tensor:
        """Which neurons of site `index` are active, shape `(rows, d_ff)`, bool."""
        score, value = self._scores[index], self.value(index, rows)
        if self._cuts:
            limit = row_cut(_moved(self._cuts, index, value.device), rows)
            return is_active(value - self._centres[index] if score.centred else value, limit)
        scale = row_scale(_moved(self._scales, index, value.device), rows)
        size = score.sizes(value, scale, self._centres[index])
        # the neurons of all experts of a token compete with each other
        per_token = rows.per_token(size)
        windows, tokens = self._layout(rows)
        active = self._select(index, per_token.view(windows, tokens, -1)).expand(windows, tokens, -1)
        active = rows.per_row(active.reshape(per_token.shape))
        # exact zeros are never active; the sign of a signed score does not show them
        return active & nonzero(rows.h if score.signed else size)

    def change(self, index: int, rows: Rows) -> Change:
        """The active neurons of site `index`, and `h` without the others."""
        active = self.active(index, rows)
        return Change(active, self.replaced(index, rows.h, active))

    def replaced(self, index: int, h: torch.Tensor, active: torch.Tensor) -> torch.Tensor:
        """`h` with inactive neurons at 0 or at the centre of the site, same shape."""
        if self._scores[index].centred:
            # on a CPU two products are faster than `torch.where`; the centre is rounded to the dtype of `h`
            centre = torch.full_like(h[..., :1], self._centres[index])
            return kept(h, active).add_(kept(centre, ~active))
        return kept(h, active)

    def masked(self, index: int, rows: Rows) -> torch.Tensor:
        """`h` without inactive neurons; this method is the `see` of `tap.attach`."""
        return self.change(index, rows).h

    def _select(self, index: int, size: torch.Tensor) -> torch.Tensor:
        """The active set, shape of `size`: `(windows, tokens, d_ff)`."""
        selection, number = self._selection, self._numbers[index]
        real = self.real
        if real is None and self._attended is not None:
            real = self._attended[:, -size.shape[1] :].to(size.device)
        real = size.new_ones(size.shape[:2], dtype=torch.bool) if real is None else real
        if not isinstance(selection, PromptSelection) or self.real is not None:
            return selection.active(size, number, real)
        # without a batch the model generates: a forward of several tokens is the prompt
        if size.shape[1] > 1:
            self._chosen[index] = selection.choose(size, number, real)
            return torch.ones_like(size, dtype=torch.bool)
        chosen = self._chosen[index]
        if chosen is None or len(chosen) != len(size):
            raise InputError(
                f"{selection.name} chooses neurons from a prompt, and this forward has one token per sequence and no"
                " prompt of the same batch before it; give a prompt of at least two tokens"
            )
        return chosen[:, None]

    def _layout(self, rows: Rows) -> tuple[int, int]:
        """`(windows, tokens)` of the rows. Some blocks flatten both axes; then only the batch knows the shape."""
        if self.real is not None:
            return self.real.shape[0], self.real.shape[1]
        if len(rows.leading) == 2:
            return rows.leading
        # in generation there is no batch object; without an attention mask one long window is as good
        windows = 1 if self._attended is None else len(self._attended)
        return windows, rows.leading[0] // windows

    def watch(self, model: nn.Module) -> list[Any]:
        """Reads the attention mask of each forward, so that padding of a batch that generates takes no part.

        Only a selection in which the tokens of a sequence depend on each other needs it. Returns: the handles.
        """
        if self._selection.per_token:
            return []

        signature = inspect.signature(model.forward)

        def read(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            arguments = {**signature.bind_partial(*args).arguments, **named}
            attention = arguments.get("attention_mask")
            if isinstance(attention, torch.Tensor) and attention.dim() == 2:
                self._attended = attention.bool()

        def forget(*_: Any) -> None:
            self._attended = None

        return [
            model.register_forward_pre_hook(read, with_kwargs=True),
            model.register_forward_hook(forget, always_call=True),
        ]


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
    sites = covered_sites(model, find_sites(model), thresholds.on)
    mask = Mask(sites, thresholds)
    return [*mask.watch(model), *attach(sites, mask.masked, gate=mask.needs_gate, extra=mask.extra)]


def load_sparse(name_or_path: str, thresholds: Thresholds, **options: Any) -> LoadedModel:
    """Loads a model and applies `thresholds` to it for the lifetime of the model.

    Args:
        options: Keyword arguments of `load_model`.
    """
    from sparsing.models.loading import load_model

    loaded = load_model(name_or_path, **options)
    apply(loaded.model, thresholds)
    return loaded
