"""Tiny models of every architecture that the engine decodes, as Hugging Face models and as GGUF files."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("gguf", reason="needs the package gguf")
pytest.importorskip("llama_cpp", reason="needs llama-cpp-python, whose ggml computes the dot products")
pytest.importorskip("numba", reason="needs numba")

BASE = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "max_position_embeddings": 64,
}
GEMMA = {"tie_word_embeddings": True, "head_dim": 32, "hidden_activation": "gelu_pytorch_tanh"}
GRANITE = {
    "attention_multiplier": 0.2,
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.4,
    "logits_scaling": 2.0,
}
CONFIGS = {
    "llama": ("llama", {"num_hidden_layers": 3}),
    "llama tied, one kv head": ("llama", {"tie_word_embeddings": True, "num_key_value_heads": 1}),
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama relu": ("llama", {"hidden_act": "relu", "num_hidden_layers": 1}),
    "linear rope": (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}},
    ),
    "mistral, window": ("mistral", {"sliding_window": 5, "head_dim": 32}),
    "granite relu": ("granite", {"hidden_act": "relu", **GRANITE}),
    "granite silu": ("granite", GRANITE),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {"head_dim": 32}),
    "gemma": ("gemma", GEMMA),
    "gemma2, window": ("gemma2", GEMMA | {"query_pre_attn_scalar": 32, "sliding_window": 5}),
    "arcee (relu2 without gate)": ("arcee", {"num_hidden_layers": 3}),
}
"""Name to model type and configuration."""


def build(name, *, seed=0, **changes):
    """A random model; weights large enough that logits differ clearly, and norms and biases that are not 1 and 0."""
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, options = CONFIGS[name]
    options = {**BASE, "num_hidden_layers": 2, "tie_word_embeddings": False, **options, **changes}
    config = AutoConfig.for_model(kind, attn_implementation="eager", **options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        for key, weight in model.state_dict().items():
            if weight.ndim == 1:
                weight += 0.2 * torch.randn_like(weight)
            elif "embed" not in key:
                weight.normal_(std=weight.shape[1] ** -0.5)
    return model.requires_grad_(False)


def reference_logits(model, ids):
    """Logits after every token, shape `(tokens, vocab_size)`."""
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0].numpy()


def error(got, wanted):
    """Norm of the difference over the norm."""
    return float(np.linalg.norm(np.asarray(got) - np.asarray(wanted)) / np.linalg.norm(wanted))


IDS = np.random.default_rng(0).integers(0, BASE["vocab_size"], 12).tolist()
"""Tokens of a text."""
