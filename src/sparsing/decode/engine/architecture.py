"""The architecture of a GGUF model as the engine sees it: sizes, scales, norms, rotary embedding and activation.

`read_architecture` turns the keys of a GGUF file into one `Architecture`, checks every value, and refuses models that
compute something that the engine does not. `weights.py` reads the tensors and checks their shapes.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsing.errors import InputError, UnsupportedModelError

if TYPE_CHECKING:
    from sparsing.models.gguf_file import GgufFile

ACTS = ("relu", "relu2", "silu", "gelu", "gelu_tanh")
"""The activations, in the order of `block_kernel.ACTS`."""
_SPELLINGS = {
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "swish": "silu",
    "relu_squared": "relu2",
}
_MOST = 2**20
"""Upper limit of sizes other than the vocabulary, far above any model."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Kind:
    """What the name of an architecture implies and the keys of the file do not say."""

    act: str = "silu"
    gated: bool = True
    neox: bool = False
    """Rotary embedding turns channels `i` and `i + rope_dims / 2`; else the neighbours `2 i` and `2 i + 1`."""
    embeds_by_root: bool = False
    """The embedding is scaled by the square root of `d_model`."""
    post_norms: bool = False
    """The outputs of attention and of the block are normalised before they are added."""
    window_pattern: int = 1
    """Every n-th layer attends to all tokens, the others to a window; 1: the window, if any, is of all layers."""
    local_base: float | None = None
    """Base of the rotary embedding in layers with a window, if the file does not give it."""


