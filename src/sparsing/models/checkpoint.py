"""The files of a checkpoint: where they are, which weight files are safe to open, how far training had come.

This module reads files and builds no model. A name on the hub becomes a local folder; only the files that are
needed are downloaded. For a local folder the network is never used.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, NamedTuple

from sparsing.base.checked_files import check, read_object
from sparsing.errors import InputError, UnsupportedModelError

WeightFormat = Literal["safetensors", "bin"]

_STEMS: dict[WeightFormat, str] = {"safetensors": "model.safetensors", "bin": "pytorch_model.bin"}
_SMALL_FILES = ("*.json", "*.model", "*.txt", "*.tiktoken")
_PICKLES = (".bin", ".ckpt", ".pkl", ".pickle", ".pt", ".pth")
_POINTER, _POINTER_BYTES = b"version https://git-lfs.github.com/spec/", 1024
"""Beginning of a pointer of Git LFS, and the size below which a file may be one."""
_HOW_TO_CONVERT = (
    "A pickle can run code when it is opened. If you trust the file, convert it once, in a separate process:"
    " `model.load_state_dict(torch.load(file, weights_only=True)); model.save_pretrained(folder)`"
    " writes model.safetensors"
)


_AGAIN = "download the checkpoint again"
_ATTENTION = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")
"""Ways to compute attention that transformers itself has. Any other name is a repository on the hub."""
_LAYER_KEYS = ("num_hidden_layers", "n_layers", "n_layer", "num_layers")
_MAX_LAYERS = 10_000
_MAX_SIZE = 2**31
"""Largest number in a configuration, e.g. of a vocabulary; larger tensors would be allocated before any check."""


PHASES = ("warmup", "stable", "decay")
"""The parts of a training run, by what its learning rate does (WSD)."""


class TrainingPosition(NamedTuple):
    """How far training had come when a checkpoint was saved. None where the folder does not record it."""

    step: int | None
    tokens: int | None
    phase: str | None = None
    """`warmup`, `stable` or `decay` of the learning rate."""


def locate_checkpoint(
    name: str, *, revision: str | None = None, code: bool = False, weights: bool = True
) -> tuple[Path, str | None]:
    """The folder of a checkpoint, and its commit if it comes from the hub.

    Args:
        name: A local folder, or a name on the hub.
        revision: Branch, tag or commit on the hub.
        code: Download the repository's own `.py` files as well.
        weights: Download the weights as well.

    Raises:
        InputError: If there is neither such a folder nor such a model on the hub.
        UnsupportedModelError: If `name` is a file of weights.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path, None
    if path.is_file():
        if path.suffix in _PICKLES:
            raise UnsupportedModelError(
                f"{name!r} is a pickle, and pickles are not opened. {_HOW_TO_CONVERT}"
            )
        raise InputError(f"{name!r} is a file; give the folder that holds config.json and the weights")
    # names that cannot be on the hub get a message about folders, without a request to the hub
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name or not name:
        raise InputError(f"no folder {name!r}; give a folder with config.json, or a hub name `owner/model`")
    return _fetch(name, revision, code, weights)


def _fetch(name: str, revision: str | None, code: bool, weights: bool) -> tuple[Path, str | None]:
    from huggingface_hub import snapshot_download

    def snapshot(*patterns: str) -> Path:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns)))

    try:
        folder = snapshot(*_SMALL_FILES, *(["*.py"] if code else []))
        if weights and not any(snapshot("model*.safetensors").glob("model*.safetensors")):
            snapshot("pytorch_model*.bin")
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{name!r} is neither a local folder nor a model that can be downloaded from the hub ({reason});"
            " check the spelling, the revision, your access and the network"
        ) from error
    return folder, folder.name


def read_config(folder: Path) -> dict[str, Any]:
    """The content of `config.json`, unchanged; it has a `model_type`.

    Raises:
        InputError: If the file is missing, is not JSON or has no model type.
        UnsupportedModelError: If the weights are quantized.
    """
    config = _read_json(folder / "config.json")
    if config is None:
        if files := sorted(folder.glob("*.gguf")):
            raise UnsupportedModelError(
                f"{str(folder)!r} has no config.json; give the GGUF file itself: {str(files[0])!r}"
            )
        names = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
        raise InputError(
            f"no config.json in {str(folder)!r} (found: {names}); give the folder of a checkpoint"
        )
    if not isinstance(config.get("model_type"), str):
        raise InputError(f"{str(folder / 'config.json')!r} has no model_type; add it, e.g. `llama`")
    check_config(config, str(folder / "config.json"))
    if quantization := config.get("quantization_config"):
        method = quantization.get("quant_method", "unknown") if isinstance(quantization, dict) else "unknown"
        raise UnsupportedModelError(
            f"{str(folder)!r} is quantized ({method}); measuring needs weights that are not quantized:"
            " give the checkpoint from which it was made"
        )
    return config


