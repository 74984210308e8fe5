"""What the tests of the fast path share: trained models with thresholds that prune them, and a text."""

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
    """A model, text it can read, and thresholds at a moderate CETT."""

    loaded: LoadedModel
    corpus: Corpus
    thresholds: Thresholds


@functools.cache
def demo(activation: str, cett: float = 0.15) -> Subjects:
    """The last checkpoint of a built-in model, float32; read-only."""
    return subjects(
        load_model(checkpoints(activation)[-1], dtype="float32", device="cpu"), heldout_text(), cett
    )


@functools.cache
def tiny(cett: float = 0.3) -> Subjects:
    """The tiny trained Llama; read-only."""
    return subjects(trained(), source_text(), cett, window=48)


def subjects(loaded: LoadedModel, text: str, cett: float, *, window: int = 128) -> Subjects:
    corpus = load_corpus([text], loaded.tokenizer, window=window, max_tokens=4000)
    curves = calibrate(loaded, corpus, scores=["neuron_norm"])
    thresholds = thresholds_at(make_rule("cett"), cett, curves=curves, sites=curves.sites)
    return Subjects(loaded, corpus, thresholds)


def written(model: torch.nn.Module, ids: torch.Tensor, new_tokens: int = 24) -> torch.Tensor:
    """Greedy continuation of `ids (batch, tokens)`."""
    return model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new_tokens,
        min_new_tokens=new_tokens,
        do_sample=False,
        pad_token_id=0,
    )


class _Dictation(LogitsProcessor):
    """Makes `generate()` write `ids (batch, tokens)` and keeps the logits that it would have chosen from."""

    def __init__(self, ids: torch.Tensor):
        self._ids = ids
        self.logits: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.logits.append(scores.clone())
        wanted = self._ids[:, input_ids.shape[1], None]
        return torch.full_like(scores, -torch.inf).scatter(1, wanted, 0.0)


def decoded_logits(model: torch.nn.Module, ids: torch.Tensor, prompt: int) -> torch.Tensor:
    """Logits for `ids[:, prompt:]`, fed one by one behind the prompt by `generate()`, `(batch, tokens, vocab)`."""
    dictation = _Dictation(ids)
    model.generate(
        input_ids=ids[:, :prompt],
        attention_mask=torch.ones_like(ids[:, :prompt]),
        max_new_tokens=ids.shape[1] - prompt,
        do_sample=False,
        pad_token_id=0,
        logits_processor=LogitsProcessorList([dictation]),
    )
    return torch.stack(dictation.logits, 1).float()
