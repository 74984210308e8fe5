"""`run_pass`: one pass of a model over a corpus, in batches of windows, in the order of the corpus.

Every stage of a measurement is such a pass. An `Observer` adds up totals of the activations, and an `Intervention`
changes the activations while the model runs. The pass also adds up the loss of each window. The totals are saved in a
journal, so that an interrupted pass resumes and ends with the same sums, bit for bit.

Totals stay on the device of their site until the pass ends. An observer must not move tensors to the host in `see` or
`see_output`, because an accelerator would then have to wait at every layer (tests/measuring/test_device_safety.py).
"""

from __future__ import annotations

import dataclasses
import itertools
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray

from sparsing.base.progress import Progress
from sparsing.errors import InputError, NonFiniteError
from sparsing.measuring.batch_size import BatchLimit, default_batch_size, input_device, is_out_of_memory
from sparsing.measuring.finite import FiniteCheck, NonFiniteWindows, check_totals, non_finite_error
from sparsing.measuring.journal import Arrays, Journal
from sparsing.measuring.processes import Others
from sparsing.measuring.window_loss import WindowLoss
from sparsing.models.tokenizer import check_token_ids
from sparsing.sites.tap import Extra, Rows, tapped
from sparsing.text.corpus import Batch, Corpus

if TYPE_CHECKING:
    from sparsing.models.loading import LoadedModel
    from sparsing.rules.mask import Change


@dataclasses.dataclass(eq=False)
class Totals:
    """Running sums of an observer. Subclasses add fields: tensors, lists or dicts of tensors, or other `Totals`."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """Every tensor by its dotted path, e.g. `record.ratio.0`. The tensors are the sums themselves, not copies."""
        return dict(_tensors(self))

    def merge(self, other: Totals) -> None:
        """Adds the sums of another part of the same pass, e.g. of another process, which stay as they are.

        Entries that belong to one window are zero in all other parts, so adding is right for them too. A subclass whose
        totals are not sums overrides this method.
        """
        for field in dataclasses.fields(self):
            _add(getattr(self, field.name), getattr(other, field.name))

    def move_to_cpu(self) -> None:
        """Replaces every tensor by its copy on the CPU. Tensors that are on the CPU stay the same objects."""
        for field in dataclasses.fields(self):
            setattr(self, field.name, _on_cpu(getattr(self, field.name)))


def _add(value: Any, other: Any) -> None:
    """Adds in place; nested totals merge in their own way."""
    if isinstance(value, torch.Tensor):
        value += other.to(value.device)
    elif isinstance(value, Totals):
        value.merge(other)
    elif isinstance(value, dict):
        for name, item in cast("dict[str, Any]", value).items():
            _add(item, other[name])
    else:
        for item, term in zip(cast("list[Any]", value), other, strict=True):
            _add(item, term)


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
    """Watches every site in every batch and adds up `totals`. An observer never changes the model."""

    needs_gate = False
    """True if `see` reads `rows.gate`."""
    extra: frozenset[Extra] = frozenset()
    """Further activations that `see` reads from the rows."""
    needs_rows = True
    """False if `see` does nothing, so that the pass needs no hooks."""
    needs_output = False
    """True if `see_output` has to be called."""
    needs_block = False
    """True if `see_block` has to be called."""
    usual = True
    """False if a token takes much longer than in other passes."""

    def __init__(self, totals: T):
        self.totals = totals

    def begin(self, batch: Batch) -> None:
        """Called before a batch runs. Only here may an observer read numbers from tensors."""

    def see(self, index: int, rows: Rows, change: Change | None) -> None:
        """Called when site `index` has computed its rows, before its `down_proj` runs.

        `change` is the result of the intervention on these rows, None in a dense pass.
        """

    def see_output(self, index: int, output: torch.Tensor) -> None:
        """Called after `down_proj` of site `index` has run; `output` has shape `(tokens, d_model)`."""

    def see_block(self, index: int, output: torch.Tensor) -> None:
        """Called after the block around the routed experts of site `index`; `output` has shape `(tokens, d_model)`."""


class LossOnly(Observer[Totals]):
    """Observes nothing, for passes that are run for their loss only."""

    needs_rows = False

    def __init__(self) -> None:
        super().__init__(Totals())


class Intervention(Protocol):
    """Changes the rows of sites, e.g. `rules.mask.Mask`."""

    needs_gate: bool
    """True if `change` reads `rows.gate`."""
    extra: frozenset[Extra]
    """Further activations that `change` reads from the rows."""
    real: torch.Tensor | None
    """Which tokens of the batch are not padding, shape `(windows, tokens)`; the pass sets it before each batch."""

    def change(self, index: int, rows: Rows) -> Change:
        """The new rows of site `index`."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class PassSettings:
    """How passes run: their journal, batch size and progress bar."""

    journal: Journal = dataclasses.field(default_factory=Journal)
    """Saves the totals of each pass, and returns those of a pass that is complete."""
    batch_size: int | None = None
    """Windows per batch; None lets `default_batch_size` choose."""
    limit: BatchLimit = dataclasses.field(default_factory=BatchLimit)
    """Lowered when memory runs out; the passes that share it then begin with smaller batches."""
    progress: Progress | None = None
    """Draws a bar; None draws nothing."""
    shared: bool = False
    """Whether the processes of `torchrun` share the batches. All that the pass finds must then be in its totals."""


