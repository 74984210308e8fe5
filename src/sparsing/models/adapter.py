"""Adapters of PEFT, such as LoRA: merged into the weights of their base model, so that plain matrices are measured.

A folder with `adapter_config.json` holds an adapter. It names its base model, and the user may name another one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sparsing.base.extras import install_command
from sparsing.errors import InputError, UnsupportedModelError
from sparsing.sites.wrappers import unwrapped

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ADAPTER_CONFIG = "adapter_config.json"
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


def is_adapter(name: str) -> bool:
    """Whether this is a folder that holds an adapter and no model."""
    folder = Path(name).expanduser()
    return (folder / ADAPTER_CONFIG).is_file() and not (folder / "config.json").is_file()


def base_of(folder: Path) -> str:
    """The folder or the name on the hub of the base model of an adapter.

    Raises:
        InputError: If the file of the adapter cannot be read or names no base model.
    """
    path = folder / ADAPTER_CONFIG
    try:
        base = json.loads(path.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{str(path)!r} is not a JSON object ({error}); save the adapter again") from error
    if not base:
        raise InputError(
            f"{str(path)!r} names no base model; give the base model as MODEL and this folder with --adapter"
        )
    return str(base)


def check_adapter(folder: Path) -> None:
    """Checks that the folder holds an adapter that can be merged, before a model is loaded.

    Raises:
        InputError: If the folder is no adapter, its weights are missing, or the package peft is missing.
    """
    if not (folder / ADAPTER_CONFIG).is_file():
        raise InputError(
            f"no {ADAPTER_CONFIG} in {str(folder)!r}; --adapter takes the folder of an adapter that PEFT has saved"
        )
    if not any((folder / name).is_file() for name in _WEIGHTS):
        raise InputError(f"no {_WEIGHTS[0]} in {str(folder)!r}; save the adapter again, or copy it whole")
    try:
        import peft  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError as error:
        raise InputError(f"adapters need peft ({error}): {install_command('adapters')}") from error


def merge_adapter(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """The model with the adapter in its weights. The weights are changed in place.

    Raises:
        InputError: If the adapter does not fit the model.
        UnsupportedModelError: If the adapter does not act on weights alone, such as virtual tokens.
    """
    from peft import PeftModel
    from peft.utils import load_peft_weights

    try:
        wrapped = PeftModel.from_pretrained(model, str(folder))
    except (RuntimeError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()
        raise InputError(
            f"the adapter {str(folder)!r} does not fit the model {type(model).__name__}:"
            f" {(reason[1] if len(reason) > 1 else str(error)).strip()}; give the base model on which it was trained"
        ) from error
    unwrapped(wrapped)  # refuses adapters that act outside of layers
    own = set(load_peft_weights(str(folder), device="cpu"))
    unused = _unused(own, wrapped)
    if unused:
        raise InputError(
            f"the adapter {str(folder)!r} has {len(unused)} tensors that the model has no place for, the first:"
            f" {unused[0]}; give the base model on which it was trained"
        )
    merge: Any = getattr(wrapped, "merge_and_unload", None)
    if merge is None:
        raise UnsupportedModelError(f"the adapter {str(folder)!r} cannot be merged into weights")
    try:
        return cast("PreTrainedModel", merge(safe_merge=True))
    except ValueError as error:  # `safe_merge` refuses values that are not finite
        raise InputError(
            f"the adapter {str(folder)!r} cannot be merged: {error}; use an earlier adapter"
        ) from error


def _unused(own: set[str], wrapped: Any) -> list[str]:
    """Tensors of an adapter that no module of the model takes."""
    from peft import get_peft_model_state_dict

    return sorted(own - set(get_peft_model_state_dict(wrapped)))
