"""A sample of each block's real inputs from a corpus under thresholds: one part to make a predictor, one to judge it.

Both are spread over the corpus by whole windows (over positions where there is a single window), so that no judged
token shares its context with one the predictor was made on.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import torch

from sparsing.base.progress import Progress
from sparsing.decode.predict.inputs import inputs_tapped
from sparsing.errors import InputError
from sparsing.measuring.passes import Observer, PassSettings, Totals, run_pass
from sparsing.rules.mask import Mask

if TYPE_CHECKING:
    from sparsing.models.loading import LoadedModel
    from sparsing.rules.thresholds import Thresholds
    from sparsing.text.corpus import Batch, Corpus

HELDOUT_SHARE = 4
"""One sampled token in this many judges."""
THINNING = 4
"""At most one token in this many is taken of a window, so that the sample sees many contexts."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class InputSample:
    """Inputs by layer, each of shape `(tokens, d_model)`, in the model's dtype, on the CPU."""

    fit: dict[int, torch.Tensor]
    heldout: dict[int, torch.Tensor]

    @property
    def num_fit(self) -> int:
        return len(next(iter(self.fit.values())))

    @property
    def num_heldout(self) -> int:
        return len(next(iter(self.heldout.values())))


def sample_corpus(
    loaded: LoadedModel,
    corpus: Corpus,
    thresholds: Thresholds,
    *,
    tokens: int,
    progress: Progress | None = None,
) -> InputSample:
    """About `tokens` inputs to make a predictor on and a third as many to judge it, fewer where the text is short.

    Raises:
        InputError: fewer than 8 tokens in the corpus.
    """
    part = corpus.part(_windows(corpus, tokens * HELDOUT_SHARE // (HELDOUT_SHARE - 1) * THINNING))
    observer = _InputObserver(part, tokens)
    settings = PassSettings(progress=progress)
    mask = Mask(loaded.sites, thresholds)
    with inputs_tapped(loaded.sites, observer.on_input):
        run_pass(loaded, part, observer, mask, key="", settings=settings, label="inputs", head=False)
    return observer.sample()


class _InputObserver(Observer[Totals]):
    """Keeps the inputs of the tokens that a generator picks, window by window."""

    def __init__(self, corpus: Corpus, tokens: int):
        super().__init__(Totals())
        wanted = tokens * HELDOUT_SHARE / (HELDOUT_SHARE - 1)
        self._share = min(1.0, wanted / max(corpus.num_tokens, 1))
        self._single = corpus.n_windows == 1
        self._generator = torch.Generator().manual_seed(0)
        self._kept: dict[int, list[torch.Tensor]] = {}
        self._held: list[torch.Tensor] = []

    def begin(self, batch: Batch) -> None:
        drawn = torch.rand(batch.counted.shape, generator=self._generator) < self._share
        self._chosen = (batch.counted.cpu() & drawn).flatten()
        places = (
            torch.arange(batch.counted.shape[1]) if self._single else torch.from_numpy(batch.windows)[:, None]
        )
        border = batch.counted.shape[1] * (HELDOUT_SHARE - 1) // HELDOUT_SHARE
        held = places >= border if self._single else places % HELDOUT_SHARE == HELDOUT_SHARE - 1
        self._held.append(held.expand(batch.counted.shape).flatten()[self._chosen])

    def on_input(self, layer: int, x: torch.Tensor) -> None:
        rows = x.detach().reshape(-1, x.shape[-1])
        self._kept.setdefault(layer, []).append(rows[self._chosen.to(rows.device)].cpu())

    def sample(self) -> InputSample:
        held = torch.cat(self._held)
        if not held.any() or held.all():
            raise InputError(
                f"{len(held)} tokens are too few to make a predictor and to judge it; give a longer text"
            )
        every = {layer: torch.cat(parts) for layer, parts in self._kept.items()}
        return InputSample(
            fit={layer: x[~held] for layer, x in every.items()},
            heldout={layer: x[held] for layer, x in every.items()},
        )


def _windows(corpus: Corpus, tokens: int) -> np.ndarray:
    """Windows spread evenly over the corpus that hold about this many tokens; at least 4 where there are so many."""
    wanted = max(HELDOUT_SHARE, -(-tokens * corpus.n_windows // max(corpus.num_tokens, 1)))
    return np.unique(
        np.linspace(0, corpus.n_windows - 1, min(wanted, corpus.n_windows)).round().astype(np.int64)
    )
