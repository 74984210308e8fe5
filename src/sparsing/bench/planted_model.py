"""A Granite model of any shape with random attention, whose blocks have a requested ReLU activation ratio.

`build_model` makes the model, `plant_model` sets its activation ratio. Every embedding has a constant part, so that
the inputs of each block have a mean direction, as in a trained model. `plant_model` runs one forward over random
tokens. Each layer in turn measures the mean direction of its inputs and shifts its gate rows along this direction,
until every neuron has its requested frequency. The next layer sees the output of the shifted layers before it.

The activation ratio during decoding differs slightly; it is counted while the benchmark runs, and tables show it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from sparsing.bench.planted import SPREAD, planted_level
from sparsing.decode.predict.inputs import inputs_tapped
from sparsing.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from sparsing.bench.shapes import DecodeShape
    from sparsing.sites.site import Site

MODEL_DTYPES = ("float32", "bfloat16")
_CONSTANT = 0.5
"""Norm of the constant part of an embedding over the norm of its random part."""
_RESIDUAL = 0.3
"""Scale of what all layers together add to the embedding. Random layers add nearly the same vector to every token, so
a larger scale would drown the embedding and make the activation ratio drift with the position."""
_TOKENS = 256
"""Tokens on which the inputs of a layer are measured."""
_WINDOW = 64


def build_model(shape: DecodeShape, dtype: str, *, context: int = 4096, seed: int = 0) -> PreTrainedModel:
    """A random ReLU Granite model with tied head, allocated in `dtype`.

    Raises:
        InputError: if the dtype is neither float32 nor bfloat16.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    if dtype not in MODEL_DTYPES:
        raise InputError(f"whole models are timed in {' and '.join(MODEL_DTYPES)}, got {dtype!r}")
    config = AutoConfig.for_model(
        "granite",
        hidden_act="relu",
        hidden_size=shape.d_model,
        intermediate_size=shape.d_ff,
        num_hidden_layers=shape.n_layers,
        num_attention_heads=shape.n_heads,
        num_key_value_heads=shape.n_kv_heads,
        attention_multiplier=shape.head_dim**-0.5,
        embedding_multiplier=12.0,
        residual_multiplier=_RESIDUAL / math.sqrt(shape.n_layers),
        vocab_size=shape.vocab_size,
        max_position_embeddings=context,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):  # transformers initialises weights from the global generator
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
        embedding = model.get_input_embeddings().weight.data
        # the norm of some rows is enough, and a full float32 copy of the embedding would be large
        random_norm = embedding[:1024].float().norm(dim=1).mean()
        constant = torch.randn(shape.d_model)
        embedding += (constant * (_CONSTANT * random_norm / constant.norm())).to(embedding)
    return model.eval().requires_grad_(False)


def plant_model(
    model: PreTrainedModel, sites: Sequence[Site], ratio: float, *, spread: float = SPREAD, seed: int = 0
) -> None:
    """Shift the gate rows of every block, in place, so that a share `ratio` of its neurons is active.

    The function may be called again for another ratio.

    Raises:
        InputError: if the ratio is outside (0, 1).
    """
    if not 0 < ratio < 1:
        raise InputError(
            f"the activation ratio of a model must be in (0, 1), got {ratio}; write 0.065 for 6.5% of the neurons"
        )
    generator = torch.Generator().manual_seed(seed)
    level = planted_level(ratio, spread)

    def on_input(layer: int, x: torch.Tensor) -> None:
        probit = level + spread * torch.randn(sites[layer].d_ff, generator=generator)
        gate = sites[layer].projections[0].get_parameter("weight").data
        _shift_rows(gate, x.reshape(-1, x.shape[-1]).float(), probit)

    vocab = model.config.vocab_size
    ids = torch.randint(vocab, (_TOKENS // _WINDOW, _WINDOW), generator=torch.Generator().manual_seed(seed))
    # the hooks run before each block, so a block is already shifted when it computes its output
    with torch.inference_mode(), inputs_tapped(sites, on_input):
        model.model(input_ids=ids, use_cache=False)


def _shift_rows(gate: torch.Tensor, x: torch.Tensor, probit: torch.Tensor) -> None:
    """Add a multiple of the mean input direction `m` to each gate row.

    Row `i` is then positive with probability `Phi(probit_i)`: over tokens, `gate_i . x / (m . x)` is close to normal,
    and adding `b_i m` to the row adds `b_i` to this quotient.

    Args:
        gate: Shape `(d_ff, d_model)`, changed in place.
        x: Inputs, shape `(tokens, d_model)`, float32, all with `m . x > 0`.
        probit: Shape `(d_ff,)`.

    Raises:
        InputError: if `m . x <= 0` for an input, since the sign of its gates would then be reversed.
    """
    mean = x.mean(0)
    mean /= mean.norm()
    along = x @ mean  # (tokens,)
    if bool((along <= 0).any()):
        raise InputError(
            "some inputs of a block point away from their mean direction, so no activation ratio can be planted;"
            " use another seed or a larger shape"
        )
    quotient = x @ gate.float().T / along[:, None]  # (tokens, d_ff)
    offset = probit * quotient.std(0) - quotient.mean(0)
    gate += (offset[:, None] * mean).to(gate.dtype)
