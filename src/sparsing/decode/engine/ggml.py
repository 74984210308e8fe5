"""Finds the ggml library that llama-cpp-python installs, and the addresses of its functions for each weight type.

ggml has hand-written dot products for every type of weights and every processor. Compiled code calls them by address
(`native.py`). A dot product of quantised weights takes its input in a quantised form too, e.g. `Q4_0` rows are
multiplied by a `Q8_0` input. `input_code` names that form, and its `from_float` converts float32 to it.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from sparsing.base.extras import install_command
from sparsing.errors import InputError

F32, F16 = 0, 1
"""ggml's codes of the two types that the engine itself uses."""
_NUM_TYPES = 39
"""Types of the oldest ggml that is used. ggml itself reads beyond its table for a code that it does not know."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightType:
    """The functions of one ggml type, as addresses; 0 where ggml has none."""

    code: int
    name: str
    block: int
    """Weights in a block."""
    block_bytes: int
    dot: int
    """`void (int n, float *out, size_t, const void *row, size_t, const void *input, size_t, int)`."""
    input_code: int
    """Type of the input that `dot` takes."""
    from_float: int
    """`void (const float *from, void *to, int64_t n)`."""
    to_float: int
    """`void (const void *from, float *to, int64_t n)`."""

    def row_bytes(self, columns: int) -> int:
        """Bytes of a row with this number of weights."""
        return -(-columns // self.block) * self.block_bytes


class _Traits(ctypes.Structure):
    """`ggml_type_traits`."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.c_void_p),
        ("from_float_ref", ctypes.c_void_p),
    )


class _CpuTraits(ctypes.Structure):
    """`ggml_type_traits_cpu`."""

    _fields_ = (
        ("from_float", ctypes.c_void_p),
        ("vec_dot", ctypes.c_void_p),
        ("vec_dot_type", ctypes.c_int),
        ("nrows", ctypes.c_int64),
    )


@functools.cache
def weight_type(code: int) -> WeightType:
    """The functions of the ggml type with this code.

    Raises:
        InputError: If llama-cpp-python is not installed, or ggml may not know the type.
    """
    base, cpu = _libraries()
    if not 0 <= code < _NUM_TYPES:
        raise InputError(
            f"weights of type {code} are not decoded; use types such as Q4_0, Q8_0, Q4_K, BF16 or F16"
        )
    traits: _Traits = base.ggml_get_type_traits(code).contents
    fast: _CpuTraits = cpu.ggml_get_type_traits_cpu(code).contents
    name = (traits.type_name or b"?").decode().upper()
    return WeightType(
        code=code,
        name=name,
        block=traits.blck_size,
        block_bytes=traits.type_size,
        dot=fast.vec_dot or 0,
        input_code=fast.vec_dot_type,
        from_float=fast.from_float or 0,
        to_float=traits.to_float or 0,
    )


def function_address(name: str) -> int:
    """Address of a function that the CPU part of ggml exports.

    Raises:
        InputError: If llama-cpp-python is not installed, or its ggml has no such function.
    """
    try:
        return ctypes.cast(getattr(_libraries()[1], name), ctypes.c_void_p).value or 0
    except AttributeError:
        raise InputError(
            f"the installed ggml has no function {name}; install a newer llama-cpp-python, at least 0.3.9"
        ) from None


def has_function(name: str) -> bool:
    """Whether the CPU part of ggml exports this function."""
    return hasattr(_libraries()[1], name)


@functools.cache
def _libraries() -> tuple[ctypes.CDLL, ctypes.CDLL]:
    """ggml's base library and its CPU library, ready for use."""
    spec = importlib.util.find_spec("llama_cpp")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        raise InputError(
            f"decoding GGUF files needs the ggml library of llama-cpp-python: {install_command('engine')}"
        )
    base, cpu = (_load(Path(folders[0]) / "lib", part) for part in ("ggml-base", "ggml-cpu"))
    base.ggml_get_type_traits.argtypes = [ctypes.c_int]
    base.ggml_get_type_traits.restype = ctypes.POINTER(_Traits)
    cpu.ggml_get_type_traits_cpu.argtypes = [ctypes.c_int]
    cpu.ggml_get_type_traits_cpu.restype = ctypes.POINTER(_CpuTraits)
    cpu.ggml_cpu_init()  # fills the tables that the dot products of float16 scales use
    return base, cpu


def _load(folder: Path, part: str) -> ctypes.CDLL:
    problem: object = f"no such file in {folder}"
    for name in (f"lib{part}.so", f"lib{part}.dylib", f"{part}.dll"):
        if (folder / name).is_file():
            try:
                # global, since the CPU library finds the base library's functions by name
                return ctypes.CDLL(str(folder / name), mode=ctypes.RTLD_GLOBAL)
            except OSError as error:
                problem = error
    raise InputError(
        f"the library {part} of llama-cpp-python cannot be loaded ({problem});"
        " install it again with pip install --force-reinstall llama-cpp-python"
    )


def dequantised(address: int, to_float: int, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """The values of contiguous rows at `address` as float32; `to_float` is `WeightType.to_float`."""
    out = np.empty(shape, np.float32)
    if to_float:
        convert = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)(to_float)
        convert(address, out.ctypes.data, out.size)
    else:
        ctypes.memmove(out.ctypes.data, address, out.nbytes)
    return out
