"""Measures two ways to read less that the GGUF engine does not use: sorted neurons, and a low-bit copy of gate.

    python benchmarks/neuron_order.py

`rows` times active rows of the 0.8B shape in a Q8_0 file, at random places and in runs of neighbours. `order` sorts the
neurons of the ReLU demo model by how often they fire on one text, and counts the runs of active neurons on another
text. `low_bits` predicts the active neurons of that model from copies of gate with few bits.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from _common import save
from numba import njit

from sparsing.bench.shapes import SHAPES
from sparsing.decode.engine.ggml import weight_type
from sparsing.decode.engine.native import add_four_rows, call_dot, prefetch
from sparsing.decode.kernels.pages import copy_to_huge_pages
from sparsing.demo import checkpoints, heldout_text
from sparsing.models.loading import load_model

if TYPE_CHECKING:
    Array = np.ndarray[Any, Any]

Q8_0, GROUP, AHEAD = 8, 32, 8
RUNS = (1, 2, 4, 16, 64)
RECALL = 0.995


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--tokens", type=int, default=4096, help="tokens of text; half of them calibrate")
    args = parser.parse_args()
    x, layers = inputs(args.tokens)
    save(
        "neuron_order",
        {
            "rows_ns": row_times(args.rounds),
            "order": [order(*pair) for pair in zip(x, layers, strict=True)],
            "low_bits": {bits: low_bits(x, layers, bits) for bits in (2, 3, 4)},
        },
    )


def row_times(rounds: int) -> dict[int, float]:
    """Nanoseconds of an active row (dot product with `up`, addition of `down`) by the length of runs.

    The lowest of the rounds is taken, which other work on the machine disturbs least.
    """
    shape, rng = SHAPES["0.8B"], np.random.default_rng(0)
    up = weight_type(Q8_0).row_bytes(shape.d_model)
    up += -up % 64
    size = up + shape.d_model + 4 * shape.d_model // GROUP
    records = copy_to_huge_pages(torch.ones((shape.n_layers * shape.d_ff, size), dtype=torch.uint8))
    x, y, out = np.zeros(2 * up, np.uint8), np.zeros(shape.d_model, np.float32), np.zeros(4, np.float32)
    found: dict[int, list[float]] = {run: [] for run in RUNS}
    for _ in range(rounds + 1):
        for run, seconds in found.items():
            starts = rng.random((shape.n_layers, shape.d_ff // run)).argsort(1)[
                :, : round(0.07 * shape.d_ff / run)
            ]
            rows = np.sort(starts, axis=1)[:, :, None] * run + np.arange(run)
            rows = (
                rows.reshape(shape.n_layers, -1) + shape.d_ff * np.arange(shape.n_layers)[:, None]
            ).ravel()
            began = time.perf_counter()
            _read(records.data_ptr(), size, up, rows, weight_type(Q8_0).dot, x.ctypes.data, y, out)
            seconds.append((time.perf_counter() - began) / len(rows))
    return {run: 1e9 * min(seconds[1:]) for run, seconds in found.items()}


@njit(nogil=True)
def _read(start, size, up, rows, dot, x, y, out):
    columns, one, codes = y.size, np.float32(1), start + up
    for k in range(0, rows.size - AHEAD - 4, 4):
        for r in range(4):
            prefetch(start + rows[k + AHEAD + r] * size, size)
            call_dot(dot, columns, out.ctypes.data, start + rows[k + r] * size, x)
        a, b, c, d = rows[k] * size, rows[k + 1] * size, rows[k + 2] * size, rows[k + 3] * size
        add_four_rows(
            (codes + a, codes + b, codes + c, codes + d),
            (codes + columns + a, codes + columns + b, codes + columns + c, codes + columns + d),
            (one, one, one, one),
            y.ctypes.data,
            columns // GROUP,
        )


def inputs(tokens: int) -> tuple[list[torch.Tensor], list[tuple[torch.Tensor, ...]]]:
    """Inputs of the blocks of the ReLU demo model, `(tokens, d_model)`, and their gate, up and norms of down."""
    from sparsing.decode.kernels.packing import pack
    from sparsing.decode.predict.inputs import inputs_tapped

    loaded = load_model(checkpoints("relu")[-1], dtype="float32", device="cpu")
    ids = loaded.tokenizer(heldout_text()[: 8 * tokens])["input_ids"][:tokens]
    found: list[list[torch.Tensor]] = [[] for _ in loaded.sites]

    def keep(layer: int, x: torch.Tensor) -> None:
        found[layer].append(x.reshape(-1, x.shape[-1]))

    with torch.inference_mode(), inputs_tapped(loaded.sites, keep):
        for window in torch.tensor(ids).split(256):
            loaded.model(window[None])
    packed = [pack(site) for site in loaded.sites]
    return [torch.cat(rows) for rows in found], [(p.gate, p.up, p.down.norm(dim=1)) for p in packed]


def order(x: torch.Tensor, weights: tuple[torch.Tensor, ...]) -> dict[str, float]:
    """Mean length of a run of active neurons, in the order of the model and sorted on the first half of the tokens."""
    active = (x @ weights[0].T > 0).numpy()
    fit, test = np.split(active, 2)
    frequency = fit.mean(0)
    hottest = np.sort(frequency)[-len(frequency) // 10 :].mean()
    return {
        "activation_ratio": float(test.mean()),
        "frequency_of_hottest_tenth": float(hottest),
        "run": _mean_run(test),
        "run_sorted": _mean_run(test[:, np.argsort(-frequency)]),
    }


def _mean_run(active: Array) -> float:
    starts = np.diff(np.pad(active.astype(np.int8), ((0, 0), (1, 1))), axis=1) == 1
    return float(active.sum() / starts.sum())


def low_bits(x: list[torch.Tensor], layers: list[tuple[torch.Tensor, ...]], bits: int) -> dict[str, float]:
    """Share of neurons to compute and share of `neuron_norm` found on the second half, means over layers."""
    rows = []
    for inputs_, (gate, up, norms) in zip(x, layers, strict=True):
        score = inputs_ @ rounded(gate, bits).T
        norm = (inputs_ @ gate.T).relu() * (inputs_ @ up.T).abs() * norms
        half = len(score) // 2
        found = score[:half].flatten().sort(descending=True)
        total = norm[:half].flatten()[found.indices].double().cumsum(0)
        cut = found.values[int((total < RECALL * total[-1]).sum())]
        kept = score[half:] >= cut
        rows.append((float(kept.float().mean()), float((norm[half:] * kept).sum() / norm[half:].sum())))
    predicted, recall = np.mean(rows, 0)
    return {"predicted_ratio": float(predicted), "recall": float(recall)}


def rounded(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """The weights with `2**bits` levels per group of 32, of the range with the least square error."""
    groups = weight.reshape(len(weight), -1, GROUP)
    low, high = groups.amin(2, keepdim=True), groups.amax(2, keepdim=True)
    tried = []
    for share in (1.0, 0.9, 0.8, 0.7, 0.6):
        step = ((high - low) * share / (2**bits - 1)).clamp_min(1e-12)
        first = (low + high) / 2 - step * (2**bits - 1) / 2
        tried.append(((groups - first) / step).round().clamp(0, 2**bits - 1) * step + first)
    values = torch.stack(tried)
    best = (values - groups).square().sum(3, keepdim=True).argmin(0, keepdim=True)
    return values.take_along_dim(best, 0)[0].reshape(weight.shape)


if __name__ == "__main__":
    main()
