"""Tiny models of every architecture that the engine decodes, as Hugging Face models and as GGUF files."""

from __future__ import annotations

import ctypes

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
FILE_TYPES = {"Q2_K": 10, "Q3_K_M": 12, "Q4_K_M": 15, "Q5_K_M": 17, "Q6_K": 18, "IQ4_XS": 30}
"""llama.cpp's names of mixtures to their codes."""


def requantised(model, folder, mixture):
    """A file in which llama.cpp has quantised the matrices to a mixture of `FILE_TYPES`, from float16."""
    import llama_cpp

    from sparsing.models.gguf_export import export_gguf

    source, target = export_gguf(model, folder / "half.gguf", weight_type="F16"), folder / "mixed.gguf"
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype, options.nthread = FILE_TYPES[mixture], 1
    assert llama_cpp.llama_model_quantize(bytes(source), bytes(target), ctypes.byref(options)) == 0
    return target


def same_logits(path, ids, new_tokens):
    """Compare the logits after every token of `ids` and of the greedy continuation; returns the continuation."""
    import llama_cpp

    from sparsing.decode.engine import open_engine

    llama = llama_cpp.Llama(str(path), n_ctx=256, n_threads=1, n_threads_batch=1, verbose=False)
    written = []
    try:
        with open_engine(path, context=256, threads=1) as engine:
            for token in ids:
                llama.eval([token])
                logits = engine.read([token])
            for _ in range(new_tokens):
                theirs = np.ctypeslib.as_array(llama._ctx.get_logits(), (engine.arch.vocab_size,))
                np.testing.assert_array_equal(logits, theirs)
                written.append(int(logits.argmax()))
                llama.eval(written[-1:])
                logits = engine.read(written[-1:])
    finally:
        llama.close()
    return written
