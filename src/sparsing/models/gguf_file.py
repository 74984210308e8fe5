"""Reads the header of a GGUF file with every number checked, and maps its tensors into memory.

A GGUF file (version 2 or 3 of ggml's format, little-endian) is a header, a list of keys with values, a list of tensors
with their shapes and offsets, and the data of the tensors. A file from the internet may lie about any of these numbers.
`read_gguf` therefore compares each count, length, shape and offset with the size of the file before it uses the number.
After `read_gguf`, every byte of every tensor lies inside the file, so code that reads the mapping by address is safe.

Start with `read_gguf`. `GgufFile.rows` gives the raw bytes of a tensor, `GgufFile.floats` its values.
"""

from __future__ import annotations

import dataclasses
import math
import mmap
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsing.base.extras import install_command
from sparsing.errors import InputError

if TYPE_CHECKING:
    import numpy.typing as npt

MAGIC = b"GGUF"
VERSIONS = (2, 3)
"""Versions of the format that are read. Version 1 has 32-bit counts and is not written any more."""
MOST_DIMENSIONS = 4
"""ggml's own limit."""
_DEFAULT_ALIGNMENT = 32
_MOST_NESTED = 4
"""Arrays of arrays are in the format, but no known file nests them. The limit bounds the recursion."""
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 10: "Q", 11: "q", 12: "d"}
"""Code of a value type to its `struct` format, for the types that are numbers."""
_BOOL, _STRING, _ARRAY = 7, 8, 9
_STRING_HEAD, _ARRAY_HEAD = 8, 12
"""Fewest bytes of a string (its length) and of an array (its type and its length)."""


def is_gguf_file(path: Path) -> bool:
    """Whether the path is a file in GGUF's format, by its name or by its first bytes.

    Raises:
        OSError: If the file cannot be read.
    """
    try:
        if not path.is_file():
            return False
    except OSError:  # a name that no file can have, for example one of 300 characters
        return False
    with path.open("rb") as file:
        return path.suffix.lower() == ".gguf" or file.read(4) == MAGIC


@dataclasses.dataclass(frozen=True, kw_only=True)
class GgufTensor:
    """Where one tensor is. A matrix has shape `(rows, columns)`; a row is contiguous."""

    name: str
    type_name: str
    """Name of the ggml type, e.g. `Q4_0`."""
    type_code: int
    """ggml's number of the type."""
    shape: tuple[int, ...]
    """Sizes with the contiguous one last, as in NumPy; the file lists them in the opposite order."""
    offset: int
    """Offset of the first byte from the start of the file."""
    row_bytes: int
    """Bytes of one row: of the last axis."""

    @property
    def num_rows(self) -> int:
        """Number of rows: the product of all sizes but the last."""
        return math.prod(self.shape[:-1])

    @property
    def num_bytes(self) -> int:
        """Bytes of the whole tensor."""
        return self.num_rows * self.row_bytes


class GgufFile:
    """A GGUF file whose header was checked. `read_gguf` makes it."""

    def __init__(self, path: Path, metadata: dict[str, Any], tensors: dict[str, GgufTensor], data: Any):
        self.path, self.metadata, self.tensors = path, metadata, tensors
        self._bytes: npt.NDArray[np.uint8] = np.frombuffer(data, np.uint8)

    def rows(self, name: str) -> npt.NDArray[np.uint8]:
        """The raw bytes of a tensor, shape `(rows, bytes of a row)`, a read-only view of the mapped file.

        Raises:
            InputError: If the file has no such tensor.
        """
        tensor = self.tensor(name)
        flat = self._bytes[tensor.offset : tensor.offset + tensor.num_bytes]
        return flat.reshape(tensor.num_rows, tensor.row_bytes)

    def floats(self, name: str) -> npt.NDArray[np.float32]:
        """The values of a tensor, dequantised, in its own shape, float32.

        Raises:
            InputError: If the file has no such tensor, or the package gguf cannot dequantise its type.
        """
        tensor = self.tensor(name)
        gguf = gguf_package()
        kind = gguf.GGMLQuantizationType(tensor.type_code)
        rows = self.rows(name)
        if tensor.type_name in ("F32", "F16"):
            return (
                rows.view(np.float32 if tensor.type_name == "F32" else np.float16)
                .astype(np.float32)
                .reshape(tensor.shape)
            )
        try:
            values = gguf.dequantize(rows, kind)
        except NotImplementedError:
            raise InputError(
                f"{self.path}: tensor {name!r} has type {tensor.type_name}, which the package gguf cannot dequantise;"
                " use a file with types such as Q4_0, Q8_0 or the K-quants"
            ) from None
        return np.ascontiguousarray(values, np.float32).reshape(tensor.shape)

    def tensor(self, name: str) -> GgufTensor:
        """The description of a tensor.

        Raises:
            InputError: If the file has no such tensor.
        """
        try:
            return self.tensors[name]
        except KeyError:
            raise InputError(
                f"{self.path} has no tensor {name!r}; it is incomplete or of another architecture,"
                f" it has {len(self.tensors)} tensors"
            ) from None