_KINDS = {
    "llama": _Kind(),
    "granite": _Kind(),
    "minicpm": _Kind(),
    "arcee": _Kind(act="relu2", gated=False),
    "qwen2": _Kind(neox=True),
    "qwen3": _Kind(neox=True),
    "gemma": _Kind(act="gelu_tanh", neox=True, embeds_by_root=True),
    "gemma2": _Kind(act="gelu_tanh", neox=True, embeds_by_root=True, post_norms=True, window_pattern=2),
    "gemma3": _Kind(
        act="gelu_tanh",
        neox=True,
        embeds_by_root=True,
        post_norms=True,
        window_pattern=6,
        local_base=10_000.0,
    ),
}
"""`general.architecture` to what it implies."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
    """Everything that decides what a model computes, besides its weights."""

    name: str
    """`general.architecture` of the file, e.g. `llama`."""
    n_layers: int
    d_model: int
    d_ff: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    vocab_size: int
    context: int
    """Tokens that the model was trained for."""
    act: str
    gated: bool
    """Whether blocks have a gate; else `h = act(up)`."""
    post_norms: bool
    norm_eps: float
    embedding_scale: float
    residual_scale: float
    logit_scale: float
    """Factor of the logits."""
    attention_scale: float
    """Factor of `q . k`."""
    attention_cap: float
    """Soft cap `c tanh(s / c)` of the attention scores; 0 for none."""
    logit_cap: float
    """The same for the logits."""
    windows: tuple[int, ...]
    """Tokens that each layer attends to, the current one included; 0 for all."""
    neox: bool
    rope_dims: int
    rope_bases: tuple[float, ...]
    """Base of the rotary embedding in each layer."""
    rope_scales: tuple[float, ...]
    """Factor of the position in each layer."""


def read_architecture(file: GgufFile) -> Architecture:
    """The architecture that the keys of the file describe.

    Raises:
        UnsupportedModelError: If the engine cannot compute this architecture.
        InputError: If a key is missing or has an impossible value.
    """
    name = file.metadata.get("general.architecture")
    if name not in _KINDS:
        raise UnsupportedModelError(
            f"{file.path}: the architecture {name!r} is not decoded by this engine; it decodes {', '.join(_KINDS)}"
        )
    kind, keys = _KINDS[name], _Keys(file, name)
    if keys.number("expert_count", 0, most=_MOST):
        raise UnsupportedModelError(f"{file.path}: mixtures of experts are not decoded by this engine")
    d_model, n_layers = keys.size("embedding_length"), keys.size("block_count", most=4096)
    heads = keys.size("attention.head_count")
    kv_heads = keys.size("attention.head_count_kv", heads)
    head_dim = keys.size("attention.key_length", d_model // heads or 1)
    if keys.size("attention.value_length", head_dim) != head_dim:
        raise UnsupportedModelError(f"{file.path}: keys and values of different length are not decoded")
    rope_dims = keys.size("rope.dimension_count", head_dim)
    if heads % kv_heads or rope_dims > head_dim or rope_dims % 2:
        raise InputError(
            f"{file.path}: {heads} heads, {kv_heads} heads of keys, {head_dim} channels a head and {rope_dims} rotary"
            " channels contradict each other; the file is damaged"
        )
    windows = _windows(keys, kind, n_layers)
    return Architecture(
        name=name,
        n_layers=n_layers,
        d_model=d_model,
        d_ff=keys.size("feed_forward_length"),
        n_heads=heads,
        n_kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=file.tensor("token_embd.weight").num_rows,
        context=keys.size("context_length", most=2**31),
        act=_act(file, kind, keys.text("hidden_activation")),
        gated=kind.gated,
        post_norms=kind.post_norms,
        norm_eps=keys.number("attention.layer_norm_rms_epsilon", least=1e-12, most=1.0),
        embedding_scale=keys.number("embedding_scale", _embedding_scale(name, kind, d_model), least=1e-9),
        residual_scale=keys.number(
            "residual_scale", 1.4 / math.sqrt(n_layers) if name == "minicpm" else 1.0, least=1e-9
        ),
        logit_scale=1 / keys.number("logit_scale", d_model / 256 if name == "minicpm" else 1.0, least=1e-9),
        attention_scale=keys.number(
            "attention.scale", _attention_scale(name, d_model, heads, head_dim, n_layers)
        ),
        attention_cap=keys.number("attn_logit_softcapping", 50.0 if name == "gemma2" else 0.0),
        logit_cap=keys.number("final_logit_softcapping", 30.0 if name == "gemma2" else 0.0),
        windows=windows,
        neox=kind.neox,
        rope_dims=rope_dims,
        **_rope(file, keys, kind, windows),
    )


def _act(file: GgufFile, kind: _Kind, given: str | None) -> str:
    """The activation that the file names, else that of the architecture."""
    act = _SPELLINGS.get(given or kind.act, given or kind.act)
    if act not in ACTS:
        raise UnsupportedModelError(
            f"{file.path}: the activation {given!r} is not decoded by this engine; it decodes {', '.join(ACTS)}"
        )
    return act


def _embedding_scale(name: str, kind: _Kind, d_model: int) -> float:
    return math.sqrt(d_model) if kind.embeds_by_root else 12.0 if name == "minicpm" else 1.0


def _attention_scale(name: str, d_model: int, heads: int, head_dim: int, n_layers: int) -> float:
    """`1 / sqrt(head_dim)`, but of `d_model / heads` in the 27B models of Gemma 2 and 3, as llama.cpp decides it."""
    largest = (name, n_layers) in {("gemma2", 46), ("gemma3", 62)}
    return 1 / math.sqrt(d_model // heads if largest else head_dim)


def _windows(keys: _Keys, kind: _Kind, n_layers: int) -> tuple[int, ...]:
    window = int(keys.number("attention.sliding_window", 4096 if keys.name == "gemma2" else 0, most=2**31))
    every = kind.window_pattern
    return tuple(0 if every > 1 and layer % every == every - 1 else window for layer in range(n_layers))


def _rope(file: GgufFile, keys: _Keys, kind: _Kind, windows: tuple[int, ...]) -> dict[str, Any]:
    """Base and scale of the rotary embedding for each layer."""
    scaling = keys.text("rope.scaling.type") or "none"
    if scaling not in ("none", "linear"):
        raise UnsupportedModelError(
            f"{file.path}: the scaling {scaling!r} of the rotary embedding is not decoded by this engine; it decodes"
            " none and linear, and the factors of Llama 3"
        )
    factor = keys.number("rope.scaling.factor", 1.0, least=1e-6) if scaling == "linear" else 1.0
    base = keys.number("rope.freq_base", 10_000.0, least=1.0, most=1e12)
    local = keys.number("rope.freq_base_swa", kind.local_base or base, least=1.0, most=1e12)
    is_local = [kind.local_base is not None and window > 0 for window in windows]
    return {
        "rope_bases": tuple(local if own else base for own in is_local),
        "rope_scales": tuple(1.0 if own else 1 / factor for own in is_local),
    }


class _Keys:
    """The keys of one architecture, checked."""

    def __init__(self, file: GgufFile, name: str):
        self._file, self.name = file, name

    def size(self, key: str, default: int | None = None, *, most: int = _MOST) -> int:
        """A whole number from 1 on."""
        return int(self.number(key, default, least=1, most=most))

    def number(
        self, key: str, default: float | None = None, *, least: float = 0.0, most: float = 1e9
    ) -> float:
        """A number within limits; an array of equal numbers, one per layer, counts as its first."""
        value = self._file.metadata.get(f"{self.name}.{key}", default)
        if isinstance(value, np.ndarray) and value.size:
            if (value != value[0]).any():
                raise UnsupportedModelError(
                    f"{self._file.path}: {self.name}.{key} differs between layers, which this engine does not decode"
                )
            value = value[0].item()
        if not isinstance(value, int | float) or not least <= value <= most:
            raise InputError(
                f"{self._file.path}: {self.name}.{key} is {value!r}; a number from {least:g} to {most:g} is needed,"
                " the file is incomplete or damaged"
            )
        return value

    def text(self, key: str) -> str | None:
        """A text; None if the file has no such key."""
        value = self._file.metadata.get(f"{self.name}.{key}")
        if value is not None and not isinstance(value, str):
            raise InputError(f"{self._file.path}: {self.name}.{key} is {value!r}; a text is needed")
        return value
