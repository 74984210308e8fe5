"""llama.cpp runs random weights of any shape, in every weight type that is compared."""

from __future__ import annotations

import pytest

from sparsing.bench.forced_decoding import llama_cpp_seconds
from sparsing.bench.llama_cpp import BYTES_PER_WEIGHT, open_llama_cpp


@pytest.mark.parametrize("kind", BYTES_PER_WEIGHT)
def test_llama_cpp_runs_the_shape(kind, small_shape):
    pytest.importorskip("llama_cpp", reason="needs llama-cpp-python")
    pytest.importorskip("gguf", reason="needs gguf")
    with open_llama_cpp(small_shape, kind, threads=1, context=8) as model:
        assert len(llama_cpp_seconds(model, [1, 2, 3, 4, 5, 6], 2)) == 3
        for _ in range(3):
            model.decode([1, 2, 3])  # a full context is emptied
        assert model.num_tokens <= 8
