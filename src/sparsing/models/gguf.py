"""Loads a causal LM from a GGUF file: the weights dequantised in memory, tokenizer and chat template from the file.

transformers reads the weights. Everything that it would pass over without a message is checked here: the header
(`gguf_file.py`), tensors and keys that its reader does not use, and the pre-tokenizer, which its reader leaves out.
Start with `load_gguf`.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sparsing.errors import InputError, UnsupportedModelError
from sparsing.models.architecture import check_architecture
from sparsing.models.gguf_file import GgufFile, check_rope_factors, read_gguf
from sparsing.models.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_ROPE_FACTORS = "rope_freqs.weight"
"""By these numbers Llama 3.1 divides its rotary frequencies. The configuration in the file does not have them."""
_PLAIN_ROPE = (None, "none")
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
_REGEX = {
    **dict.fromkeys(("llama3", "llama-v3", "llama-bpe"), _CONTRACTIONS + _WORDS % r"\p{N}{1,3}"),
    **dict.fromkeys(("qwen2", "stablelm2", "deepseek-r1-qwen"), _CONTRACTIONS + _WORDS % r"\p{N}"),
}
"""Name of a pre-tokenizer (`tokenizer.ggml.pre`) to the regular expression that llama.cpp uses for it."""
_SINGLE_DIGITS = ("smollm", "starcoder", "refact", "codeshell", "command-r")
"""Pre-tokenizers that separate every digit, then cut as GPT-2 does."""
_GPT2 = ("gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion")
"""Pre-tokenizers that cut as GPT-2 does, which is what transformers' reader builds."""


