"""Shapes to time decoding at, by name: the paper's six and its variants, and two Llamas."""

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
    """What decides the bytes of a decoded token."""

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
        """Weights of one gated block: gate, up and down."""
        return 3 * self.d_model * self.d_ff


def shape_of(loaded: LoadedModel) -> DecodeShape:
    """The shape of a loaded model."""
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
            d_ff=_preset.d_model * 5 // 2,
            n_layers=_preset.n_layers,
            n_heads=_heads,
            n_kv_heads=_heads,
            head_dim=_preset.head_dim,
            vocab_size=_preset.vocab_size,
        ),
    )

for _name, _width, _d_ff, _depth, _heads, _head_dim in (
    ("Llama-3.2-1B", 2048, 8192, 16, 32, 64),
    ("Llama-3-8B", 4096, 14336, 32, 32, 128),
):
    SHAPES.register(
        _name,
        DecodeShape(
            name=_name,
            d_model=_width,
            d_ff=_d_ff,
            n_layers=_depth,
            n_heads=_heads,
            n_kv_heads=8,
            head_dim=_head_dim,
            vocab_size=128_256,
        ),
    )
