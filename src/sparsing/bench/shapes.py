"""Named model shapes that decoding is timed at: the shapes of the paper's models, and two Llama models."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from sparsing.base.registry import Registry
from sparsing.models.paper_shapes import PRESETS

if TYPE_CHECKING:
    from sparsing.models.loading import LoadedModel


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodeShape:
    """The sizes that decide how many bytes of weights a decoded token reads."""

    name: str
    d_model: int
    d_ff: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    vocab_size: int

    @property
    def ffn_weights(self) -> int:
        """Number of weights of one gated block: gate, up and down."""
        return 3 * self.d_model * self.d_ff


def shape_of(loaded: LoadedModel) -> DecodeShape:
    """The shape of a loaded model, named after the last part of the model's name."""
    config, site = loaded.model.config.get_text_config(), loaded.sites[0]
    heads = config.num_attention_heads
    return DecodeShape(
        name=Path(loaded.name).name,
        d_model=site.d_model,
        d_ff=site.d_ff,
        n_layers=len(loaded.sites),
        n_heads=heads,
        n_kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or site.d_model // heads,
        vocab_size=config.vocab_size,
    )


SHAPES: Registry[DecodeShape] = Registry("shape")

for _name in PRESETS:
    _preset = PRESETS[_name]
    _heads = _preset.d_model // _preset.head_dim
    SHAPES.register(
        _name,
        DecodeShape(
            name=_name,
            d_model=_preset.d_model,
            d_ff=_preset.d_model * 5 // 2,  # table 8 of Sparsing Law: d_ff = 2.5 d_model
            n_layers=_preset.n_layers,
            n_heads=_heads,
            n_kv_heads=_heads,
            head_dim=_preset.head_dim,
            vocab_size=_preset.vocab_size,
        ),
    )

_LLAMA = {"n_heads": 32, "n_kv_heads": 8, "vocab_size": 128_256}
for _shape in (
    DecodeShape(name="Llama-3.2-1B", d_model=2048, d_ff=8192, n_layers=16, head_dim=64, **_LLAMA),
    DecodeShape(name="Llama-3-8B", d_model=4096, d_ff=14336, n_layers=32, head_dim=128, **_LLAMA),
):
    SHAPES.register(_shape.name, _shape)
