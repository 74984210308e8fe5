"""`identify`: digests of everything in a loaded model that decides its figures.

Saved work is used again only if these digests are equal. They cover every byte of the weights, so a model whose neurons
were permuted has another digest although the sums of its weights are the same.
"""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from sparsing.models.loading import LoadedModel

_THREADS = 4
"""Tensors that are digested at the same time; hashlib runs outside the interpreter lock."""
_RUNTIME_KEYS = ("truncation", "padding")
"""Parts of a fast tokenizer that every call sets anew."""


def identify(loaded: LoadedModel) -> dict[str, str]:
    """SHA-256 of the weights, of the configuration and of the tokenizer, under these three names."""
    return {
        "weights": digest_weights(loaded),
        "configuration": _digest_configuration(loaded.model),
        "tokenizer": digest_tokenizer(loaded.tokenizer),
    }


def digest_weights(loaded: LoadedModel) -> str:
    """SHA-256 of the names, shapes, dtypes and bytes of all parameters, and of all buffers that a checkpoint stores.

    Such buffers are the codes of quantised weights and the corrections of routers. A parameter that is offloaded to
    disk has no bytes in memory. The bytes of the files of weights stand for it, or the commit of a model on the hub.
    """
    tensors: list[tuple[str, Any]] = list(loaded.model.named_parameters())
    # no `state_dict`: that of bitsandbytes changes the weights on a CPU
    tensors += [
        (f"{path}.{name}", buffer)
        for path, module in cast("Any", loaded.model).named_modules()
        for name, buffer in module.named_buffers(recurse=False)
        if name not in module._non_persistent_buffers_set
    ]
    with ThreadPoolExecutor(_THREADS) as pool:
        digests = list(pool.map(lambda item: _digest_tensor(*item), tensors))
    digest = hashlib.sha256(b"".join(digests))
    if any(tensor.is_meta for _, tensor in tensors):
        for path in sorted(Path(loaded.name).glob("*.safetensors")):
            digest.update(digest_file(path).encode())
        if loaded.revision is not None:  # the commit of a model on the hub stands for its files
            digest.update(loaded.revision.encode())
    return digest.hexdigest()


def _digest_tensor(name: str, tensor: Any) -> bytes:
    digest = hashlib.sha256(repr((name, tuple(tensor.shape), str(tensor.dtype))).encode())
    # a subclass that keeps its values in other tensors, as torchao's
    if hasattr(tensor, "__tensor_flatten__"):
        for inner in tensor.__tensor_flatten__()[0]:
            digest.update(_digest_tensor(inner, getattr(tensor, inner)))
    elif not tensor.is_meta:
        values = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(values.view(torch.uint8).numpy().data)
    return digest.digest()


def _digest_configuration(model: Any) -> str:
    """SHA-256 of the configurations of the model and of its generation, without the folder that they come from."""
    parts: list[Any] = [getattr(model.config, "_attn_implementation", None)]
    for config in (model.config, getattr(model, "generation_config", None)):
        values = {} if config is None else config.to_dict()
        parts.append({key: value for key, value in values.items() if key != "_name_or_path"})
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def digest_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of the definition of a tokenizer, its special tokens and its chat template.

    Of a slow tokenizer, which has no definition as text, the vocabulary is taken.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    definition = tokenizer.get_vocab() if backend is None else json.loads(backend.to_str())
    parts = [
        {key: value for key, value in definition.items() if backend is None or key not in _RUNTIME_KEYS},
        {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        getattr(tokenizer, "chat_template", None),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def digest_file(path: Path) -> str:
    """SHA-256 of the content of a file."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