@dataclasses.dataclass(frozen=True, eq=False)
class PassResult(Generic[T]):
    """The totals of a complete pass."""

    nll: NDArray[np.float64]
    """Negative log-likelihood summed over each window, nats, shape `(n_windows,)`, float64."""
    labels: NDArray[np.float64]
    """Number of predicted tokens of each window, shape `(n_windows,)`, float64."""
    totals: T
    """The observer's totals, on the CPU."""

    def mean_rise(self, dense_nll: np.ndarray) -> float:
        """Mean rise of the loss per predicted token over a dense pass on the same windows, nats."""
        return float((self.nll - dense_nll).sum() / self.labels.sum())


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
    """Runs the model over the corpus once, or takes the totals of the pass from the journal.

    Args:
        observer: Adds up its totals; use a new observer for each pass.
        intervention: Changes the activations; None runs the dense model.
        key: Key of the pass in the journal.
        label: Text of the progress bar; empty uses the key.
        head: False skips the language-model head and therefore the loss; `nll` and `labels` are then 0.

    Raises:
        InputError: If the model has no embedding for a token of the corpus, or a window does not fit into memory.
        NonFiniteError: If an activation or a loss is NaN or infinite; the message names the window and the layer.
    """
    check_token_ids(loaded.model, loaded.tokenizer, corpus.token_ids())
    settings = settings or PassSettings()
    device = input_device(loaded)
    run = _Pass.of(observer.totals, corpus.n_windows, device)
    others = Others(loaded, shared=settings.shared)
    empty = _copies(observer.totals) if others.count else {}
    if not run.restore(settings.journal.get(key)):
        settings.journal.drop(key, f"its arrays have other names or shapes than those of the pass {key!r}")
    saved = run.arrays()
    while (begin := int(run.next_window)) < corpus.n_windows:
        chosen = default_batch_size(loaded, corpus, processes=1 + others.count)
        batch_size = settings.limit.apply(settings.batch_size or chosen)
        done, total = int(corpus.lengths[:begin].sum()), int(corpus.lengths.sum())
        bar = (settings.progress or Progress(False)).bar(label or key, total, done, usual=observer.usual)
        try:
            tokens = batch_size * corpus.width if head else None
            others.open(_BatchOfPass, loaded, observer, empty, intervention, corpus.n_windows, tokens)
            loss = None if tokens is None else WindowLoss(loaded.model, tokens=tokens)
            with bar as advance, torch.inference_mode(), _hooks(loaded, observer, intervention, run.finite):
                for own, *rest in _rounds(corpus.batches(batch_size, begin=begin), 1 + others.count):
                    others.send(rest)
                    _run_batch(loaded, own.to(device), observer, intervention, run, loss)
                    for part in others.receive():
                        run.merge(part)
                    if int(run.next_window) == corpus.n_windows or settings.journal.due():
                        run.check_finite()
                        settings.journal.put(key, run.arrays())
                    advance(sum(int(corpus.lengths[batch.windows].sum()) for batch in (own, *rest)))
        except NonFiniteWindows as found:
            raise _non_finite(loaded, corpus, found.windows, intervention) from None
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            settings.limit.windows = _smaller(batch_size, corpus, device)
            # some totals contain a part of the batch that stopped, so the pass returns to the totals that were saved
            run.restore(settings.journal.get(key) or saved)
    arrays = run.arrays()
    observer.totals.move_to_cpu()
    check_totals(observer.totals.tensors(), loaded.sites, loaded.dtype, label or key)
    return PassResult(arrays["nll"], arrays["labels"], observer.totals)