def load_gguf(
    path: Path, *, dtype: str, tokenizer: str | Path | None = None, device_map: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model and the tokenizer of a GGUF file.

    Args:
        path: The file.
        dtype: Name of the dtype to which the weights are dequantised; `auto` is float32, which rounds nothing.
        tokenizer: Folder or hub name of a tokenizer; None takes the one of the file.
        device_map: As in transformers.

    Raises:
        InputError: If the file is damaged, or its pre-tokenizer is not known and no tokenizer is given.
        UnsupportedModelError: If the architecture, a quantisation or a part of the file is not supported.
    """
    from transformers import AutoModelForCausalLM

    dtype = "float32" if dtype == "auto" else dtype
    file = read_gguf(path)
    config, tokens = _read_configuration(file, path, tokenizer)
    with (
        _unreadable(path),
        contextlib.redirect_stderr(io.StringIO()),
    ):  # the reader's progress bar has no switch
        model, report = AutoModelForCausalLM.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]  (a pair with `output_loading_info`)
            path.parent,
            config=config,
            dtype=dtype,
            device_map=device_map,
            output_loading_info=True,
            gguf_file=path.name,
            local_files_only=True,
        )
    if missing := sorted(report["missing_keys"]):
        raise InputError(
            f"{path}: {len(missing)} parameters are not in the file, the first: {missing[0]}; the file is incomplete"
        )
    _check_used(file, model)
    _apply_rope_factors(file, model)
    types = sorted({tensor.type_name for tensor in file.tensors.values()})
    logger.warning("%s: weights of %s, dequantised to %s in memory", path.name, ", ".join(types), dtype)
    return model, tokens


def read_gguf_configuration(
    path: Path, *, tokenizer: str | Path | None = None
) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase]:
    """The configuration and the tokenizer of a GGUF file, without its weights. Arguments and errors of `load_gguf`."""
    return _read_configuration(read_gguf(path), path, tokenizer)


def _read_configuration(
    file: GgufFile, path: Path, tokenizer: str | Path | None
) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase]:
    from transformers import AutoConfig

    _check_supported(file)
    where: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True}
    with _unreadable(path):
        config = AutoConfig.from_pretrained(path.parent, **where)
        _check_config(file, config)
        check_architecture(config, trust_remote_code=False)
        if tokenizer is None:
            return config, _load_tokenizer(file, where)
        return config, load_tokenizer(path.parent, config, source=tokenizer)


@contextlib.contextmanager
def _unreadable(path: Path) -> Generator[None]:
    """Names the file in the errors of transformers' reader."""
    try:
        yield
    except (KeyError, IndexError, TypeError, AttributeError, RuntimeError, OSError) as error:
        raise InputError(
            f"{path}: transformers cannot read this file ({type(error).__name__}: {error}); the header is sound, so its"
            " keys or tensors are not as the architecture needs them: convert the file again"
        ) from error


def _check_supported(file: GgufFile) -> None:
    """Checks architecture and quantisations. Raises UnsupportedModelError with the list of what is supported."""
    from gguf import GGMLQuantizationType, dequantize
    from transformers.integrations.ggml import GGUF_CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if int(file.metadata.get("split.count", 1)) > 1:
        raise UnsupportedModelError(
            f"{file.path} is one of {file.metadata['split.count']} parts of a model; join them with"
            " `llama-gguf-split --merge FIRST-PART OUTPUT` and give the output"
        )
    known = sorted(set(GGUF_CONFIG_MAPPING) & set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
    architecture = file.metadata.get("general.architecture")
    same_name = {name.replace("_", "") for name in known}
    if not isinstance(architecture, str) or architecture.replace("-", "").replace("_", "") not in same_name:
        raise UnsupportedModelError(
            f"{file.path}: architecture {architecture!r} is not read from GGUF; allowed: {', '.join(known)}. Give the"
            " checkpoint from which the file was made"
        )
    quantized = {tensor.type_name: tensor for tensor in file.tensors.values()}
    for name, tensor in quantized.items():
        kind = GGMLQuantizationType(tensor.type_code)
        try:
            dequantize(file.rows(tensor.name)[:1], kind)
        except NotImplementedError:
            raise UnsupportedModelError(
                f"{file.path}: tensor {tensor.name!r} has the quantisation {name}, which the package gguf cannot"
                f" dequantise; allowed: {', '.join(_dequantisable())}"
            ) from None


def _dequantisable() -> list[str]:
    from gguf import GGMLQuantizationType, quants

    return ["F32", "F16", *sorted(GGMLQuantizationType(kind).name for kind in quants._type_traits)]


def _check_config(file: GgufFile, config: Any) -> None:
    """Checks keys that change what the model computes and that transformers' reader passes over."""
    name = str(file.metadata["general.architecture"])
    scaling = file.metadata.get(f"{name}.rope.scaling.type")
    if scaling not in _PLAIN_ROPE and name != "gpt-oss":
        raise UnsupportedModelError(
            f"{file.path}: rotary positions are scaled ({name}.rope.scaling.type = {scaling!r}), which transformers"
            " does not read from GGUF; give the checkpoint from which the file was made"
        )
    width = file.metadata.get(f"{name}.attention.key_length")
    text = config.get_text_config()
    built = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    if width is not None and width != built:
        raise UnsupportedModelError(
            f"{file.path}: attention heads are {width} wide, but transformers' reader makes them {built} wide; give the"
            " checkpoint from which the file was made"
        )


def _check_used(file: GgufFile, model: PreTrainedModel) -> None:
    """Raises UnsupportedModelError if the file has a tensor that transformers' reader passed over."""
    from transformers.modeling_gguf_pytorch_utils import (
        TENSOR_PROCESSORS,
        TensorProcessor,
        get_gguf_hf_weights_map,
    )

    processor = TENSOR_PROCESSORS.get(str(file.metadata["general.architecture"]), TensorProcessor)
    used = get_gguf_hf_weights_map(model, processor(config=model.config.to_dict()))
    experts = ("_exps.", "_shexp.")  # the reader joins the tensors of experts under other names
    unused = [
        name
        for name in file.tensors
        if name not in used and name != _ROPE_FACTORS and not any(part in name for part in experts)
    ]
    if unused:
        raise UnsupportedModelError(
            f"{file.path}: {len(unused)} tensors would not be used, the first: {unused[0]}; the model would not be the"
            " one in the file. Give the checkpoint from which the file was made"
        )


def _apply_rope_factors(file: GgufFile, model: PreTrainedModel) -> None:
    """Divides the rotary frequencies by the factors in the file, as llama.cpp does."""
    if _ROPE_FACTORS not in file.tensors:
        return
    numbers = file.floats(_ROPE_FACTORS)
    check_rope_factors(file, numbers)
    factors = torch.from_numpy(numbers).flatten()
    rotary: Any = getattr(model.base_model, "rotary_emb", None)
    if rotary is None or rotary.inv_freq.shape != factors.shape:
        raise UnsupportedModelError(
            f"{file.path}: the tensor {_ROPE_FACTORS} does not fit the rotary positions of {model.config.model_type};"
            " give the checkpoint from which the file was made"
        )
    for name in ("inv_freq", "original_inv_freq"):
        frequencies = getattr(rotary, name)
        frequencies.copy_(frequencies / factors.to(frequencies))


def _load_tokenizer(file: GgufFile, where: dict[str, Any]) -> PreTrainedTokenizerBase:
    """The tokenizer of the file, with the pre-tokenizer that the file names.

    transformers' reader builds the pre-tokenizer of GPT-2 for most architectures, whatever the file says. Texts with
    digits then have other tokens than the model was trained on.
    """
    from tokenizers import Regex, pre_tokenizers
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(file.path.parent, **where)
    if file.metadata.get("tokenizer.ggml.model") != "gpt2":  # SentencePiece has no pre-tokenizer
        return tokenizer
    name = str(file.metadata.get("tokenizer.ggml.pre"))
    if name in _REGEX:
        cut = pre_tokenizers.Split(Regex(_REGEX[name]), behavior="isolated")
    elif name in _SINGLE_DIGITS:
        cut = pre_tokenizers.Digits(individual_digits=True)
    elif name in _GPT2:
        return tokenizer
    else:
        known = sorted((*_REGEX, *_SINGLE_DIGITS, *_GPT2))
        raise InputError(
            f"{file.path}: the pre-tokenizer {name!r} (tokenizer.ggml.pre) is not known, so texts would get wrong"
            f" tokens; allowed: {', '.join(known)}. Give the model's tokenizer with --tokenizer"
        )
    into_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=name in _SINGLE_DIGITS)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, into_bytes])
    return tokenizer
