"""Checks that activations and losses are finite, and names the window and the layer where they are not.

A single NaN makes every mean NaN, and a NaN compares as "not active", so figures of a model that overflows look
plausible. `FiniteCheck` watches the input of every `down_proj` during a pass and never waits for an accelerator. Only
after something was found, `non_finite_error` runs the windows again, one by one, to find the layer.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch

from sparsing.errors import NonFiniteError
from sparsing.sites.tap import Rows, tapped

if TYPE_CHECKING:
    from sparsing.models.loading import LoadedModel
    from sparsing.sites.site import Site
    from sparsing.sites.tap import Extra, See

_MOST_NATS = 709.0
"""`exp` of a larger number is not a float64."""
_WAY_OUT = {
    "float16": "--dtype bfloat16 or float32 has a wider range",
    "bfloat16": "try --dtype float32; if that fails too, the checkpoint is broken",
    "float32": "try --dtype float64; if that fails too, the checkpoint is broken",
}


class FiniteCheck:
    """Notes which windows had NaN or infinite activations or losses, on the device."""

    def __init__(self, n_windows: int, device: torch.device):
        self._found = torch.zeros(n_windows, dtype=torch.bool, device=device)
        self._extremes: list[torch.Tensor] = []

    def see(self, rows: Rows) -> None:
        """Called for every site of a batch."""
        # the extremes are NaN or infinite if any value is, and they need no tensor of the size of the rows
        self._extremes += torch.aminmax(rows.h.detach()) if rows.h.numel() else ()

    def end_batch(self, span: slice, nll: torch.Tensor | None) -> None:
        """Called after a batch.

        Args:
            span: The windows of the batch.
            nll: Loss of each of them, shape `(windows,)`; None if the pass computes no loss.
        """
        found = self._found
        if self._extremes:
            extremes = torch.stack([value.to(found.device).double() for value in self._extremes])
            found[span] = ~torch.isfinite(extremes).all()
        if nll is not None:
            found[span] |= ~torch.isfinite(nll.to(found.device))
        self._extremes = []

    def merge(self, part: FiniteCheck) -> None:
        """Adds what was found in batches of another process."""
        self._found |= part._found.to(self._found.device)

    def windows(self) -> list[int]:
        """The windows of batches in which something was found. Waits for the device."""
        return cast("Any", self._found.nonzero()[:, 0]).tolist()


class NonFiniteWindows(Exception):
    """Raised inside a pass; `run_pass` turns it into a `NonFiniteError` when its hooks are removed."""

    def __init__(self, windows: list[int]):
        super().__init__(windows)
        self.windows = windows


def non_finite_error(
    loaded: LoadedModel,
    suspects: Iterable[tuple[str, torch.Tensor]],
    change: See | None = None,
    extra: Collection[Extra] = (),
) -> NonFiniteError:
    """The error that names the first place with a NaN or infinite activation.

    Args:
        suspects: Name and token ids, shape `(1, tokens)`, of inputs to run again, e.g. `window 3 of 12`.
        change: `see` of an intervention that was active; None for the dense model.
        extra: Further activations that the intervention reads.
    """
    name = ""
    for name, ids in suspects:
        place = _first_place(loaded, ids, change, extra)
        if place is not None:
            return NonFiniteError(f"{name}: {place} in {loaded.dtype}; {way_out(loaded.dtype)}")
    return NonFiniteError(f"{name}: NaN or infinite values in {loaded.dtype}; {way_out(loaded.dtype)}")


def _first_place(
    loaded: LoadedModel, ids: torch.Tensor, change: See | None, extra: Collection[Extra]
) -> str | None:
    """What is not finite when the model runs on these tokens; None if everything is finite."""
    places: list[str] = []

    def note(index: int, value: torch.Tensor, what: str) -> None:
        if not bool(torch.isfinite(value).all()):
            site = loaded.sites[index]
            places.append(f"{what} of layer {site.layer} ({site.name}) is NaN or infinite")

    def see(index: int, rows: Rows) -> torch.Tensor | None:
        note(index, rows.h, "the input of down_proj")
        return None if change is None else change(index, rows)

    def see_output(index: int, output: torch.Tensor) -> None:
        note(index, output, "the output of down_proj")

    gate = change is not None
    with torch.inference_mode(), tapped(loaded.sites, see, gate=gate, extra=extra, see_output=see_output):
        logits = loaded.model(input_ids=ids, use_cache=False).logits
    if places:
        return places[0]
    return None if bool(_are_finite(logits)) else "the logits are NaN or infinite"


def _are_finite(logits: torch.Tensor) -> torch.Tensor:
    """Whether each token has a finite largest logit, as one bool. Models exclude entries by a logit of -inf."""
    return torch.isfinite(logits.amax(-1)).all()


def check_totals(totals: dict[str, torch.Tensor], sites: Sequence[Site], dtype: str, key: str) -> None:
    """Raises NonFiniteError if a sum of an observer is NaN or infinite although all activations are finite."""
    for path, tensor in totals.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            number = path.rpartition(".")[2]
            layer = f" of layer {sites[int(number)].layer}" if number.isdigit() else ""
            raise NonFiniteError(
                f"pass {key!r}: the sum {path!r}{layer} is NaN or infinite in {dtype}; {way_out(dtype)}"
            )


def exp_of_nats(mean_nll: float) -> float:
    """`exp` of a mean loss, or of a difference of two mean losses, in nats: a perplexity, or a ratio of two.

    Raises:
        NonFiniteError: If the result is larger than a float64 can be.
    """
    if not mean_nll < _MOST_NATS:
        raise NonFiniteError(
            f"a mean loss of {mean_nll:.4g} nats per token has no finite perplexity (at most {_MOST_NATS:g} nats are"
            " allowed). If the dense model has this loss, the tokenizer does not belong to the weights, the checkpoint"
            " is broken or its dtype is too narrow (--dtype float32); if only the sparse model has it, choose a lower"
            " level"
        )
    return math.exp(mean_nll)


def way_out(dtype: str) -> str:
    """What a user can do whose activations are not finite in this dtype."""
    return _WAY_OUT.get(dtype, "the checkpoint is broken; use an earlier checkpoint")


@contextmanager
def finite_logits(loaded: LoadedModel, prompts: Iterable[tuple[str, torch.Tensor]]) -> Generator[None]:
    """Raises NonFiniteError at the end of the `with` block if a forward inside it had NaN or infinite logits.

    Greedy decoding would write a token even if all logits are NaN, and other code may fail because of the NaN: then
    this error takes the place of that failure. Hooks that the caller sets inside the block must be gone at its end.

    Args:
        prompts: Name and token ids, shape `(1, tokens)`, of the prompts, which are run again to find the layer.
    """
    flags: list[torch.Tensor] = []

    def keep(_module: Any, _inputs: Any, output: Any) -> None:
        # a NaN of an earlier token that has any effect reaches the last position through attention
        flags.append(_are_finite(output.logits[:, -1]))

    handle = loaded.model.register_forward_hook(keep)
    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        failure = error
    finally:
        handle.remove()
    if flags and not bool(torch.stack([flag.to(flags[0].device) for flag in flags]).all()):
        raise non_finite_error(loaded, prompts) from failure
    if failure is not None:
        raise failure
