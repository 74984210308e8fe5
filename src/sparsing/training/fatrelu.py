"""FATReLU: only what the activation lifts above `eps` stays (ProSparse, arXiv 2402.13516).

`h` is zeroed where `|gate| <= eps`, in training (the kept neurons get the gradient) or after it. That is the rule
`fat` at a fixed level, so what it saves is a `thresholds.json`, which `sparsify`, `load_sparse`, `sparsing measure
--thresholds` and `sparsing evaluate` read. For ReLU it is the paper's function; it works on any activation.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from transformers import TrainerCallback

from sparsing.errors import InputError
from sparsing.rules import make_rule
from sparsing.rules.mask import apply
from sparsing.rules.thresholds import Thresholds, thresholds_at
from sparsing.sites.discovery import find_sites

if TYPE_CHECKING:
    from torch import nn
    from transformers import TrainerControl, TrainerState, TrainingArguments

FILE = "thresholds.json"


class FATReLU(TrainerCallback):
    """Trains with the threshold: `Trainer(..., callbacks=[FATReLU(0.01)])`; each checkpoint gets its file.

    It also acts in evaluation, and on the model after training, until `remove()`.
    """

    def __init__(self, eps: float):
        """
        Args:
            eps: Threshold of `|gate|`, finite, 0 or above; the paper's is 0.01.

        Raises:
            InputError: below 0 or not a number.
        """
        make_rule("fat").check(eps)
        self.eps = eps
        self._handles: list[Any] = []

    def attach(self, model: nn.Module) -> Self:
        """Apply it to every forward pass of `model` until `remove()`.

        Raises:
            UnsupportedModelError: no family knows the model.
            InputError: it is attached already.
        """
        if self._handles:
            raise InputError("this FATReLU is attached already; call remove() first, or make another one")
        self._handles = apply(model, self.thresholds(model))
        return self

    def remove(self) -> None:
        """The model as it was."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def thresholds(self, model: nn.Module) -> Thresholds:
        """The same as `Thresholds`, for any model of this many layers.

        Raises:
            UnsupportedModelError: no family knows the model.
        """
        return thresholds_at(make_rule("fat"), self.eps, sites=[site.name for site in find_sites(model)])

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not self._handles:
            self.attach(kwargs["model"])

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
            self.thresholds(kwargs["model"]).save(folder / FILE)
