"""The size of a batch: its default on CPUs and accelerators, and which errors mean that memory ran out."""

from __future__ import annotations

import pytest
import torch

from sparsing.measuring.batch_size import BatchLimit, default_batch_size, is_out_of_memory

from ..helpers.measuring import text_corpus, tiny_loaded


def test_on_a_cpu_it_is_about_two_thousand_tokens_and_at_least_one_window():
    assert default_batch_size(tiny_loaded(), text_corpus(600, window=32)) == 64
    assert default_batch_size(tiny_loaded(), text_corpus(6000, window=3000)) == 1


def test_on_an_accelerator_it_is_large_and_at_most_the_corpus(monkeypatch):
    monkeypatch.setattr("sparsing.measuring.batch_size.input_device", lambda _loaded: torch.device("cuda"))
    assert default_batch_size(tiny_loaded(), text_corpus(600, window=32)) == 19
    assert default_batch_size(tiny_loaded(), text_corpus(150_000, window=1024)) == 64


def test_the_limit_lowers_a_wanted_size_and_never_raises_it():
    assert BatchLimit().apply(8) == 8
    assert BatchLimit(4).apply(8) == 4
    assert BatchLimit(4).apply(2) == 2


def test_the_cpu_says_in_its_own_words_that_memory_ran_out():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory"))
