"""Greedy generation with a clock: the time of every new token, whatever the batch."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from sparsing.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TimedTokens:
    """What was generated, and how fast."""

    ids: torch.Tensor
    """Prompt and new tokens, shape `(batch, tokens)`."""
    ttft_sec: float
    """From the call to the first new token: the prompt's forward."""
    later_sec: tuple[float, ...]
    """Of each step after the first, which writes a token of every sequence."""

    @property
    def num_new_tokens(self) -> int:
        """New tokens of each sequence."""
        return 1 + len(self.later_sec)

    @property
    def tok_per_sec(self) -> float:
        """New tokens after the first, of all sequences, over the time since the first; NaN for a single one."""
        written = len(self.later_sec) * self.ids.shape[0]
        return written / sum(self.later_sec) if written else math.nan


class _Clock(StoppingCriteria):
    def __init__(self) -> None:
        self.stamps = [time.perf_counter()]

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        if input_ids.is_cuda:
            torch.cuda.synchronize(input_ids.device)
        self.stamps.append(time.perf_counter())
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


def generate_timed(
    model: PreTrainedModel,
    ids: torch.Tensor,
    *,
    max_new_tokens: int,
    to_the_end: bool = False,
    processors: Sequence[LogitsProcessor] = (),
) -> TimedTokens:
    """Decode greedily from `ids (batch, tokens)`, none of them padding.

    Args:
        to_the_end: Go on after an end-of-text token, so that every run has the same length.
        processors: Of the logits, before the largest is taken.

    Raises:
        InputError: less than one new token, or an empty prompt.
    """
    if max_new_tokens < 1 or ids.numel() == 0:
        raise InputError(
            f"give a prompt and at least one new token, got {ids.numel()} tokens and max_new_tokens={max_new_tokens}"
        )
    clock = _Clock()
    ids = ids.to(model.device)
    written = model.generate(  # pyright: ignore[reportCallIssue]
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=max_new_tokens,
        min_new_tokens=max_new_tokens if to_the_end else None,
        do_sample=False,
        pad_token_id=_pad(model),
        logits_processor=LogitsProcessorList(processors),
        stopping_criteria=StoppingCriteriaList([clock]),
    )
    first, *later = differences(clock.stamps)
    return TimedTokens(ids=written, ttft_sec=first, later_sec=tuple(later))  # pyright: ignore[reportArgumentType]


def differences(stamps: Sequence[float]) -> list[float]:
    """Of each to the one before."""
    return [after - before for before, after in itertools.pairwise(stamps)]


def _pad(model: PreTrainedModel) -> int:
    """Any id will do where a model has no padding token: finished sequences are filled with it."""
    end = model.generation_config.eos_token_id  # pyright: ignore[reportOptionalMemberAccess]
    pad = model.generation_config.pad_token_id  # pyright: ignore[reportOptionalMemberAccess]
    first = end[0] if isinstance(end, list) and end else end
    return pad if pad is not None else first if isinstance(first, int) else 0
