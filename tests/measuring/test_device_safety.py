"""No hook moves a tensor to the host, because each such move makes the pass wait for the accelerator.

The tests run on the CPU. They replace the methods of `torch.Tensor` that move data to the host by methods that raise
while a hook runs. Preparing a batch (`Observer.begin`) and the end of a pass may read numbers.
"""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import nn

import sparsing.neurons.contexts
import sparsing.rules.order_statistics
from sparsing.evaluation.model.counting import CountingMask
from sparsing.measuring.active_counts import ActiveObserver
from sparsing.measuring.calibration import calibrate
from sparsing.measuring.observers import DenseErrorObserver, SparseObserver
from sparsing.measuring.passes import run_pass
from sparsing.neurons.neuron_observer import NeuronObserver
from sparsing.rules.mask import Mask
from sparsing.rules.scores import SCORES
from sparsing.rules.thresholds import Thresholds
from sparsing.sites.tap import tapped

from ..helpers.measuring import text_corpus, tiny_loaded
from ..helpers.tiny import tiny_input

MODEL_TYPES = ("llama", "opt", "falcon")
HOST_MOVES = ("cpu", "item", "tolist", "numpy", "__bool__", "__int__", "__float__", "__index__", "__array__")
HOST_MOVES += ("nonzero", "masked_select", "unique")  # the host must know how many elements they return


@pytest.fixture(autouse=True)
def no_host_moves_in_hooks(monkeypatch):
    """Every hook that is set on a module raises `AssertionError` if it moves a tensor to the host."""
    for model_type in MODEL_TYPES:
        tiny_loaded(model_type)  # the search for sites reads numbers in its hooks, and its result is cached
    depth = 0

    @contextlib.contextmanager
    def in_hook():
        nonlocal depth
        depth += 1
        try:
            yield
        finally:
            depth -= 1

    def guard_method(name):
        original = getattr(torch.Tensor, name)

        def method(self, *args, **options):
            # on the CPU a device of another tensor is the CPU too, so only the name of the device is refused
            target = options.get("device", args[0] if args else None)
            if depth and (name != "to" or (target == "cpu" and isinstance(target, str))):
                raise AssertionError(f"a hook calls Tensor.{name}")
            return original(self, *args, **options)

        monkeypatch.setattr(torch.Tensor, name, method)

    def guard_index(name):
        original = getattr(torch.Tensor, name)

        def method(self, index, *value):
            parts = index if isinstance(index, tuple) else (index,)
            if depth and any(isinstance(part, torch.Tensor) and part.dtype == torch.bool for part in parts):
                raise AssertionError(f"a hook calls Tensor.{name}")
            return original(self, index, *value)

        monkeypatch.setattr(torch.Tensor, name, method)

    def guard_registration(name):
        original = getattr(nn.Module, name)

        def register(self, hook, **options):
            def guarded(*args, **kwargs):
                with in_hook():
                    return hook(*args, **kwargs)

            return original(self, guarded, **options)

        monkeypatch.setattr(nn.Module, name, register)

    for name in (*HOST_MOVES, "to"):
        guard_method(name)
    for name in ("__getitem__", "__setitem__"):
        guard_index(name)
    for name in ("register_forward_hook", "register_forward_pre_hook"):
        guard_registration(name)


def cuts(select: str = "above", on: str = "neuron_norm") -> Thresholds:
    return Thresholds(rule="cett", level=0.1, on=on, values=(0.03, 0.05), select=select)


def corpus():
    """Windows that overlap, start with BOS and are of different lengths, so that padding and masks are needed."""
    return text_corpus(130, window=24, stride=17, bos="always")


MODELS = pytest.mark.parametrize("model_type", MODEL_TYPES)


@MODELS
def test_calibration(model_type):
    scores = sorted(set(SCORES) - ({"up"} if model_type != "llama" else set()))
    assert calibrate(tiny_loaded(model_type), corpus(), scores=scores).sampled_tokens == 130


@pytest.mark.parametrize("select", ["above", "top_k", "top_p", "top_p_l2", "gaussian_top_k", "griffin"])
@MODELS
def test_a_sparse_pass(model_type, select, monkeypatch):
    # as on an accelerator, where the host may not look at entries
    monkeypatch.setattr(sparsing.rules.order_statistics, "on_cpu", lambda size: False)
    loaded = tiny_loaded(model_type)
    for observed in (SparseObserver, ActiveObserver):
        observer, mask = observed(loaded.sites, corpus()), Mask(loaded.sites, cuts(select, "gate"))
        assert run_pass(loaded, corpus(), observer, mask, key="k").totals.tokens.sum() == 130


@MODELS
def test_the_error_on_dense_inputs(model_type):
    loaded = tiny_loaded(model_type)
    observer = DenseErrorObserver(loaded.sites, [cuts(), cuts(on="gate")])
    assert (run_pass(loaded, corpus(), observer, key="k", head=False).totals.stacked_cett > 0).all()


@MODELS
def test_a_study_of_neurons(model_type, monkeypatch):
    # as on an accelerator: all neurons are sorted
    monkeypatch.setattr(
        sparsing.neurons.contexts, "_columns_to_sort", lambda most, worst: torch.arange(len(most))
    )
    loaded = tiny_loaded(model_type)
    observer = NeuronObserver(loaded, corpus(), cuts(), sample=64, contexts=4)
    assert run_pass(loaded, corpus(), observer, key="k", head=False).totals.vocabulary_count.sum() == 130


@MODELS
def test_counting_in_an_evaluation(model_type):
    loaded, ids = tiny_loaded(model_type), tiny_input()
    mask = CountingMask(loaded.sites, cuts(on="h"))
    with torch.no_grad(), tapped(loaded.sites, mask.see, gate=mask.needs_gate):
        loaded.model(input_ids=ids)
    assert mask.take((ids.shape[0], ids.shape[1])).shape == (2, *ids.shape)


@pytest.mark.parametrize(
    ("move", "method"),
    [
        (lambda tensor: tensor.sum().item(), "item"),
        (lambda tensor: tensor.tolist(), "tolist"),
        (lambda tensor: tensor.cpu(), "cpu"),
        (lambda tensor: tensor.to("cpu"), "to"),
        (lambda tensor: tensor.to(device="cpu"), "to"),
        (lambda tensor: tensor.numpy(), "numpy"),
        (lambda tensor: 1 if tensor.any() else 0, "__bool__"),
        (lambda tensor: int(tensor.sum()), "__int__"),
        (lambda tensor: float(tensor.sum()), "__float__"),
        (lambda tensor: tensor.nonzero(), "nonzero"),
        (lambda tensor: tensor[tensor], "__getitem__"),
    ],
)
def test_an_observer_that_moves_a_tensor_is_caught(move, method):
    class Moves(SparseObserver):
        def see(self, index, rows, change):
            super().see(index, rows, change)
            move(change.active)

    loaded = tiny_loaded()
    observer, mask = Moves(loaded.sites, corpus()), Mask(loaded.sites, cuts())
    with pytest.raises(AssertionError, match=rf"a hook calls Tensor\.{method}$"):
        run_pass(loaded, corpus(), observer, mask, key="k")
