"""L1 penalty on `h` with a progressive schedule, as in ProSparse (Song et al., arXiv 2402.13516).

    penalty = L1Penalty(L1Schedule(factors=(0.1, 1.0), steps=(200, 1000))).attach_to(trainer)

or, in a loop of one's own, `penalty.attach(model)` and `loss + penalty(step)`. Works for every supported model
type, since it hooks in where the measures do (`tap.py`).
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

if TYPE_CHECKING:
    from torch import nn
    from transformers import Trainer


@dataclasses.dataclass(frozen=True, kw_only=True)
class L1Schedule:
    """Weight of the penalty over training: constant in a first stage, then up in stages, each a half cosine wave.

    In stage `i`, from step `T_{i-1}` to `T_i`: `lambda = lambda_{i-1} + eta (lambda_i - lambda_{i-1})` with
    `eta = (sin(-pi/2 + pi (t - T_{i-1}) / (T_i - T_{i-1})) + 1) / 2` (ProSparse, "progressive sparsity
    regularization"). After the last stage the weight stays.
    """

    factors: tuple[float, ...]
    """`lambda_1, lambda_2, ...`, the weight at the end of each stage; 0 or above, none below the one before."""
    steps: tuple[int, ...]
    """`T_1, T_2, ...`, the optimizer step at which each stage ends; rising."""

    def __post_init__(self) -> None:
        factors, steps = tuple(map(float, self.factors)), tuple(self.steps)  # a configuration holds lists
        object.__setattr__(self, "factors", factors)
        object.__setattr__(self, "steps", steps)
        ends = [0, *steps]
        rising = all(a < b for a, b in itertools.pairwise(ends))
        if not factors or len(factors) != len(steps) or not rising:
            raise InputError(
                f"a schedule has one factor and one last step per stage, steps above 0 and rising, got factors"
                f" {factors} and steps {steps}; e.g. factors (0.1, 1.0), steps (200, 1000)"
            )
        weights = [0.0, *factors]
        if not all(math.isfinite(b) and a <= b for a, b in itertools.pairwise(weights)):
            raise InputError(
                f"factors must be finite, 0 or above, and not fall, got {factors}; e.g. factors (0.1, 1.0)"
            )

    def factor(self, step: int) -> float:
        """The weight at this optimizer step, counted from 1."""
        if step <= self.steps[0]:
            return self.factors[0]
        if step >= self.steps[-1]:
            return self.factors[-1]
        stage = next(i for i, end in enumerate(self.steps) if step <= end)
        begin, end = self.steps[stage - 1], self.steps[stage]
        low, high = self.factors[stage - 1], self.factors[stage]
        eta = (math.sin(-math.pi / 2 + math.pi * (step - begin) / (end - begin)) + 1) / 2
        return low + eta * (high - low)


class L1Penalty:
    """`factor(step) * mean |h|` of the last forward pass, to be added to its loss.

    The mean is over layers, tokens and neurons, so that one factor means the same for every width, depth and
    batch; ProSparse's own factors belong to other sums and do not carry over. Padding does not count.
    """

    def __init__(self, schedule: L1Schedule):
        self.schedule = schedule
        self._handles: list[Any] = []
        self._n_layers = 0
        self._means: dict[int, torch.Tensor] = {}
        self._mask: torch.Tensor | None = None
        self._open = self._watching = False

    def attach(self, model: nn.Module) -> Self:
        """Watch the forward passes that `model` makes in training mode.

        Raises:
            UnsupportedModelError: no family knows the model.
            InputError: it is attached already.
        """
        if self._handles:
            raise InputError("this L1Penalty is attached already; call remove() first, or make another one")
        sites = find_sites(model)
        self._n_layers = len(sites)
        self._handles = attach(sites, self._see, gate=False)
        self._handles.append(model.register_forward_pre_hook(self._begin, with_kwargs=True))
        self._handles.append(model.register_forward_hook(self._end))
        return self

    def remove(self) -> None:
        """Take the hooks off again."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._means, self._mask = [], {}, None

    def __call__(self, step: int) -> torch.Tensor:
        """The penalty of the last forward pass at optimizer step `step` (from 1): a scalar with gradients.

        Raises:
            InputError: there was no forward pass in training mode since the last call, or its activations had
                no gradient.
        """
        means = [self._means[layer] for layer in sorted(self._means)]
        self._means = {}
        if not means or len(means) < self._n_layers:
            raise InputError(
                "no activations to penalise: call attach(model), then a forward pass in training mode with"
                " gradients; gradient checkpointing needs use_reentrant=False"
            )
        return self.schedule.factor(step) * torch.stack([mean.to(means[0].device) for mean in means]).mean()

    def attach_to(self, trainer: Trainer) -> Self:
        """Join a transformers `Trainer`: its training loss becomes the loss plus the penalty; evaluation does not.

        Raises: as `attach`.
        """
        self.attach(trainer.model)  # pyright: ignore[reportArgumentType]
        plain = trainer.compute_loss

        def compute_loss(
            model: nn.Module,
            inputs: Any,
            return_outputs: bool = False,
            num_items_in_batch: Any = None,
            **more: Any,
        ) -> Any:
            result = plain(model, inputs, return_outputs, num_items_in_batch, **more)
            if not (model.training and torch.is_grad_enabled() and self._handles):
                return result
            penalty = self(trainer.state.global_step + 1) / _parts(trainer, num_items_in_batch)
            if isinstance(result, tuple):
                return result[0] + penalty.to(result[0].device), *result[1:]
            return result + penalty.to(result.device)

        trainer.compute_loss = compute_loss
        return self

    def _begin(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        self._open = self._watching = module.training and torch.is_grad_enabled()
        self._means = {}
        by_place = inspect.signature(module.forward).bind_partial(*args).arguments
        self._mask = {**by_place, **kwargs}.get("attention_mask")

    def _end(self, module: Any, args: Any, output: Any) -> None:
        self._open = False

    def _see(self, index: int, rows: Rows) -> None:
        if not (self._watching and rows.h.requires_grad):
            return
        mean = _mean_size(rows.h, self._mask)
        # gradient checkpointing runs the block again in backward: it wants the same operations, not their result
        if self._open:
            self._means[index] = mean


def _mean_size(h: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Mean of `|h|` over neurons and real tokens, float32; `mask` has shape `(windows, tokens)`, 0 on padding."""
    sizes = h.float().abs().mean(-1)  # (rows,)
    if mask is None or mask.ndim != 2 or mask.numel() != sizes.numel():
        return sizes.mean()
    weights = mask.reshape(sizes.shape).to(sizes)
    return (sizes * weights).sum() / weights.sum()


def _parts(trainer: Trainer, num_items_in_batch: Any) -> int:
    """By how much the penalty of one micro-batch is divided: the Trainer divides losses by the accumulation steps
    only where the model has not divided them by the items of the whole batch.
    """
    scaled = getattr(trainer, "loss_is_scaled_for_ga", None)
    if scaled is None:
        counted = trainer.model_accepts_loss_kwargs and num_items_in_batch is not None
        scaled = counted or trainer.compute_loss_func is not None
    return trainer.current_gradient_accumulation_steps if scaled else 1
