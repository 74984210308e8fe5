"""A NaN or an infinite activation ends a pass with an error that names window, layer and way out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sparsing.errors import NonFiniteError
from sparsing.measuring._measure import measure
from sparsing.measuring.finite import check_totals, exp_of_nats, finite_logits
from sparsing.measuring.passes import LossOnly, PassSettings, run_pass
from sparsing.measuring.subject import Subject
from sparsing.neurons.study import study_neurons
from sparsing.rules import make_rule
from sparsing.rules.mask import Mask
from sparsing.rules.thresholds import Thresholds
from sparsing.text.corpus import load_corpus
from sparsing.training.probe import probe

from ..helpers.measuring import loaded, random_text, tiny_loaded
from ..helpers.overflow import BAD
from ..helpers.overflow import overflowing as build_overflowing
from ..helpers.tiny import build, tiny_tokenizer

WINDOW = 32


def overflowing(dtype=torch.float16):
    return loaded(build_overflowing(dtype))


def corpus_with(place: int, length: int = 8 * WINDOW):
    text = random_text(length)
    return load_corpus([text[:place] + BAD + text[place + 1 :]], tiny_tokenizer(), window=WINDOW, bos="never")


MIDDLE = 5 * WINDOW + 7
MESSAGE = (
    r"window 5 of 8: the input of down_proj of layer 1 \(model.layers.1.mlp.down_proj\).*float16; --dtype bf"
)


@pytest.mark.parametrize("place", [MIDDLE, 6 * WINDOW - 1])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_one_token_that_overflows_is_found_in_a_pass(place, batch_size):
    """The last token of a window is counted, but it predicts nothing, so the loss alone would not show it."""
    model, corpus = overflowing(), corpus_with(place)
    with pytest.raises(NonFiniteError, match=MESSAGE):
        Subject(model, corpus, batch_size=batch_size)


def test_the_same_model_in_a_wider_dtype_is_measured():
    subject = Subject(overflowing(torch.bfloat16), corpus_with(MIDDLE))
    assert np.isfinite(measure(subject, "cett", level=0.2).ppl_sparse)


def test_the_loss_alone_shows_an_overflow_in_a_pass_without_hooks():
    settings = PassSettings(batch_size=2)
    with pytest.raises(NonFiniteError, match=MESSAGE):
        run_pass(overflowing(), corpus_with(MIDDLE), LossOnly(), key="dense", settings=settings)


def test_an_overflow_in_a_sparse_pass():
    model = overflowing()
    keep_all = Thresholds(rule="cett", level=0.0, on="neuron_norm", values=(0.0, 0.0))
    with pytest.raises(NonFiniteError, match=MESSAGE):
        run_pass(model, corpus_with(MIDDLE), LossOnly(), Mask(model.sites, keep_all), key="sparse")


def test_passes_without_the_head():
    corpus = corpus_with(MIDDLE)
    with pytest.raises(NonFiniteError, match=MESSAGE):
        probe(overflowing(), corpus, eps=0.01, target_cett=0.2)
    with pytest.raises(NonFiniteError, match=r"window . of .: the input of down_proj of layer 1"):
        study_neurons(overflowing(), {"text": corpus}, cett=0.2)


def test_weights_behind_the_last_block_overflow():
    model = build("llama")
    with torch.no_grad():
        model.lm_head.weight.fill_(3e4)
    with pytest.raises(NonFiniteError, match="window 0 of 8: the logits are NaN or infinite in float16"):
        Subject(loaded(model.half()), corpus_with(MIDDLE))


def test_a_loss_that_has_no_perplexity():
    model = build("llama")
    with torch.no_grad():
        model.lm_head.weight.mul_(1e5)
    with pytest.raises(NonFiniteError, match=r"a mean loss of .* nats per token has no finite perplexity"):
        Subject(loaded(model), corpus_with(MIDDLE))
    assert exp_of_nats(1.0) == pytest.approx(2.718281828)
    with pytest.raises(NonFiniteError, match="710 nats"):
        exp_of_nats(710.0)


def test_a_sum_that_overflows_although_the_activations_do_not():
    """As the dropped part of a layer in float16, which may exceed the output."""
    sites = tiny_loaded().sites
    check_totals(
        {"cett.0": torch.ones(()), "active.0": torch.ones(2, dtype=torch.int64)}, sites, "float16", "k"
    )
    with pytest.raises(NonFiniteError, match=r"'cett.1' of layer 1 is NaN or infinite in float16; --dtype"):
        check_totals({"cett.1": torch.tensor(float("inf"))}, sites, "float16", "k")


def test_a_search_for_a_level_ends_with_the_same_error():
    model, corpus = overflowing(), corpus_with(MIDDLE)
    with pytest.raises(NonFiniteError, match=MESSAGE):
        measure(Subject(model, corpus), make_rule("cett"), ppl_ratio=1.01)


def test_generation():
    model = overflowing()
    fine, bad = (torch.tensor([tiny_tokenizer()(text)["input_ids"]]) for text in ("abc", f"abc{BAD}"))

    def write(ids) -> None:
        with finite_logits(model, [("the prompt", ids)]):
            model.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, do_sample=False)

    write(fine)
    with pytest.raises(NonFiniteError, match=r"the prompt: the input of down_proj of layer 1"):
        write(bad)
    assert not model.model._forward_hooks
    # code that fails because of a NaN, such as sampling, gives the same error; other failures stay
    with (
        pytest.raises(NonFiniteError, match="the prompt: the input of down_proj of layer 1") as raised,
        finite_logits(model, [("the prompt", bad)]),
    ):
        model.model.generate(bad, attention_mask=torch.ones_like(bad), max_new_tokens=3, do_sample=True)
    assert isinstance(raised.value.__cause__, RuntimeError)
    with pytest.raises(ZeroDivisionError), finite_logits(model, [("the prompt", fine)]):
        raise ZeroDivisionError
