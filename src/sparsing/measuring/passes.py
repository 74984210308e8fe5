"""`run_pass`: one pass of a model over a corpus, windows in order, in batches.

Every stage of a measurement is such a pass. An `Observer` adds up what it sees; an `Intervention` changes the
model while it runs. The loss of each window is always added up. A pass is kept in a journal, so that a run
that was cut off resumes with the same sums to the last bit.

Totals stay on the device where a site computes until the pass ends: an observer must not move tensors to the
host, which would stop an accelerator at every layer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

import numpy as np
import torch
import torch.nn.functional as F

from sparsing.base.progress import Progress
from sparsing.measuring.journal import Journal
from sparsing.sites.tap import Rows, tapped
from sparsing.text.corpus import Batch, Corpus

if TYPE_CHECKING:
    from sparsing.models.loading import LoadedModel
    from sparsing.rules.mask import Change

_LOGITS_BYTES = 2**28
_BATCH_TOKENS = 2048


@dataclasses.dataclass(eq=False)
class Totals:
    """Running sums of an observer. Subclasses add fields: tensors, lists or dicts of tensors, or other `Totals`."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """Every tensor by its dotted path. The tensors are the sums themselves, not copies."""
        return dict(_tensors(self))

    def merge(self, other: Totals) -> None:
        """Add the sums of another part of the same pass, e.g. of another process.

        Entries that belong to one window are zero in all parts but one, so adding is right for them too.
        """
        theirs = other.tensors()
        for path, tensor in self.tensors().items():
            tensor += theirs[path].to(tensor.device)

    def move_to_cpu(self) -> None:
        """Replace every tensor by its copy on the CPU (by itself if it is there)."""
        for field in dataclasses.fields(self):
            setattr(self, field.name, _on_cpu(getattr(self, field.name)))


def _on_cpu(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.cpu()
    if isinstance(value, Totals):
        value.move_to_cpu()
        return value
    if isinstance(value, dict):
        return {name: _on_cpu(item) for name, item in cast("dict[str, Any]", value).items()}
    return [_on_cpu(item) for item in cast("list[Any]", value)]


def _tensors(value: Any, path: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield path, value
        return
    if isinstance(value, Totals):
        items = [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    elif isinstance(value, dict):
        items = list(cast("dict[str, Any]", value).items())
    else:
        items = [(str(index), item) for index, item in enumerate(cast("list[Any]", value))]
    for name, item in items:
        yield from _tensors(item, f"{path}.{name}" if path else name)


T = TypeVar("T", bound=Totals, covariant=True)


class Observer(Generic[T]):
    """Watches every site in every batch and adds up `totals`. It never changes the model."""

    needs_gate = False
    """True if `see` reads `rows.gate`."""
    needs_rows = True
    """False if `see` does nothing, so that no hook is needed."""
    needs_output = False
    """True if `see_output` is to be called."""

    def __init__(self, totals: T):
        self.totals = totals

    def begin(self, batch: Batch) -> None:
        """A new batch is about to run."""

    def see(self, index: int, rows: Rows, change: Change | None) -> None:
        """Site `index` has computed its rows. `change` is what the intervention makes of them, if there is one."""

    def see_output(self, index: int, output: torch.Tensor) -> None:
        """`down_proj` of site `index` has run; `output` has shape `(rows, d_model)`."""


class LossOnly(Observer[Totals]):
    """Observes nothing, for passes of which only the loss is wanted."""

    needs_rows = False

    def __init__(self) -> None:
        super().__init__(Totals())


class Intervention(Protocol):
    """Changes the rows of sites, e.g. `rules.mask.Mask`."""

    needs_gate: bool
    real: torch.Tensor | None
    """Set before each batch: which tokens are no padding, shape `(windows, tokens)`."""

    def change(self, index: int, rows: Rows) -> Change: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class PassSettings:
    """How passes run: where they are kept, how large a batch is, who shows progress."""

    journal: Journal = dataclasses.field(default_factory=Journal)
    batch_size: int | None = None
    """Windows per batch; None lets `default_batch_size` choose."""
    progress: Progress | None = None
    """None shows nothing."""


@dataclasses.dataclass(frozen=True, eq=False)
class PassResult(Generic[T]):
    """What a pass has added up."""

    nll: np.ndarray
    """Negative log-likelihood summed over each window, nats, shape `(n_windows,)`, float64."""
    labels: np.ndarray
    """Number of predicted tokens of each window, shape `(n_windows,)`, float64."""
    totals: T
    """The observer's totals, on the CPU."""