def check_config(config: dict[str, Any], name: str) -> None:
    """Refuses a configuration that names code to load, or whose sizes no model has.

    Raises:
        InputError: If it does; building such a model would take all memory, or fetch code from a hub.
    """
    # nested tables too, e.g. `text_config`
    for key, value in config.items():
        if isinstance(value, dict):
            check_config(value, name)
        elif "attn_implementation" in key and value not in (None, *_ATTENTION):
            raise InputError(
                f"{name!r} has {key} = {value!r}, which may load code; allowed: {', '.join(_ATTENTION)}. Delete the key"
            )
        elif type(value) is int and abs(value) > (_MAX_LAYERS if key in _LAYER_KEYS else _MAX_SIZE):
            raise InputError(f"{name!r} has {key} = {value}, a size that no model has; correct the file")


def weight_format(folder: Path) -> WeightFormat:
    """The format of the weights: `safetensors` if there are such files, else `bin` for `pytorch_model.bin`.

    Raises:
        InputError: If there are no weights, or a shard that the index lists is missing.
        UnsupportedModelError: If the weights are other pickles or have a format that is not supported.
    """
    for kind, name in _STEMS.items():
        index = _read_json(folder / f"{name}.index.json")
        if index is not None:  # an index lists the shards of a large checkpoint
            where = str(folder / f"{name}.index.json")
            table = check(index.get("weight_map", {}), dict[str, str], name=repr(where), hint=_AGAIN)
            shards = sorted(set(table.values()))
            present = {path.name for path in folder.iterdir()}
            if outside := [shard for shard in shards if Path(shard).name != shard]:
                raise InputError(
                    f"{where!r} names {outside[0]!r}, which is outside of its folder; weights are read only from the"
                    " folder of the checkpoint, so correct the index"
                )
            if missing := [shard for shard in shards if shard not in present]:
                raise InputError(
                    f"{str(folder)!r} lacks {len(missing)} of {len(shards)} files of weights,"
                    f" the first: {missing[0]}; download the checkpoint again"
                )
            for shard in shards:
                _refuse_pointer(folder / shard)
            return kind
        if (folder / name).is_file():
            _refuse_pointer(folder / name)
            return kind
    names = sorted(path.name for path in folder.iterdir())
    if pickles := [name for name in names if name.endswith(_PICKLES)]:
        raise UnsupportedModelError(
            f"{str(folder)!r} has only a free pickle ({pickles[0]}). {_HOW_TO_CONVERT}"
        )
    known = (".safetensors", ".gguf", ".h5", ".msgpack", ".onnx")
    if other := [name for name in names if name.endswith(known)]:
        raise UnsupportedModelError(
            f"{str(folder)!r} has {other[0]}; wanted: model.safetensors, or its shards and index."
            " Save the model again with transformers' save_pretrained"
        )
    raise InputError(
        f"no weights in {str(folder)!r}; wanted: model.safetensors. Download the checkpoint again"
    )


def _refuse_pointer(path: Path) -> None:
    """Raises InputError if the file is the short text that Git LFS leaves in place of a file."""
    if path.is_file() and path.stat().st_size < _POINTER_BYTES:
        with path.open("rb") as file:
            if file.read(len(_POINTER)) == _POINTER:
                raise InputError(
                    f"{str(path)!r} is a Git LFS pointer and not the file itself; run `git lfs pull` in the folder"
                )


def pickle_error(folder: Path, error: Exception) -> UnsupportedModelError:
    """The error to raise for a `pytorch_model.bin` that contains more than tensors.

    Args:
        error: The error of `torch.load` with `weights_only=True`. It names the object that was refused.
    """
    reason = next(
        (line.strip() for line in str(error).splitlines() if "GLOBAL" in line), type(error).__name__
    )
    return UnsupportedModelError(
        f"pytorch_model.bin in {str(folder)!r} holds more than tensors: {reason}. It is not opened. {_HOW_TO_CONVERT}"
    )


def training_position(folder: Path, revision: str | None = None) -> TrainingPosition:
    """Step and tokens of a checkpoint along training.

    The sources, in this order: `training_state.json` (`step`, `tokens`, `phase`), the Trainer's `trainer_state.json`,
    and for the step alone a name such as `checkpoint-1200` or `step-1200` or the revision `step1200`.
    """
    own = _read_json(folder / "training_state.json")
    if own is not None:
        phase = own.get("phase")
        position = _position(folder / "training_state.json", own.get("step"), own.get("tokens"))
        return position._replace(phase=phase if phase in PHASES else None)
    trainer = _read_json(folder / "trainer_state.json")
    if trainer is not None:
        # the Trainer writes 0 tokens when it was not told to count them
        tokens = trainer.get("num_input_tokens_seen") or None
        return _position(folder / "trainer_state.json", trainer.get("global_step"), tokens)
    for name in (folder.resolve().name, revision or ""):
        if match := re.search(r"(?:^|[-_.])(?:checkpoint|step)[-_]?(\d+)$", name):
            return TrainingPosition(int(match[1]), None)
    return TrainingPosition(None, None)


def _position(path: Path, step: Any, tokens: Any) -> TrainingPosition:
    hint = "write whole numbers into the file, or delete it"
    given = {"step": step, "tokens": tokens}
    whole = check(
        {k: v for k, v in given.items() if v is not None}, dict[str, int], name=repr(str(path)), hint=hint
    )
    return TrainingPosition(whole.get("step"), whole.get("tokens"))


def _read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in `path`, or None if there is no such file."""
    return read_object(path, hint=_AGAIN) if path.exists() else None
