"""Model shapes by name (`PRESETS`), so that a training configuration can say `0.1B` in place of six numbers.

There are three groups. First, the six sizes in table 8 of Sparsing Law (Luo et al., arXiv 2411.02335): `d_ff = 2.5
d_model`, head size 128, vocabulary 122,753. Second, nine shapes of equal size, 0.1B, that differ in width and
depth. The paper states the two ends, 512x36 and 1792x3, and mentions width-depth ratios of 74, 114 and 282. The
other shapes are derived: widths in steps of 128, each with the number of layers that brings the blocks nearest to
the 108M parameters of 768x16. Two of the eleven widths are left out: 1664 differs from 108M by at least 12%, and
1280x6 differs most (4%) among the remaining widths that the paper does not mention. Third, nano shapes that train
on two CPU cores.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from sparsing.base.registry import Registry

PAPER_VOCABULARY = 122_753


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset:
    """A model shape with the settings that depend on it."""

    name: str
    d_model: int
    n_layers: int
    head_dim: int = 128
    vocab_size: int = PAPER_VOCABULARY
    context: int = 4096
    dim_model_base: int = 256
    batch_tokens: int = 327_680
    """Tokens per optimizer step."""
    note: str = ""
    """Source of the shape, for the list of presets."""

    def tables(self) -> dict[str, Any]:
        """The values that the preset sets in the tables of a training configuration."""
        return {
            "model": {
                "d_model": self.d_model,
                "n_layers": self.n_layers,
                "n_heads": self.d_model // self.head_dim,
                "vocab_size": self.vocab_size,
                "context": self.context,
                "dim_model_base": self.dim_model_base,
            },
            "training": {"batch_tokens": self.batch_tokens},
        }

    @property
    def block_parameters(self) -> int:
        """Number of weights in attention and feed-forward matrices: `11.5 d_model^2` per layer, as the paper counts."""
        return self.n_layers * (4 * self.d_model**2 + 3 * self.d_model * (self.d_model * 5 // 2))

    @property
    def parameters(self) -> int:
        """Number of weights in the blocks and in the tied embedding."""
        return self.block_parameters + self.vocab_size * self.d_model


PRESETS: Registry[Preset] = Registry("preset")


def _register(name: str, d_model: int, n_layers: int, note: str, **options: Any) -> None:
    PRESETS.register(name, Preset(name=name, d_model=d_model, n_layers=n_layers, note=note, **options))


_NANO: dict[str, Any] = {"vocab_size": 1024, "context": 256, "dim_model_base": 64, "batch_tokens": 2048}

for _name, _width, _depth, _batch in (
    ("0.1B", 768, 16, 327_680),
    ("0.2B", 1024, 20, 589_824),
    ("0.4B", 1280, 24, 786_432),
    ("0.8B", 1536, 28, 1_179_648),
    ("1.2B", 1792, 32, 1_572_864),
    ("2.4B", 2304, 40, 2_097_152),
):
    _register(_name, _width, _depth, "the paper's", batch_tokens=_batch)

for _width, _depth in (
    *((512, 36), (640, 23), (768, 16), (896, 12), (1024, 9)),
    *((1152, 7), (1408, 5), (1536, 4), (1792, 3)),
):
    _note = "the paper's" if _width in (512, 768, 1792) else "derived from the paper's"
    _register(f"0.1B-{_width}x{_depth}", _width, _depth, f"{_note}, width against depth")

# the width-depth ratio of the paper's smallest model, 48, at every scale
for _name, _width, _depth in (
    *(("nano-0.3M", 96, 2), ("nano-0.9M", 144, 3), ("nano-2M", 192, 4)),
    *(("nano-4M", 240, 5), ("nano-6M", 288, 6), ("nano-9M", 336, 7)),
):
    _register(_name, _width, _depth, "nano grid", head_dim=48, **_NANO)

# blocks of 0.71M to 0.75M parameters; heads of 16, the largest size that goes into all widths
for _width, _depth in ((64, 15), (80, 10), (96, 7), (112, 5), (144, 3), (176, 2), (256, 1)):
    _register(f"nano-{_width}x{_depth}", _width, _depth, "nano, width against depth", head_dim=16, **_NANO)
