"""Hooks act on models that were compiled before, and code that runs no hooks is refused."""

from __future__ import annotations

import types

import pytest
import torch
from transformers.generation import CompileConfig

from sparsing.errors import UnsupportedModelError
from sparsing.rules.mask import apply, sparsify
from sparsing.rules.thresholds import Thresholds
from sparsing.sites.discovery import find_sites
from sparsing.sites.tap import tapped

from ..helpers.tiny import build

CUTS = Thresholds(rule="cett", level=0.2, on="neuron_norm", values=[0.3, 0.3])


@pytest.fixture
def model():
    """A model of its own for each test, since compilation leaves traces on it."""
    yield build("llama")
    torch.compiler.reset()


def logits(call, ids) -> torch.Tensor:
    with torch.no_grad():
        return call(input_ids=ids, use_cache=False).logits


def dense_and_sparse(model, ids) -> tuple[torch.Tensor, torch.Tensor]:
    dense = logits(model, ids)
    with sparsify(model, CUTS):
        sparse = logits(model, ids)
    assert (sparse - dense).abs().max() > 0.1
    return dense, sparse


@pytest.mark.parametrize("way", ["wrapper", "in place"])
def test_a_model_that_was_compiled_by_a_dense_call_becomes_sparse(way, model, tiny_input):
    ids = tiny_input()
    dense, sparse = dense_and_sparse(model, ids)
    call = model
    if way == "wrapper":
        call = torch.compile(model, backend="eager")
    else:
        model.compile(backend="eager")
    assert torch.equal(logits(call, ids), dense)
    with sparsify(call, CUTS):
        assert torch.equal(logits(call, ids), sparse)


def test_a_compiled_layer_becomes_sparse_and_dense_again(model, tiny_input):
    ids = tiny_input()
    dense, sparse = dense_and_sparse(model, ids)
    call = model
    model.model.layers[1] = torch.compile(model.model.layers[1], backend="eager")
    for _ in range(2):  # the second time also the graph of the sparse call is there
        assert torch.equal(logits(call, ids), dense)
        with sparsify(call, CUTS):
            assert torch.equal(logits(call, ids), sparse)
    handles = apply(model, CUTS)
    assert torch.equal(logits(call, ids), sparse)
    for handle in handles:
        handle.remove()
    assert torch.equal(logits(call, ids), dense)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_generation_with_a_static_cache_is_sparse(model, tiny_input):
    compiling = CompileConfig(backend="eager", mode=None)
    compiling._compile_all_devices = True  # on a CPU transformers does not compile by itself

    def generated(**options) -> torch.Tensor:
        out = model.generate(
            tiny_input(),
            max_new_tokens=4,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
            **options,
        )
        return torch.stack(out.logits)

    static = {"cache_implementation": "static", "compile_config": compiling}
    dense = generated(**static)
    with sparsify(model, CUTS):
        torch.testing.assert_close(generated(**static), generated())
        assert (generated(**static) - dense).abs().amax((1, 2)).min() > 0.1
    torch.testing.assert_close(generated(**static), dense)


def test_a_pass_observes_a_compiled_model_and_keeps_its_graphs(model, tiny_input):
    graphs, seen = [], []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    call = torch.compile(model, backend=backend)
    logits(call, tiny_input())
    made = len(graphs)
    with tapped(find_sites(call), lambda index, rows: seen.append(index), gate=True):
        logits(call, tiny_input())
    assert seen == [0, 1]
    logits(call, tiny_input())
    assert len(graphs) == made


@pytest.mark.filterwarnings("ignore:`torch.jit.trace`:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_scripted_block_is_refused(model):
    block = model.model.layers[1].mlp
    model.model.layers[1].mlp = torch.jit.trace(block, torch.zeros(1, 2, 32))
    with (
        pytest.raises(UnsupportedModelError, match=r"layers\.1\.mlp\.\w+ is a TorchScript module"),
        sparsify(model, CUTS),
    ):
        pass


def test_a_fused_activation_is_noticed_where_the_gate_is_needed(model, tiny_input):
    """As Liger's MLP: the forward calls its own kernel in place of `act_fn`."""

    def fused(self, x):
        return self.down_proj(torch.nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))

    block, ids = model.model.layers[1].mlp, tiny_input()
    find_sites(model)
    block.forward = types.MethodType(fused, block)
    with sparsify(model, CUTS):
        logits(model, ids)  # `neuron_norm` reads `h` only
    on_gate = Thresholds(rule="fat", level=0.1, on="gate", values=[0.1, 0.1])
    with (
        pytest.raises(UnsupportedModelError, match=r"layers\.1\.mlp: down_proj ran, but the activation"),
        sparsify(model, on_gate),
    ):
        logits(model, ids)
