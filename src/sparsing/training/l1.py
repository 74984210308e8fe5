"""L1 penalty on `h` with a progressive schedule (ProSparse, Song et al., arXiv 2402.13516).

    penalty = L1Penalty(L1Schedule(factors=(0.1, 1.0), steps=(200, 1000))).attach_to(trainer)

In a training loop without a Trainer: `penalty.attach(model)`, then `loss + penalty(step)` in every step. The penalty
reads `h` through `sparsing.sites`, so it works with every supported model type.
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import math
from typing import TYPE_CHECKING, Any, Self

import torch

from sparsing.errors import InputError
from sparsing.sites.discovery import find_sites
from sparsing.sites.tap import Rows, attach
from sparsing.training.attachable import Attachable

if TYPE_CHECKING:
    from torch import nn
    from transformers import Trainer


@dataclasses.dataclass(frozen=True, kw_only=True)
class L1Schedule:
    """Factor of the penalty over training: constant in the first stage, then rising in stages of half a cosine wave.

    In stage `i`, from step `T_{i-1}` to `T_i`: `lambda = lambda_{i-1} + eta (lambda_i - lambda_{i-1})` with
    `eta = (sin(-pi/2 + pi (t - T_{i-1}) / (T_i - T_{i-1})) + 1) / 2` (ProSparse, "progressive sparsity
    regularization"). After the last stage the factor is constant.
    """

    factors: tuple[float, ...]
    """`lambda_1, lambda_2, ...`, the factor at the end of each stage; at least 0 and never falling."""
    steps: tuple[int, ...]
    """`T_1, T_2, ...`, the optimizer step at which each stage ends; rising."""

    def __post_init__(self) -> None:
        factors, steps = tuple(map(float, self.factors)), tuple(self.steps)  # a configuration holds lists
        object.__setattr__(self, "factors", factors)
        object.__setattr__(self, "steps", steps)
        rising = all(a < b for a, b in itertools.pairwise([0, *steps]))
        if not factors or len(factors) != len(steps) or not rising:
            raise InputError(
                "an L1 schedule needs one factor and one last step per stage, with steps above 0 and rising, got"
                f" factors {factors} and steps {steps}; e.g. factors (0.1, 1.0), steps (200, 1000)"
            )
        if not all(math.isfinite(b) and a <= b for a, b in itertools.pairwise([0.0, *factors])):
            raise InputError(
                f"the factors of an L1 schedule must be finite, at least 0, and must not fall, got {factors};"
                " e.g. factors (0.1, 1.0)"
            )

    def factor(self, step: int) -> float:
        """The factor at this optimizer step, counted from 1."""
        if step <= self.steps[0]:
            return self.factors[0]
        if step >= self.steps[-1]:
            return self.factors[-1]
        stage = next(i for i, end in enumerate(self.steps) if step <= end)
        begin, end = self.steps[stage - 1], self.steps[stage]
        low, high = self.factors[stage - 1], self.factors[stage]
        eta = (math.sin(-math.pi / 2 + math.pi * (step - begin) / (end - begin)) + 1) / 2
        return low + eta * (high - low)


class L1Penalty(Attachable):
    """`factor(step) * mean |h|` of the last forward pass in training mode, to be added to its loss.

    The mean is over layers, tokens without padding, and neurons, so the same factor means the same for every width,
    depth and batch size. The factors of the ProSparse paper belong to sums and cannot be used here.
    """

    def __init__(self, schedule: L1Schedule):
        super().__init__()
        self.schedule = schedule
        self._n_layers = 0
        self._means: dict[int, torch.Tensor] = {}
        self._mask: torch.Tensor | None = None
        # in_forward: the model's forward pass runs. penalised: its activations are to be penalised
        self._in_forward = self._penalised = False

    def remove(self) -> None:
        """Take the hooks off the model again."""
        super().remove()
        self._means, self._mask = {}, None

    def __call__(self, step: int) -> torch.Tensor:
        """The penalty of the last forward pass at optimizer step `step` (from 1): a scalar with gradients.

        Raises:
            InputError: if there was no forward pass in training mode since the last call, or its activations have
                no gradient.
        """
        means = [self._means[layer] for layer in sorted(self._means)]
        self._means = {}
        if not means or len(means) < self._n_layers:
            raise InputError(
                "there are no activations to penalise; call attach(model), then run a forward pass in training mode"
                " with gradients. Gradient checkpointing needs use_reentrant=False"
            )
        # layers may lie on several devices
        return self.schedule.factor(step) * torch.stack([mean.to(means[0].device) for mean in means]).mean()

    def attach_to(self, trainer: Trainer) -> Self:
        """Add the penalty to the training loss of a transformers `Trainer`. Evaluation losses stay as they are.

        Raises:
            UnsupportedModelError: if the sites of the trainer's model are not found.
            InputError: if this object is attached already, or the trainer has no model.
        """
        if trainer.model is None:
            raise InputError("this Trainer has no model yet; pass the model to Trainer(model=...)")
        self.attach(trainer.model)
        plain_loss = trainer.compute_loss

        def compute_loss(
            model: nn.Module,
            inputs: Any,
            return_outputs: bool = False,
            num_items_in_batch: Any = None,
            **more: Any,
        ) -> Any:
            result = plain_loss(model, inputs, return_outputs, num_items_in_batch, **more)
            if not (model.training and torch.is_grad_enabled() and self.is_attached):
                return result
            penalty = self(trainer.state.global_step + 1) / _loss_divisor(trainer, num_items_in_batch)
            if isinstance(result, tuple):
                return result[0] + penalty.to(result[0].device), *result[1:]
            return result + penalty.to(result.device)

        trainer.compute_loss = compute_loss
        return self

    def _add_hooks(self, model: nn.Module) -> list[Any]:
        sites = find_sites(model)
        self._n_layers = len(sites)
        return [
            *attach(sites, self._add_layer, gate=False),
            model.register_forward_pre_hook(self._begin_forward, with_kwargs=True),
            model.register_forward_hook(self._end_forward),
        ]

    def _begin_forward(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        self._in_forward = self._penalised = module.training and torch.is_grad_enabled()
        self._means = {}
        # the attention mask may be passed by position
        by_position = inspect.signature(module.forward).bind_partial(*args).arguments
        self._mask = {**by_position, **kwargs}.get("attention_mask")

    def _end_forward(self, module: Any, args: Any, output: Any) -> None:
        self._in_forward = False

    def _add_layer(self, index: int, rows: Rows) -> None:
        if not (self._penalised and rows.h.requires_grad):
            return
        mean = _mean_abs(rows.per_token(rows.h), self._mask)
        # Gradient checkpointing runs the block again in the backward pass. The second run must do the same operations
        # (checkpointing compares what both runs save), but its result is not part of the penalty.
        if self._in_forward:
            self._means[index] = mean


def _mean_abs(h: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Mean of `|h|` over neurons and tokens without padding, float32; `mask` is `(windows, tokens)`, 0 on padding."""
    per_token = h.float().abs().mean(-1)
    # a mask with another number of tokens (4-D, or for cached keys) does not mark padding of `h`
    if mask is None or mask.ndim != 2 or mask.numel() != per_token.numel():
        return per_token.mean()
    weights = mask.reshape(per_token.shape).to(per_token)
    return (per_token * weights).sum() / weights.sum()


def _loss_divisor(trainer: Trainer, num_items_in_batch: Any) -> int:
    """Number by which to divide the penalty of one micro-batch, so that a step adds the mean over its micro-batches.

    The Trainer divides losses by the accumulation steps itself, except for models that have divided their loss by the
    number of items in the whole batch.
    """
    scaled = getattr(trainer, "loss_is_scaled_for_ga", None)  # name in newer versions of transformers
    if scaled is None:
        by_model = trainer.model_accepts_loss_kwargs and num_items_in_batch is not None
        scaled = by_model or trainer.compute_loss_func is not None
    return trainer.current_gradient_accumulation_steps if scaled else 1
