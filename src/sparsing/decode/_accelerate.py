"""From thresholds to faster decoding: a model's feed-forward blocks answered by kernels that skip inactive neurons.

    with accelerate(model, thresholds) as fast:
        fast.model.generate(...)
        print(fast.stats())

A forward of up to 8 rows (batch x new tokens) goes through the kernels, more (a prompt) through the model's own
code with the rule applied as `sparsify` applies it. The kernels read a neuron's weights as whole rows, so `down_proj`
is held transposed, and its parameter becomes a view of that: weights are in memory once.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch

from sparsing.decode.accelerated_block import FastBlock
from sparsing.decode.accelerated_linear import FastLinear, other_linears
from sparsing.decode.autotune.choose import choose_block_ways, choose_linear_ways
from sparsing.decode.checks import Mode, check_arguments, check_mode, checked, converted, paged, share
from sparsing.decode.kernels.cuts import layer_cuts, no_cuts
from sparsing.decode.kernels.dispatch import MAX_TOKENS, set_cpu_threads
from sparsing.decode.kernels.packing import PackedFFN, pack
from sparsing.decode.kernels.pages import on_huge_pages
from sparsing.decode.predict.inputs import sample_inputs
from sparsing.decode.predict.predictor import Predictor, layer_predictors
from sparsing.decode.stats import DecodeStats, decode_stats
from sparsing.decode.swap import Swap
from sparsing.errors import UnsupportedModelError
from sparsing.measuring.weight_bytes import model_weight_bytes
from sparsing.rules.mask import Mask
from sparsing.sites.discovery import find_sites
from sparsing.sites.site import Site
from sparsing.sites.tap import Rows, attach

if TYPE_CHECKING:
    from torch import nn

    from sparsing.decode.predict.quantised import LayerPredictor
    from sparsing.rules.thresholds import Thresholds


def accelerate(
    model: nn.Module,
    thresholds: Thresholds | None,
    *,
    predictor: Predictor | Sequence[LayerPredictor] | None = None,
    mode: Mode = "sparse",
    dtype: str | None = None,
    linears: bool = True,
    prefill: Literal["masked", "dense"] = "masked",
    measure: bool = True,
    sample: torch.Tensor | None = None,
    check_recall: bool = False,
) -> Accelerated:
    """Let the model decode by kernels that skip inactive neurons, until `undo()` or the end of a `with` block.

    Args:
        thresholds: Of a threshold rule; None only with mode `dense`.
        predictor: Names the active neurons from few bytes; None finds them exactly.
        mode: `sparse`; `dense` for the baseline, the same kernels with nothing skipped; `torch` for the model's own
            code, nothing skipped. `Accelerated.mode` may be set again at any time.
        dtype: `float32`, `bfloat16` or `int8` weights in the kernels; None takes the model's own, which is the one
            that needs no second copy of the weights.
        linears: On a CPU, let attention's projections and the head decode at the speed of memory too.
        prefill: How forwards of more than 8 rows go: with the rule (`masked`) or without.
        measure: Time the ways at load and take the fastest per layer and number of rows (kept in the user's cache
            folder); False takes the kernels always.
        sample: Token ids, shape `(1, tokens)`, to time on; None takes random ones.
        check_recall: Compute all neurons beside the predicted ones to count the recall; slow.

    Raises:
        InputError: no kernels for the device, thresholds that are not of a threshold rule or for another model, a
            predictor made for other thresholds, an unknown mode or dtype.
        UnsupportedModelError: no block of the model has a kernel. Where only some have none, these stay as they
            are, with a warning.
    """
    sites = find_sites(model)
    check_arguments(model, thresholds, mode, dtype)
    if thresholds is not None:
        thresholds.for_sites(sites)
    device = next(model.parameters()).device
    copies = layer_predictors(predictor, thresholds, len(sites), device)
    inputs = sample_inputs(model, sites, thresholds, sample) if measure and thresholds else {}
    fast = Accelerated(model, sites, thresholds, prefill=prefill, mode=mode)
    on_cpu = device.type == "cpu"
    try:
        if on_cpu:
            threads = set_cpu_threads(torch.get_num_threads())
            fast._swap.later(lambda: set_cpu_threads(threads))
        fast._replace_blocks(copies, dtype, check_recall)
        if linears and on_cpu:
            fast._replace_linears(dtype)
        if inputs:
            choose_block_ways(fast.blocks, {sites[layer].name: x for layer, x in inputs.items()})
        if measure and fast.linears:
            choose_linear_ways(fast.linears)
    except BaseException:
        fast.undo()
        raise
    return fast


class Accelerated:
    """A model whose decoding goes through kernels; made by `accelerate`."""

    def __init__(
        self,
        model: nn.Module,
        sites: Sequence[Site],
        thresholds: Thresholds | None,
        *,
        prefill: str,
        mode: Mode,
    ):
        self.model, self.thresholds = model, thresholds
        self.blocks: dict[str, FastBlock] = {}
        """Accelerated blocks by name, in layer order."""
        self.linears: dict[str, FastLinear] = {}
        """Accelerated other projections by name."""
        self._sites, self._masked_prefill = sites, prefill == "masked"
        self._mode: Mode = mode
        self._swap = Swap()
        self._other_bytes = 0
        self._mask = None if thresholds is None else Mask(sites, thresholds)

    @property
    def mode(self) -> Mode:
        """`sparse`, `dense` or `torch`; may be set."""
        return self._mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        check_mode(mode, self.thresholds)
        self._mode = mode
        for part in (*self.blocks.values(), *self.linears.values()):
            part.mode = mode

    def stats(self) -> DecodeStats:
        """What was read since `reset_stats`, in forwards of up to 8 rows."""
        return decode_stats(self.blocks, mode=self._mode, other_bytes=self._other_bytes)

    def reset_stats(self) -> None:
        for block in self.blocks.values():
            block.reset()

    @property
    def overhead_bytes(self) -> int:
        """Memory held beyond the model's own weights: copies in another dtype, predictors."""
        own = {p.untyped_storage().data_ptr() for p in self.model.parameters()}
        parts = (*self.blocks.values(), *self.linears.values())
        held = {t.untyped_storage().data_ptr(): t for part in parts for t in part.tensors()}
        copies = sum(t.untyped_storage().nbytes() for at, t in held.items() if at not in own)
        return copies + sum(block.copy_bytes for block in self.blocks.values())

    def undo(self) -> None:
        """Give the model back as it was, bit for bit; a second call does nothing."""
        self._swap.undo()
        self.blocks, self.linears = {}, {}

    def __enter__(self) -> Accelerated:
        return self

    def __exit__(self, *exception: object) -> None:
        self.undo()

    def _apply(self, index: int, rows: Rows) -> torch.Tensor | None:
        """The rule in the model's own code: prompts, blocks without a kernel, and where that is the faster way."""
        assert self._mask is not None
        count = len(rows.h)
        if self._mode != "sparse" or (count > MAX_TOKENS and not self._masked_prefill):
            return None
        change = self._mask.change(index, rows)
        block = self.blocks.get(self._sites[index].block)
        if block is not None and count <= MAX_TOKENS:
            block.masked(change.active)
        return change.h

    def _replace_blocks(
        self, copies: Sequence[LayerPredictor | None], dtype: str | None, check_recall: bool
    ) -> None:
        reasons = []
        for layer, site in enumerate(self._sites):
            try:
                packed = checked(self.model.get_submodule(site.block), site, pack(site))
            except UnsupportedModelError as error:
                reasons.append(error)
                warnings.warn(f"{error}; this block stays as it is, with the rule as a mask", stacklevel=4)
                continue
            self._replace_block(layer, packed, copies[layer], dtype, check_recall)
        if not self.blocks:
            raise reasons[0]
        if self._mask is not None:  # after the blocks were checked, which the rule would disturb
            for handle in attach(self._sites, self._apply, gate=self._mask.needs_gate):
                self._swap.later(handle.remove)
        weights = model_weight_bytes(self.model, self._replaced())
        self._other_bytes = weights.total_bytes - weights.ffn_bytes

    def _replace_block(
        self, layer: int, packed: PackedFFN, copy: LayerPredictor | None, dtype: str | None, recall: bool
    ) -> None:
        site = self._sites[layer]
        module = self.model.get_submodule(site.block)
        cuts = no_cuts(packed.d_ff) if self.thresholds is None else layer_cuts(packed, self.thresholds, layer)
        in_dtype = converted(packed, dtype)
        read = paged(in_dtype, fused=in_dtype is packed and len(site.projections) == 1)
        if in_dtype is packed:
            share(self._swap, site, read)
        block = FastBlock(read, cuts, copy, module.forward, check_recall=recall)
        block.mode = self._mode
        self._swap.forward(module, block.forward)
        self.blocks[site.block] = block

    def _replace_linears(self, dtype: str | None) -> None:
        wanted = torch.bfloat16 if dtype == "bfloat16" else None
        for name, module in list(other_linears(self.model, self._replaced())):
            if wanted in (None, module.weight.dtype):  # otherwise a copy is read
                self._swap.memory(module.weight, on_huge_pages(module.weight.detach()))
            linear = FastLinear(module, wanted)
            linear.mode = self._mode
            self._other_bytes += linear.weight_bytes - module.weight.numel() * module.weight.element_size()
            self._swap.forward(module, linear.forward)
            self.linears[name] = linear

    def _replaced(self) -> list[Site]:
        return [site for site in self._sites if site.block in self.blocks]
