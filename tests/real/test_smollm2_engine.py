"""SmolLM2-135M decoded by the package's own engine: the text of llama.cpp, and logits near those of Hugging Face."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sparsing.demo import heldout_text
from sparsing.models.loading import load_model

pytestmark = [pytest.mark.real, pytest.mark.filterwarnings("ignore:.*weights of Q4_1:UserWarning")]
PROMPTS = (
    "The capital of France is",
    "Once upon a time",
    "def fibonacci(n):",
    "Water boils at",
    "The three primary colours are",
    "<|im_start|>user\nWhat is gravity?<|im_end|>\n<|im_start|>assistant\n",
    "In 1969, Neil Armstrong",
    "A recipe for pancakes: first,",
    "x = [1, 2, 3]\nfor i in x:",
    "Dear Sir or Madam,",
)


@pytest.fixture(scope="module")
def vocabulary(gguf_file):
    pytest.importorskip("llama_cpp", reason="needs llama-cpp-python")
    from sparsing.decode.engine.vocabulary import Vocabulary

    with Vocabulary(gguf_file) as vocabulary:
        yield vocabulary


@pytest.mark.parametrize("prompt", PROMPTS)
def test_text_is_that_of_llama_cpp(gguf_file, vocabulary, prompt):
    from ..helpers.gguf_models import same_logits

    assert len(same_logits(gguf_file, vocabulary.encode(prompt), 64)) == 64


def test_inputs_in_two_parts_are_nearer_to_hugging_face(gguf_file, vocabulary):
    """ggml's 8-bit inputs are the difference to Hugging Face: with their rounding errors added it nearly vanishes."""
    from sparsing.decode.engine import open_engine

    ids = vocabulary.encode(heldout_text()[-40_000:])[:256]
    with torch.inference_mode():
        wanted = load_model(gguf_file).model(torch.tensor([ids])).logits[0].log_softmax(-1)
    divergence = []
    for two_part_inputs in (False, True):
        with open_engine(gguf_file, context=256, threads=1, two_part_inputs=two_part_inputs) as engine:
            got = torch.from_numpy(engine.read(ids, all_logits=True)).log_softmax(-1)
        divergence.append(float((wanted.exp() * (wanted - got)).sum(-1).mean()))
    assert divergence[1] < divergence[0] / 20
    assert np.isfinite(divergence).all()
