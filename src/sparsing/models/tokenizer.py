"""Loads the tokenizer of a checkpoint, and checks token ids against the embedding of the model.

A tokenizer comes from the folder of the checkpoint, or from another folder or hub name that the user gives.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsing.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_FILES = ("tokenizer.json", "*.model", "vocab.*", "tekken.json", "*.tiktoken")
_SENTENCEPIECE_MARK = b"\n"
"""First byte of a `tokenizer.model` of SentencePiece. A `tokenizer.model` of tiktoken begins with a letter."""


def load_tokenizer(
    folder: Path, config: Any, *, source: str | Path | None = None, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint. Without an end-of-text token of its own it gets the one of the configuration.

    Args:
        folder: The folder of the checkpoint.
        config: The configuration of the model.
        source: A folder, a file in a folder, or a name on the hub to take the tokenizer from. None takes `folder`.

    Raises:
        InputError: If there is no tokenizer, it cannot be loaded, or a package that reads it is missing.
    """
    place: Path | str = folder if source is None else _place(str(source))
    if isinstance(place, Path):
        _check_files(place, is_given=source is not None)
    tokenizer = _load(place, trust_remote_code)
    _add_eos(tokenizer, config)
    return tokenizer


def check_token_ids(model: Any, tokenizer: Any, ids: Iterable[int] | np.ndarray) -> None:
    """Checks that the model has an embedding for every token id.

    Raises:
        InputError: If an id is not below the number of rows of the embedding.
    """
    array = ids if isinstance(ids, np.ndarray) else np.array(list(ids), dtype=np.int64)
    rows = model.get_input_embeddings().weight.shape[0]
    if array.size and (largest := int(array.max())) >= rows:
        token = tokenizer.convert_ids_to_tokens(largest)
        raise InputError(
            f"the tokenizer gives token {token!r} the id {largest}, but the model's embedding has {rows} rows (ids 0 to"
            f" {rows - 1}); the tokenizer belongs to another model: give the right one with --tokenizer"
        )


def _place(source: str) -> Path | str:
    """A local folder if there is one, else the name on the hub."""
    path = Path(source).expanduser()
    if path.is_file():
        return path.parent
    if path.is_dir():
        return path
    if source.startswith((".", "/", "~")) or source.count("/") > 1 or not source:
        raise InputError(
            f"no folder {source!r}; give --tokenizer a folder with tokenizer.json, or a hub name"
        )
    return source


def _check_files(folder: Path, *, is_given: bool) -> None:
    files = [path for pattern in _FILES for path in sorted(folder.glob(pattern))]
    if not files:
        way_out = (
            "give --tokenizer another folder" if is_given else "give a folder or a hub name with --tokenizer"
        )
        raise InputError(
            f"no tokenizer in {str(folder)!r}, wanted tokenizer.json; {way_out}, or save the tokenizer there with"
            " tokenizer.save_pretrained(folder)"
        )
    only_model = all(path.name == "tokenizer.model" for path in files)
    if only_model and (missing := _missing_packages(files[0])):
        raise InputError(
            f"the tokenizer in {str(folder)!r} is a tokenizer.model alone, and reading it needs packages that are not"
            f" installed: pip install {' '.join(missing)}"
        )


def _missing_packages(path: Path) -> list[str]:
    """The packages that transformers needs to read a `tokenizer.model` and that are not installed."""
    with path.open("rb") as handle:
        is_sentencepiece = handle.read(1) == _SENTENCEPIECE_MARK
    needed = {"sentencepiece": "sentencepiece", "protobuf": "google.protobuf"} if is_sentencepiece else {}
    needed = needed or {"tiktoken": "tiktoken"}
    return [package for package, module in needed.items() if not _is_installed(module)]


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the parent package is missing
        return False


def _load(place: Path | str, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """The tokenizer that AutoTokenizer loads, or the plain tokenizer of `tokenizer.json` if AutoTokenizer fails."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    is_local = isinstance(place, Path)
    try:
        return AutoTokenizer.from_pretrained(
            place, local_files_only=is_local, trust_remote_code=trust_remote_code
        )
    except Exception as error:  # the checkpoint chooses the tokenizer class, so any error is possible
        logger.info("%s: AutoTokenizer failed (%s), trying tokenizer.json", place, error)
        try:
            return PreTrainedTokenizerFast.from_pretrained(place, local_files_only=is_local)
        except Exception:
            raise InputError(
                f"the tokenizer in {str(place)!r} cannot be loaded: {error}; save it again with"
                " tokenizer.save_pretrained(folder), or give another one with --tokenizer"
            ) from error


def _add_eos(tokenizer: PreTrainedTokenizerBase, config: Any) -> None:
    """Gives a tokenizer without an end-of-text token, e.g. a lone `tokenizer.json`, the token of the configuration."""
    ids = getattr(config.get_text_config(), "eos_token_id", None)
    first = ids[0] if isinstance(ids, list) and ids else ids
    if tokenizer.eos_token_id is not None or not isinstance(first, int):
        return
    token = tokenizer.convert_ids_to_tokens(first)
    if isinstance(token, str):
        tokenizer.eos_token = token
        logger.info("the tokenizer names no end-of-text token; the configuration's is %r", token)
