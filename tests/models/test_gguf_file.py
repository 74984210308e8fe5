"""The GGUF reader: its values agree with the package gguf, and no damaged file crashes it or leaves it unnoticed."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import numpy as np
import pytest

from sparsing.errors import InputError
from sparsing.models.gguf_file import is_gguf_file, parse_header, read_gguf

gguf = pytest.importorskip("gguf", reason="needs the package gguf")

TYPES = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")


def write(path, *, seed=0):
    """A file with one tensor of each type and one key of each kind of value."""
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("a.number", 7)
    writer.add_float32("a.float", 0.5)
    writer.add_bool("a.bool", True)
    writer.add_string("a.string", "text")
    writer.add_array("a.tokens", ["a", "bc", ""])
    writer.add_array("a.scores", [1.5, -2.0])
    writer.add_array("a.flags", [True, False])
    for name in TYPES:
        kind = gguf.GGMLQuantizationType[name]
        rows = gguf.quantize(rng.standard_normal((3, 64), dtype=np.float32), kind)
        writer.add_tensor(f"t.{name}", rows, raw_dtype=kind)
    writer.add_tensor("t.vector", rng.standard_normal(5).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write(tmp_path_factory.mktemp("gguf") / "model.gguf")


def test_keys_and_tensors_are_those_of_the_package_gguf(path):
    ours, theirs = read_gguf(path), gguf.GGUFReader(path)
    assert ours.metadata["a.tokens"] == ["a", "bc", ""]
    assert ours.metadata["a.scores"].tolist() == [1.5, -2.0]
    assert ours.metadata["a.flags"] == [True, False]
    for key in ("a.number", "a.float", "a.bool", "a.string", "general.architecture"):
        assert ours.metadata[key] == theirs.get_field(key).contents()
    assert list(ours.tensors) == [tensor.name for tensor in theirs.tensors]
    for tensor in theirs.tensors:
        wanted = gguf.dequantize(tensor.data, tensor.tensor_type)
        np.testing.assert_array_equal(
            ours.floats(tensor.name), wanted.reshape(ours.tensor(tensor.name).shape)
        )
        assert ours.rows(tensor.name).tobytes() == tensor.data.tobytes()


def test_missing_tensor_is_named(path):
    with pytest.raises(InputError, match=r"no tensor 'blk\.0\.attn_q\.weight'"):
        read_gguf(path).rows("blk.0.attn_q.weight")


def test_missing_file_and_folder(tmp_path):
    for wrong in (tmp_path / "none.gguf", tmp_path):
        with pytest.raises(InputError, match="cannot read"):
            read_gguf(wrong)


def _tensor(name=b"t", dimensions=(4,), code=0, offset=0):
    shape = b"".join(struct.pack("<Q", size) for size in dimensions)
    return (
        struct.pack("<Q", len(name)) + name + struct.pack("<I", len(dimensions)) + shape
        + struct.pack("<IQ", code, offset)
    )  # fmt: skip


def _key(name, code, value):
    return struct.pack("<Q", len(name)) + name + struct.pack("<I", code) + value


def _file(tensors=(), keys=(), *, magic=b"GGUF", version=3, data=64, counts=None):
    num_tensors, num_keys = counts or (len(tensors), len(keys))
    head = magic + struct.pack("<IQQ", version, num_tensors, num_keys) + b"".join(keys) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + bytes(data)


HUGE = 2**63
WRONG = {
    "empty": (b"", "ends after 0 bytes"),
    "magic": (_file(magic=b"GGML"), "not a GGUF file"),
    "pickle": (b"\x80\x04K\x01.", "not a GGUF file"),
    "version 1": (_file(version=1), "version 1"),
    "big-endian": (_file(version=3 << 24), "big-endian"),
    "tensor count": (_file(counts=(HUGE, 0)), "tensors, more than"),
    "key count": (_file(counts=(0, HUGE)), "keys, more than"),
    "key length": (_file(keys=[struct.pack("<Q", HUGE)], counts=(0, 1)), "ends after"),
    "key twice": (_file(keys=[_key(b"k", 0, b"\1")] * 2), "key 'k' twice"),
    "key not UTF-8": (_file(keys=[_key(b"\xff", 0, b"\1")]), "not UTF-8"),
    "value type": (_file(keys=[_key(b"k", 99, b"")]), "unknown type 99"),
    "array length": (_file(keys=[_key(b"k", 9, struct.pack("<IQ", 8, HUGE))]), "items in an array"),
    "array of numbers": (_file(keys=[_key(b"k", 9, struct.pack("<IQ", 4, HUGE))]), "ends after"),
    "nested arrays": (_file(keys=[_key(b"k", 9, struct.pack("<IQ", 9, 1) * 99)]), "unknown type 9"),
    "alignment 0": (_file(keys=[_key(b"general.alignment", 4, struct.pack("<I", 0))]), "alignment 0"),
    "alignment 24": (_file(keys=[_key(b"general.alignment", 4, struct.pack("<I", 24))]), "alignment 24"),
    "alignment text": (_file(keys=[_key(b"general.alignment", 8, struct.pack("<Q", 1) + b"a")]), "alignment 'a'"),
    "dimensions": (_file([_tensor(dimensions=())]), "0 dimensions"),
    "five dimensions": (_file([_tensor(dimensions=(1,) * 5)]), "5 dimensions"),
    "size 0": (_file([_tensor(dimensions=(4, 0))]), "at least 1"),
    "overflow": (_file([_tensor(dimensions=(2**32, 2**32))]), "cut off"),
    "part of a block": (_file([_tensor(dimensions=(33,), code=2)]), "multiple of 32"),
    "tensor type": (_file([_tensor(code=4)]), "unknown type 4"),
    "tensor twice": (_file([_tensor(), _tensor(offset=32)]), "tensor 't' twice"),
    "offset": (_file([_tensor(offset=8)]), "no multiple of 32"),
    "offset beyond the end": (_file([_tensor(offset=2**40)]), "cut off"),
    "overlap": (_file([_tensor(dimensions=(16,)), _tensor(name=b"u", offset=32)]), "over tensor 't'"),
    "too short for its shape": (_file([_tensor(dimensions=(17,))]), "cut off"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_every_lie_has_its_own_message(tmp_path, case):
    content, message = WRONG[case]
    path = tmp_path / "wrong.gguf"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_gguf(path)


def test_the_smallest_correct_files_are_read():
    metadata, tensors = parse_header(_file([_tensor(dimensions=(16,))], [_key(b"k", 4, b"\1\0\0\0")]), "f")
    assert metadata == {"k": 1}
    assert (tensors["t"].num_bytes, tensors["t"].num_rows) == (64, 1)
    assert parse_header(_file(data=0), "f") == ({}, {})


def test_every_cut_of_a_file_is_noticed(path):
    whole = path.read_bytes()
    end = max(tensor.offset + tensor.num_bytes for tensor in read_gguf(path).tensors.values())
    assert parse_header(whole[:end], "f")  # only the padding at the end may be missing
    for size in range(end):
        with pytest.raises(InputError):
            parse_header(whole[:size], "f")


def _mutate(rng, content):
    """A copy with a few bytes, or whole numbers, replaced; sometimes cut off."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        width = rng.choice((1, 1, 4, 8))
        at = rng.randrange(4, len(changed) - width)
        value = rng.choice((rng.getrandbits(8 * width), 0, 1, 255, (1 << 8 * width) - 1, 1 << 8 * width - 1))
        changed[at : at + width] = (value & ((1 << 8 * width) - 1)).to_bytes(width, "little")
    return bytes(changed[: rng.randrange(len(changed))] if rng.random() < 0.1 else changed)


