"""The files of a checkpoint: where they are, which weights may be opened, how far training had come.

Nothing here builds a model. A name on the hub becomes a local folder (only the files that are read are
fetched); a local folder is never looked up anywhere else.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

from sparsing.errors import InputError, UnsupportedModelError

WeightFormat = Literal["safetensors", "bin"]

_STEMS: dict[WeightFormat, str] = {"safetensors": "model.safetensors", "bin": "pytorch_model.bin"}
_SMALL = ("*.json", "*.model", "*.txt", "*.tiktoken")
_PICKLES = (".bin", ".ckpt", ".pkl", ".pickle", ".pt", ".pth")
_WAY_OUT = (
    "A pickle can run code when it is opened. If you trust it, convert it once, in a process of its own:"
    " `model.load_state_dict(torch.load(file, weights_only=True)); model.save_pretrained(folder)`"
    " writes model.safetensors"
)


def locate(name: str, *, revision: str | None = None, code: bool = False) -> tuple[Path, str | None]:
    """The folder of a checkpoint, and its commit when it comes from the hub.

    Args:
        name: A local folder, or a name on the hub.
        revision: Branch, tag or commit on the hub.
        code: Fetch the repository's own `.py` files as well.

    Raises:
        InputError: there is no such folder, nor such a model on the hub.
        UnsupportedModelError: `name` is a file of weights.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path, None
    if path.is_file():
        if path.suffix in _PICKLES:
            raise UnsupportedModelError(f"{name!r} is a pickle, which is not opened. {_WAY_OUT}")
        raise InputError(f"{name!r} is a file; give the folder that holds config.json and the weights")
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name or not name:
        raise InputError(f"no folder {name!r}; give a folder with config.json, or a hub name `owner/model`")
    return _fetch(name, revision, code)


def _fetch(name: str, revision: str | None, code: bool) -> tuple[Path, str | None]:
    from huggingface_hub import snapshot_download

    def snapshot(*patterns: str) -> Path:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns)))

    try:
        folder = snapshot(*_SMALL, *(["*.py"] if code else []))
        if not any(snapshot("model*.safetensors").glob("model*.safetensors")):
            snapshot("pytorch_model*.bin")
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{name!r} is neither a local folder nor a model that the hub gives out ({reason});"
            " check the spelling, the revision, your access and the network"
        ) from error
    return folder, folder.name


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` as it stands, with a `model_type`.

    Raises:
        InputError: there is no such file, it is not JSON, or it names no model type.
        UnsupportedModelError: the weights are quantized.
    """
    config = _read_json(folder / "config.json")
    if config is None:
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
        raise InputError(
            f"no config.json in {str(folder)!r} (found: {found}); give the folder of a checkpoint"
        )
    if not isinstance(config.get("model_type"), str):
        raise InputError(f"{str(folder / 'config.json')!r} names no model_type, e.g. `llama`; add it")
    if quantization := config.get("quantization_config"):
        method = quantization.get("quant_method", "unknown")
        raise UnsupportedModelError(
            f"{str(folder)!r} is quantized ({method}); the measures need plain weights,"
            " give the checkpoint it was made from"
        )
    return config


def weight_format(folder: Path) -> WeightFormat:
    """How the weights are stored: safetensors where they are there, else `pytorch_model.bin`, else refused.

    Raises:
        InputError: there are no weights, or a shard that the index lists is missing.
        UnsupportedModelError: there are weights, but as other pickles or in a form that is not read.
    """
    for kind, name in _STEMS.items():
        index = _read_json(folder / f"{name}.index.json")
        if index is not None:
            shards = sorted(set(index.get("weight_map", {}).values()))
            if missing := [shard for shard in shards if not (folder / shard).is_file()]:
                raise InputError(
                    f"{str(folder)!r} lacks {len(missing)} of {len(shards)} files of weights,"
                    f" the first: {missing[0]}; fetch the checkpoint again"
                )
            return kind
        if (folder / name).is_file():
            return kind
    names = sorted(path.name for path in folder.iterdir())
    if pickles := [name for name in names if name.endswith(_PICKLES)]:
        raise UnsupportedModelError(f"{str(folder)!r} has only a free pickle ({pickles[0]}). {_WAY_OUT}")
    known = (".safetensors", ".gguf", ".h5", ".msgpack", ".onnx")
    if other := [name for name in names if name.endswith(known)]:
        raise UnsupportedModelError(
            f"{str(folder)!r} has {other[0]}, wanted model.safetensors (or its shards and index);"
            " save the model again with transformers' save_pretrained"
        )
    raise InputError(f"no weights in {str(folder)!r}, wanted model.safetensors; was the download complete?")


def refused_pickle(folder: Path, error: Exception) -> UnsupportedModelError:
    """The error for a `pytorch_model.bin` that holds more than tensors."""
    reason = next(
        (line.strip() for line in str(error).splitlines() if "GLOBAL" in line), type(error).__name__
    )
    return UnsupportedModelError(
        f"pytorch_model.bin in {str(folder)!r} holds more than tensors: {reason}. It is not opened. {_WAY_OUT}"
    )


def training_state(folder: Path, revision: str | None = None) -> tuple[int | None, int | None]:
    """Step and tokens of a checkpoint along training, None where the folder does not say.

    Read from `training_state.json` (`step`, `tokens`), else the Trainer's `trainer_state.json`, else the
    step alone from a name such as `checkpoint-1200`, `step-1200` or the revision `step1200`.
    """
    own = _read_json(folder / "training_state.json")
    if own is not None:
        return own.get("step"), own.get("tokens")
    trainer = _read_json(folder / "trainer_state.json")
    if trainer is not None:
        return trainer.get("global_step"), trainer.get("num_input_tokens_seen") or None  # 0: was not counted
    for name in (folder.resolve().name, revision or ""):
        if match := re.search(r"(?:^|[-_.])(?:checkpoint|step)[-_]?(\d+)$", name):
            return int(match[1]), None
    return None, None


def _read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in `path`; None where there is no such file."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{str(path)!r} is not JSON ({error}); fetch the checkpoint again") from error
    if not isinstance(document, dict):
        raise InputError(f"{str(path)!r} holds a {type(document).__name__}, wanted a JSON object")
    return document
