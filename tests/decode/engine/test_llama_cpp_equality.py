"""The dense engine computes the same logits as llama.cpp, bit for bit, so both write the same text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sparsing.decode.engine import open_engine
from sparsing.models.gguf_export import export_gguf

from ...helpers.gguf_models import IDS, build

SMOLLM2 = next(Path("../shared").rglob("SmolLM2-135M-Instruct*.gguf"), None)


def same_logits(path, ids, new_tokens):
    """Compare the logits after every token of `ids` and of the greedy continuation; returns the continuation."""
    import llama_cpp

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


@pytest.mark.parametrize("weight_type", ["Q4_0", "Q4_1", "Q5_0", "F16", "BF16"])
def test_logits_are_those_of_llama_cpp(tmp_path, weight_type):
    model = build("llama", hidden_size=128, intermediate_size=256, head_dim=32)
    path = export_gguf(model, tmp_path / "model.gguf", weight_type=weight_type)
    assert len(same_logits(path, IDS, 8)) == 8


@pytest.mark.slow
@pytest.mark.skipif(SMOLLM2 is None, reason="needs ../shared/**/SmolLM2-135M-Instruct*.gguf")
def test_text_of_smollm2_is_that_of_llama_cpp():
    from sparsing.decode.engine.vocabulary import Vocabulary

    prompts = ("The capital of France is", "Once upon a time", "def fibonacci(n):", "Water boils at")
    with Vocabulary(SMOLLM2) as vocabulary:
        for prompt in prompts:
            assert len(same_logits(SMOLLM2, vocabulary.encode(prompt), 64)) == 64
