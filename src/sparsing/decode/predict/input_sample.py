"""A sample of the inputs of each block under thresholds, split into a part to fit a predictor and a held-out part.

The split is by whole windows, so that no held-out token shares its context with a token of the fit. A corpus of a
single window is split by position: its last quarter is held out.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import torch

from sparsing.decode.predict.inputs import inputs_tapped
from sparsing.errors import InputError
from sparsing.measuring.passes import Observer, PassSettings, Totals, run_pass
from sparsing.rules.mask import Mask

if TYPE_CHECKING:
    from sparsing.base.progress import Progress
    from sparsing.models.loading import LoadedModel
    from sparsing.rules.thresholds import Thresholds
    from sparsing.text.corpus import Batch, Corpus

HELDOUT_SHARE = 4
"""One sampled token in this many is held out."""
THINNING = 4
"""The sample is drawn from this many times as many tokens, so that it has tokens from many contexts."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class InputSample:
    """Layer number to inputs, each of shape `(tokens, d_model)`, in the dtype of the model, on the CPU."""

    fit: dict[int, torch.Tensor]
    """Inputs to fit a predictor on."""
    heldout: dict[int, torch.Tensor]
    """Inputs to judge it on."""

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
    """About `tokens` inputs to fit a predictor and a third as many held-out ones; fewer if the text is short.

    Raises:
        InputError: if the corpus is too short to have tokens in both parts.
    """
    part = corpus.part(_windows(corpus, tokens * HELDOUT_SHARE // (HELDOUT_SHARE - 1) * THINNING))
    observer, mask = _InputObserver(part, tokens), Mask(loaded.sites, thresholds)
    settings = PassSettings(progress=progress)
    with inputs_tapped(loaded.sites, observer.on_input):
        run_pass(loaded, part, observer, mask, key="", settings=settings, label="inputs", head=False)
    return observer.sample()


class _InputObserver(Observer[Totals]):
    """Keeps the inputs of randomly drawn tokens, the same tokens in every layer and every run."""

    def __init__(self, corpus: Corpus, tokens: int):
        super().__init__(Totals())
        wanted = tokens * HELDOUT_SHARE / (HELDOUT_SHARE - 1)
        self._share = min(1.0, wanted / max(corpus.num_tokens, 1))
        self._single = corpus.n_windows == 1
        self._generator = torch.Generator().manual_seed(0)
        self._kept: dict[int, list[torch.Tensor]] = {}
        self._held: list[torch.Tensor] = []

    def begin(self, batch: Batch) -> None:
        # drawn on the CPU, so that the sample does not depend on the device
        drawn = torch.rand(batch.counted.shape, generator=self._generator) < self._share
        self._chosen = (batch.counted.cpu() & drawn).flatten()
        positions = (
            torch.arange(batch.counted.shape[1]) if self._single else torch.from_numpy(batch.windows)[:, None]
        )
        border = batch.counted.shape[1] * (HELDOUT_SHARE - 1) // HELDOUT_SHARE
        held = positions >= border if self._single else positions % HELDOUT_SHARE == HELDOUT_SHARE - 1
        self._held.append(held.expand(batch.counted.shape).flatten()[self._chosen])

    def on_input(self, layer: int, x: torch.Tensor) -> None:
        rows = x.detach().reshape(-1, x.shape[-1])
        self._kept.setdefault(layer, []).append(rows[self._chosen.to(rows.device)].cpu())

    def sample(self) -> InputSample:
        held = torch.cat(self._held)
        if not held.any() or held.all():
            raise InputError(
                f"{len(held)} sampled tokens are too few to fit a predictor and to judge it; give a longer text"
            )
        inputs = {layer: torch.cat(parts) for layer, parts in self._kept.items()}
        return InputSample(
            fit={layer: x[~held] for layer, x in inputs.items()},
            heldout={layer: x[held] for layer, x in inputs.items()},
        )


def _windows(corpus: Corpus, tokens: int) -> np.ndarray:
    """Numbers of windows, spread evenly over the corpus, that have about this many tokens; at least 4 if possible."""
    wanted = max(HELDOUT_SHARE, -(-tokens * corpus.n_windows // max(corpus.num_tokens, 1)))
    return np.unique(
        np.linspace(0, corpus.n_windows - 1, min(wanted, corpus.n_windows)).round().astype(np.int64)
    )
