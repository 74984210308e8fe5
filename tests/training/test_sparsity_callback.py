"""The sparsity callback: training is unchanged, figures equal those of `measure`, resuming repeats no row."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback

from sparsing.errors import InputError
from sparsing.measuring._measure import measure
from sparsing.measuring.subject import Subject
from sparsing.models.loading import LoadedModel
from sparsing.text.corpus import load_corpus
from sparsing.training import sparsity_callback as callback_module
from sparsing.training.probe import Reading, probe
from sparsing.training.sparsity_callback import (
    SPARSITY_FILE,
    SparsityCallback,
    paused_training,
    read_sparsity_rows,
)

from ..helpers.measuring import random_text, source_text, text_corpus, tiny_loaded, trained
from ..helpers.tiny import build, tiny_tokenizer
from .trainers import losses, tiny_trainer


@pytest.fixture(scope="module")
def corpus():
    return text_corpus(200)


@pytest.fixture(scope="module")
def source():
    """Text like the training text of `trained()`, on which pruning raises the perplexity."""
    return load_corpus([source_text()[:800]], tiny_tokenizer(), window=48)


def test_readings_are_those_of_a_measurement(corpus):
    loaded = trained()
    found = probe(loaded, corpus, eps=0.05, target_cett=0.2)
    subject = Subject(loaded, corpus)
    exact = measure(subject, "cett", level=0.2)
    # a measurement counts in the sparse run, a probe in the dense one: the first layer sees the same in both
    assert found["cett"].layer_activation_ratio[0] == pytest.approx(exact.layer_activation_ratio[0], rel=0.02)
    fat = measure(subject, "fat", level=0.05)
    assert found["fat"].layer_activation_ratio[0] == pytest.approx(fat.layer_activation_ratio[0], abs=1e-6)
    assert found["zero"].activation_ratio == 1.0  # SiLU is never exactly zero


def test_dead_neurons_are_counted(corpus):
    model = build("llama", hidden_act="relu")
    with torch.no_grad():
        model.model.layers[0].mlp.gate_proj.weight[:24] = 0
    found = probe(LoadedModel.of(model, tiny_tokenizer()), corpus, eps=0.0, target_cett=0.0)
    # 24 of 96 neurons of one of two layers give exact zeros on every token; the others fire on some
    assert found["zero"].dead_neuron_ratio == pytest.approx(24 / 96 / 2)
    assert found["cett"].dead_neuron_ratio == found["zero"].dead_neuron_ratio  # CETT 0 drops zeros only
    assert found["cett"].activation_ratio == pytest.approx(found["zero"].activation_ratio)


def test_a_large_corpus_is_refused():
    large = load_corpus([random_text(33_000)], tiny_tokenizer(), window=64)
    with pytest.raises(InputError, match="too many for a probe"):
        probe(tiny_loaded(), large, eps=0.0, target_cett=0.1)


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "opt", "phi3"])
def test_training_is_the_same_to_the_last_digit(model_type, corpus, tmp_path):
    """Dropout makes each step depend on the random state; the model is in training mode between measurements."""
    dropout = {
        "llama": {"attention_dropout": 0.1},
        "gpt2": {"resid_pdrop": 0.1},
        "opt": {"dropout": 0.1},
        "phi3": {"resid_pdrop": 0.1},
    }[model_type]
    plain = tiny_trainer(tmp_path / "plain", build(model_type, **dropout), steps=6)
    plain.train()
    watched = tiny_trainer(tmp_path / "watched", build(model_type, **dropout), steps=6)
    SparsityCallback(corpus, every=2).attach(watched)
    watched.train()
    assert losses(watched) == losses(plain)
    assert len(losses(plain)) == 6
    for a, b in zip(plain.model.parameters(), watched.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert [row["step"] for row in read_sparsity_rows(tmp_path / "watched" / SPARSITY_FILE)] == [0, 2, 4, 6]


def test_bfloat16_training_is_measured_too(corpus, tmp_path):
    trainer = tiny_trainer(tmp_path, steps=4, bf16=True)
    SparsityCallback(corpus, every=2).attach(trainer)
    trainer.train()
    rows = read_sparsity_rows(tmp_path / SPARSITY_FILE)
    assert [row["step"] for row in rows] == [0, 2, 4]
    assert all(0 < row["cett"]["activation_ratio"] < 1 for row in rows)


class _LogRecorder(TrainerCallback):
    def __init__(self):
        self.logs: list[dict] = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.logs.append({"step": state.global_step, **logs})


def test_loggers_get_the_figures_and_the_losses_too(source, tmp_path):
    seen = _LogRecorder()
    model = copy.deepcopy(trained().model).requires_grad_(True)
    trainer = tiny_trainer(tmp_path, model, steps=4, callbacks=[seen], learning_rate=1e-5)
    SparsityCallback(source, every=2).attach(trainer)
    trainer.train()
    rows = {row["step"]: row for row in read_sparsity_rows(tmp_path / SPARSITY_FILE)}
    logged = [logs for logs in seen.logs if "activation_ratio/cett" in logs]
    assert [logs["step"] for logs in logged] == [0, 2, 4]
    for logs in logged:
        row = rows[logs["step"]]
        assert logs["activation_ratio/zero"] == row["zero"]["activation_ratio"]
        assert logs["dead_neuron_ratio/fat"] == row["fat"]["dead_neuron_ratio"]
        assert logs["activation_ratio_cett/layer_1"] == row["cett"]["layer_activation_ratio"][1]
    assert "ppl" in rows[4], "the last step finds PPL-p%"
    assert logged[-1]["activation_ratio/ppl"] == rows[4]["ppl"]["activation_ratio"]
    assert "ppl" not in rows[2]
    assert [logs["step"] for logs in seen.logs if "loss" in logs] == [1, 2, 3, 4], "no loss was lost"


def test_ppl_is_found_on_the_same_model(source):
    loaded = trained()
    with paused_training(loaded.model) as seen:
        found = SparsityCallback(source, ppl_percent=5.0).find_ppl(seen)
    assert isinstance(found, Reading)
    exact = measure(Subject(loaded, source), "cett", ppl_ratio=1.05)
    assert found.activation_ratio == pytest.approx(exact.activation_ratio, rel=0.03)


def test_a_resumed_run_writes_each_step_once(corpus, tmp_path):
    """A run that is cut off at step 7, after the row of step 6, resumes from the checkpoint of step 4."""

    class Cut(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 7:
                raise KeyboardInterrupt

    options = {"steps": 10, "save_strategy": "steps", "save_steps": 4}
    whole = tiny_trainer(tmp_path / "whole", **options)
    SparsityCallback(corpus, every=2).attach(whole)
    whole.train()
    cut = tiny_trainer(tmp_path / "cut", callbacks=[Cut()], **options)
    SparsityCallback(corpus, every=2).attach(cut)
    with pytest.raises(KeyboardInterrupt):
        cut.train()
    path = tmp_path / "cut" / SPARSITY_FILE
    assert [row["step"] for row in read_sparsity_rows(path)] == [0, 2, 4, 6]
    with path.open("a") as file:
        file.write('{"step": 7, "torn')
    again = tiny_trainer(tmp_path / "cut", **options)
    SparsityCallback(corpus, every=2).attach(again)
    again.train(resume_from_checkpoint=True)

    def timeless(path: Path) -> list[dict]:
        return [
            {key: value for key, value in row.items() if key != "seconds"} for row in read_sparsity_rows(path)
        ]

    assert [row["step"] for row in timeless(path)] == [0, 2, 4, 6, 8, 10]
    assert timeless(path) == timeless(tmp_path / "whole" / SPARSITY_FILE)


def test_every_is_chosen_from_the_time_a_step_takes(corpus, tmp_path, monkeypatch):
    """With a simulated clock: a step takes 1 s, a probe 2 s, PPL-p% 20 s."""
    clock = [0.0]

    class Tick(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            clock[0] += 1

    monkeypatch.setattr(callback_module, "time", types.SimpleNamespace(perf_counter=lambda: clock[0]))

    def takes(seconds: float, call):
        def timed(*args, **kwargs):
            clock[0] += seconds
            return call(*args, **kwargs)

        return timed

    monkeypatch.setattr(callback_module, "probe", takes(2, probe))
    monkeypatch.setattr(SparsityCallback, "find_ppl", takes(20, SparsityCallback.find_ppl))
    trainer = tiny_trainer(tmp_path, steps=12, callbacks=[Tick()])
    SparsityCallback(corpus).attach(trainer)
    trainer.train()
    rows = read_sparsity_rows(tmp_path / SPARSITY_FILE)
    # (2 + 20 / 20) s of every N steps may be 2% of the time: N is 150, and 200 on the scale
    assert [(row["step"], row["every"]) for row in rows] == [(0, None), (10, 200), (12, 200)]
    assert [row["seconds"] for row in rows] == [2, 22, 22]


def test_a_resumed_run_keeps_its_interval(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(callback_module, "choose_interval", lambda *args: pytest.fail("chosen a second time"))
    row = {"step": 2, "every": 3}
    (tmp_path / SPARSITY_FILE).write_text(json.dumps(row) + "\n")
    first = tiny_trainer(tmp_path, steps=2, save_strategy="steps", save_steps=2)
    first.train()
    again = tiny_trainer(tmp_path, steps=6)
    SparsityCallback(corpus).attach(again)
    again.train(resume_from_checkpoint=True)
    assert [row["step"] for row in read_sparsity_rows(tmp_path / SPARSITY_FILE)] == [2, 3, 6]


def test_modes_and_random_state_come_back_after_an_exception():
    model = build("llama").train()
    model.model.layers[0].eval()  # a part the user has frozen
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()

    def fail() -> None:
        with paused_training(model) as loaded:
            assert not any(module.training for module in loaded.model.modules())
            torch.rand(3)
            raise RuntimeError("the measurement fails")

    with pytest.raises(RuntimeError, match="the measurement fails"):
        fail()
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)


def test_other_processes_do_nothing(corpus, tmp_path):
    trainer = tiny_trainer(tmp_path, steps=2)
    trainer.state.is_world_process_zero = False
    callback = SparsityCallback(corpus, every=1).attach(trainer)
    arguments = (trainer.args, trainer.state, trainer.control)
    callback.on_train_begin(*arguments, model=trainer.model)
    trainer.state.global_step = 1
    callback.on_step_end(*arguments, model=trainer.model)
    assert not (tmp_path / SPARSITY_FILE).exists()


def test_sharded_models_are_refused(corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    trainer = tiny_trainer(tmp_path / "plain", steps=2)
    callback = SparsityCallback(corpus)
    with pytest.raises(InputError, match="sparsing track"):
        callback.on_train_begin(trainer.args, trainer.state, trainer.control, model=trainer.model)


@pytest.mark.parametrize("wrong", [{"every": 0}, {"ppl_percent": 0.0}, {"eps": -1.0}, {"target_cett": 2.0}])
def test_numbers_out_of_bounds_are_refused(wrong, corpus):
    with pytest.raises(InputError):
        SparsityCallback(corpus, **wrong)


@pytest.mark.slow
def test_under_torchrun_the_main_process_measures_alone(tmp_path):
    """Two processes with gloo: the losses are the same with and without the callback, and no row is written twice."""
    script = Path(__file__).with_name("watched_on_two.py")
    printed = {}
    for how in ("plain", "watched"):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        done = subprocess.run(
            [*command, str(script), str(tmp_path / how), how], capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        printed[how] = next(line for line in done.stdout.splitlines() if line.startswith("losses"))
    assert printed["plain"] == printed["watched"]
    assert [row["step"] for row in read_sparsity_rows(tmp_path / "watched" / SPARSITY_FILE)] == [0, 2, 4]


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_an_adapter_in_training_is_part_of_the_figures(tmp_path, corpus):
    """The rows of a LoRA run equal those of the same model with the adapter merged, and the adapter is trained."""
    peft = pytest.importorskip("peft", reason="needs peft: pip install 'sparsing[adapters]'")
    torch.manual_seed(0)
    config = peft.LoraConfig(r=4, lora_alpha=64, target_modules=["down_proj"], init_lora_weights=False)
    model = peft.get_peft_model(build("llama"), config)
    trainer = tiny_trainer(tmp_path, model, steps=4, learning_rate=0.05)
    before = {name: value.clone() for name, value in model.named_parameters()}
    SparsityCallback(corpus, every=2, ppl_percent=None).attach(trainer)
    trainer.train()
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if "lora_" in name}
    rows = read_sparsity_rows(tmp_path / SPARSITY_FILE)
    assert [row["step"] for row in rows] == [0, 2, 4]
    merged = LoadedModel.of(model.merge_and_unload(), tiny_tokenizer())
    wanted = probe(merged, corpus, eps=0.01, target_cett=0.2)
    assert rows[-1]["cett"]["layer_activation_ratio"] == pytest.approx(
        wanted["cett"].layer_activation_ratio, abs=2e-3
    )
    assert abs(rows[-1]["cett"]["activation_ratio"] - rows[0]["cett"]["activation_ratio"]) > 2e-3


def test_a_model_that_has_diverged_is_passed_over_and_training_goes_on(tmp_path, corpus, caplog):
    class Diverge(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            with torch.no_grad():
                model.model.layers[1].mlp.up_proj.weight[0] = float("nan") if state.global_step == 2 else 0.1

    trainer = tiny_trainer(tmp_path, steps=3, callbacks=[Diverge()], max_grad_norm=0.0)
    SparsityCallback(corpus, every=1, ppl_percent=None).attach(trainer)
    trainer.train()
    assert [row["step"] for row in read_sparsity_rows(tmp_path / SPARSITY_FILE)] == [0, 1]
    assert "step 2 is not measured: window 0" in caplog.text
    assert trainer.state.global_step == 3
