"""Timed generation returns the greedy tokens of the model and the time of each step."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import pytest
import torch

from sparsing.bench.forced_decoding import hugging_face_seconds
from sparsing.decode import timed_generation as timing
from sparsing.decode.timed_generation import generate_timed
from sparsing.errors import InputError

from ..helpers.decode_models import generate_greedily
from ..helpers.tiny import build, tiny_input


@pytest.fixture
def clock(monkeypatch):
    """Times 0, 1, 3, 6, 10, ...: the first step takes 1 s, the next 2 s, then 3 s."""
    ticks = itertools.accumulate(itertools.count())
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: float(next(ticks))))


@pytest.mark.usefixtures("clock")
def test_greedy_tokens_with_the_time_of_each_step():
    model, ids = build("llama"), tiny_input(3, 5)
    made = generate_timed(model, ids, max_new_tokens=4, ignore_eos=True)
    assert torch.equal(made.ids, generate_greedily(model, ids, 4))
    assert (made.ttft_sec, made.later_sec) == (1, (2, 3, 4))
    assert made.num_new_tokens == 4
    assert made.tok_per_sec == pytest.approx(3 * 3 / 9)


def test_a_single_token_has_no_speed():
    made = generate_timed(build("llama"), tiny_input(1, 5), max_new_tokens=1)
    assert made.num_new_tokens == 1
    assert math.isnan(made.tok_per_sec)


def test_generation_stops_at_an_end_of_text_token_unless_it_is_ignored():
    model, ids = build("llama"), tiny_input(1, 5)
    first = int(generate_greedily(model, ids, 1)[0, -1])
    model.generation_config.eos_token_id = first
    assert generate_timed(model, ids, max_new_tokens=6).num_new_tokens == 1
    whole = generate_timed(model, ids, max_new_tokens=6, ignore_eos=True)
    assert whole.num_new_tokens == 6
    assert first not in whole.ids[0, 5:]


@pytest.mark.usefixtures("clock")
def test_forced_tokens_are_timed_from_the_second_on():
    assert hugging_face_seconds(build("llama"), [5, 9, 9, 3, 7], 2) == [2, 3]


@pytest.mark.parametrize(("tokens", "new"), [(0, 4), (3, 0)])
def test_an_empty_prompt_or_no_new_token_is_rejected(tokens, new):
    with pytest.raises(InputError, match=f"got {tokens} tokens and max_new_tokens={new}"):
        generate_timed(build("llama"), tiny_input(1, tokens), max_new_tokens=new)
