"""Whole tiny runs: the loss falls, runs are reproducible, resuming is exact, and checkpoints can be measured."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from sparsing.errors import InputError, SparsityError
from sparsing.models.loading import load_model
from sparsing.training.run_callbacks import read_loss_curve
from sparsing.training.run_checkpoints import check_resumable, complete_checkpoints, find_resumable
from sparsing.training.trainer import BatchSplit, split_batch, train

from ..helpers.launched import variables
from ..helpers.locks import hold
from .runs import StopAt, tiny_config


def curve(run: Path) -> bytes:
    return (run / "loss.jsonl").read_bytes()


def test_a_run_learns_and_logs_its_losses(finished_run):
    lines = read_loss_curve(finished_run)
    trained = [line for line in lines if "loss" in line]
    heldout = [line for line in lines if "heldout_loss" in line]
    assert [line["step"] for line in trained] == [3, 4, 5, 6, 8, 9, 12, 15, 16, 18, 20]
    assert [line["step"] for line in heldout] == [5, 12, 20]
    assert all(line["tokens"] == line["step"] * 128 for line in lines)
    assert trained[-1]["loss"] < trained[0]["loss"] - 0.5
    assert heldout[-1]["heldout_loss"] < heldout[0]["heldout_loss"] - 0.3
    rates = {line["step"]: line["lr"] for line in trained}
    assert rates[12] == pytest.approx(0.01)  # stable
    assert rates[20] == pytest.approx(0.005)  # the second of two steps of decay


def test_checkpoints_load_and_only_the_newest_can_be_resumed(finished_run):
    folders = complete_checkpoints(finished_run)
    assert [folder.name for folder in folders] == ["checkpoint-5", "checkpoint-12", "checkpoint-20"]
    assert [(folder / "optimizer.pt").exists() for folder in folders] == [False, False, True]
    assert not list(finished_run.rglob("training_args.bin"))
    loaded = load_model(folders[1])
    assert (loaded.train_step, loaded.train_tokens) == (12, 12 * 128)
    assert loaded.dtype == "float32"
    assert loaded.model.config.use_cache
    ids = torch.tensor([loaded.tokenizer("def f1(x):")["input_ids"]])
    assert torch.isfinite(loaded.model(input_ids=ids, labels=ids).loss)


def test_same_seed_gives_the_same_bytes_and_another_seed_does_not(finished_run, training_text, tmp_path):
    train(tiny_config(training_text), tmp_path / "again")
    assert curve(tmp_path / "again") == curve(finished_run)
    train(tiny_config(training_text, training__seed=2), tmp_path / "other")
    assert curve(tmp_path / "other") != curve(finished_run)


@pytest.mark.parametrize("stop", [2, 5, 11])
def test_a_stopped_run_resumes_to_the_same_bytes(finished_run, training_text, tmp_path, stop):
    config = tiny_config(training_text)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run", callbacks=(StopAt(stop),))
    assert curve(tmp_path / "run") != curve(finished_run)
    train(config, tmp_path / "run")
    assert curve(tmp_path / "run") == curve(finished_run)
    last = [load_model(folder / "checkpoint-20").model for folder in (tmp_path / "run", finished_run)]
    for ours, theirs in zip(*(model.parameters() for model in last), strict=True):
        assert torch.equal(ours, theirs)


def test_a_half_written_checkpoint_is_removed(finished_run, training_text, tmp_path):
    config = tiny_config(training_text)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run", callbacks=(StopAt(13),))
    broken = tmp_path / "run" / "checkpoint-12"
    (broken / "training_state.json").unlink()
    (broken / "model.safetensors").write_bytes(b"half")
    train(config, tmp_path / "run")  # from the beginning: saving step 12 has removed the state of step 8
    assert curve(tmp_path / "run") == curve(finished_run)


def test_checkpoints_of_another_trainer_are_not_touched(training_text, tmp_path):
    theirs = tmp_path / "checkpoint-7" / "model.safetensors"
    theirs.parent.mkdir()
    theirs.write_bytes(b"theirs")
    with pytest.raises(InputError, match="choose another folder"):
        train(tiny_config(training_text), tmp_path)
    assert theirs.read_bytes() == b"theirs"


def test_an_incomplete_last_line_is_ignored(finished_run, tmp_path):
    complete = (finished_run / "loss.jsonl").read_text(encoding="utf-8")
    (tmp_path / "loss.jsonl").write_text(complete[:-5], encoding="utf-8")
    assert read_loss_curve(tmp_path) == read_loss_curve(finished_run)[:-1]
    assert read_loss_curve(tmp_path / "nowhere") == []


def test_a_finished_run_is_not_changed(finished_run, training_text):
    before = {path: path.stat().st_mtime_ns for path in finished_run.rglob("*") if path.is_file()}
    assert train(tiny_config(training_text), finished_run) == read_loss_curve(finished_run)
    assert {path: path.stat().st_mtime_ns for path in finished_run.rglob("*") if path.is_file()} == before


def test_another_configuration_in_the_same_folder_is_refused(finished_run, training_text):
    with pytest.raises(
        InputError, match=r"has training.lr = 0.01, this configuration has 0.02; choose another"
    ):
        train(tiny_config(training_text, training__lr=0.02), finished_run)


def test_before_the_first_checkpoint_the_configuration_may_change(training_text, tmp_path):
    with pytest.raises(InputError, match="no file or folder here"):
        train(tiny_config(tmp_path / "nowhere"), tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        train(tiny_config(training_text), tmp_path / "run", callbacks=(StopAt(1),))
    config = tiny_config(training_text, model__vocab_size=300, training__tokens=256, checkpoints__at=[])
    assert train(config, tmp_path / "run")[-1]["step"] == 2
    assert load_model(tmp_path / "run" / "checkpoint-2").model.config.vocab_size == 300


def test_a_kill_between_two_files_of_the_tokenizer_does_no_harm(
    finished_run, training_text, tmp_path, monkeypatch
):
    from transformers import PreTrainedTokenizerFast

    save = PreTrainedTokenizerFast.save_pretrained

    def killed(self, folder, **options):
        save(self, folder, **options)
        (Path(folder) / "tokenizer.json").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PreTrainedTokenizerFast, "save_pretrained", killed)
        with pytest.raises(KeyboardInterrupt):
            train(tiny_config(training_text), tmp_path / "run")
    train(tiny_config(training_text), tmp_path / "run")
    assert curve(tmp_path / "run") == curve(finished_run)
    assert not list((tmp_path / "run").glob(".*partial"))


@pytest.mark.parametrize("damage", ["remove", "cut"])
@pytest.mark.parametrize("name", ["scheduler.pt", "optimizer.pt", "model.safetensors", "rng_state.pth"])
def test_a_damaged_checkpoint_is_not_resumed(finished_run, name, damage, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    checkpoint = find_resumable(run)
    assert checkpoint is not None
    check_resumable(checkpoint)
    path = checkpoint / name
    path.unlink() if damage == "remove" else path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=rf"training cannot continue from .*{name} (is missing|has changed)"):
        check_resumable(checkpoint)


def test_a_diverged_run_stops(training_text, tmp_path):
    with pytest.raises(SparsityError, match=r"training diverged: the .* is (nan|inf) .*lower training\.lr"):
        train(tiny_config(training_text, training__lr=1e308), tmp_path / "run")


def test_a_second_process_in_the_same_folder_is_refused(training_text, tmp_path):
    command = _command(training_text, tmp_path / "run", tokens=25600)
    with hold(tmp_path / "run") as process:
        try:
            done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
        finally:
            process.kill()
    assert done.returncode == 2
    assert "another process is writing into" in done.stderr


def test_a_full_disk(training_text, small_disk):
    with pytest.raises(InputError, match=r"cannot write into .*No space left.*; free some space"):
        train(tiny_config(training_text), small_disk / "run")


def test_micro_batches_give_the_same_loss_as_whole_ones(finished_run, training_text, tmp_path):
    train(tiny_config(training_text, training__micro_batch=1), tmp_path / "micro")
    pairs = zip(read_loss_curve(tmp_path / "micro"), read_loss_curve(finished_run), strict=True)
    for ours, theirs in pairs:
        name = "loss" if "loss" in theirs else "heldout_loss"
        assert ours[name] == pytest.approx(theirs[name], abs=2e-3)


def test_bfloat16_products_leave_the_weights_in_float32(training_text, tmp_path):
    config = tiny_config(
        training_text, training__precision="bfloat16", training__tokens=512, checkpoints__at=[]
    )
    train(config, tmp_path / "run")
    assert load_model(tmp_path / "run" / "checkpoint-4").dtype == "float32"
    plain = tiny_config(training_text, training__tokens=512, checkpoints__at=[])
    train(plain, tmp_path / "plain")
    ours, theirs = (read_loss_curve(tmp_path / name)[-1]["heldout_loss"] for name in ("run", "plain"))
    assert ours != theirs
    assert ours == pytest.approx(theirs, abs=0.05)


def test_the_extras_reach_the_trainer(finished_run, training_text, tmp_path):
    options = {
        **{"sparser__l1_factors": [5.0], "sparser__l1_steps": [1], "sparser__fat_eps": 0.05},
        **{"sparser__start": str(finished_run / "checkpoint-20"), "model__hidden_act": "relu2"},
        **{"tracking__tokens": 64, "tracking__every": 10, "tracking__ppl_percent": 0},
    }
    plain = {key: value for key, value in options.items() if key == "sparser__start"}
    train(tiny_config(training_text, **options), tmp_path / "all")
    train(tiny_config(training_text, **plain), tmp_path / "plain")
    ours, theirs = (read_loss_curve(tmp_path / name)[0]["loss"] for name in ("all", "plain"))
    first = [line["loss"] for line in read_loss_curve(finished_run) if "loss" in line]
    assert theirs < first[0] - 0.5  # training started from the trained weights
    assert ours > theirs + 0.1  # the L1 penalty and the other activation function
    rows = [
        json.loads(line) for line in (tmp_path / "all" / "sparsity.jsonl").read_text("utf-8").splitlines()
    ]
    assert [row["step"] for row in rows] == [0, 10, 20]
    assert (tmp_path / "all" / "checkpoint-20" / "thresholds.json").exists()
    assert load_model(tmp_path / "all" / "checkpoint-20").model.config.hidden_act == "relu2"


def test_resuming_does_not_need_the_start_checkpoint(finished_run, training_text, tmp_path):
    start = shutil.copytree(finished_run / "checkpoint-20", tmp_path / "start")
    config = tiny_config(training_text, sparser__start=str(start))
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run", callbacks=(StopAt(6),))
    shutil.rmtree(start)
    assert train(config, tmp_path / "run")[-1]["step"] == 20


def test_a_start_of_another_shape_is_refused(finished_run, training_text, tmp_path):
    config = tiny_config(
        training_text, sparser__start=str(finished_run / "checkpoint-20"), model__d_model=64, model__n_heads=4
    )
    with pytest.raises(InputError, match="do not fit"):
        train(config, tmp_path / "run")


def test_tracking_without_a_held_out_text_is_refused(training_text, tmp_path):
    with pytest.raises(InputError, match=r"\[tracking\] needs a held-out text"):
        train(tiny_config(training_text, data__heldout="", tracking__tokens=64), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_batches_that_do_not_divide_are_refused(training_text, monkeypatch):
    with pytest.raises(InputError, match="micro_batch = 3 does not divide the 4 windows"):
        split_batch(tiny_config(training_text, training__micro_batch=3))
    for name, value in variables(0, 3).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="do not divide among 3 processes; make it a multiple of 96"):
        split_batch(tiny_config(training_text))
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert split_batch(tiny_config(training_text)) == BatchSplit(micro_batch=2, accumulation=1)


def _command(text: Path, run: Path, *launcher: str, tokens: int) -> list[str]:
    sets = [
        *("model.d_model=32", "model.n_layers=2", "model.n_heads=2", "model.vocab_size=280"),
        *("model.context=32", "model.dim_model_base=16", "training.batch_tokens=128"),
        *(f"training.tokens={tokens}", "checkpoints.resume_every=2560", f"data.heldout={text}"),
        *(f"data.text={text}", "training.log_every=1"),
    ]
    (run.parent / "run.toml").write_text("", encoding="utf-8")
    start = launcher or (sys.executable,)
    where = ["-o", str(run), "--quiet", "--no-figures"]
    return [*start, "-m", "sparsing", "train", str(run.parent / "run.toml"), "--set", *sets, *where]


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_killed_runs_end_with_the_same_bytes(training_text, tmp_path):
    whole, killed = (tmp_path / name / "run" for name in ("whole", "killed"))
    for folder in (whole, killed):
        folder.parent.mkdir()
    subprocess.run(
        _command(training_text, whole, tokens=25600), check=True, env=ENVIRONMENT, stdout=subprocess.DEVNULL
    )
    command = _command(training_text, killed, tokens=25600)
    for step in (30, 90):
        process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
        while process.poll() is None and not _reached(killed, step):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "the run ended before it was killed"
    subprocess.run(command, check=True, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    assert curve(killed) == curve(whole)


@pytest.mark.slow
def test_two_processes_give_the_loss_of_one(training_text, tmp_path):
    one, two = (tmp_path / name / "run" for name in ("one", "two"))
    for folder in (one, two):
        folder.parent.mkdir()
    launcher = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone")
    for command in (
        _command(training_text, one, tokens=6400),
        _command(training_text, two, *launcher, tokens=6400),
    ):
        subprocess.run(command, check=True, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    ours, theirs = ([line["loss"] for line in read_loss_curve(run) if "loss" in line] for run in (two, one))
    assert len(ours) == len(theirs) == 50
    assert ours == pytest.approx(theirs, abs=1e-4)
    assert ours[-1] < ours[0] - 1


def _reached(run: Path, step: int) -> bool:
    """Whether the loss curve of a running process has reached this step."""
    path = run / "loss.jsonl"
    steps = re.findall(r'"step": (\d+)', path.read_text("utf-8")) if path.exists() else []
    return bool(steps) and int(steps[-1]) >= step
