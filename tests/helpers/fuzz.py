"""The readers of files that a user may have from somebody else, and damaged variants of valid files.

`tests/test_fuzz.py` runs a small number of them in the suite, `scripts/fuzz.py` any number.
"""

from __future__ import annotations

import copy
import gzip
import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sparsing.errors import SparsityError

Reader = Callable[[Path], Any]
WORDS: list[Any] = [
    *(None, True, False, 0, 1, -1, 2**31, 2**64, -(10**30), 10**400, 0.5, -0.0, 1e308, float("nan")),
    *(float("inf"), "", "x", "\x00", "\ud800", "a/../../b", "[/red]", [], {}, [[]], [{}], {"": None}),
    *({"$array": "x"}, {"$array": None}, [1, "2"], "9" * 50),
]

SWEEP = """models = ["owner/model"]
rules = ["cett"]
ppl = [1, 5]
tasks = ["piqa"]
[texts]
a = "book.txt"
[measure]
max_tokens = 100
arrays = true
[run]
memory_gb = 2.5
"""


def readers() -> dict[str, tuple[str, bytes, Reader]]:
    """Name of each reader to the name of its file, a valid content, and the function that reads it."""
    from sparsing.base.results import load_arrays, read_lines
    from sparsing.evaluation.outcome import TaskOutcome
    from sparsing.evaluation.tasks.local_data import _read
    from sparsing.laws.point_files import read_points
    from sparsing.measuring.run_folder import write_claim
    from sparsing.models.checkpoint import read_config, training_position, weight_format
    from sparsing.report.saved_results import read_runs
    from sparsing.rules.thresholds import read_thresholds
    from sparsing.scale.cell import CellRecord
    from sparsing.scale.sweep_file import list_cells, read_sweep_file
    from sparsing.training.config_file import build_train_config, parse_pairs, read_train_config

    def folder(read: Reader) -> Reader:
        return lambda path: read(path.parent)

    cut = {"kind": "thresholds", "schema_version": 2, "rule": "cett", "level": 0.2, "on": "neuron_norm"}
    cut |= {"select": "above", "values": {"a": 0.5, "b": 1.0}, "target_ppl_ratio": None, "provenance": None}
    old = cut | {"schema_version": 1, "kind": "Thresholds", "values": [0.5, 1.0]}
    score = {"title": "t", "metric": "acc,none", "value": 0.5, "items": None}
    outcome = {"kind": "task_outcome", "schema_version": 2, "task": "t", "group": "g", "level": "dense"}
    outcome |= {"identity": "0", "identity_parts": {"a": "b"}, "shots": 0, "scores": [score], "absent": ["x"]}
    outcome |= {"parts": [{"name": "p", "num_items": 2, "metrics": {"acc,none": 0.5}}], "num_items": 2}
    outcome |= {"prefill": None, "decode": None, "wall_sec": 0.5}
    config = {"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 2, "text_config": {"a": 1}}
    config |= {"attn_implementation": "sdpa", "quantization_config": None, "architectures": ["X"]}
    train = {"model": {"d_model": 32, "n_layers": 2, "n_heads": 2}, "training": {"tokens": 10**6, "lr": 0.01}}
    train |= {"checkpoints": {"at": [2048], "count": 3}}
    toml = 'preset = "nano-0.3M"\n[training]\ntokens = 1_000_000\nlr = 0.01\n[checkpoints]\nat = [4096]\n'
    measured = {
        "kind": "measurement",
        "activation_ratio": 0.5,
        "provenance": {"train_tokens": 5, "train_step": 2},
    }
    cell = {"kind": "sweep_cell", "schema_version": 2, "name": "a", "labels": {"model": "m"}, "identity": "0"}
    cell |= {"outcome": "done", "attempts": 1, "wall_sec": 0.5, "host": "h", "message": ""}
    claim = {"entries": {"dtype": "float32"}, "names": {"text": "x"}}
    index = {"weight_map": {"a": "model-1.safetensors"}}
    series = {"token_passed": [1_000_000, 2_000_000, 3_000_000], "activation_ratio": [0.5, 0.4, 0.3]}
    csv = "series,tokens,activation_ratio\na,1000000,0.5\nb,2000000,0.4\nb,3000000,0.3\n"
    mmlu = 'question,a,b,c,d,A\n"x, y",1,2,3,4,D\n'
    lines = "".join(json.dumps({"step": n, "loss": 0.5}) + "\n" for n in range(3))

    def text(value: Any) -> bytes:
        return json.dumps(value).encode()

    return {
        "thresholds": ("t.json", text(cut), read_thresholds),
        "thresholds of schema 1": ("t.json", text(old), read_thresholds),
        "thresholds line": ("t.txt", b"thresholds=1.5e-01,2.0e-01", read_thresholds),
        "task outcome": ("o.json", text(outcome), TaskOutcome.load),
        "arrays": ("a.safetensors", _arrays(), load_arrays),
        "loss curve": ("loss.jsonl", lines.encode(), read_lines),
        "run claim": (
            "run.json",
            text(claim),
            folder(lambda path: write_claim(path, {"dtype": "float32"}, {})),
        ),
        "config": ("config.json", text(config), folder(read_config)),
        "index": ("model.safetensors.index.json", text(index), folder(weight_format)),
        "training state": ("training_state.json", b'{"step": 3, "tokens": 5}', folder(training_position)),
        "train file": ("t.toml", toml.encode(), read_train_config),
        "train.json": ("train.json", text(train), lambda path: _built(path, build_train_config)),
        "sweep file": ("s.toml", SWEEP.encode(), lambda path: list_cells(read_sweep_file(path), path.parent)),
        "sweep cell": ("cell.json", text(cell), CellRecord.load),
        "options": (
            "o.txt",
            b"training.lr=0.02",
            lambda path: parse_pairs([path.read_text("utf-8", "replace")]),
        ),
        "points CSV": ("p.csv", csv.encode(), lambda path: read_points([path])),
        "points JSON": ("p.json", text(series), lambda path: read_points([path])),
        "measurement as a point": ("measurement.json", text(measured), lambda path: read_points([path])),
        "report": ("t.json", text(outcome | {"kind": "law_fit"}), lambda path: read_runs([path])),
        "items": ("i.jsonl", b'{"a": 1}\n{"a": [2]}\n', _read),
        "items gz": ("i.jsonl.gz", gzip.compress(b'{"a": 1}\n{"a": [2]}\n', mtime=0), _read),
        "items CSV": ("i.csv", mmlu.encode(), _read),
        "GGUF": ("m.gguf", _gguf(), _gguf_values),
    }


def _built(path: Path, build: Callable[[dict[str, Any]], Any]) -> Any:
    from sparsing.base.checked_files import read_object

    return build(read_object(path, hint=""))


def _gguf_values(path: Path) -> Any:
    from sparsing.models.gguf_file import read_gguf

    file = read_gguf(path)
    return [file.floats(name) for name in file.tensors]


def _arrays() -> bytes:
    from safetensors.numpy import save

    return save({"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(2)}, metadata={"k": "v"})


def _gguf() -> bytes:
    """A file with a number, a string, a list of strings and a list of numbers as keys, and two tensors."""

    def name(text: str) -> bytes:
        return struct.pack("<Q", len(text)) + text.encode()

    keys = name("general.alignment") + struct.pack("<II", 4, 32)
    keys += name("general.architecture") + struct.pack("<I", 8) + name("llama")
    keys += name("a") + struct.pack("<IIQ", 9, 8, 2) + name("b") + name("")
    keys += name("c") + struct.pack("<IIQ3f", 9, 6, 3, 0.5, 1.0, -2.0)
    tensors = name("t") + struct.pack("<IQQIQ", 2, 4, 2, 0, 0)  # F32, 4 x 2
    tensors += name("u") + struct.pack("<IQQIQ", 2, 32, 3, 2, 32)  # Q4_0, 32 x 3, 18 bytes each row
    head = b"GGUF" + struct.pack("<IQQ", 3, 2, 4) + keys + tensors
    return head + bytes(-len(head) % 32 + 32 + 54)


def damaged(content: bytes, random_: random.Random) -> bytes:
    """A variant of a valid file: another value somewhere in the JSON, or other bytes."""
    if content[:1] in (b"{", b"[") and random_.random() < 0.7:
        documents = [json.loads(line) for line in content.splitlines()]
        document = random_.choice(documents)
        for _ in range(random_.choice((1, 1, 1, 2, 4))):
            _change(document, random_)
        return b"\n".join(json.dumps(item).encode() for item in documents) + b"\n"
    data = bytearray(content)
    for _ in range(random_.choice((1, 1, 2, 8))):
        place = random_.randrange(len(data) + 1)
        choice = random_.randrange(6)
        if choice == 0:
            del data[place:]
        elif choice == 1:
            data[place : place + 1] = bytes([random_.randrange(256)])
        elif choice == 2:
            del data[place : place + random_.randrange(1, 9)]
        elif choice == 3:  # a number of a binary format
            width = random_.choice((4, 8))
            value = random_.choice((0, 1, 255, 2**31, 2**32 - 1, 2**63, 2**64 - 1, random_.getrandbits(64)))
            data[place : place + width] = (value % 2 ** (8 * width)).to_bytes(width, "little")
        elif choice == 4:
            data[place:place] = str(random_.choice(WORDS)).encode("utf-8", "surrogatepass")
        else:
            data[place:place] = random_.choice(
                (b"[" * 3000, b'{"a":' * 3000, b"\xff\xfe", b"9" * 5000, b"\n", b",")
            )
    return bytes(data)


def _change(document: Any, random_: random.Random) -> None:
    """Replaces, deletes or adds one value somewhere in the document."""
    while True:
        keys: list[Any] = list(document) if isinstance(document, dict) else list(range(len(document)))
        if not keys:
            if isinstance(document, dict):
                document["x"] = copy.deepcopy(random_.choice(WORDS))
            return
        key = random_.choice(keys)
        if isinstance(document[key], (dict, list)) and random_.random() < 0.7:
            document = document[key]
            continue
        if random_.random() < 0.2:
            del document[key]
        else:
            document[key] = copy.deepcopy(random_.choice(WORDS))
        return


def problem(name: str, file: str, content: bytes, read: Reader, folder: Path) -> str:
    """The class of an error that is not one of the package; empty if the file is read or refused."""
    path = folder / file
    path.write_bytes(content)
    try:
        read(path)
    except SparsityError:
        return ""
    except Exception as error:
        return f"{name}: {type(error).__name__}: {str(error)[:60]}"
    return ""