def run_pass(
    loaded: LoadedModel,
    corpus: Corpus,
    observer: Observer[T],
    intervention: Intervention | None = None,
    *,
    key: str,
    settings: PassSettings | None = None,
    label: str = "",
    head: bool = True,
) -> PassResult[T]:
    """Run the model over the corpus once, or take the pass from the journal.

    Args:
        key: Name of the pass in the journal.
        label: Text of the progress bar.
        head: False leaves out the language-model head, and the loss with it.
    """
    settings = settings or PassSettings()
    batch_size = settings.batch_size or default_batch_size(loaded, corpus)
    run = _Pass.of(observer.totals, corpus.n_windows, _device(loaded))
    run.restore(settings.journal.get(key))
    begin = int(run.next_window)
    if begin < corpus.n_windows:
        done, total = int(corpus.lengths[:begin].sum()), int(corpus.lengths.sum())
        bar = (settings.progress or Progress(False)).bar(label or key, total, done)
        batches = corpus.batches(batch_size, begin=begin, device=_device(loaded))
        hooks = _hooks(loaded, observer, intervention)
        with bar as advance, torch.inference_mode(), hooks:
            for batch in batches:
                _run_batch(loaded, batch, observer, intervention, run, head)
                if int(run.next_window) == corpus.n_windows or settings.journal.due():
                    settings.journal.put(key, run.arrays())
                advance(int(corpus.lengths[batch.windows].sum()))
    arrays = run.arrays()
    observer.totals.move_to_cpu()
    return PassResult(arrays["nll"], arrays["labels"], observer.totals)


def _run_batch(
    loaded: LoadedModel,
    batch: Batch,
    observer: Observer[Any],
    intervention: Intervention | None,
    run: _Pass,
    head: bool,
) -> None:
    observer.begin(batch)
    if intervention is not None:
        intervention.real = batch.real
    body: Any = loaded.model if head else loaded.model.base_model
    output = body(input_ids=batch.ids, attention_mask=batch.real.long(), use_cache=False)
    if head:
        nll, labels = window_nll(output.logits, batch)
        run.nll[batch.span] = nll.to(run.nll.device)
        run.labels[batch.span] = labels
    run.next_window.fill_(batch.span.stop)


def _hooks(loaded: LoadedModel, observer: Observer[Any], intervention: Intervention | None) -> Any:
    """Hooks that show each site's rows first to the intervention, then to the observer."""

    def see(index: int, rows: Rows) -> torch.Tensor | None:
        change = None if intervention is None else intervention.change(index, rows)
        observer.see(index, rows, change)
        return None if change is None else change.h

    return tapped(
        loaded.sites,
        see if observer.needs_rows or intervention is not None else None,
        gate=observer.needs_gate or (intervention is not None and intervention.needs_gate),
        see_output=observer.see_output if observer.needs_output else None,
    )


@dataclasses.dataclass(eq=False)
class _Pass:
    """The running sums of one pass: those of the observer, and the loss of each window."""

    observed: Totals
    nll: torch.Tensor
    labels: torch.Tensor
    next_window: torch.Tensor
    """The first window that has not run, shape `(1,)`, int64, on the CPU."""

    @classmethod
    def of(cls, observed: Totals, n_windows: int, device: torch.device) -> _Pass:
        nll, labels = (torch.zeros(n_windows, dtype=torch.float64, device=device) for _ in range(2))
        return cls(observed, nll, labels, torch.zeros(1, dtype=torch.int64))

    def _named(self) -> dict[str, torch.Tensor]:
        own = {"nll": self.nll, "labels": self.labels, "next_window": self.next_window}
        return own | {f"observed.{path}": tensor for path, tensor in self.observed.tensors().items()}

    def restore(self, saved: dict[str, np.ndarray] | None) -> None:
        for name, array in (saved or {}).items():
            tensor = self._named()[name]
            tensor.copy_(torch.from_numpy(array).view(tensor.shape))  # a scalar comes back with one axis

    def arrays(self) -> dict[str, np.ndarray]:
        return {name: tensor.cpu().numpy().copy() for name, tensor in self._named().items()}


def window_nll(logits: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed negative log-likelihood of each window's labelled tokens and their number, `(windows,)`, float64."""
    nll: list[torch.Tensor] = []
    for scores, ids, labelled in zip(logits, batch.ids, batch.labelled, strict=True):
        targets = ids[1:].to(scores.device)[labelled[1:].to(scores.device)]
        kept = scores[:-1][labelled[1:].to(scores.device)]
        nll.append(F.cross_entropy(kept.float(), targets, reduction="none").double().sum())
    return torch.stack(nll), batch.labelled[:, 1:].sum(-1, dtype=torch.float64)


def default_batch_size(loaded: LoadedModel, corpus: Corpus) -> int:
    """Windows per batch: about two thousand tokens, and logits within a quarter of a gigabyte."""
    vocab: int = loaded.model.config.get_text_config().vocab_size
    tokens = min(_BATCH_TOKENS, _LOGITS_BYTES // (4 * vocab))
    return max(1, tokens // corpus.width)


def _device(loaded: LoadedModel) -> torch.device:
    """Where token ids go: the device of the input embedding."""
    return cast("torch.Tensor", loaded.model.get_input_embeddings().weight).device
