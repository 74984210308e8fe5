"""The loss of windows: known values, slices equal to whole logits for every family, and models that refuse slices."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, Gemma2Config

from sparsing.measuring.window_loss import WindowLoss, token_nll, window_nll
from sparsing.text.corpus import load_corpus

from ..helpers.measuring import text_corpus, tiny_loaded
from ..helpers.tiny import SIZES, tiny_model, tiny_tokenizer


def batch(count: int = 3):
    return next(text_corpus(130, window=24, stride=17, bos="always").batches(count))


def test_the_loss_of_known_logits():
    corpus = load_corpus(["abcd"], tiny_tokenizer(), window=4)
    windows = next(corpus.batches(1))
    assert window_nll(torch.zeros(1, 4, 128), windows).item() == pytest.approx(3 * math.log(128))
    assert windows.label_counts == (3,)


def test_a_large_vocabulary_does_not_shift_the_loss():
    """Summing the exponentials one after the other would, by 5e-6 nats (`F.cross_entropy`)."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(64, 151_936, generator=generator)
    targets = torch.randint(151_936, (64,), generator=generator)
    exact = nn.functional.cross_entropy(logits.double(), targets, reduction="none")
    found = token_nll(logits, targets)
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=5e-6)
    assert abs((found - exact).mean()) < 5e-7


def sliced(model, rows: int) -> WindowLoss:
    vocab = model.config.get_text_config().vocab_size
    return WindowLoss(model, tokens=72, logits_bytes=4 * vocab * rows)


@pytest.mark.parametrize("model_type", sorted(SIZES))
@torch.no_grad()
def test_slices_give_the_loss_of_whole_logits(model_type):
    model, windows = tiny_loaded(model_type).model, batch()
    whole = WindowLoss(model, tokens=72)
    assert not whole.is_sliced
    largest = 0

    def note(_module, inputs, _output):
        nonlocal largest
        largest = max(largest, inputs[0].shape[:-1].numel())

    loss = sliced(model, 5)
    assert loss.is_sliced
    handle = model.get_output_embeddings().register_forward_hook(note)
    nll = loss(windows)
    handle.remove()
    assert largest == 5
    torch.testing.assert_close(nll, whole(windows), rtol=1e-6, atol=0)


@torch.no_grad()
def test_what_a_model_does_to_its_logits_stays():
    config = Gemma2Config(
        vocab_size=128, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, head_dim=16, final_logit_softcapping=0.5, pad_token_id=0,
    )  # fmt: skip
    model, windows = AutoModelForCausalLM.from_config(config).eval(), batch()
    with_cap = sliced(model, 7)(windows)
    torch.testing.assert_close(with_cap, WindowLoss(model, tokens=72)(windows), rtol=1e-6, atol=0)
    model.config.final_logit_softcapping = None
    assert not torch.allclose(with_cap, sliced(model, 7)(windows), rtol=1e-5)


@torch.no_grad()
def test_a_model_that_mixes_the_logits_of_tokens_is_not_sliced():
    model, windows = tiny_model("llama"), batch()
    forward = type(model).forward

    def mixes(self, *args, **options):
        output = forward(self, *args, **options)
        output.logits = output.logits.cumsum(1)
        return output

    class Mixes(type(model)):
        pass

    Mixes.forward = mixes
    plain = type(model)
    model.__class__ = Mixes
    try:
        loss = sliced(model, 5)
        assert not loss.is_sliced
        nll = loss(windows)
        assert torch.equal(
            nll, window_nll(model(windows.ids, attention_mask=windows.real.long()).logits, windows)
        )
    finally:
        model.__class__ = plain


def test_no_hook_and_no_replaced_forward_stays():
    model = tiny_loaded("llama").model
    with torch.no_grad():
        sliced(model, 5)(batch())
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert "forward" not in vars(module)
    assert isinstance(model, nn.Module)
