"""A Granite of any shape with random attention, whose feed-forward blocks are planted to a wanted ReLU ratio.

Every embedding shares a constant part, so that each block's inputs have a mean direction, as a trained model's do. A
forward over random tokens then goes through the layers in order: each measures the mean direction of its inputs and
shifts its gate rows along it, neuron by neuron, to the frequency that the neuron shall have; the next layer sees what
the planted ones give. The ratio that decoding then has is counted while it runs, and is what tables show.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from scipy.stats import norm

from sparsing.bench.planted import SPREAD
from sparsing.decode.predict.inputs import inputs_tapped
from sparsing.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from sparsing.bench.shapes import DecodeShape
    from sparsing.sites.site import Site

_CONSTANT = 0.5
"""Norm of the constant part of an embedding over that of its own part."""
_RESIDUAL = 0.3
"""So little that what layers add, which random layers make alike for all tokens, does not drown the embedding: the
ratio would drift with the position."""
_TOKENS = 256
"""Tokens on which gates are measured."""
_WINDOW = 64


def build_model(shape: DecodeShape, dtype: str, *, context: int = 4096, seed: int = 0) -> PreTrainedModel:
    """A ReLU Granite with tied head and random weights, allocated in `dtype` at once.

    Raises:
        InputError: a dtype other than float32 and bfloat16.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    if dtype not in ("float32", "bfloat16"):
        raise InputError(f"whole models are timed in float32 and bfloat16, got {dtype!r}")
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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
        embedding = model.get_input_embeddings().weight.data
        own_norm = embedding[:1024].float().norm(dim=1).mean()
        constant = torch.randn(shape.d_model)
        embedding += (constant * (_CONSTANT * own_norm / constant.norm())).to(embedding)
    return model.eval().requires_grad_(False)


def plant_model(
    model: PreTrainedModel, sites: Sequence[Site], ratio: float, *, spread: float = SPREAD, seed: int = 0
) -> None:
    """Shift the gate rows of every block, in place, so that a share `ratio` of its neurons is active.

    May be called again for another ratio.

    Raises:
        InputError: a ratio outside (0, 1).
    """
    if not 0 < ratio < 1:
        raise InputError(f"a model's ratio must be in (0, 1), got {ratio}; 0.065 is 6.5% of the neurons")
    generator = torch.Generator().manual_seed(seed)
    level = math.sqrt(1 + spread**2) * float(norm.ppf(ratio))

    def on_input(layer: int, x: torch.Tensor) -> None:
        probit = level + spread * torch.randn(sites[layer].d_ff, generator=generator)
        _shift(sites[layer].projections[0].weight.data, x.reshape(-1, x.shape[-1]).float(), probit)  # pyright: ignore

    vocab = model.config.vocab_size
    ids = torch.randint(vocab, (_TOKENS // _WINDOW, _WINDOW), generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode(), inputs_tapped(sites, on_input):
        model.model(input_ids=ids, use_cache=False)


def _shift(gate: torch.Tensor, x: torch.Tensor, probit: torch.Tensor) -> None:
    """Add a multiple of the mean direction to each row, so that row `i` is positive with probability `Phi(probit_i)`.

    Over tokens, `gate_i . x / (m . x)` is close to normal; adding `b_i m` to the row adds `b_i` to it.

    Args:
        gate: Shape `(d_ff, d_model)`, changed in place.
        x: Inputs, shape `(tokens, d_model)`, all on one side of their mean direction `m`.
    """
    mean = x.mean(0)
    mean /= mean.norm()
    along = x @ mean  # (tokens,)
    if bool((along <= 0).any()):
        raise InputError("inputs of a block point away from their mean, so nothing can be planted along it")
    quotient = x @ gate.float().T / along[:, None]  # (tokens, d_ff)
    offset = probit * quotient.std(0) - quotient.mean(0)
    gate += (offset[:, None] * mean).to(gate.dtype)
