"""FATReLU: training with a threshold on the gate (ProSparse, arXiv 2402.13516).

`h` is set to zero where `|gate| <= eps`, during training (only the kept neurons get a gradient) or afterwards. This is
the rule `fat` at a fixed level, so each checkpoint gets a `thresholds.json`, which `sparsify`, `load_sparse`, `sparsing
measure --thresholds` and `sparsing evaluate --thresholds` read. With ReLU it is the function of the paper; other
activation functions work too.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from sparsing.rules import make_rule
from sparsing.rules.mask import apply
from sparsing.rules.thresholds import THRESHOLDS_FILE, Thresholds, thresholds_at
from sparsing.sites.discovery import find_sites
from sparsing.training.attachable import Attachable

if TYPE_CHECKING:
    from torch import nn
    from transformers import TrainerControl, TrainerState, TrainingArguments


class FATReLU(Attachable, TrainerCallback):
    """Trains with the threshold and saves it with each checkpoint: `Trainer(..., callbacks=[FATReLU(0.01)])`.

    It also acts in evaluation, and on the model after training, until `remove()`.
    """

    def __init__(self, eps: float):
        """
        Args:
            eps: Threshold on `|gate|`, finite and at least 0; 0.01 in the paper.

        Raises:
            InputError: if `eps` is negative or not finite.
        """
        super().__init__()
        make_rule("fat").check(eps)
        self.eps = eps

    def thresholds(self, model: nn.Module) -> Thresholds:
        """The same threshold for every layer of `model`, as the rule `fat` has it.

        Raises:
            UnsupportedModelError: if the sites of the model are not found.
        """
        return thresholds_at(make_rule("fat"), self.eps, sites=[site.name for site in find_sites(model)])

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not self.is_attached:
            self.attach(kwargs["model"])

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
            self.thresholds(kwargs["model"]).save(folder / THRESHOLDS_FILE)

    def _add_hooks(self, model: nn.Module) -> list[Any]:
        return apply(model, self.thresholds(model))
