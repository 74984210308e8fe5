"""Load a causal LM with its tokenizer and its sites; every refusal comes before the long work.

Order: the files, the configuration, the tokenizer, the architecture (on no memory), then the weights.
Pickles are opened only through torch's `weights_only=True`; see `checkpoint.py` for what counts as weights.
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
from typing import TYPE_CHECKING, Any

import torch

from sparsing.errors import InputError
from sparsing.models.architecture import check_architecture, configuration
from sparsing.models.checkpoint import locate, read_config, refused_pickle, training_state, weight_format
from sparsing.sites.discovery import find_sites
from sparsing.sites.site import Site

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_DTYPES = ("float32", "float64", "bfloat16", "float16")
_TOKENIZER_FILES = ("tokenizer.json", "*.model", "vocab.*", "tekken.json", "*.tiktoken")


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class LoadedModel:
    """A causal LM in eval mode, ready to be measured."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    sites: list[Site]
    """One per layer, in layer order."""
    name: str
    """Folder or hub name, as the caller gave it."""
    revision: str | None
    """Commit on the hub; None for a local folder."""
    model_type: str
    """As `config.json` says, so `minicpm` for what is loaded as Granite."""
    num_parameters: int
    """A tied head counts once."""
    dtype: str
    """E.g. `bfloat16`."""
    device: str
    """E.g. `cuda:0`; several are joined by a comma."""
    train_step: int | None
    """Training step, where the checkpoint says so."""
    train_tokens: int | None
    """Tokens trained on, where the checkpoint says so."""

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
    ) -> LoadedModel:
        """A model object of the caller's own; it is put in eval mode.

        Raises:
            UnsupportedModelError: no family knows the model.
        """
        return cls(
            model=model.eval(),
            tokenizer=tokenizer,
            sites=find_sites(model),
            name=name,
            revision=revision,
            model_type=model_type or model.config.model_type,
            num_parameters=sum(parameter.numel() for parameter in model.parameters()),
            dtype=str(model.dtype).removeprefix("torch."),
            device=",".join(sorted({str(parameter.device) for parameter in model.parameters()})),
            train_step=train_step,
            train_tokens=train_tokens,
        )

    def provenance(self) -> dict[str, Any]:
        """The fields of `Provenance` that the model decides."""
        names = ("revision", "model_type", "num_parameters", "dtype", "device", "train_step", "train_tokens")
        return {"model": self.name, **{name: getattr(self, name) for name in names}}


def load_model(
    name_or_path: str | Path,
    *,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> LoadedModel:
    """Load any causal LM of a registered model type, from a local folder or from the hub.

    Args:
        name_or_path: Folder with `config.json`, weights and tokenizer (never looks at the network), or a hub
            name. `model_type: minicpm` is loaded as Granite, without remote code.
        dtype: `float32`, `float64`, `bfloat16` or `float16`; None takes what the configuration says.
        device: E.g. `cpu`, `cuda`, `cuda:1`, `mps`; `auto` spreads a large model over all devices (needs
            accelerate); None takes `cuda` where there is one, else `cpu`.
        revision: Branch, tag or commit on the hub.
        trust_remote_code: Run the checkpoint's own code for model types that transformers does not know.

    Raises:
        InputError: no such model, an incomplete or broken checkpoint, weights that are not finite, an unknown
            dtype, a device that is not there.
        UnsupportedModelError: not a causal LM, an architecture without a family, quantized weights, a pickle
            that holds more than tensors.
    """
    name = str(name_or_path)
    dtype_name, device_name = _dtype(dtype), _device(device)
    folder, commit = locate(name, revision=revision, code=trust_remote_code)
    raw = read_config(folder)
    with _quiet():
        config = configuration(folder, raw, trust_remote_code)
        kind = weight_format(folder)
        step, tokens = training_state(folder, revision)
        tokenizer = _tokenizer(folder, trust_remote_code)
        check_architecture(config, trust_remote_code)
        model = _weights(
            folder,
            kind,
            config=config,
            dtype=dtype_name,
            device_map="auto" if device_name == "auto" else None,
            trust_remote_code=trust_remote_code,
        )
    _check_finite(model)
    if device_name != "auto":
        model.to(device_name)  # pyright: ignore[reportArgumentType]
    return LoadedModel.of(
        model,
        tokenizer,
        name=name,
        revision=commit,
        model_type=raw["model_type"],
        train_step=step,
        train_tokens=tokens,
    )


def _dtype(dtype: str | torch.dtype | None) -> str:
    name = "auto" if dtype is None else str(dtype).removeprefix("torch.")
    if name not in (*_DTYPES, "auto"):
        raise InputError(
            f"unknown dtype {name!r}; allowed: {', '.join(_DTYPES)}, or none for the checkpoint's own"
        )
    return name


def _device(device: str | torch.device | None) -> str:
    """The device's name, checked to be there."""
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    if str(device) == "auto":
        if importlib.util.find_spec("accelerate") is None:
            raise InputError("device='auto' needs accelerate: pip install 'sparsing[auto]'")
        return "auto"
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"device {str(device)!r} cannot be used ({reason}); try cpu, cuda, mps or auto"
        ) from error
    return str(device)


def _weights(folder: Path, kind: str, **options: Any) -> PreTrainedModel:
    """The model with its weights, all of them from the checkpoint."""
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    if kind == "bin":
        logger.warning("%s: pytorch_model.bin is a pickle; it is opened for its tensors only", folder)
    try:
        model, report = AutoModelForCausalLM.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
            folder,
            use_safetensors=kind == "safetensors",
            weights_only=True,
            local_files_only=True,
            output_loading_info=True,
            **options,
        )
    except pickle.UnpicklingError as error:
        raise refused_pickle(folder, error) from error
    except (OSError, RuntimeError, ValueError, EOFError, SafetensorError) as error:
        raise InputError(f"the weights in {str(folder)!r} cannot be loaded: {error}") from error
    if missing := sorted(report["missing_keys"]):
        raise InputError(
            f"the weights in {str(folder)!r} lack {len(missing)} parameters, the first: {missing[0]};"
            " they belong to another architecture, or the checkpoint is incomplete"
        )
    if unexpected := sorted(report["unexpected_keys"]):
        logger.warning("%s: %d tensors are not used, the first: %s", folder, len(unexpected), unexpected[0])
    return model


def _check_finite(model: PreTrainedModel) -> None:
    for name, parameter in model.named_parameters():
        if parameter.is_meta:  # left on disk by device_map="auto"
            continue
        extremes = torch.stack(torch.aminmax(parameter.detach()))
        if not torch.isfinite(extremes).all():
            bad = int((~torch.isfinite(parameter)).sum())
            raise InputError(
                f"parameter {name} has {bad} values of {parameter.numel()} that are NaN or infinite;"
                " the checkpoint is broken, take an earlier one"
            )


def _tokenizer(folder: Path, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """What AutoTokenizer finds, else the plain tokenizer of `tokenizer.json`."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if not any(path for pattern in _TOKENIZER_FILES for path in folder.glob(pattern)):
        raise InputError(
            f"no tokenizer in {str(folder)!r}, wanted tokenizer.json;"
            " save it there with tokenizer.save_pretrained(folder)"
        )
    try:
        return AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=trust_remote_code
        )
    except Exception as error:  # whatever a tokenizer class of the checkpoint's choice raises
        logger.info("%s: AutoTokenizer failed (%s), trying tokenizer.json", folder, error)
        try:
            return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        except Exception:
            raise InputError(f"the tokenizer in {str(folder)!r} cannot be loaded: {error}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the messages, warnings and progress bars of transformers; the caller's settings come back."""
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
