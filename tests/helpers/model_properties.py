"""The properties of every supported model, each tested by one function that raises `AssertionError`.

`tests/sites/test_model_types.py` runs them over a sample of model types and, in the slow suite, over all types.
`scripts/model_table.py` writes the outcome to docs/models.md.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from sparsing.measuring.observers import SparseObserver
from sparsing.measuring.passes import PassSettings, run_pass
from sparsing.models.loading import LoadedModel
from sparsing.rules.mask import Mask, sparsify
from sparsing.rules.thresholds import Thresholds
from sparsing.sites.site import Site
from sparsing.sites.tap import Rows, tapped
from sparsing.text.corpus import load_corpus

from .measuring import loaded, random_text
from .model_types import small_input
from .tiny import tiny_tokenizer

LENGTHS = (9, 31, 20)


def cuts(model: LoadedModel, share: float, on: str = "neuron_norm") -> Thresholds:
    """Thresholds below which about this share of each site's `neuron_norm` lies on random tokens; 0 gives zeros."""
    values = [0.0] * len(model.sites)

    def see(index: int, rows: Any) -> None:
        size = rows.h.abs() * norms_of(model.sites[index], rows)
        values[index] = float(size.flatten().double().quantile(share)) if share else 0.0

    with torch.no_grad(), tapped(model.sites, see, gate=False):
        model.model(small_input(2, 16), use_cache=False)
    return Thresholds(rule="cett", level=0.1, on=on, values=tuple(values))


def norms_of(site: Site, rows: Rows) -> torch.Tensor:
    """`||W[:, i]||` of each row's own matrix, times its routing weight, by definition, float64."""
    norms = site.weight.detach().double().pow(2).sum(-2).sqrt()
    if rows.routing is None:
        return norms
    return norms[rows.routing.expert] * rows.routing.weight.detach().double().abs()[:, None]


def logits(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(ids, use_cache=False).logits


def hooks(model: PreTrainedModel) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def mask_at_zero_is_dense(model: LoadedModel) -> None:
    """A threshold of 0 drops exact zeros only, so the logits are equal bit for bit."""
    ids = small_input(2, 16)
    dense = logits(model.model, ids)
    for on in ("neuron_norm", "gate", "h"):
        with sparsify(model.model, cuts(model, 0, on)):
            assert torch.equal(logits(model.model, ids), dense), f"threshold 0 on {on} changes the logits"


def restored_after_an_exception(model: LoadedModel) -> None:
    """Thresholds change the logits; afterwards, also after an exception, the model is as before."""
    ids, half = small_input(2, 16), cuts(model, 0.5)
    dense, before = logits(model.model, ids), hooks(model.model)
    with sparsify(model.model, half):
        assert not torch.equal(logits(model.model, ids), dense), "half of the neurons at zero change nothing"
    try:
        with sparsify(model.model, half):
            raise RuntimeError("inside")
    except RuntimeError:
        pass
    assert hooks(model.model) == before, "hooks are left"
    assert torch.equal(logits(model.model, ids), dense), "the model is changed"


def padding_and_order_change_nothing(model: LoadedModel) -> None:
    """Texts of different lengths give the same counts and losses in one batch, alone and in the opposite order."""
    thresholds, texts = cuts(model, 0.5), [random_text(n, seed=n) for n in LENGTHS]

    def counts(part: list[str], batch_size: int) -> tuple[list[list[int]], list[float]]:
        corpus = load_corpus(part, tiny_tokenizer(), window=32, documents=True)
        settings = PassSettings(batch_size=batch_size)
        observer, mask = SparseObserver(model.sites, corpus), Mask(model.sites, thresholds)
        result = run_pass(model, corpus, observer, mask, key="k", settings=settings)
        return torch.stack(result.totals.active, 1).tolist(), [float(x) for x in result.nll]

    together, nll = counts(texts, len(texts))
    for active, losses in (counts(texts, 1), [list(reversed(x)) for x in counts(texts[::-1], len(texts))]):
        for first, second in zip(together, active, strict=True):
            # a neuron within rounding of its cut may fall on either side, and a cut neuron moves the layers after it
            same = all(abs(a - b) <= 3 for a, b in zip(first, second, strict=True))
            assert same, "padding or order changes the counts of active neurons"
        for a, b in zip(nll, losses, strict=True):
            assert abs(a - b) <= 2e-4 * abs(a), "padding or order changes the losses"


def ratio_is_that_of_brute_force(model: LoadedModel) -> None:
    """Counts of active neurons equal those of hooks written here, from the definition of the score, in float64.

    Only the rows of routed experts come from a tap; `tests/sites/test_experts.py` compares these with explicit experts.
    """
    corpus = load_corpus([random_text(60, seed=1)], tiny_tokenizer(), window=32)
    thresholds = cuts(model, 0.5)
    values = list(thresholds.values.values())
    observer, mask = SparseObserver(model.sites, corpus), Mask(model.sites, thresholds)
    settings = PassSettings(batch_size=1)
    totals = run_pass(model, corpus, observer, mask, key="k", settings=settings).totals
    counted = [0] * len(model.sites)

    def drop(index: int, h: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
        active = h.double().abs() * norms > values[index]
        counted[index] += int(active.sum())
        return h * active

    def hook(index: int, norms: torch.Tensor) -> Any:
        return lambda _, args: (drop(index, args[0], norms), *args[1:])

    routed = [index for index, site in enumerate(model.sites) if site.kind == "expert"]

    def see(place: int, rows: Rows) -> torch.Tensor:
        index = routed[place]
        return drop(index, rows.h, norms_of(model.sites[index], rows))

    with torch.no_grad(), tapped([model.sites[index] for index in routed], see, gate=False):
        handles = []
        for index, site in enumerate(model.sites):
            if index not in routed:
                down: Any = model.model.get_submodule(site.name)
                stored = down.weight.detach().double()
                norms = (stored if site.transposed else stored.T).pow(2).sum(1).sqrt()
                handles.append(down.register_forward_pre_hook(hook(index, norms)))
        for batch in corpus.batches(1):
            model.model(input_ids=batch.ids[:, : int(batch.real.sum())], use_cache=False)
        for handle in handles:
            handle.remove()
    for active, expected in zip(totals.active, counted, strict=True):
        found = int(active.sum())
        assert abs(found - expected) <= 3, f"{found} active neurons were counted, {expected} by definition"


PROPERTIES = (
    mask_at_zero_is_dense,
    restored_after_an_exception,
    padding_and_order_change_nothing,
    ratio_is_that_of_brute_force,
)


def missing_property(model: PreTrainedModel) -> str | None:
    """The first property that the model does not have, in words; None if it has all.

    Raises:
        SparsityError: If the sites of the model are not found.
    """
    whole = loaded(model)
    for test in PROPERTIES:
        try:
            test(whole)
        except AssertionError as error:
            return str(error).partition("\n")[0]
    return None
