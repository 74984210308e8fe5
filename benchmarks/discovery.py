"""Measures how long the search for feed-forward blocks takes on models with the widths of real ones.

    OMP_NUM_THREADS=1 python benchmarks/discovery.py

Each model has two numbers of layers and random bfloat16 weights. The processor time of `find_sites` is linear in the
number of layers, so the time for the number of layers of the real model is extrapolated from both. `memory_bytes` is
the rise of the peak memory of the process during the search.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from typing import Any

import torch
from _common import save

from sparsing.sites.discovery import find_sites

LAYERS = (2, 6)
CASES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "Llama 2 7B": (
        "llama",
        32,
        {
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
        },
    ),
    "Qwen3 30B-A3B": (
        "qwen3_moe",
        48,
        {
            **{
                "hidden_size": 2048,
                "moe_intermediate_size": 768,
                "num_experts": 128,
                "num_experts_per_tok": 8,
            },
            **{"num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128},
        },
    ),
}
"""Name to model type, layers of the real model, and widths."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    torch.set_num_threads(1)
    rows = {}
    for name, (model_type, full, widths) in CASES.items():
        few, many = (_search(model_type, count, widths) for count in LAYERS)
        per_layer = (many["cpu_sec"] - few["cpu_sec"]) / (LAYERS[1] - LAYERS[0])
        rows[name] = {
            "layers": LAYERS,
            "cpu_sec": (few["cpu_sec"], many["cpu_sec"]),
            "memory_bytes": many["memory_bytes"],
            "full_layers": full,
            "full_cpu_sec": many["cpu_sec"] + (full - LAYERS[1]) * per_layer,
        }
        print(name, rows[name], flush=True)
    save("discovery", {"rows": rows})
    return 0


def _search(model_type: str, n_layers: int, widths: dict[str, Any]) -> dict[str, float]:
    """Processor time and rise of the peak memory of one search."""
    model = _model(model_type, {"vocab_size": 32_000, "num_hidden_layers": n_layers, **widths})
    with torch.no_grad():
        model(torch.arange(3, 15)[None], use_cache=False)  # its memory is not that of the search
    peak, begin = _peak_bytes(), time.process_time()
    sites = find_sites(model)
    assert len(sites) == n_layers
    return {"cpu_sec": time.process_time() - begin, "memory_bytes": _peak_bytes() - peak}


def _model(model_type: str, sizes: dict[str, Any]) -> Any:
    """A model whose matrices repeat one block of random numbers; to draw all of them would take long."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(model_type, **sizes)
    block = (0.02 * torch.randn(2**20, generator=torch.Generator().manual_seed(0))).bfloat16()
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model = model.to_empty(device="cpu")
    for parameter in model.parameters():
        for piece in parameter.data.view(-1).split(len(block)):
            piece.copy_(block[: len(piece)])
    for buffer in model.buffers():  # inverse frequencies of the rotary embedding
        buffer.data.copy_(torch.linspace(1, 1e-4, buffer.numel()).view_as(buffer))
    return model.eval()


def _peak_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    sys.exit(main())
