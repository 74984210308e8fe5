"""`plan_measurement`: what a measurement will cost, before the weights are read.

The passes are those of a usual search (`measuring/cost.py`). On this machine the time of a pass is that of the same
model with one and with three layers and random weights, continued to all layers. On a named machine it is the larger of
the time for the operations and the time for reading the weights, at an assumed share of the peak.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import statistics
from typing import TYPE_CHECKING, Any

import torch

from sparsing.base.results import Result
from sparsing.errors import InputError
from sparsing.measuring.batch_size import ACCELERATOR_TOKENS, CPU_TOKENS
from sparsing.measuring.cost import PASS_OVERHEAD, dense_sec
from sparsing.measuring.window_loss import LOGITS_BYTES
from sparsing.models.architecture import auto_class
from sparsing.models.loading import LoadedModel
from sparsing.models.outline import ModelSizes, Outline
from sparsing.scale.machines import REACHED_BANDWIDTH, REACHED_FLOPS, Machine

if TYPE_CHECKING:
    from sparsing.text.corpus import Corpus

_TIMED_TOKENS = 4096
"""Tokens that stand for the corpus when a pass is timed."""
_TIMED_LAYERS = (1, 3)
"""Layers of the two models that are timed; the time of a layer is the difference."""
_TIMED_ROUNDS = 5
_LAYER_LISTS = ("layer_types", "layers_block_type", "mlp_layer_types", "no_rope_layers")
"""Entries of configurations with one value per layer."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan(Result):
    """The expected cost of a measurement."""

    kind = "measurement_plan"

    model: str
    machine: str
    """Name of a machine in `MACHINES`, or `this machine`."""
    processes: int
    """Processes that share the windows; each holds a whole copy of the model."""
    devices_per_process: int
    """Devices that a copy of the model needs."""
    dtype: str
    num_parameters: int
    num_tokens: int
    passes: float
    """Passes over the tokens, calibration, search, verification and held-out check together."""
    flops: float
    """Floating-point operations of all passes."""
    weight_bytes: float
    """Bytes of weights that all passes read."""
    memory_gb: float
    """Memory of a process: weights, one batch, logits and statistics; 1e9 bytes."""
    hours: float
    limit: str
    """What limits the speed."""


def plan_measurement(
    outline: Outline,
    corpus_tokens: int,
    width: int,
    passes: float,
    machine: Machine,
) -> Plan:
    """The cost on a named machine.

    Args:
        corpus_tokens: Tokens of the text.
        width: Tokens of a window.
        passes: Passes over the text, from `usual_passes`.

    Raises:
        InputError: If the model does not fit on all devices of the machine together.
    """
    sizes = outline.sizes
    batch = max(width, min(ACCELERATOR_TOKENS, corpus_tokens))
    held, item = memory_bytes(sizes, batch, outline.dtype), _bytes_of(outline.dtype)
    # a quarter of the memory stays free for the workspace of the kernels
    split = math.ceil(held / (0.75 * machine.memory_gb * 1e9))
    each = min(machine.devices, machine.devices_each)
    if split > each:
        raise InputError(
            f"{outline.name} needs {held / 1e9:,.0f} GB, and a machine of {machine.name} has {each} x"
            f" {machine.memory_gb:g} GB, of which a quarter stays free; choose devices with more memory"
        )
    processes = machine.devices // each * (each // split)
    flops = passes * corpus_tokens * sizes.flops_per_token(width)
    batches = math.ceil(corpus_tokens / batch)
    read = passes * batches * sizes.num_parameters * item
    # The devices that share a copy of the model work one after the other. A window is not divided among processes, so
    # the process with the most windows decides.
    windows = math.ceil(corpus_tokens / width)
    most = math.ceil(windows / processes) / windows
    compute = PASS_OVERHEAD * flops * most / (machine.peak_flops * REACHED_FLOPS)
    memory = read / (machine.peak_bandwidth * REACHED_BANDWIDTH) / min(processes, batches)
    return Plan(
        model=outline.name,
        machine=machine.name,
        processes=processes,
        devices_per_process=split,
        dtype=outline.dtype,
        num_parameters=sizes.num_parameters,
        num_tokens=corpus_tokens,
        passes=passes,
        flops=flops,
        weight_bytes=read,
        memory_gb=held / 1e9,
        hours=max(compute, memory) / 3600,
        limit="arithmetic" if compute >= memory else "reading the weights",
    )


def plan_here(outline: Outline, corpus: Corpus, passes: float) -> Plan:
    """The cost on this machine, on its CPU with the present number of threads, from the timing of few layers.

    Raises:
        InputError: If the model cannot be built with fewer layers.
    """
    sizes = outline.sizes
    windows = max(1, min(_TIMED_TOKENS // corpus.width, corpus.n_windows))
    sample = corpus.part(torch.arange(windows).numpy())
    few, more = _TIMED_LAYERS
    models = [_shortened(outline, layers) for layers in _TIMED_LAYERS]
    rounds = [[dense_sec(model, sample) for model in models] for _ in range(_TIMED_ROUNDS)]
    short, long = (statistics.median(times) for times in zip(*rounds, strict=True))
    whole = short + max(long - short, 0.0) / (more - few) * (sizes.n_layers - few)
    seconds = PASS_OVERHEAD * passes * whole * corpus.num_tokens / sample.num_tokens
    batch = max(corpus.width, min(CPU_TOKENS, corpus.num_tokens))
    return Plan(
        model=outline.name,
        machine="this machine",
        processes=1,
        devices_per_process=1,
        dtype=outline.dtype,
        num_parameters=sizes.num_parameters,
        num_tokens=corpus.num_tokens,
        passes=passes,
        flops=passes * corpus.num_tokens * sizes.flops_per_token(corpus.width),
        weight_bytes=passes
        * math.ceil(corpus.num_tokens / batch)
        * sizes.num_parameters
        * _bytes_of(outline.dtype),
        memory_gb=memory_bytes(sizes, batch, outline.dtype) / 1e9,
        hours=seconds / 3600,
        limit="as timed",
    )


def memory_bytes(sizes: ModelSizes, batch_tokens: int, dtype: str) -> float:
    """Bytes that a measurement holds: the weights, the activations of a batch, logits and statistics."""
    item = _bytes_of(dtype)
    activations = batch_tokens * (8 * sizes.d_model + 4 * sizes.d_ff) * item
    statistics = 64 * sizes.n_layers * sizes.n_neurons
    logits = min(LOGITS_BYTES, 4 * batch_tokens * sizes.vocab)
    return sizes.num_parameters * item + activations + statistics + logits


def _bytes_of(dtype: str) -> int:
    return getattr(torch, dtype).itemsize


def _shortened(outline: Outline, layers: int) -> LoadedModel:
    """The model with random weights and its first layers only."""
    config: Any = copy.deepcopy(outline.config)
    text = config.get_text_config()
    try:
        text.num_hidden_layers = layers
        for key in _LAYER_LISTS:
            if isinstance(values := getattr(text, key, None), list):
                setattr(text, key, values[:layers])
        model = auto_class(config).from_config(
            config, dtype=getattr(torch, outline.dtype), trust_remote_code=outline.trust_remote_code
        )
    except (ValueError, TypeError, AttributeError, IndexError) as error:
        raise InputError(
            f"{outline.name} cannot be built with {layers} layers to time it ({error}); name a machine, e.g."
            " --plan h100"
        ) from error
    return LoadedModel.of(model, outline.tokenizer, name=outline.name)
