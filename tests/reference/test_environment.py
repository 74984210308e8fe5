"""The environment variables of the reference: what they set, and which values are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sparsing.errors import InputError
from sparsing.reference.environment import EvaluationEnvironment, apply_environment, environment_thresholds

NAMES = ("mode", "thresholds", "task_data", "limit", "batch_size", "max_gen_toks", "allow_code_execution")


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """`environment(name=value, ...)`: sets variables; no other variable of the reference is set."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    return lambda **values: [monkeypatch.setenv(name, value) for name, value in values.items()]


def test_thresholds(environment):
    assert environment_thresholds() is None
    environment(thresholds="1e-1,2e-1")
    assert environment_thresholds() is None, "without mode=sparse the model stays dense, as in the reference"
    environment(mode="dense")
    assert environment_thresholds() is None
    environment(mode="sparse")
    thresholds = environment_thresholds()
    assert (thresholds.on, thresholds.numbers) == ("neuron_norm", (0.1, 0.2))


@pytest.mark.parametrize(
    ("line", "message"), [("", "no thresholds in the environment"), ("few", "cannot read thresholds")]
)
def test_thresholds_that_are_refused(environment, line, message):
    environment(mode="sparse", thresholds=line)
    with pytest.raises(InputError, match=message):
        environment_thresholds()


def test_applied_to_a_model(environment, tiny_checkpoint, tiny_input):
    from sparsing.models.loading import load_model
    from sparsing.rules.mask import sparsify
    from sparsing.rules.thresholds import Thresholds

    def logits(model):
        with torch.no_grad():
            return model(tiny_input(2, 9)).logits

    model = load_model(str(tiny_checkpoint), device="cpu").model
    dense, line = logits(model), ",".join(["0.02"] * model.config.num_hidden_layers)
    with sparsify(model, Thresholds.from_line(line)):
        sparse = logits(model)
    apply_environment(model)
    assert torch.equal(logits(model), dense)
    environment(mode="sparse", thresholds=line)
    apply_environment(model)
    assert torch.equal(logits(model), sparse)
    assert not torch.equal(sparse, dense)


def test_thresholds_for_another_model(environment, tiny_model):
    environment(mode="sparse", thresholds=",".join(["0.1"] * 7))
    with pytest.raises(InputError, match="7 thresholds"):
        apply_environment(tiny_model("llama"))


def test_settings(environment):
    absent = EvaluationEnvironment.read()
    assert absent == EvaluationEnvironment(
        task_data=None, limit=None, batch_size=None, max_gen_toks=None, allow_code_execution=False
    )
    environment(task_data="bench", limit="5", batch_size="auto", max_gen_toks="8", allow_code_execution="1")
    assert EvaluationEnvironment.read() == EvaluationEnvironment(
        task_data=Path("bench"), limit=5, batch_size="auto", max_gen_toks=8, allow_code_execution=True
    )
    environment(limit="few")
    with pytest.raises(InputError, match="limit='few' in the environment is no whole number"):
        EvaluationEnvironment.read()
