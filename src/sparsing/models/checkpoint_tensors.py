"""Explains why the tensors of a safetensors checkpoint do not fit its configuration: prefixes, and other sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sparsing.errors import InputError

_PREFIXES = ("_orig_mod.", "module.", "_fsdp_wrapped_module.")
"""What `torch.compile`, DataParallel and FSDP put before the names of parameters."""


def explain_tensors(folder: Path, config: Any) -> None:
    """Raises an error that names the reason, if a known one explains why the weights do not load.

    Raises:
        InputError: If the names have the prefix of a wrapper, or a tensor has another size than the configuration says.
    """
    shapes = _shapes(folder)
    wrapped = [name for name in shapes if name.startswith(_PREFIXES)]
    if wrapped:
        prefix = next(prefix for prefix in _PREFIXES if wrapped[0].startswith(prefix))
        raise InputError(
            f"{len(wrapped)} tensors in {str(folder)!r} have the prefix {prefix!r} of a wrapped model, the first:"
            f" {wrapped[0]}; save the inner model: `getattr(model, {prefix.rstrip('.')!r}).save_pretrained(folder)`"
        )
    for name, built in _built_shapes(config).items():
        if name in shapes and shapes[name] != built:
            raise InputError(
                f"the tensor {name} in {str(folder)!r} has the shape {shapes[name]}, but by config.json it has {built};"
                " the weights and the configuration are of different models: copy both from one checkpoint"
            )


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor, by name; of the files that can be read."""
    from safetensors import SafetensorError, safe_open

    shapes: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError):  # the caller reports a damaged file
            continue
    return shapes


def _built_shapes(config: Any) -> dict[str, tuple[int, ...]]:
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}