def _fuzz(content, inputs):
    rng, refused = random.Random(0), 0
    sizes = {int(k): (k.name, *v) for k, v in gguf.GGML_QUANT_SIZES.items()}
    for _ in range(inputs):
        data = _mutate(rng, content)
        try:
            _, tensors = parse_header(data, "fuzzed", sizes)
        except InputError:
            refused += 1
            continue
        for tensor in tensors.values():
            assert tensor.offset > 0
            assert tensor.num_bytes > 0
            assert tensor.offset + tensor.num_bytes <= len(data)
    return refused / inputs


def test_fuzzed_headers_are_refused_or_safe():
    keys = [
        _key(b"general.alignment", 4, struct.pack("<I", 32)),
        _key(b"a", 9, struct.pack("<IQ", 4, 2) + bytes(8)),
    ]
    small = _file([_tensor(), _tensor(b"u", (32, 3), 2, 32)], keys, data=32 + 54)
    assert 0.2 < _fuzz(small, 8_000) < 0.98


@pytest.mark.slow
def test_100_000_fuzzed_files_are_refused_or_safe(path):
    assert 0.1 < _fuzz(path.read_bytes(), 100_000) < 0.98


def test_a_name_that_no_file_can_have_is_no_gguf_file():
    assert not is_gguf_file(Path("a" * 300))
