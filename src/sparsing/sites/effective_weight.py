"""The matrix that a projection really multiplies by, whatever stores it.

The parameter `weight` of a projection is not always that matrix. An adapter (LoRA) adds a product to it, an offloaded
module has its values on disk, and a quantised module stores codes. Such a projection is asked for its matrix: it runs
on the unit vectors, so that every library that computes `y = W x + b` is supported without knowing its classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from sparsing.errors import UnsupportedModelError
from sparsing.sites.compiled import refuse_scripted

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from torch import nn

_PLAIN_FORWARDS = (
    ("torch.nn.modules.linear", "Linear.forward"),
    ("transformers.pytorch_utils", "Conv1D.forward"),
    ("transformers.models.falcon.modeling_falcon", "FalconLinear.forward"),
)
"""Module and name of the methods that multiply by the parameter `weight`."""
_UNITS = 1024
"""Unit vectors that run at a time."""
_CHECKED = 4
"""Random vectors that check that a projection is affine."""
_TOLERANCE = 0.05
"""Allowed relative error of the check. Libraries with 8-bit activations are off by about 1%."""


def is_plain(module: nn.Module) -> bool:
    """Whether `module.weight` is the matrix that the module multiplies by, with its values in memory."""
    import torch  # here, as in the functions below, because a list of model types must not cost the import of torch

    # accelerate sets a forward on the instance that moves inputs and weights, then calls the forward of the class
    forward = vars(module).get("_old_forward" if hasattr(module, "_hf_hook") else "forward", module.forward)
    if (getattr(forward, "__module__", ""), getattr(forward, "__qualname__", "")) not in _PLAIN_FORWARDS:
        return False
    weight = cast("Any", module.weight)
    return type(weight) in (torch.nn.Parameter, torch.Tensor) and not (
        weight.is_meta and hasattr(module, "_hf_hook")
    )


def features_of(module: nn.Module, name: str) -> tuple[int, int]:
    """Number of outputs and inputs, without reading the weights.

    Raises:
        UnsupportedModelError: If the module does not state them.
    """
    found = (getattr(module, "out_features", None), getattr(module, "in_features", None))
    if None in found:  # `Conv1D` states its outputs as `nf`
        found = (getattr(module, "nf", None), getattr(module, "nx", None))
    weight = getattr(module, "weight", None)
    if None in found and getattr(weight, "ndim", 0) == 2:
        found = tuple(cast("Any", weight).shape)
    if not all(isinstance(size, int) for size in found):
        raise UnsupportedModelError(
            f"{name} is a {type(module).__name__}, which does not state its numbers of inputs and outputs; an nn.Linear"
            " or a Conv1D is supported"
        )
    return cast("tuple[int, int]", found)


def device_of(module: nn.Module) -> torch.device:
    """Where the module computes."""
    import torch

    at = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
    if at is not None:  # its weights may be elsewhere, or on the `meta` device until it runs
        return torch.device(at if not isinstance(at, int) else f"cuda:{at}")
    return next((tensor.device for tensor in _tensors(module)), torch.device("cpu"))


def check_weight(module: nn.Module, name: str) -> None:
    """Checks that the matrix of a module can be used.

    Raises:
        UnsupportedModelError: If the module is TorchScript, its weights are divided over processes or hold no numbers,
            or it multiplies by a parameter whose dtype is not supported.
    """
    refuse_scripted(name, module)
    if any(type(tensor).__name__ == "DTensor" for tensor in _tensors(module)):
        raise _divided(name)
    if not is_plain(module):
        return
    weight = cast("torch.Tensor", module.weight)
    if sorted(weight.shape) != sorted(features_of(module, name)):
        raise _divided(name)
    if weight.is_meta:
        raise UnsupportedModelError(
            f"{name}.weight is on the meta device, so it holds no numbers; load the weights. If they do"
            " not fit into memory, --device auto offloads them, or use a device with more memory"
        )
    if not is_unquantised(weight):
        raise UnsupportedModelError(
            f"{name}.weight is {weight.dtype} {tuple(weight.shape)}, but it must be a matrix of float32, float64,"
            " bfloat16 or float16; load a checkpoint that is not quantized"
        )


def is_unquantised(weight: torch.Tensor) -> bool:
    """Whether a weight holds its own values, in at least 16 bits."""
    # a float8 weight counts as quantized: it is multiplied by scales that are kept elsewhere
    return weight.is_floating_point() and weight.dtype.itemsize >= 2


def expert_weight(module: nn.Module, name: str) -> torch.Tensor:
    """The parameter `down_proj` of a module that holds all experts of a layer, three axes.

    Raises:
        UnsupportedModelError: If an adapter acts on it, or its values are not in memory.
    """
    weight = cast("torch.Tensor", module.down_proj)
    # PEFT adds to the parameter only while its wrapper runs
    if name.endswith(".base_layer") or (weight.is_meta and hasattr(module, "_hf_hook")):
        raise UnsupportedModelError(
            f"{name}.down_proj is not the weight that runs: it has an adapter or is offloaded; merge the adapter"
            " (model.merge_and_unload()), or give the experts enough memory"
        )
    return weight


def _divided(name: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"this process holds only a part of {name}.weight (FSDP, ZeRO-3 or tensor parallelism); load the whole model"
        " in one process, e.g. with --device auto"
    )


def projection_bias(module: nn.Module) -> torch.Tensor | None:
    """What the module adds to every output, shape `(outputs,)`; None if it adds nothing."""
    if is_plain(module):
        return cast("torch.Tensor | None", module.bias)
    return _run(module, _zeros(module, 1))[0].detach()


def weight_of(module: nn.Module, name: str) -> torch.Tensor:
    """The matrix `W` of a projection that is not plain, shape `(outputs, inputs)`.

    It is computed anew in each call, since an adapter may be trained or switched off between two calls.

    Raises:
        UnsupportedModelError: If the output of the module is not `W x + b`.
    """
    import torch

    zeros = _zeros(module, _CHECKED)
    width = zeros.shape[1]
    with torch.no_grad():
        bias = _run(module, zeros[:1]).float()
        columns: list[torch.Tensor] = []
        for begin in range(0, width, _UNITS):
            units = zeros.new_zeros(min(_UNITS, width - begin), width)
            units[:, begin:].fill_diagonal_(1)
            columns.append((_run(module, units).float() - bias).to(zeros.dtype))
        weight = torch.cat(columns).T
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(zeros.shape, generator=generator).to(zeros)
        output, wanted = _run(module, x).float(), x.float() @ weight.float().T + bias
        # PyTorch does not annotate the parameters of `norm`
        error = float(cast("Any", output - wanted).norm() / cast("Any", wanted).norm().clamp_min(1e-30))
    if not error < _TOLERANCE:
        raise UnsupportedModelError(
            f"{name} is a {type(module).__name__} whose output is not a matrix times its input (relative error"
            f" {error:.2g}); merge adapters into the weights, or load a checkpoint that is not quantized"
        )
    return weight


def run_without_bias(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """`W x` of a projection that is not plain, shape `(rows, outputs)`."""
    return (_run(module, x) - _run(module, x.new_zeros(1, x.shape[1]))).detach()


def _run(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    # `forward`, because a call of the module would also run hooks that mask or observe the input
    return cast("Any", module).forward(x)


def _zeros(module: nn.Module, rows: int) -> torch.Tensor:
    """Zeros in the dtype and on the device in which the module computes, shape `(rows, inputs)`."""
    import torch

    dtypes = (tensor.dtype for tensor in _tensors(module))
    dtype = next((d for d in dtypes if d.is_floating_point and d.itemsize >= 2), torch.float32)
    return torch.zeros(rows, features_of(module, "projection")[1], dtype=dtype, device=device_of(module))


def _tensors(module: nn.Module) -> Iterator[torch.Tensor]:
    yield from module.parameters()
    yield from module.buffers()
