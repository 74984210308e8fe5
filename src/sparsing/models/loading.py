"""Loads a causal LM with its tokenizer and its sites; errors are raised before the weights are read.

The order is: files, configuration, tokenizer, architecture (on the `meta` device), weights. Pickles are opened only
with torch's `weights_only=True`. `checkpoint.py` decides which files are weights.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import logging
import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from sparsing.base.dtype_names import check_dtype_name
from sparsing.base.extras import install_command
from sparsing.errors import InputError
from sparsing.models.adapter import base_of, check_adapter, is_adapter, merge_adapter
from sparsing.models.architecture import auto_class, build_config, check_architecture
from sparsing.models.checkpoint import (
    TrainingPosition,
    locate_checkpoint,
    pickle_error,
    read_config,
    training_position,
    weight_format,
)
from sparsing.models.checkpoint_tensors import explain_tensors
from sparsing.models.gguf import load_gguf
from sparsing.models.gguf_file import is_gguf_file
from sparsing.models.tokenizer import load_tokenizer
from sparsing.sites.discovery import discover
from sparsing.sites.site import Site
from sparsing.sites.wrappers import unwrapped

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_DTYPES = ("float32", "float64", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class LoadedModel:
    """A causal LM in eval mode, ready to be measured."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    sites: list[Site]
    """In layer order. A layer has no site if it has no feed-forward block, and two if it has a shared expert."""
    layers_without_site: tuple[str, ...]
    """Module paths of the layers without a feed-forward block, such as Mamba or attention alone."""
    name: str
    """Folder or name on the hub, as the caller gave it."""
    revision: str | None
    """Commit on the hub. None for a local folder."""
    model_type: str
    """The model type in `config.json`. It is `minicpm` for a MiniCPM checkpoint, which is loaded as Granite."""
    num_parameters: int
    """Number of parameters; a tied head counts once."""
    dtype: str
    """E.g. `bfloat16`."""
    device: str
    """E.g. `cuda:0`; several devices are joined by commas."""
    train_step: int | None
    """Training step. None if the checkpoint does not record it."""
    train_tokens: int | None
    """Tokens trained on. None if the checkpoint does not record them."""
    train_phase: str | None = None
    """`warmup`, `stable` or `decay` of the learning rate. None if the checkpoint does not record it."""

    @property
    def config(self) -> Any:
        """The configuration of the model."""
        return self.model.config

    def __repr__(self) -> str:
        size = f"{self.num_parameters / 1e6:,.1f}M parameters, {len(self.sites)} layers"
        return f"LoadedModel({self.name}: {self.model_type}, {size}, {self.dtype}, {self.device})"

    @classmethod
    def of(
        cls,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str = "model in memory",
        revision: str | None = None,
        model_type: str | None = None,
        train_step: int | None = None,
        train_tokens: int | None = None,
        train_phase: str | None = None,
    ) -> LoadedModel:
        """Wraps a model that the caller has built, and puts it in eval mode.

        A wrapper of `torch.compile`, DDP or PEFT is taken off; the layers keep their adapters.

        Raises:
            UnsupportedModelError: If the sites of the model are not found.
        """
        model = cast("PreTrainedModel", unwrapped(model))
        found = discover(model)
        return cls(
            model=model.eval(),
            tokenizer=tokenizer,
            sites=found.sites,
            layers_without_site=found.layers_without_site,
            name=name,
            revision=revision,
            model_type=model_type or model.config.model_type,
            num_parameters=sum(parameter.numel() for parameter in model.parameters()),
            dtype=str(model.dtype).removeprefix("torch."),
            device=",".join(sorted({str(parameter.device) for parameter in model.parameters()})),
            train_step=train_step,
            train_tokens=train_tokens,
            train_phase=train_phase,
        )

    def provenance(self) -> dict[str, Any]:
        """The fields of `Provenance` that describe the model."""
        names = (
            *("revision", "model_type", "num_parameters", "dtype", "device", "train_step", "train_tokens"),
            *("train_phase", "layers_without_site"),
        )
        return {"model": self.name, **{name: getattr(self, name) for name in names}}


