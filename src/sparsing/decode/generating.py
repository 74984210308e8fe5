"""Decoding of a given text by an engine, with the time of every token.

All engines are made to write the same text: in `generate()` a logits processor lifts the wanted token above all
others, which costs nothing and leaves the choice (an argmax over the vocabulary) to be made as ever. So a random
model, which would repeat itself, still has a new active set at every token.
"""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING

import torch
from transformers import LogitsProcessor, LogitsProcessorList

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from sparsing.decode.gguf_model import LlamaCpp


class Dictation(LogitsProcessor):
    """Makes `generate()` write `ids` and keeps the time of each step."""

    def __init__(self, ids: list[int]):
        self._ids = ids
        self.stamps: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.stamps.append(time.perf_counter())
        scores[:, self._ids[input_ids.shape[1]]] = torch.inf
        return scores


def hugging_face_seconds(model: PreTrainedModel, ids: list[int], prompt_tokens: int) -> list[float]:
    """Seconds of each token after the first of `ids[prompt_tokens:]` in `model.generate()`."""
    dictation = Dictation(ids)
    prompt = torch.tensor([ids[:prompt_tokens]])
    written = model.generate(  # pyright: ignore[reportCallIssue]
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=len(ids) - prompt_tokens,
        min_new_tokens=len(ids) - prompt_tokens,
        do_sample=False,
        logits_processor=LogitsProcessorList([dictation]),
    )
    assert written[0].tolist() == ids, "generate() left the text"
    return _differences(dictation.stamps)


def llama_cpp_seconds(engine: LlamaCpp, ids: list[int], prompt_tokens: int) -> list[float]:
    """The same by llama.cpp; its logits are computed but no token is chosen from them."""
    engine.restart()
    engine.decode(ids[:prompt_tokens])
    stamps = [time.perf_counter()]
    for token in ids[prompt_tokens:-1]:
        engine.decode([token])
        stamps.append(time.perf_counter())
    return _differences(stamps)


def _differences(stamps: list[float]) -> list[float]:
    return [after - before for before, after in itertools.pairwise(stamps)]