def _rounds(batches: Iterator[Batch], size: int) -> Iterator[list[Batch]]:
    """The batches in lists of `size`, one batch for each process; the last list may be shorter."""
    while batch := list(itertools.islice(batches, size)):
        yield batch


def _copies(totals: Totals) -> dict[str, torch.Tensor]:
    return {path: tensor.clone() for path, tensor in totals.tensors().items()}


class _BatchOfPass:
    """Computes single batches of a pass in another process (`processes.py`)."""

    def __init__(
        self,
        loaded: LoadedModel,
        observer: Observer[Any],
        empty: dict[str, torch.Tensor],
        intervention: Intervention | None,
        n_windows: int,
        tokens: int | None,
    ):
        """Args:
        empty: Totals before the first batch, by their paths.
        tokens: Most tokens of a batch; None if the pass computes no loss.
        """
        self._loaded, self._observer, self._intervention = loaded, observer, intervention
        self._device = input_device(loaded)
        self._n_windows = n_windows
        self._loss = None if tokens is None else WindowLoss(loaded.model, tokens=tokens)
        self._empty = empty

    def __call__(self, batch: Batch) -> _Pass:
        """The sums of this batch alone."""
        for path, tensor in self._observer.totals.tensors().items():
            tensor.copy_(self._empty[path])
        run = _Pass.of(self._observer.totals, self._n_windows, self._device)
        with torch.inference_mode(), _hooks(self._loaded, self._observer, self._intervention, run.finite):
            _run_batch(
                self._loaded, batch.to(self._device), self._observer, self._intervention, run, self._loss
            )
        return run


def _run_batch(
    loaded: LoadedModel,
    batch: Batch,
    observer: Observer[Any],
    intervention: Intervention | None,
    run: _Pass,
    loss: WindowLoss | None,
) -> None:
    observer.begin(batch)
    if intervention is not None:
        intervention.real = batch.real
    nll = None
    if loss is None:
        body: Any = loaded.model.base_model
        body(input_ids=batch.ids, attention_mask=batch.real.long(), use_cache=False)
    else:
        nll = loss(batch).to(run.nll.device)
        run.nll[batch.span] = nll
        run.labels[batch.span] = torch.tensor(batch.label_counts, dtype=torch.float64)
    run.finite.end_batch(batch.span, nll)
    run.next_window.fill_(batch.span.stop)


def _non_finite(
    loaded: LoadedModel, corpus: Corpus, windows: list[int], intervention: Intervention | None
) -> NonFiniteError:
    """The error for these windows of a pass; runs them again, one by one, until the layer is found."""

    def suspects() -> Iterator[tuple[str, torch.Tensor]]:
        for window in windows:
            batch = next(corpus.part(np.array([window])).batches(1, device=input_device(loaded)))
            if intervention is not None:
                intervention.real = batch.real
            yield f"window {window} of {corpus.n_windows}", batch.ids

    def change(index: int, rows: Rows) -> torch.Tensor | None:
        return None if intervention is None else intervention.change(index, rows).h

    extra = () if intervention is None else intervention.extra
    return non_finite_error(loaded, suspects(), change, extra)


