"""`WindowLoss`: the loss of each window of a batch, with the logits of few tokens in memory at a time.

The logits of one window of 1,024 tokens take 1 GiB in float32 if the vocabulary has 262,144 entries. `WindowLoss`
therefore computes them in slices of tokens when the logits of a batch are large. What a model does to its logits
(scaling, soft caps) stays in the model's own code: for each slice, the causal LM runs again while its body returns the
slice of the hidden states that it has computed before. A small input proves first that both ways give equal logits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, cast

import torch

from sparsing.sites.compiled import uncompiled
from sparsing.sites.effective_weight import device_of

if TYPE_CHECKING:
    from torch import nn

    from sparsing.text.corpus import Batch

LOGITS_BYTES = 2**28
"""Most bytes of the float32 logits that are in memory at a time."""
_PROBE_TOKENS = 4


class WindowLoss:
    """Runs a causal LM on batches and returns the loss of each window.

    Args:
        model: A causal LM.
        tokens: Most tokens of a batch, which decide whether the logits are computed in slices.
        logits_bytes: Most bytes of float32 logits in memory at a time.
    """

    def __init__(self, model: Any, *, tokens: int, logits_bytes: int = LOGITS_BYTES):
        vocab: int = model.config.get_text_config().vocab_size
        self._model = model
        self._rows = max(1, logits_bytes // (4 * vocab))
        self._body = _body(model) if tokens > self._rows else None

    @property
    def is_sliced(self) -> bool:
        """Whether the logits are computed in slices."""
        return self._body is not None

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Negative log-likelihood summed over the labelled tokens of each window, shape `(windows,)`, float64."""
        inputs = {"input_ids": batch.ids, "attention_mask": batch.real.long(), "use_cache": False}
        if self._body is None:
            return window_nll(self._model(**inputs).logits, batch)
        output, hidden = _run_body(self._model, self._body, inputs)
        # the hidden state before a token predicts it
        hidden = hidden.flatten(0, 1)[(batch.label_index - 1).to(hidden.device)]
        targets = batch.ids.flatten()[batch.label_index]
        losses: list[torch.Tensor] = []
        for part, labels in zip(_split(hidden, self._rows), _split(targets, self._rows), strict=True):
            logits = _run_head(self._model, self._body, output, part)
            losses.append(token_nll(_wide(logits), labels.to(logits.device)))
        per_window = _split(torch.cat(losses).double(), batch.label_counts)
        return torch.stack([window.sum() for window in per_window])


def window_nll(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """The loss of each window of a batch, from the logits of the whole batch.

    Args:
        logits: Shape `(windows, tokens, vocabulary)`.

    Returns: Negative log-likelihood summed over the labelled tokens, shape `(windows,)`, float64.
    """
    # window by window, so that only one window has its logits in float32
    nll: list[torch.Tensor] = []
    flat, targets = logits.flatten(0, 1), batch.ids.flatten()
    for index in _split(batch.label_index, batch.label_counts):
        kept = _wide(flat[(index - 1).to(flat.device)])
        nll.append(token_nll(kept, targets[index].to(flat.device)).double().sum())
    return torch.stack(nll)


def token_nll(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of each token, shape `(tokens,)`, in the dtype of the logits.

    `F.cross_entropy` would add up the exponentials of a large vocabulary with a rounding error that has the same sign
    for all tokens: on a CPU, 1e-6 nats with 49,152 entries and 5e-6 with 151,936. `logsumexp` adds in pairs.

    Args:
        logits: Shape `(tokens, vocabulary)`.
        targets: Shape `(tokens,)`, int64.
    """
    return logits.logsumexp(-1) - logits.gather(-1, targets[:, None])[:, 0]


def _wide(logits: torch.Tensor) -> torch.Tensor:
    """The logits in at least float32."""
    return logits if logits.dtype == torch.float64 else logits.float()


def _split(tensor: torch.Tensor, sizes: int | tuple[int, ...]) -> tuple[torch.Tensor, ...]:
    """`Tensor.split`, which PyTorch does not annotate."""
    return cast("Any", tensor).split(sizes)


def _body(model: Any) -> nn.Module | None:
    """The module whose `last_hidden_state` enters the language-model head; None if the logits cannot be split off.

    The candidates are tried on a few tokens: the first whose hidden states, passed through the rest of the model, give
    the logits of the whole model is returned.
    """
    head = model.get_output_embeddings()
    if head is None:
        return None
    ids = torch.arange(1, _PROBE_TOKENS + 1, device=device_of(model.get_input_embeddings()))[None]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
    with torch.inference_mode(), uncompiled():
        logits = model(**inputs).logits[0]
        exact = logits.dtype in (torch.float32, torch.float64)
        tolerance = (1e-4 if exact else 3e-2) * float(logits.abs().max())
        for body in _candidates(model, inputs):
            try:
                output, hidden = _run_body(model, body, inputs)
                # two slices, since a model may mix tokens after its body
                again = torch.cat([_run_head(model, body, output, part) for part in hidden[0].chunk(2)])
            except Exception:  # a model may do with the hidden states what a slice does not allow
                continue
            if again.shape == logits.shape and float((again - logits).abs().max()) <= tolerance:
                return body
    return None


def _candidates(model: Any, inputs: dict[str, Any]) -> list[nn.Module]:
    """Modules below the model whose output has a `last_hidden_state`, outermost first."""
    found: list[nn.Module] = []

    def note(module: nn.Module, _inputs: Any, output: Any) -> None:
        if getattr(output, "last_hidden_state", None) is not None:
            found.append(module)

    handles = [module.register_forward_hook(note) for module in model.modules() if module is not model]
    try:
        model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found[::-1]  # an outer module returns after its inner modules


def _run_body(model: Any, body: nn.Module, inputs: dict[str, Any]) -> tuple[Any, torch.Tensor]:
    """The output of the body, and the hidden states that enter the head, shape `(windows, tokens, d_model)`."""
    seen: list[Any] = []

    def keep_output(_module: nn.Module, _inputs: Any, output: Any) -> None:
        seen.append(output)

    def shorten(_module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        # the logits of this run are not used, so the head gets one token only
        return (args[0][..., :1, :], *args[1:])

    handles = [
        body.register_forward_hook(keep_output),
        model.get_output_embeddings().register_forward_pre_hook(shorten),
    ]
    try:
        model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return seen[-1], seen[-1].last_hidden_state


def _run_head(model: Any, body: nn.Module, output: Any, rows: torch.Tensor) -> torch.Tensor:
    """Logits of hidden states of shape `(rows, d_model)` by the model's own code after its body."""
    short = type(output)(**{**output, "last_hidden_state": rows[None]})
    ids = torch.zeros((1, len(rows)), dtype=torch.int64, device=rows.device)
    with _returns(body, short):
        return model(input_ids=ids, use_cache=False).logits[0]


@contextlib.contextmanager
def _returns(module: nn.Module, output: Any) -> Generator[None]:
    """Within the `with` block, a call of the module returns `output`."""

    def stub(*_args: Any, **_options: Any) -> Any:
        return output

    own = vars(module)
    forward = own.get("forward")  # accelerate sets a forward on the instance
    own["forward"] = stub
    try:
        yield
    finally:
        if forward is None:
            del own["forward"]
        else:
            own["forward"] = forward
