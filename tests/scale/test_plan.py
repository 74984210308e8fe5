"""Tests of plans: operations against torch's counter, memory, machines, and the option of the commands."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, LlamaConfig, MixtralConfig

from sparsing import cli
from sparsing.demo import checkpoints
from sparsing.errors import InputError
from sparsing.models.loading import load_model
from sparsing.models.outline import Outline, model_sizes, read_outline
from sparsing.scale.machines import MACHINES
from sparsing.scale.plan import plan_measurement
from sparsing.sites.discovery import find_sites
from sparsing.sites.site import Site

from ..helpers.tiny_experts import SIZES, build_experts

SMALL = {
    "vocab_size": 200,
    "hidden_size": 48,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.mark.parametrize("tied", [False, True])
def test_the_operations_of_a_pass_are_those_that_torch_counts(tied: bool):
    config = LlamaConfig(**SMALL, tie_word_embeddings=tied, attn_implementation="eager")
    model = AutoModelForCausalLM.from_config(config)
    width = 64
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, width, dtype=torch.long))
    sizes = model_sizes(config)
    assert sizes.num_parameters == sum(p.numel() for p in model.parameters())
    # eager attention computes the masked half too
    masked_half = 2.0 * sizes.n_layers * width * sizes.attention_width
    counted = counter.get_total_flops() / width
    # torch also counts the product that makes the rotary angles
    assert sizes.flops_per_token(width) + masked_half == pytest.approx(counted, rel=2e-3)


def test_of_experts_only_the_routed_share_is_multiplied():
    config = MixtralConfig(**SMALL, num_local_experts=8, num_experts_per_tok=2)
    sizes = model_sizes(config)
    experts = 3 * 8 * 3 * 48 * 112  # layers, experts, matrices
    embedding, norms = 200 * 48, 7 * 48
    assert sizes.matmul_parameters == sizes.num_parameters - embedding - norms - experts * 6 // 8


def outline_of(sizes_config: LlamaConfig) -> Outline:
    return Outline(
        name="model",
        config=sizes_config,
        tokenizer=None,  # type: ignore[arg-type]
        dtype="bfloat16",
        sizes=model_sizes(sizes_config),
    )


LLAMA_70B = LlamaConfig(
    vocab_size=128_256,
    hidden_size=8192,
    intermediate_size=28_672,
    num_hidden_layers=80,
    num_attention_heads=64,
    num_key_value_heads=8,
)


def test_a_large_model_is_spread_over_the_devices_that_it_needs():
    plan = plan_measurement(outline_of(LLAMA_70B), 1_000_000, 2048, 6.0, MACHINES["8xh100"])
    assert plan.num_parameters == pytest.approx(70.55e9, rel=1e-3)
    assert (plan.processes, plan.devices_per_process) == (2, 3)
    assert plan.memory_gb > 141
    # 6 passes x 1.2 x 1e6 tokens x 2 x 69.5e9 operations, at 0.4 x 989e12 per second on 2 copies
    attention = 2 * 80 * 2048 * 8192
    seconds = 6 * 1.2 * 1e6 * (2 * (70.55e9 - 128_256 * 8192) + attention) / (0.4 * 989e12) / 2
    assert plan.hours * 3600 == pytest.approx(seconds, rel=1e-2)
    assert plan.limit == "arithmetic"


def test_a_model_that_no_device_can_hold_is_refused():
    with pytest.raises(InputError, match="choose devices with more memory"):
        plan_measurement(outline_of(LLAMA_70B), 1_000_000, 2048, 6.0, MACHINES["a100"])


def test_a_plan_needs_no_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    shutil.copytree(
        checkpoints("relu")[-1],
        tmp_path / "model",
        ignore=lambda _, names: [n for n in names if "safet" in n],
    )
    (tmp_path / "text.txt").write_text("some words of a text\n" * 2000)
    words = [
        "measure",
        str(tmp_path / "model"),
        "--text",
        str(tmp_path / "text.txt"),
        "--ppl",
        "1",
        "5",
        "--json",
    ]
    words += ["--dtype", "fp32"]
    assert cli.main([*words, "--plan", "h100"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["num_parameters"] == read_outline(str(tmp_path / "model")).sizes.num_parameters == 820_352
    part = 2048 / plan["num_tokens"]  # two tries of the bracket, and groups and unions of two searches
    assert 1 / 8 < part < 1 / 2
    assert plan["passes"] == pytest.approx(1 + 2 * part + 2 * 2.5 + 1 + 2 * part + 3 / 9, abs=0.01)
    assert cli.main([*words, "--plan"]) == 0
    here = json.loads(capsys.readouterr().out)
    assert here["flops"] == plan["flops"]
    assert here["hours"] > 0
    assert not (tmp_path / "outputs").exists()


def test_an_unknown_machine_is_refused(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["measure", str(checkpoints("relu")[-1]), "--text", __file__, "--plan", "h10"]) == 2
    assert "Did you mean: h100" in capsys.readouterr().err


def test_no_more_processes_work_than_there_are_windows():
    """Four windows keep four of 64 devices busy."""
    model = outline_of(LlamaConfig(**SMALL))
    few = plan_measurement(model, 4 * 2048, 2048, 6.0, MACHINES["64xh100"])
    one = plan_measurement(model, 4 * 2048, 2048, 6.0, MACHINES["h100"])
    assert few.processes == 64
    assert few.hours == pytest.approx(one.hours / 4)


@pytest.mark.parametrize(
    "model_type", sorted({*SIZES} - {"llama4_text"})
)  # it has a shared expert without a key
def test_the_neurons_of_experts_are_those_of_the_sites(model_type: str):
    model = build_experts(model_type)
    by_layer: dict[int, list[Site]] = {}
    for site in find_sites(model):
        by_layer.setdefault(site.layer, []).append(site)
    sizes = model_sizes(model.config)
    # the widest layer: the first layers of some types have a dense block
    assert sizes.d_ff == max(sum(site.width for site in sites) for sites in by_layer.values())
    assert sizes.n_neurons == max(sum(site.n_neurons for site in sites) for sites in by_layer.values())


def test_a_plan_for_a_named_machine_does_not_mind_the_device_of_a_sweep(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "sweep.toml").write_text(
        f'models = ["{checkpoints("relu")[-1]}"]\n[texts]\nown = "{__file__}"\n[measure]\ndevice = "cuda"\n'
    )
    assert cli.main(["sweep", str(tmp_path / "sweep.toml"), "--plan", "h100"]) == 0
    assert cli.main(["sweep", str(tmp_path / "sweep.toml"), "--plan"]) == 2
    assert "name a machine" in capsys.readouterr().err


@pytest.mark.parametrize("tied", [False, True])
def test_a_plan_of_a_gguf_file(tmp_path: Path, capsys: pytest.CaptureFixture[str], tied: bool):
    pytest.importorskip("gguf", reason="needs the package gguf")
    from ..helpers.gguf_files import HEAD_DIM, TOKENS, write_gguf
    from ..helpers.tiny import build

    options = {"vocab_size": len(TOKENS), "head_dim": HEAD_DIM, "tie_word_embeddings": tied}
    path = write_gguf(tmp_path / "tiny.gguf", build("llama", **options))
    outline = read_outline(str(path))
    loaded = load_model(path)
    assert outline.sizes == model_sizes(loaded.model.config)
    assert outline.sizes.num_parameters == sum(p.numel() for p in loaded.model.parameters())
    assert outline.dtype == loaded.dtype == "float32"
    assert read_outline(str(path), dtype="bfloat16").dtype == "bfloat16"
    (tmp_path / "text.txt").write_text("some words of a text\n" * 200)
    words = ["measure", str(path), "--text", str(tmp_path / "text.txt"), "--window", "16", "--json"]
    for machine in ("--plan", "--plan=h100"):
        assert cli.main([*words, machine]) == 0
        assert json.loads(capsys.readouterr().out)["num_parameters"] == outline.sizes.num_parameters
