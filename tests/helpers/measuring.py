"""What the tests of the measuring core share: loaded tiny models, a corpus of random text, kept activations."""

from __future__ import annotations

import contextlib
import functools
import random
import string
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from sparsing.measuring.journal import Journal
from sparsing.measuring.passes import Intervention, Observer, PassSettings, Totals, run_pass
from sparsing.models.loading import LoadedModel
from sparsing.rules.scores import SCORES
from sparsing.sites.discovery import discover
from sparsing.sites.tap import tapped
from sparsing.text.corpus import Corpus, load_corpus

from .tiny import build, tiny_model, tiny_tokenizer


def loaded(model: PreTrainedModel) -> LoadedModel:
    """`model` as `load_model` would give it."""
    found = discover(model)
    return LoadedModel(
        model=model,
        tokenizer=tiny_tokenizer(),
        sites=found.sites,
        layers_without_site=found.layers_without_site,
        name="tiny",
        revision=None,
        model_type=model.config.model_type,
        num_parameters=sum(p.numel() for p in model.parameters()),
        dtype=str(model.dtype).removeprefix("torch."),
        device="cpu",
        train_step=None,
        train_tokens=None,
    )


@functools.cache
def tiny_loaded(model_type: str = "llama") -> LoadedModel:
    """The tiny random model of this type; read-only."""
    return loaded(tiny_model(model_type))


@functools.cache
def trained() -> LoadedModel:
    """A tiny Llama after a few dozen steps on a source file of the standard library: pruning hurts it."""
    model = build("llama").train()
    ids = torch.tensor(tiny_tokenizer()(source_text(), verbose=False)["input_ids"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(120):
        begins = torch.randint(0, len(ids) - 49, (16,), generator=generator)
        batch = torch.stack([ids[b : b + 48] for b in begins])
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loaded(model.eval().requires_grad_(False))


def source_text() -> str:
    return Path(textwrap.__file__).read_text(encoding="utf-8")


def random_text(length: int, *, seed: int = 0) -> str:
    """Letters and spaces, one token each."""
    return "".join(random.Random(seed).choices(string.ascii_letters + "  ", k=length))


def text_corpus(length: int = 600, *, window: int = 32, seed: int = 0, **options) -> Corpus:
    """`length` tokens of random text in windows."""
    return load_corpus([random_text(length, seed=seed)], tiny_tokenizer(), window=window, **options)


def kept_activations(model: LoadedModel, corpus: Corpus) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """`(gate, h)` of each layer at the counted tokens of the dense run, shape `(tokens, d_ff)`, one by one."""
    kept: list[list[tuple[torch.Tensor, torch.Tensor]]] = [[] for _ in model.sites]
    with torch.no_grad():
        for batch in corpus.batches(1):

            def keep(index, rows, counted=batch.counted[0]):
                kept[index].append((rows.gate[counted], rows.h[counted]))

            with tapped(model.sites, keep, gate=True):
                model.model(input_ids=batch.ids, attention_mask=batch.real.long())
    return [tuple(torch.cat(part) for part in zip(*layer, strict=True)) for layer in kept]


def score_of(model: LoadedModel, layer: int, name: str, gate: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    """The score from its definition, float64."""
    value = gate if SCORES[name].value == "gate" else h
    norms = model.sites[layer].weight.detach().double().pow(2).sum(0).sqrt()
    return value.double().abs() * (norms if name == "neuron_norm" else 1.0)


def direct_cett(h: torch.Tensor, active: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """CETT per token, neuron by neuron, float64, shape `(tokens,)`."""
    parts = h.double()[:, None, :] * weight.detach().double()[None]  # (tokens, d_model, d_ff)
    lost = (parts * ~active[:, None, :]).sum(-1).norm(dim=-1)
    whole = parts.sum(-1).norm(dim=-1)
    return torch.where(lost > 0, lost / whole, torch.zeros(()).double())


def counted_places(corpus: Corpus) -> np.ndarray:
    """Indices in `corpus.ids` of every counted token but BOS, in the order of the windows."""
    spans = zip(corpus.starts, corpus.fresh, corpus.lengths, strict=True)
    return np.concatenate([np.arange(start + fresh, start + length) for start, fresh, length in spans])


def totals_of_halves(
    loaded: LoadedModel,
    corpus: Corpus,
    make: Callable[[], Observer],
    intervention: Intervention | None = None,
    *,
    batch_size: int,
) -> tuple[Totals, Totals, Totals]:
    """The totals of a pass over the corpus, and those of its first and of its second half, each run by itself."""
    half = corpus.n_windows // 2
    assert half % batch_size == 0, "the halves must be cut into the same batches as the whole"

    def run(part: Corpus, journal: Journal) -> Totals:
        settings = PassSettings(journal=journal, batch_size=batch_size)
        return run_pass(loaded, part, make(), intervention, key="k", settings=settings).totals

    journal = Journal()
    whole = run(corpus, journal)
    arrays = journal.get("k")
    assert arrays is not None
    # a journal of sums that are zero, but that says that the first half is done
    late = Journal()
    late.put(
        "k",
        {name: np.zeros_like(array) for name, array in arrays.items()} | {"next_window": np.array([half])},
    )
    return whole, run(corpus.part(np.arange(half)), Journal()), run(corpus, late)


def assert_same_totals(merged: Totals, whole: Totals) -> None:
    """Counts are equal; sums of floats are equal to 1e-12, since they are added in another order."""
    assert list(merged.tensors()) == list(whole.tensors())
    for path, tensor in whole.tensors().items():
        wanted, rtol = tensor, 1e-12 if tensor.is_floating_point() else 0
        torch.testing.assert_close(merged.tensors()[path], wanted, rtol=rtol, atol=0, msg=path)


class PowerCut(Exception):
    """Stops a run in its middle."""


@contextlib.contextmanager
def cut_off(after: int) -> Iterator[None]:
    """Stops the block when `trained` begins batch number `after`; the block must not end before."""
    batches = 0

    def stop(*_: object) -> None:
        nonlocal batches
        batches += 1
        if batches == after:
            raise PowerCut

    handle = trained().sites[1].down_proj.register_forward_pre_hook(stop)
    try:
        with pytest.raises(PowerCut):
            yield
    finally:
        handle.remove()
