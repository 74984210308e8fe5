"""Greedy generation by the model's own `generate()`, with the time of every new token."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from sparsing.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TimedTokens:
    """Generated tokens and the time of each step."""

    ids: torch.Tensor
    """Prompt and new tokens, shape `(batch, tokens)`."""
    ttft_sec: float
    """Time to first token: from the call to the end of the prompt's forward."""
    later_sec: tuple[float, ...]
    """Time of each later step. A step writes one token of every sequence."""

    @property
    def num_new_tokens(self) -> int:
        """Number of new tokens of each sequence."""
        return 1 + len(self.later_sec)

    @property
    def tok_per_sec(self) -> float:
        """New tokens after the first, of all sequences, over the time of their steps; NaN for a single new token."""
        written = len(self.later_sec) * self.ids.shape[0]
        return written / sum(self.later_sec) if written else math.nan


class _Clock(StoppingCriteria):
    """A stopping criterion that never stops: `generate()` calls it after each step, and it notes the time."""

    def __init__(self) -> None:
        self.stamps = [time.perf_counter()]

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        if input_ids.is_cuda:  # a GPU computes the token later than Python returns it
            torch.cuda.synchronize(input_ids.device)
        self.stamps.append(time.perf_counter())
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


def generate_timed(
    model: PreTrainedModel,
    ids: torch.Tensor,
    *,
    max_new_tokens: int,
    ignore_eos: bool = False,
    processors: Sequence[LogitsProcessor] = (),
) -> TimedTokens:
    """Decode greedily after the prompt `ids (batch, tokens)`, which has no padding.

    Args:
        ignore_eos: Continue after an end-of-text token, so that every run writes `max_new_tokens`.
        processors: Change the logits of each step before the largest is taken.

    Raises:
        InputError: if `max_new_tokens` is below 1 or the prompt is empty.
    """
    if max_new_tokens < 1 or ids.numel() == 0:
        raise InputError(
            "generation needs a prompt of at least 1 token and max_new_tokens of at least 1, got"
            f" {ids.numel()} tokens and max_new_tokens={max_new_tokens}"
        )
    clock = _Clock()
    ids = ids.to(model.device)
    # transformers gives `generate` a type that no call fits, through its decorators
    generate: Callable[..., Any] = getattr(model, "generate")  # noqa: B009
    tokens: torch.Tensor = generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=max_new_tokens,
        min_new_tokens=max_new_tokens if ignore_eos else None,
        do_sample=False,
        pad_token_id=_padding_id(model),
        logits_processor=LogitsProcessorList(processors),
        stopping_criteria=StoppingCriteriaList([clock]),
    )
    first, *later = step_seconds(clock.stamps)
    return TimedTokens(ids=tokens, ttft_sec=first, later_sec=tuple(later))


def step_seconds(stamps: Sequence[float]) -> list[float]:
    """Seconds between consecutive time stamps."""
    return [after - before for before, after in itertools.pairwise(stamps)]


def _padding_id(model: PreTrainedModel) -> int:
    """The id that fills up finished sequences. Any id will do, so a model without a padding token uses another one."""
    config = model.generation_config
    assert config is not None, "a model that generates has a generation config"
    end, padding = config.eos_token_id, config.pad_token_id
    first = end[0] if isinstance(end, list) and end else end
    return padding if padding is not None else first if isinstance(first, int) else 0
