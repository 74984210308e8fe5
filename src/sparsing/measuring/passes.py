"""One pass of a model over a corpus: windows in order, in batches, totals in a journal.

Every stage is such a pass: calibration is a dense one that watches, a try of the search is a sparse one.
What a pass adds up is decided by its `Watcher`; loss per window is always added up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from sparsing.base.progress import Progress
from sparsing.measuring.journal import Journal
from sparsing.sites.tap import tapped
from sparsing.text.corpus import Batch, Corpus

if TYPE_CHECKING:
    from collections.abc import Callable

    from sparsing.models.loading import LoadedModel
    from sparsing.sites.tap import OnFFN, OnOutput

_LOGITS_BYTES = 2**28
_BATCH_TOKENS = 2048


class Watcher:
    """Sees every feed-forward block of every batch and adds up what it wants; this one wants nothing."""

    needs_gate = False
    """True when `on_ffn` reads `gate`."""
    on_ffn: OnFFN | None = None
    """Called with (layer, gate, h) when a block has run up to `down_proj`; see `sparsing.sites.tap.attach`."""
    on_output: OnOutput | None = None
    """Called with (layer, y) when `down_proj` has run."""

    def __init__(self) -> None:
        self.totals: dict[str, torch.Tensor] = {}
        """Running sums by name; a pass saves and restores them in place."""

    def begin(self, batch: Batch) -> None:
        """A new batch is about to run."""


def run_pass(
    loaded: LoadedModel,
    corpus: Corpus,
    watcher: Watcher,
    *,
    key: str,
    journal: Journal,
    batch_size: int | None = None,
    progress: Progress | None = None,
    label: str = "",
    head: bool = True,
) -> dict[str, np.ndarray]:
    """Run the model over the corpus once, or take the pass from the journal.

    Args:
        head: False leaves the language-model head and the loss out.

    Returns: the watcher's totals, and `nll` and `labels` per window, shape `(n_windows,)`, float64: summed
    negative log-likelihood in nats and the number of predicted tokens.
    """
    batch_size = batch_size or default_batch_size(loaded, corpus)
    sums = {name: torch.zeros(corpus.n_windows, dtype=torch.float64) for name in ("nll", "labels")}
    totals = {**sums, "next_window": torch.zeros(1, dtype=torch.int64), **watcher.totals}
    _restore(totals, journal.get(key))
    begin = int(totals["next_window"])
    if begin < corpus.n_windows:
        lengths = corpus.lengths
        bar = (progress or Progress(False)).bar(label or key, int(lengths.sum()), int(lengths[:begin].sum()))

        def keep() -> None:
            if int(totals["next_window"]) == corpus.n_windows or journal.due():
                journal.put(key, _arrays(totals))

        with bar as advance, torch.inference_mode():
            _run(loaded, corpus, watcher, totals, keep, batch_size=batch_size, advance=advance, head=head)
    return _arrays(totals)


def _run(
    loaded: LoadedModel,
    corpus: Corpus,
    watcher: Watcher,
    totals: dict[str, torch.Tensor],
    keep: Callable[[], None],
    *,
    batch_size: int,
    advance: Callable[[int], None],
    head: bool,
) -> None:
    device = loaded.model.get_input_embeddings().weight.device
    body = loaded.model if head else loaded.model.base_model
    with tapped(loaded.sites, watcher.on_ffn, gate=watcher.needs_gate, on_output=watcher.on_output):
        for batch in corpus.batches(batch_size, begin=int(totals["next_window"]), device=device):
            watcher.begin(batch)
            output = body(input_ids=batch.ids, attention_mask=batch.real.long(), use_cache=False)
            if head:
                nll, labels = window_nll(output.logits, batch)
                totals["nll"][batch.windows] = nll.cpu()
                totals["labels"][batch.windows] = labels.cpu()
            totals["next_window"].fill_(int(batch.windows[-1]) + 1)
            keep()
            advance(int(corpus.lengths[batch.windows].sum()))


def window_nll(logits: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed negative log-likelihood of each window's labelled tokens and their number, `(windows,)`, float64."""
    nll = []
    for scores, ids, labelled in zip(logits, batch.ids, batch.labelled, strict=True):
        targets = ids[1:].to(scores.device)[labelled[1:].to(scores.device)]
        kept = scores[:-1][labelled[1:].to(scores.device)]
        nll.append(F.cross_entropy(kept.float(), targets, reduction="none").double().sum())
    return torch.stack(nll), batch.labelled[:, 1:].sum(-1, dtype=torch.float64)


def default_batch_size(loaded: LoadedModel, corpus: Corpus) -> int:
    """Windows per batch: about two thousand tokens, and logits within a quarter of a gigabyte."""
    vocab = loaded.model.config.get_text_config().vocab_size
    tokens = min(_BATCH_TOKENS, _LOGITS_BYTES // (4 * vocab))
    return max(1, tokens // corpus.width)


def _restore(totals: dict[str, torch.Tensor], saved: dict[str, np.ndarray] | None) -> None:
    for name, array in (saved or {}).items():
        totals[name].copy_(torch.from_numpy(array))


def _arrays(totals: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.cpu().numpy().copy() for name, tensor in totals.items()}