def load_model(
    name_or_path: str | Path,
    *,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    tokenizer: str | Path | None = None,
    adapter: str | Path | None = None,
) -> LoadedModel:
    """Loads a causal LM of any type with feed-forward blocks, from a local folder or from the hub.

    Args:
        name_or_path: Folder with `config.json`, weights and tokenizer (the network is not used), a GGUF file, a folder
            with an adapter of PEFT, or a name on the hub. `model_type: minicpm` is loaded as Granite, without remote
            code.
        dtype: `float32`, `float64`, `bfloat16` or `float16`, or a short name such as `bf16`. None takes the dtype of
            the configuration.
        device: E.g. `cpu`, `cuda`, `cuda:1`, `mps`. `auto` spreads a large model over all devices and needs the
            package accelerate. None takes `cuda` if available, else `cpu`.
        revision: Branch, tag or commit on the hub.
        trust_remote_code: Run the checkpoint's own code for model types that transformers does not know.
        tokenizer: Folder or hub name of the tokenizer, for checkpoints that have none. None takes the checkpoint's own.
        adapter: Folder of an adapter of PEFT, such as LoRA, that is merged into the weights.

    Raises:
        InputError: If there is no such model, the checkpoint is incomplete or broken, weights are not finite, the
            dtype is unknown or the device is not available.
        UnsupportedModelError: If the model is not a causal LM, no feed-forward block is found and proved, its weights
            are quantized, or its weights are a pickle that holds more than tensors.
    """
    name = str(name_or_path)
    dtype_name, device_name = checked_dtype_name(dtype), _device_name(device)
    base = name
    if adapter is None and is_adapter(name):
        base, adapter = base_of(Path(name).expanduser()), name
    elif adapter is not None:
        name = f"{name} + {adapter}"
    tuned = None if adapter is None else Path(adapter).expanduser()
    if tuned is not None:
        check_adapter(tuned)
    options: dict[str, Any] = {"dtype": dtype_name, "device_map": "auto" if device_name == "auto" else None}
    commit, path = None, Path(base).expanduser()
    with _silence_transformers():
        if is_gguf_file(path):
            model, tokens = load_gguf(path, tokenizer=tokenizer, **options)
            model_type, position = model.config.model_type, TrainingPosition(None, None)
        else:
            folder, commit = locate_checkpoint(base, revision=revision, code=trust_remote_code)
            raw = read_config(folder)
            model_type = raw["model_type"]
            config = build_config(folder, raw, trust_remote_code)
            kind = weight_format(folder)
            position = training_position(folder, revision)
            tokens = load_tokenizer(folder, config, source=tokenizer, trust_remote_code=trust_remote_code)
            check_architecture(config, trust_remote_code)
            options |= {"trust_remote_code": trust_remote_code}
            model = _load_weights(folder, kind, config=config, **options)
        if tuned is not None:
            model, position = merge_adapter(model, tuned), training_position(tuned)
    _check_finite(model)
    if device_name != "auto":
        model.to(device_name)  # pyright: ignore[reportArgumentType]  (transformers' decorator hides `self`)
    return LoadedModel.of(
        model,
        tokens,
        name=name,
        revision=commit,
        model_type=model_type,
        train_step=position.step,
        train_tokens=position.tokens,
        train_phase=position.phase,
    )


def checked_dtype_name(dtype: str | torch.dtype | None) -> str:
    """The full name of a dtype in which models are loaded; `auto` for None.

    Raises:
        InputError: For another dtype.
    """
    if dtype is None:
        return "auto"
    return check_dtype_name(dtype, _DTYPES, hint="; leave it out for the checkpoint's own")


def _device_name(device: str | torch.device | None) -> str:
    """The name of the device, after a check that the device can be used."""
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    if str(device) == "auto":
        if importlib.util.find_spec("accelerate") is None:
            raise InputError(f"device='auto' needs accelerate: {install_command('auto')}")
        return "auto"
    try:
        torch.empty(
            1, device=device
        )  # the only check that covers a wrong name, a missing driver and a wrong index
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"device {str(device)!r} cannot be used ({reason}); try cpu, cuda, mps or auto"
        ) from error
    return str(device)


def _load_weights(folder: Path, kind: str, **options: Any) -> PreTrainedModel:
    """The model with its weights. A weight that the checkpoint lacks is an error, since it would be random."""
    from safetensors import SafetensorError

    if kind == "bin":
        logger.warning("%s: pytorch_model.bin is a pickle; it is opened for its tensors only", folder)
    try:
        model, report = auto_class(options["config"]).from_pretrained(
            folder,
            use_safetensors=kind == "safetensors",
            weights_only=True,
            local_files_only=True,
            output_loading_info=True,
            **options,
        )
    except pickle.UnpicklingError as error:
        raise pickle_error(folder, error) from error
    except (OSError, RuntimeError, ValueError, EOFError, SafetensorError) as error:
        if kind == "safetensors":
            explain_tensors(folder, options["config"])
        raise InputError(
            f"the weights in {str(folder)!r} cannot be loaded: {error}; download the checkpoint again"
        ) from error
    if missing := sorted(report["missing_keys"]):
        if kind == "safetensors":
            explain_tensors(folder, options["config"])
        raise InputError(
            f"the weights in {str(folder)!r} lack {len(missing)} parameters, the first: {missing[0]};"
            " they belong to another architecture, or the checkpoint is incomplete"
        )
    if unexpected := sorted(report["unexpected_keys"]):
        logger.warning("%s: %d tensors are not used, the first: %s", folder, len(unexpected), unexpected[0])
    return model


def _check_finite(model: PreTrainedModel) -> None:
    """Raises InputError if a weight is NaN or infinite, because then every measurement would be NaN."""
    for name, parameter in model.named_parameters():
        if parameter.is_meta:  # device_map="auto" leaves weights on disk that fit on no device
            continue
        # the extremes are NaN or infinite if any value is, and they need no boolean tensor of the parameter's size
        extremes = torch.stack(torch.aminmax(parameter.detach()))
        if not torch.isfinite(extremes).all():
            bad = int((~torch.isfinite(parameter)).sum())
            raise InputError(
                f"parameter {name} has {bad} values of {parameter.numel()} that are NaN or infinite;"
                " the checkpoint is broken, use an earlier checkpoint"
            )


@contextlib.contextmanager
def _silence_transformers() -> Iterator[None]:
    """Turns off messages, warnings and progress bars of transformers, and restores the caller's settings at the end.

    The messages speak of loading details that the user cannot change; problems raise errors of this package.
    """
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
