"""Faster decoding: the feed-forward blocks of a model are computed by kernels that skip inactive neurons.

    with accelerate(model, thresholds) as fast:
        fast.model.generate(...)
        print(fast.stats())

A forward of up to 8 rows (batch size times new tokens) goes through the kernels. A longer forward (a prompt) goes
through the model's own code with the rule applied as in `sparsify`. The kernels read a neuron's weights as whole rows,
so `down_proj` is stored transposed. Its parameter becomes a view of that copy, so the weights are in memory once.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Literal

import torch

from sparsing.base.dtype_names import full_dtype_name
from sparsing.decode.accelerated_block import AcceleratedBlock
from sparsing.decode.accelerated_linear import AcceleratedLinear, other_linears
from sparsing.decode.autotune.choose import choose_block_ways, choose_linear_ways
from sparsing.decode.autotune.threads import fastest_threads
from sparsing.decode.checks import DecodeMode, check_arguments, check_equivalence, check_mode
from sparsing.decode.kernels.cuts import layer_cuts, no_cuts
from sparsing.decode.kernels.interface import MAX_TOKENS
from sparsing.decode.kernels.packing import PackedFFN, convert_weights, pack
from sparsing.decode.kernels.pages import copy_to_huge_pages, move_to_huge_pages
from sparsing.decode.predict.inputs import sample_inputs
from sparsing.decode.predict.predictor import Predictor, layer_predictors
from sparsing.decode.stats import DecodeStats, decode_stats
from sparsing.decode.swap import Swap, share_weights
from sparsing.errors import UnsupportedModelError
from sparsing.hardware.threads import use_threads
from sparsing.measuring.weight_bytes import model_weight_bytes
from sparsing.rules.mask import Mask
from sparsing.sites.discovery import find_sites
from sparsing.sites.site import Site
from sparsing.sites.tap import Rows, attach

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from sparsing.decode.predict.quantised import LayerPredictor
    from sparsing.rules.thresholds import Thresholds


def accelerate(
    model: PreTrainedModel,
    thresholds: Thresholds | None,
    *,
    predictor: Predictor | Sequence[LayerPredictor] | None = None,
    mode: DecodeMode = "sparse",
    dtype: str | None = None,
    linears: bool = True,
    prefill: Literal["masked", "dense"] = "masked",
    measure: bool = True,
    sample: torch.Tensor | None = None,
    check_recall: bool = False,
    threads: int | None = None,
) -> Accelerated:
    """Let the model decode by kernels that skip inactive neurons, until `undo()` or the end of a `with` block.

    Args:
        thresholds: Thresholds of a threshold rule; None only with mode `dense` or `torch`.
        predictor: Predicts the active neurons from few bytes; None computes the active set exactly.
        mode: `sparse`; `dense` for the baseline, the same kernels with nothing skipped; `torch` for the model's own
            code with nothing skipped. `Accelerated.mode` may be changed later.
        dtype: `float32`, `bfloat16` or `int8` weights in the kernels. None takes the model's own dtype, which is the
            only choice without a second copy of the weights.
        linears: On a CPU, also decode the projections of attention and the head by kernels.
        prefill: Whether forwards of more than 8 rows apply the rule (`masked`) or not (`dense`).
        measure: Time the possible ways now and take the fastest for each layer and number of rows. The timings are kept
            in the user's cache folder. False always takes the kernels.
        sample: Token ids, shape `(1, tokens)`, whose inputs are timed on; None takes random ids.
        check_recall: Compute all neurons beside the predicted neurons to measure the recall. This is slow.
        threads: CPU threads of torch and of the kernels until `undo()`. None takes `torch.get_num_threads()`, or fewer
            if `measure` finds that fewer are faster, as on a machine whose cores have other work.

    Raises:
        InputError: if there are no kernels for the device, the thresholds are not of a threshold rule or are for
            another model, the predictor was made for other thresholds, or the mode or the dtype is unknown.
        UnsupportedModelError: if no block of the model has a kernel. If only some blocks have none, they keep their own
            forward, and a warning names them.
    """
    sites = find_sites(model)
    dtype = None if dtype is None else full_dtype_name(dtype)
    check_arguments(model, thresholds, mode, dtype)
    if thresholds is not None:
        thresholds.for_sites(sites)
    predictors = layer_predictors(predictor, thresholds, len(sites), next(model.parameters()).device)
    fast = Accelerated(model, sites, thresholds, prefill=prefill, mode=mode)
    try:
        fast.set_threads(threads or (fastest_threads(model) if measure else torch.get_num_threads()))
        inputs = sample_inputs(model, sites, thresholds, sample) if measure and thresholds else {}
        fast.install(predictors, dtype=dtype, linears=linears, check_recall=check_recall)
        if inputs:
            choose_block_ways(fast.blocks, {sites[layer].block: x for layer, x in inputs.items()})
        if measure and fast.linears:
            choose_linear_ways(fast.linears)
    except BaseException:
        fast.undo()
        raise
    return fast


class Accelerated:
    """A model that decodes by kernels. `accelerate` makes it."""

    def __init__(
        self,
        model: PreTrainedModel,
        sites: Sequence[Site],
        thresholds: Thresholds | None,
        *,
        prefill: str,
        mode: DecodeMode,
    ):
        self.model, self.thresholds = model, thresholds
        self.blocks: dict[str, AcceleratedBlock] = {}
        """Accelerated blocks by name, in layer order."""
        self.linears: dict[str, AcceleratedLinear] = {}
        """Accelerated projections outside the blocks, by name."""
        self._sites, self._masked_prefill = sites, prefill == "masked"
        self._mode: DecodeMode = mode
        self._swap = Swap()
        self._other_bytes = 0
        self.threads = torch.get_num_threads()
        """CPU threads of torch and of the kernels."""
        self._mask = None if thresholds is None else Mask(sites, thresholds)

    @property
    def mode(self) -> DecodeMode:
        """`sparse`, `dense` or `torch`; may be set."""
        return self._mode

    @mode.setter
    def mode(self, mode: DecodeMode) -> None:
        check_mode(mode, self.thresholds)
        self._mode = mode
        for part in (*self.blocks.values(), *self.linears.values()):
            part.mode = mode

    def set_threads(self, threads: int) -> None:
        """Set the number of CPU threads until `undo`; `accelerate` calls this once, before the kernels are made."""
        self.threads = threads
        if self.model.device.type == "cpu":
            setting = ExitStack()
            setting.enter_context(use_threads(threads))
            self._swap.on_undo(setting.close)

    def stats(self) -> DecodeStats:
        """Statistics of the forwards of up to 8 rows since `reset_stats`."""
        return decode_stats(self.blocks, mode=self._mode, other_bytes=self._other_bytes)

    def reset_stats(self) -> None:
        """Set the statistics to zero."""
        for block in self.blocks.values():
            block.reset()

    @property
    def overhead_bytes(self) -> int:
        """Bytes of memory beyond the model's own weights: copies in another dtype, and predictors."""
        own = {p.untyped_storage().data_ptr() for p in self.model.parameters()}
        parts = (*self.blocks.values(), *self.linears.values())
        held = {t.untyped_storage().data_ptr(): t for part in parts for t in part.tensors()}
        copies = sum(t.untyped_storage().nbytes() for at, t in held.items() if at not in own)
        return copies + sum(block.copy_bytes for block in self.blocks.values())

    def install(
        self,
        predictors: Sequence[LayerPredictor | None],
        *,
        dtype: str | None,
        linears: bool,
        check_recall: bool,
    ) -> None:
        """Replace the forwards of the model; `accelerate` calls this once. `undo` reverts also a part of the changes.

        Raises:
            UnsupportedModelError: if no block of the model has a kernel.
        """
        on_cpu = next(self.model.parameters()).device.type == "cpu"
        self._replace_blocks(predictors, dtype, check_recall)
        if linears and on_cpu:
            self._replace_linears(dtype)

    def undo(self) -> None:
        """Restore the model, bit for bit. A second call does nothing."""
        self._swap.undo()
        self.blocks, self.linears = {}, {}

    def __enter__(self) -> Accelerated:
        return self

    def __exit__(self, *exception: object) -> None:
        self.undo()

    def _apply(self, index: int, rows: Rows) -> torch.Tensor | None:
        """Apply the rule in the model's own code: for prompts, blocks without a kernel, and blocks that go by torch."""
        assert self._mask is not None
        count = rows.n_tokens
        if self._mode != "sparse" or (count > MAX_TOKENS and not self._masked_prefill):
            return None
        change = self._mask.change(index, rows)
        block = self.blocks.get(self._sites[index].block)
        if block is not None and count <= MAX_TOKENS:
            block.add_masked_call(change.active)
        return change.h

    def _replace_blocks(
        self, predictors: Sequence[LayerPredictor | None], dtype: str | None, check_recall: bool
    ) -> None:
        reasons = []
        for layer, site in enumerate(self._sites):
            try:
                packed = pack(site)
                check_equivalence(self.model.get_submodule(site.block), site, packed)
            except UnsupportedModelError as error:
                reasons.append(error)
                # level 4 is the caller of `accelerate`
                warnings.warn(
                    f"{error}; this block keeps its own forward, with the rule applied as a mask",
                    stacklevel=4,
                )
                continue
            self._replace_block(layer, packed, predictors[layer], dtype, check_recall)
        if not self.blocks:
            raise reasons[0]
        if self._mask is not None:  # after `check_equivalence`, which compares dense outputs
            for handle in attach(
                self._sites, self._apply, gate=self._mask.needs_gate, extra=self._mask.extra
            ):
                self._swap.on_undo(handle.remove)
        # all sites, since a token reads the weights of only those experts that it is routed to
        total = model_weight_bytes(self.model, self._sites).total_bytes
        self._other_bytes = total - model_weight_bytes(self.model, self._replaced()).ffn_bytes

    def _replace_block(
        self,
        layer: int,
        packed: PackedFFN,
        predictor: LayerPredictor | None,
        dtype: str | None,
        check_recall: bool,
    ) -> None:
        site = self._sites[layer]
        module = self.model.get_submodule(site.block)
        cuts = no_cuts(packed.d_ff)
        if self.thresholds is not None:  # an ordinary block has one number
            cuts = layer_cuts(packed, self.thresholds, self.thresholds.for_sites(self._sites)[layer][0])
        converted = convert_weights(packed, dtype)
        shared = converted is packed  # a copy in another dtype cannot replace the model's parameters
        final = move_to_huge_pages(converted, fused=shared and len(site.projections) == 1)
        if shared:
            share_weights(self._swap, site, final)
        block = AcceleratedBlock(final, cuts, predictor, module.forward, check_recall=check_recall)
        block.mode = self._mode
        self._swap.replace_forward(module, block.forward)
        self.blocks[site.block] = block

    def _replace_linears(self, dtype: str | None) -> None:
        wanted = torch.bfloat16 if dtype == "bfloat16" else None
        for name, module in list(other_linears(self.model, self._replaced())):
            if wanted in (None, module.weight.dtype):  # otherwise the kernel reads a copy in another dtype
                self._swap.move_parameter(module.weight, copy_to_huge_pages(module.weight.detach()))
            linear = AcceleratedLinear(module, wanted)
            linear.mode = self._mode
            self._other_bytes += linear.weight_bytes - module.weight.numel() * module.weight.element_size()
            self._swap.replace_forward(module, linear.forward)
            self.linears[name] = linear

    def _replaced(self) -> list[Site]:
        return [site for site in self._sites if site.block in self.blocks]
