"""`Meter`: the cost of a measurement, in dense forward passes of the same model over the same corpus."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, cast

import torch

from sparsing.measuring.measurement import Cost
from sparsing.measuring.passes import default_batch_size, window_nll
from sparsing.text.corpus import Corpus

if TYPE_CHECKING:
    from sparsing.models.loading import LoadedModel


class Meter:
    """Counts the tokens that are run and the time, and compares both with a dense pass over the corpus.

    Construction runs three batches of the dense model to time it.
    """

    def __init__(self, loaded: LoadedModel, corpus: Corpus):
        self._num_tokens = corpus.num_tokens
        self._dense_sec = _dense_sec(loaded, corpus)
        self._shared_sec, self._shared_tokens = 0.0, 0
        self.restart()

    def share(self) -> None:
        """Adds the passes run so far to the cost of every later measurement, since all of them use these passes."""
        self._shared_sec += time.monotonic() - self._began
        self._shared_tokens += self._tokens
        self.restart()

    def restart(self) -> None:
        """Begins a new measurement: time and tokens count from here."""
        self._began, self._tokens = time.monotonic(), 0

    def add(self, corpus: Corpus) -> None:
        """Records that a pass over this corpus is run."""
        self._tokens += corpus.num_tokens

    def cost(self) -> Cost:
        """The cost of the measurement that began last, including the shared passes."""
        wall = self._shared_sec + time.monotonic() - self._began
        return Cost(
            forward_passes=(self._shared_tokens + self._tokens) / self._num_tokens,
            dense_forward_equivalents=wall / self._dense_sec,
            wall_sec=wall,
        )


def _dense_sec(loaded: LoadedModel, corpus: Corpus) -> float:
    """Seconds of a dense pass with its loss over the corpus, from the faster of two batches after a warm-up."""
    device = cast("torch.Tensor", loaded.model.get_input_embeddings().weight).device
    batch = next(corpus.batches(default_batch_size(loaded, corpus), device=device))
    times: list[float] = []
    with torch.inference_mode():
        for _ in range(3):
            began = time.monotonic()
            output = loaded.model(input_ids=batch.ids, attention_mask=batch.real.long(), use_cache=False)
            window_nll(output.logits, batch)[0].sum().item()  # waits until an accelerator is done
            times.append(time.monotonic() - began)
    # the first batch pays for allocations and kernel selection; a floor avoids a division by zero
    return max(min(times[1:]), 1e-9) * corpus.num_tokens / max(int(batch.counted.sum()), 1)