def read_gguf(path: str | Path) -> GgufFile:
    """Map a GGUF file into memory and check its header.

    Raises:
        InputError: If there is no such file, it is not a GGUF file, it is cut off, or its header contradicts its size
            or itself. The package gguf, which knows the sizes of ggml's types, must be installed.
    """
    path = Path(path)
    sizes = _type_sizes()
    try:
        with path.open("rb") as file:
            # an empty file cannot be mapped
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r}: {error}; give a GGUF file") from error
    metadata, tensors = parse_header(data, str(path), sizes)
    return GgufFile(path, metadata, tensors, data)


def parse_header(
    data: Any, name: str, sizes: dict[int, tuple[str, int, int]] | None = None
) -> tuple[dict[str, Any], dict[str, GgufTensor]]:
    """The keys and the tensors of a GGUF file.

    Args:
        data: The whole file, bytes or a mapping.
        name: Name of the file, for messages.
        sizes: Type code to name, weights of a block and bytes of a block; None asks the package gguf.

    Raises:
        InputError: If the header is not that of a GGUF file, or contradicts the size of the file or itself.
    """
    cursor = _Cursor(data, name)
    if cursor.take(4) != MAGIC:
        raise cursor.error("is not a GGUF file: its first four bytes are not `GGUF`")
    version = cursor.number("I")
    if version not in VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS
        reason = "is big-endian" if swapped else f"has version {version} of the format"
        raise cursor.error(f"{reason}; little-endian files of version 2 and 3 are read, so convert it again")
    num_tensors, num_keys = cursor.number("Q"), cursor.number("Q")
    cursor.check_count(num_tensors, _STRING_HEAD + 4 + 4 + 8, "tensors")
    cursor.check_count(num_keys, _STRING_HEAD + 4 + 1, "keys")
    metadata: dict[str, Any] = {}
    for _ in range(num_keys):
        key = cursor.string()
        if key in metadata:
            raise cursor.error(f"has the key {key!r} twice")
        metadata[key] = cursor.value(cursor.number("I"))
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 8 or alignment & (alignment - 1):
        raise cursor.error(f"has the alignment {alignment!r}; it must be a power of two from 8 on")
    infos = _tensor_infos(cursor, num_tensors, sizes or _type_sizes())
    start = -(-cursor.at // alignment) * alignment
    return metadata, _placed(cursor, infos, start, alignment)


def _tensor_infos(
    cursor: _Cursor, count: int, sizes: dict[int, tuple[str, int, int]]
) -> dict[str, GgufTensor]:
    """The list of tensors, with offsets from the start of the data."""
    infos: dict[str, GgufTensor] = {}
    for _ in range(count):
        name = cursor.string()
        dimensions = cursor.number("I")
        if not 1 <= dimensions <= MOST_DIMENSIONS:
            raise cursor.error(
                f"gives tensor {name!r} {dimensions} dimensions; 1 to {MOST_DIMENSIONS} are allowed"
            )
        shape = tuple(cursor.number("Q") for _ in range(dimensions))[::-1]
        code, offset = cursor.number("I"), cursor.number("Q")
        if name in infos:
            raise cursor.error(f"has the tensor {name!r} twice")
        if code not in sizes:
            raise cursor.error(f"gives tensor {name!r} the unknown type {code}; update the package gguf")
        type_name, block, block_bytes = sizes[code]
        if min(shape) < 1 or shape[-1] % block:
            raise cursor.error(
                f"gives tensor {name!r} the shape {shape}; sizes must be at least 1 and rows of {type_name} a multiple"
                f" of {block}"
            )
        infos[name] = GgufTensor(
            name=name,
            type_name=type_name,
            type_code=code,
            shape=shape,
            offset=offset,
            row_bytes=shape[-1] // block * block_bytes,
        )
    return infos


def _placed(
    cursor: _Cursor, infos: dict[str, GgufTensor], start: int, alignment: int
) -> dict[str, GgufTensor]:
    """The tensors with offsets from the start of the file, after a check that they lie inside it and do not overlap."""
    placed = {name: dataclasses.replace(t, offset=start + t.offset) for name, t in infos.items()}
    end, before = start, "the header"
    for tensor in sorted(placed.values(), key=lambda tensor: tensor.offset):
        if tensor.offset % alignment:
            raise cursor.error(
                f"places tensor {tensor.name!r} at {tensor.offset}, which is no multiple of {alignment}"
            )
        if tensor.offset < end:
            raise cursor.error(f"places tensor {tensor.name!r} over {before}")
        if tensor.offset + tensor.num_bytes > cursor.size:
            raise cursor.error(
                f"has {cursor.size:,} bytes, but tensor {tensor.name!r} ends at"
                f" {tensor.offset + tensor.num_bytes:,}; the file is cut off, so download it again"
            )
        end, before = tensor.offset + tensor.num_bytes, f"tensor {tensor.name!r}"
    return placed


class _Cursor:
    """Reads values one after the other and never beyond the end of the data."""

    def __init__(self, data: Any, name: str):
        self._data, self._name = data, name
        self.size, self.at = len(data), 0

    def error(self, problem: str) -> InputError:
        """The error to raise: the name of the file and its problem."""
        return InputError(f"{self._name}: the file {problem}")

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        if count > self.size - self.at:
            raise self.error(
                f"ends after {self.size:,} bytes, inside its header ({count:,} bytes are missing at {self.at:,});"
                " it is cut off or damaged, so download it again"
            )
        self.at += count
        return self._data[self.at - count : self.at]

    def number(self, form: str) -> Any:
        """The next number of this `struct` format."""
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))[0]

    def check_count(self, count: int, fewest_bytes: int, what: str) -> None:
        """Check that the rest of the file can hold `count` items of at least `fewest_bytes` each."""
        if count * fewest_bytes > self.size - self.at:
            raise self.error(
                f"claims {count:,} {what}, more than its {self.size:,} bytes can hold; it is damaged"
            )

    def string(self) -> str:
        """The next string."""
        raw = self.take(self.number("Q"))
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise self.error(
                f"has a string that is not UTF-8 at {self.at - len(raw):,}; it is damaged"
            ) from None

    def value(self, code: int, depth: int = 0) -> Any:
        """The next value of this type code. Arrays of numbers become NumPy arrays, other arrays lists."""
        if code in _NUMBERS:
            return self.number(_NUMBERS[code])
        if code == _BOOL:
            return bool(self.number("B"))
        if code == _STRING:
            return self._text()
        if code == _ARRAY and depth < _MOST_NESTED:
            return self._array(depth)
        raise self.error(f"has a value of the unknown type {code} at {self.at:,}; it is damaged")

    def _text(self) -> str:
        """A string value. Tokens of a vocabulary may be parts of characters, so it need not be UTF-8."""
        return self.take(self.number("Q")).decode("utf-8", "surrogateescape")

    def _array(self, depth: int) -> Any:
        code, count = self.number("I"), self.number("Q")
        if code in _NUMBERS:
            kind = np.dtype("<" + _NUMBERS[code])
            return np.frombuffer(self.take(count * kind.itemsize), kind)
        read: Callable[[], Any]
        read, fewest = {
            _BOOL: (lambda: bool(self.number("B")), 1),
            _STRING: (self._text, _STRING_HEAD),
        }.get(code, (lambda: self.value(code, depth + 1), _ARRAY_HEAD))
        self.check_count(count, fewest, "items in an array")
        return [read() for _ in range(count)]


def _type_sizes() -> dict[int, tuple[str, int, int]]:
    """Type code to name, weights of a block and bytes of a block."""
    sizes = gguf_package().GGML_QUANT_SIZES
    return {int(kind): (kind.name, block, size) for kind, (block, size) in sizes.items()}


def gguf_package() -> Any:
    """The package gguf.

    Raises:
        InputError: If it is not installed.
    """
    try:
        import gguf  # pyright: ignore[reportMissingImports] - optional extra `gguf`
    except ImportError as error:
        raise InputError(f"GGUF files need the package gguf ({error}); {install_command('gguf')}") from error
    return gguf


def check_rope_factors(file: GgufFile, factors: np.ndarray[Any, Any]) -> None:
    """Checks the numbers by which Llama 3.1 divides its rotary frequencies.

    Raises:
        InputError: If one of them is not finite or not above 0.
    """
    if not (np.isfinite(factors) & (factors > 0)).all():
        raise InputError(
            f"{file.path}: the factors of rotary frequencies in rope_freqs.weight must be finite and above 0, got"
            f" {factors.min()} to {factors.max()}; the file is damaged"
        )
