"""Names of dtypes: the short names that users type and the full names of torch, which the package uses."""

from __future__ import annotations

from sparsing.base.registry import did_you_mean
from sparsing.errors import InputError

_SHORT = {
    **{"fp32": "float32", "f32": "float32", "float": "float32"},
    **{"fp64": "float64", "f64": "float64", "double": "float64"},
    **{"bf16": "bfloat16"},
    **{"fp16": "float16", "f16": "float16", "half": "float16"},
}


def full_dtype_name(name: object) -> str:
    """The full name of a dtype, e.g. `bfloat16` for `bf16`, `BF16` and `torch.bfloat16`. Other names stay as they are.

    Args:
        name: A name, or a dtype of torch.
    """
    lower = str(name).lower().removeprefix("torch.")
    return _SHORT.get(lower, lower)


def check_dtype_name(name: object, allowed: tuple[str, ...], *, hint: str = "") -> str:
    """The full name of a dtype that is one of `allowed`.

    Args:
        hint: What the user may do instead, for the message.

    Raises:
        InputError: If the dtype is not allowed.
    """
    full = full_dtype_name(name)
    if full not in allowed:
        raise InputError(
            f"unknown dtype {str(name)!r}.{did_you_mean(full, allowed)} Available: {', '.join(allowed)}{hint}"
        )
    return full
