"""Decodes a given text with an engine and times every token.

All engines decode the same text. A logits processor raises the next token of the text above all others, and
`generate()` then chooses it by its usual argmax over the vocabulary. So the cost of choosing a token is included,
and a random model, which would repeat itself, still has a new active set at every token.

Free text is timed by `decode/timed_generation.py`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch
from transformers import LogitsProcessor

from sparsing.decode.timed_generation import generate_timed, step_seconds

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from sparsing.bench.llama_cpp import LlamaCpp


class ForcedText(LogitsProcessor):
    """Makes `generate()` write `ids`, a prompt and its continuation, at batch 1."""

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
        ignore_eos=True,
        processors=[ForcedText(ids)],
    )
    assert written.ids[0].tolist() == ids, "generate() did not write the forced text"
    return list(written.later_sec)


def llama_cpp_seconds(engine: LlamaCpp, ids: list[int], prompt_tokens: int) -> list[float]:
    """Seconds of each token after the first of `ids[prompt_tokens:]` in llama.cpp.

    llama.cpp computes the logits of every token, but no token is chosen from them.
    """
    engine.reset()
    engine.decode(ids[:prompt_tokens])
    stamps = [time.perf_counter()]
    for token in ids[prompt_tokens:-1]:
        engine.decode([token])
        stamps.append(time.perf_counter())
    return step_seconds(stamps)
