"""The packaged checkpoints: they load, their loss falls along training, and the files are small."""

import json
import math
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, GraniteForCausalLM

from sparsing.demo import DEMO_ACTIVATIONS, MODELS, checkpoints, heldout_text
from sparsing.errors import InputError

LOSS_BOUND = 2.9
"""Upper bound of the held-out loss of every final checkpoint, nats per token; a uniform guess has 6.93."""


@pytest.fixture(scope="module")
def windows() -> torch.Tensor:
    """Sixteen windows of 256 tokens spread over the held-out text, each starting with BOS."""
    ids = AutoTokenizer.from_pretrained(checkpoints("relu")[0])(heldout_text(), verbose=False)["input_ids"]
    stream = torch.tensor(ids[1:])
    starts = torch.linspace(0, len(stream) - 256, 16).long().tolist()
    return torch.stack([torch.cat([torch.tensor(ids[:1]), stream[i : i + 255]]) for i in starts])


@torch.no_grad()
def loss_and_zeros(folder: Path, windows: torch.Tensor) -> tuple[float, list[float]]:
    model = GraniteForCausalLM.from_pretrained(folder, dtype=torch.float32)
    zeros: list[float] = []
    for layer in model.model.layers:
        layer.mlp.act_fn.register_forward_hook(
            lambda _module, _args, gate: zeros.append((gate == 0).float().mean().item())
        )
    return model(windows, labels=windows).loss.item(), zeros


@pytest.mark.parametrize("activation", DEMO_ACTIVATIONS)
def test_loss_on_heldout_text_falls_along_training(activation, windows):
    losses = [loss_and_zeros(folder, windows)[0] for folder in checkpoints(activation)]
    assert len(losses) >= 3
    assert all(earlier > later for earlier, later in pairwise(losses)), losses
    assert losses[-1] < LOSS_BOUND < math.log(1024)


def test_relu_model_is_sparse_and_silu_model_is_not(windows):
    _, relu = loss_and_zeros(checkpoints("relu")[-1], windows)
    _, silu = loss_and_zeros(checkpoints("silu")[-1], windows)
    assert min(relu) > 0.5
    assert max(relu) < 1.0
    assert max(silu) < 0.01


@pytest.mark.parametrize("activation", DEMO_ACTIVATIONS)
def test_folders_are_in_training_order_with_their_training_state(activation):
    states = [json.loads((f / "training_state.json").read_text("utf-8")) for f in checkpoints(activation)]
    assert all(earlier["tokens"] < later["tokens"] for earlier, later in pairwise(states))
    assert all(earlier["step"] < later["step"] for earlier, later in pairwise(states))


def test_both_activations_were_saved_at_the_same_tokens():
    relu, silu = ([f.name for f in checkpoints(activation)] for activation in DEMO_ACTIVATIONS)
    assert relu == silu


def test_configuration_has_the_mup_constants():
    for activation in DEMO_ACTIVATIONS:
        for folder in checkpoints(activation):
            config = json.loads((folder / "config.json").read_text("utf-8"))
            assert config["hidden_act"] == activation
            assert config["dtype"] == "float16"
            assert config["intermediate_size"] == 2.5 * config["hidden_size"]
            assert config["embedding_multiplier"] == 12
            assert config["residual_multiplier"] == 1.4 / math.sqrt(config["num_hidden_layers"])
            assert config["logits_scaling"] == config["hidden_size"] / 64
            head_dim = config["hidden_size"] // config["num_attention_heads"]
            assert config["attention_multiplier"] == head_dim**-0.5
            assert config["tie_word_embeddings"] is True


def test_tokenizer_adds_bos_by_itself_and_gives_the_text_back():
    tokenizer = AutoTokenizer.from_pretrained(checkpoints("silu")[-1])
    assert tokenizer("")["input_ids"] == [tokenizer.bos_token_id]
    text = "def f(x):\n    return caf\xe9 + x  # \u2603\n"
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids[1:]) == text
    assert len(tokenizer) == 1024


def test_everything_in_the_package_is_below_15_megabytes():
    sizes = [path.stat().st_size for path in MODELS.rglob("*") if path.is_file()]
    assert 5e6 < sum(sizes) < 15e6


def test_unknown_activation_is_refused():
    with pytest.raises(InputError, match="relu, silu, got 'gelu'"):
        checkpoints("gelu")


def test_importing_the_package_does_not_import_torch():
    code = "import sys, sparsing.demo as d; d.checkpoints('relu'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
