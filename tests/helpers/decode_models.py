"""Helpers of the tests of decoding: trained models with a text and thresholds, and two ways to generate."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from transformers import LogitsProcessor, LogitsProcessorList

from sparsing.demo import checkpoints, heldout_text
from sparsing.measuring.calibration import calibrate
from sparsing.models.loading import LoadedModel, load_model
from sparsing.rules import make_rule
from sparsing.rules.thresholds import Thresholds, thresholds_at
from sparsing.text.corpus import Corpus, load_corpus

from .measuring import source_text, trained


class Subjects(NamedTuple):
    """A model, a text in its vocabulary, and thresholds at a moderate CETT."""

    loaded: LoadedModel
    corpus: Corpus
    thresholds: Thresholds


@functools.cache
def demo(activation: str, cett: float = 0.15) -> Subjects:
    """The last checkpoint of a built-in model, float32. Tests share it and must restore it."""
    return subjects(
        load_model(checkpoints(activation)[-1], dtype="float32", device="cpu"), heldout_text(), cett
    )


@functools.cache
def tiny(cett: float = 0.3) -> Subjects:
    """The tiny trained Llama. Tests share it and must restore it."""
    return subjects(trained(), source_text(), cett, window=48)


def subjects(loaded: LoadedModel, text: str, cett: float, *, window: int = 128) -> Subjects:
    """The model with this text and the thresholds that reach `cett` on it."""
    corpus = load_corpus([text], loaded.tokenizer, window=window, max_tokens=4000)
    curves = calibrate(loaded, corpus, scores=["neuron_norm"])
    thresholds = thresholds_at(make_rule("cett"), cett, curves=curves, sites=curves.sites)
    return Subjects(loaded, corpus, thresholds)


def generate_greedily(model: torch.nn.Module, ids: torch.Tensor, new_tokens: int = 24) -> torch.Tensor:
    """Prompt and greedy continuation of `ids (batch, tokens)`, shape `(batch, tokens + new_tokens)`."""
    return model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new_tokens,
        min_new_tokens=new_tokens,
        do_sample=False,
        pad_token_id=0,
    )


class _ForcedTokens(LogitsProcessor):
    """Forces `generate()` to choose the tokens of `ids (batch, tokens)`, and keeps the logits of each step."""

    def __init__(self, ids: torch.Tensor):
        self._ids = ids
        self.logits: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.logits.append(scores.clone())
        wanted = self._ids[:, input_ids.shape[1], None]
        return torch.full_like(scores, -torch.inf).scatter(1, wanted, 0.0)


def decoded_logits(model: torch.nn.Module, ids: torch.Tensor, prompt: int) -> torch.Tensor:
    """Logits of the steps in which `generate()` decodes `ids[:, prompt:]`, shape `(batch, tokens, vocab)`."""
    forced = _ForcedTokens(ids)
    model.generate(
        input_ids=ids[:, :prompt],
        attention_mask=torch.ones_like(ids[:, :prompt]),
        max_new_tokens=ids.shape[1] - prompt,
        do_sample=False,
        pad_token_id=0,
        logits_processor=LogitsProcessorList([forced]),
    )
    return torch.stack(forced.logits, 1).float()
