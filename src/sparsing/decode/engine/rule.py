"""The thresholds of a model as the cuts and rows that the kernels use."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sparsing.decode.engine.feed_forward import DENSE, SPARSE
from sparsing.decode.engine.ggml import dequantised
from sparsing.decode.engine.neuron_rows import NUM_PLACES, NeuronRows, neuron_rows
from sparsing.decode.engine.weights import ADDRESS, DOWN, TO_FLOAT
from sparsing.decode.kernels.packing import ZEROING
from sparsing.errors import InputError
from sparsing.rules.scores import cut

if TYPE_CHECKING:
    from sparsing.decode.engine.architecture import Architecture
    from sparsing.decode.engine.weights import TensorTables
    from sparsing.rules.thresholds import Thresholds

    Array = np.ndarray[Any, Any]


@dataclasses.dataclass(eq=False, kw_only=True)
class EngineRule:
    """A rule in the form of the kernels, and the copies that it needs."""

    arrays: dict[str, Array]
    """The arrays of the rule in the state: `ways`, `gate_cuts`, `h_cuts`, `gate_decides` and `rows`."""
    copies: list[NeuronRows | None]
    """The copy of `down` of each layer; None for a layer that is always computed dense."""

    @property
    def copy_bytes(self) -> int:
        """Bytes of memory of all copies."""
        return sum(rows.num_bytes for rows in self.copies if rows is not None)

    @property
    def copy_error(self) -> float:
        """Largest relative error of a copy; 0 without copies."""
        return max((rows.error for rows in self.copies if rows is not None), default=0.0)

    def keep_dense(self, layers: Sequence[int]) -> None:
        """Compute these layers dense from now on and free their copies."""
        for layer in layers:
            self.arrays["ways"][layer] = DENSE
            self.arrays["rows"][layer] = 0
            self.copies[layer] = None


def dense_rule(arch: Architecture) -> EngineRule:
    """The rule that keeps every neuron and computes every layer dense."""
    return EngineRule(arrays=_empty(arch), copies=[None] * arch.n_layers)


def sparse_rule(arch: Architecture, weights: TensorTables, thresholds: Thresholds | None) -> EngineRule:
    """The rule of these thresholds, with every layer sparse.

    Args:
        thresholds: None skips only neurons whose activation is exactly zero, which changes nothing.

    Raises:
        InputError: If the thresholds are not of a threshold rule or belong to another model, or if there are no
            thresholds and the activation has no exact zeros, or `down` has values that are not finite.
    """
    zeroing = arch.act in ZEROING
    if thresholds is None and not zeroing:
        raise InputError(
            f"a model with {arch.act} has no neurons that are exactly zero, so it needs thresholds;"
            " measure them with `sparsing measure` on the Hugging Face checkpoint"
        )
    if thresholds is not None:
        check_thresholds(arch, thresholds)
    arrays, copies = _empty(arch), []
    arrays["ways"][:] = SPARSE
    for layer in range(arch.n_layers):
        fields = weights.matrices[layer, DOWN]
        down = dequantised(int(fields[ADDRESS]), int(fields[TO_FLOAT]), (arch.d_model, arch.d_ff))
        if not np.isfinite(down).all():
            raise InputError(
                f"{weights.file.path}: ffn_down of layer {layer} has values that are NaN or infinite; the file is"
                " damaged, so download it again"
            )
        gate_cut, arrays["h_cuts"][layer] = _cuts(thresholds, layer, down, gated=arch.gated)
        # a gate of zero makes `h` zero, so its neuron adds nothing under any rule
        arrays["gate_cuts"][layer] = gate_cut = max(gate_cut, 0.0) if zeroing else gate_cut
        arrays["gate_decides"][layer] = gate_cut >= 0
        copy = neuron_rows(weights.file, layer, down, with_up=arch.gated and gate_cut >= 0)
        arrays["rows"][layer] = copy.places
        copies.append(copy)
    return EngineRule(arrays=arrays, copies=copies)


def check_thresholds(arch: Architecture, thresholds: Thresholds) -> None:
    """Check that the thresholds are of a threshold rule and fit the layers of the model.

    Raises:
        InputError: If not.
    """
    if not thresholds.cuts_blocks:
        raise InputError(
            f"the engine skips neurons by threshold, but these select {thresholds.on} by {thresholds.select!r};"
            " measure with a threshold rule: cett, fat"
        )
    names = [f"layers.{layer}.mlp.down_proj" for layer in range(arch.n_layers)]
    fits = len(thresholds.values) == arch.n_layers and (
        not thresholds.has_names
        or all(own.endswith(name) for own, name in zip(thresholds.values, names, strict=True))
    )
    if not fits:
        raise InputError(
            f"these {len(thresholds.values)} thresholds, the first for {next(iter(thresholds.values))!r}, do not belong"
            f" to the {arch.n_layers} layers of this model; measure the checkpoint that the file was made from"
        )


def _cuts(thresholds: Thresholds | None, layer: int, down: Array, *, gated: bool) -> tuple[float, Any]:
    """The cut of `|act(gate)|` and the cuts of `|h|`; negative to keep all."""
    if thresholds is None:
        return -1.0, -1.0
    score, value = thresholds.scores[0], thresholds.numbers[layer]
    if score.needs_gate and gated:
        return value, -1.0
    scale = torch.from_numpy(down).norm(dim=0) if score.weighted else None
    return -1.0, np.asarray(cut(value, scale), np.float32)


def _empty(arch: Architecture) -> dict[str, Array]:
    """Cuts that keep every neuron of every layer."""
    n = arch.n_layers
    return {
        "ways": np.full(n, DENSE, np.int64),
        "gate_cuts": np.full(n, -1, np.float32),
        "h_cuts": np.full((n, arch.d_ff), -1, np.float32),
        "gate_decides": np.zeros(n, np.int64),
        "rows": np.zeros((n, NUM_PLACES), np.int64),
    }
