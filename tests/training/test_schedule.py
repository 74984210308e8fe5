"""Conversion of token counts to steps, and the learning rate that transformers computes from the steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import get_scheduler

from sparsing.training.config_file import read_train_config
from sparsing.training.schedule import log_spaced, make_step_schedule


def schedule(**overrides):
    options = {"training.tokens": 100 * 2048, **{k.replace("__", "."): v for k, v in overrides.items()}}
    return make_step_schedule(read_train_config(preset="nano-0.3M", overrides=options))


def test_counts_become_the_first_step_that_reaches_them():
    made = schedule(checkpoints__at=[2048, 2049, 100_000], training__warmup=0.1, training__decay=0.25)
    assert (made.steps, made.warmup, made.decay) == (100, 10, 25)
    assert made.kept == (1, 2, 49, 100)
    assert made.tokens(49) == 49 * 2048 >= 100_000
    assert [made.phase(step) for step in (1, 10, 11, 75, 76, 100)] == [
        *("warmup", "warmup", "stable", "stable", "decay", "decay")
    ]
    assert schedule(training__tokens=100 * 2048 + 1).steps == 101


def test_log_spaced_checkpoints_are_a_factor_apart():
    assert log_spaced(10, 1000, 3) == pytest.approx((10, 100, 1000))
    kept = schedule(training__tokens=10_000 * 2048, checkpoints__count=5).kept
    assert kept[0] == 100
    assert kept[-1] == 10_000
    factors = np.array(kept[1:]) / np.array(kept[:-1])
    assert factors == pytest.approx(10**0.5, rel=0.02)


def test_checkpoints_to_resume_from():
    made = schedule(checkpoints__at=[2048 * 7], checkpoints__resume_every=2048 * 40)
    assert [step for step in range(1, 101) if made.saves(step)] == [7, 40, 80, 100]
    assert schedule(training__log_every=30).resume_every == 30  # a short run does not save all the time


def test_the_learning_rate_rises_stays_and_falls_to_zero():
    made = schedule(training__warmup=0.1, training__decay=0.2)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    rate = get_scheduler(
        "warmup_stable_decay",
        optimizer,
        num_warmup_steps=made.warmup,
        num_training_steps=made.steps,
        scheduler_specific_kwargs={"num_decay_steps": made.decay, "decay_type": "linear"},
    )
    seen = []
    for _ in range(made.steps + 1):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        rate.step()
    assert seen[0] == 0
    assert seen[5] == pytest.approx(0.5)
    assert set(seen[10:81]) == {1.0}
    assert seen[90] == pytest.approx(0.5)
    assert seen[100] == pytest.approx(0)