def _smaller(batch_size: int, corpus: Corpus, device: torch.device) -> int:
    """Half the batch, with a warning.

    Raises:
        InputError: If the batch has one window only.
    """
    if batch_size == 1:
        raise InputError(
            f"one window of {corpus.width} tokens does not fit into the memory of {device}: use a smaller --window, a"
            " smaller dtype (--dtype bfloat16) or more devices (--device auto)"
        )
    warnings.warn(
        f"{batch_size} windows of {corpus.width} tokens do not fit into the memory of {device}: the pass goes on with"
        f" {batch_size // 2} windows per batch (--batch-size {batch_size // 2} begins with it)",
        stacklevel=2,
    )
    return batch_size // 2


def _hooks(
    loaded: LoadedModel, observer: Observer[Any], intervention: Intervention | None, finite: FiniteCheck
) -> Any:
    """Hooks that pass the rows of each site to the check, then to the intervention, then to the observer."""

    def see(index: int, rows: Rows) -> torch.Tensor | None:
        finite.see(rows)
        change = None if intervention is None else intervention.change(index, rows)
        observer.see(index, rows, change)
        return None if change is None else change.h

    return tapped(
        loaded.sites,
        see if observer.needs_rows or intervention is not None else None,
        gate=observer.needs_gate or (intervention is not None and intervention.needs_gate),
        extra=observer.extra if intervention is None else observer.extra | intervention.extra,
        see_output=observer.see_output if observer.needs_output else None,
        see_block=observer.see_block if observer.needs_block else None,
    )


@dataclasses.dataclass(eq=False)
class _Pass:
    """The running sums of one pass: the totals of the observer and the loss of each window."""

    observed: Totals
    nll: torch.Tensor
    labels: torch.Tensor
    """Predicted tokens, shape `(n_windows,)`, float64, as is `nll`; on the CPU."""
    next_window: torch.Tensor
    """Index of the first window that has not run, shape `(1,)`, int64, on the CPU."""
    finite: FiniteCheck
    """Not saved: totals are saved only if everything was finite."""

    @classmethod
    def of(cls, observed: Totals, n_windows: int, device: torch.device) -> _Pass:
        """The sums of a pass that has not run."""
        nll = torch.zeros(n_windows, dtype=torch.float64, device=device)
        labels, next_window = torch.zeros(n_windows, dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
        return cls(observed, nll, labels, next_window, FiniteCheck(n_windows, device))

    def check_finite(self) -> None:
        """Raises NonFiniteWindows if a window had NaN or infinite activations or losses. Waits for the device."""
        if windows := self.finite.windows():
            raise NonFiniteWindows(windows)

    def merge(self, part: _Pass) -> None:
        """Adds the sums of the next batch, which another process has computed."""
        self.observed.merge(part.observed)
        self.nll += part.nll.to(self.nll.device)
        self.labels += part.labels
        self.finite.merge(part.finite)
        self.next_window.copy_(part.next_window)

    def _named(self) -> dict[str, torch.Tensor]:
        own = {"nll": self.nll, "labels": self.labels, "next_window": self.next_window}
        return own | {f"observed.{path}": tensor for path, tensor in self.observed.tensors().items()}

    def restore(self, saved: Arrays | None) -> bool:
        """Continues from saved totals; None leaves the sums at zero.

        Returns: False, and changes nothing, if the saved totals have other names, shapes or dtypes.
        """
        if saved is None:
            return True
        sums = self._named()
        if _forms(saved) != _forms({name: tensor.cpu().numpy() for name, tensor in sums.items()}):
            return False
        for name, tensor in sums.items():
            tensor.copy_(torch.as_tensor(saved[name]).view(tensor.shape))
        return True

    def arrays(self) -> Arrays:
        """Copies of all sums as arrays, for the journal."""
        # `copy`, since the pass goes on adding to the tensors
        return {name: tensor.cpu().numpy().copy() for name, tensor in self._named().items()}


def _forms(arrays: Arrays) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Dtype and shape of each array; safetensors saves a scalar with one axis."""
    return {name: (array.dtype.str, array.shape or (1,)) for name, array in arrays.items()}
