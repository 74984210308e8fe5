"""Decoding of a given text by an engine, with the time of every token; free text is `timing.py`'s.

All engines are made to write the same text: in `generate()` a logits processor lifts the wanted token above all
others, which costs nothing and leaves the choice (an argmax over the vocabulary) to be made as ever. So a random
model, which would repeat itself, still has a new active set at every token.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch
from transformers import LogitsProcessor

from sparsing.decode.timed_generation import differences, generate_timed

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from sparsing.bench.llama_cpp import LlamaCpp


class Dictation(LogitsProcessor):
    """Makes `generate()` write `ids`."""

    def __init__(self, ids: list[int]):
        self._ids = ids

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores[:, self._ids[input_ids.shape[1]]] = torch.inf
        return scores


def hugging_face_seconds(model: PreTrainedModel, ids: list[int], prompt_tokens: int) -> list[float]:
    """Seconds of each token after the first of `ids[prompt_tokens:]` in `model.generate()`."""
    written = generate_timed(
        model,
        torch.tensor([ids[:prompt_tokens]]),
        max_new_tokens=len(ids) - prompt_tokens,
        to_the_end=True,
        processors=[Dictation(ids)],
    )
    assert written.ids[0].tolist() == ids, "generate() left the text"
    return list(written.later_sec)


def llama_cpp_seconds(engine: LlamaCpp, ids: list[int], prompt_tokens: int) -> list[float]:
    """The same by llama.cpp; its logits are computed but no token is chosen from them."""
    engine.restart()
    engine.decode(ids[:prompt_tokens])
    stamps = [time.perf_counter()]
    for token in ids[prompt_tokens:-1]:
        engine.decode([token])
        stamps.append(time.perf_counter())
    return differences(stamps)
