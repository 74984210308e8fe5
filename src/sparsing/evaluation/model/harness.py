"""The model object that lm-eval drives: lm-eval's `HFLM` with thresholds applied and activations counted.

`SparseForwards` contains everything that differs from `HFLM`. `make_sparsing_lm` returns the complete class; it is
built on first use, because lm-eval is optional. A model without thresholds has the same scores as lm-eval's
`--model hf` to the last digit, since no computation is replaced. Start reading at `SparseForwards.apply`.
"""

from __future__ import annotations

import bisect
import functools
import logging
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsing.errors import InputError
from sparsing.evaluation.model.activity import Activity, Tally
from sparsing.evaluation.model.launching import gather, launch_accelerator
from sparsing.evaluation.model.lm_eval_internals import HarnessModel, Request, make_model_class
from sparsing.measuring.finite import finite_logits, non_finite_error
from sparsing.models.tokenizer import check_token_ids

if TYPE_CHECKING:
    import torch

    from sparsing.evaluation.model.counting import CountingMask
    from sparsing.models.loading import LoadedModel
    from sparsing.rules.thresholds import Thresholds

logger = logging.getLogger(__name__)

_CACHED_TEXTS = 16
"""Number of texts whose token ids are cached. lm-eval encodes the prompt of an item once for each option."""
_SUSPECTS = 8
"""Most texts that are run again to find the layer with NaN or infinite activations."""
_DEFAULT_DEVICE = "cuda:0"
"""The device that lm-eval's command line passes when the user gives none, also on machines without a GPU."""


class SparseForwards(HarnessModel):
    """A mix-in before `HFLM` that takes a loaded model, applies thresholds and counts active neurons per phase."""

    def __init__(
        self,
        pretrained: str | LoadedModel,
        *,
        thresholds: Thresholds | str | Iterable[float] | None = None,
        device: str | None = None,
        dtype: str | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        tokenizer: str | None = None,
        show_progress: bool = True,
        **options: Any,
    ):
        """Args:
            pretrained: A loaded model, or the folder or hub name of one. `device` to `tokenizer` are those of
                `load_model` and apply only to a name.
            thresholds: As an object, as the path of a file, or as one number per layer; None for the dense model.
            show_progress: Show lm-eval's progress bars on stderr.
            options: Further arguments of `HFLM`, such as `max_length`.

        Raises:
            InputError: if the thresholds cannot be read or are for another number of layers, or as `load_model`.
        """
        accelerator = launch_accelerator()
        if isinstance(pretrained, str):
            device = _choose_device(device) if accelerator is None else str(accelerator.device)
            pretrained = _load(pretrained, device, dtype, revision, trust_remote_code, tokenizer)
        self.loaded: LoadedModel = pretrained
        _check_tokenizer(self.loaded)
        self._encode = functools.lru_cache(_CACHED_TEXTS)(self._encode_checked)
        super().__init__(pretrained=self.loaded.model, tokenizer=self.loaded.tokenizer, **options)
        self.pretrained, self.revision = self.loaded.name, self.loaded.revision
        if accelerator is not None:
            self.use_accelerator(accelerator)
        self._show_progress = show_progress
        self._handles: list[Any] = []
        self.apply(_read_thresholds(thresholds))

    def apply(self, thresholds: Thresholds | None) -> None:
        """Replace the thresholds (None: dense model) and reset all counts.

        Raises:
            InputError: if the thresholds are for another number of layers.
        """
        from sparsing.evaluation.model.counting import CountingMask
        from sparsing.rules.coverage import covered_sites
        from sparsing.sites.tap import attach

        blocks = self.loaded.sites
        sites = blocks if thresholds is None else covered_sites(self.loaded.model, blocks, thresholds.on)
        # May raise: the former thresholds stay in place then.
        mask: CountingMask | None = CountingMask(sites, thresholds) if thresholds is not None else None
        for handle in self._handles:
            handle.remove()
        self._handles = (
            [] if mask is None else attach(sites, mask.see, gate=mask.needs_gate, extra=mask.extra)
        )
        self._mask = mask
        self._prefill, self._decode = Tally(len(sites)), Tally(len(sites))
        self._pending: torch.Tensor | None = None
        self._lengths: list[int] = []
        self._states: list[tuple[list[int], list[int]]] = []

    def activities(self) -> tuple[Activity, Activity] | None:
        """Activity in prefill and in decode since `apply`, over all processes; None for a dense model."""
        if self._mask is None:
            return None
        prefill, decode = zip(*(self._states or [self._read_tallies()]), strict=True)
        return Activity.of(prefill, self._mask.d_ff), Activity.of(decode, self._mask.d_ff)

    def tok_encode(self, string: str, *args: Any, **kwargs: Any) -> list[int]:
        """Token ids of `string`, cached: the options of an item follow each other and share their prompt."""
        return self._encode(string, *args, **kwargs).copy()  # lm-eval changes the list in place

    def _encode_checked(self, string: str, *args: Any, **kwargs: Any) -> list[int]:
        ids = super().tok_encode(string, *args, **kwargs)
        check_token_ids(self.loaded.model, self.loaded.tokenizer, ids)
        return ids

    def loglikelihood(self, requests: list, disable_tqdm: bool = False) -> Any:
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm or not self._show_progress)

    def loglikelihood_rolling(self, requests: list, disable_tqdm: bool = False) -> Any:
        return super().loglikelihood_rolling(requests, disable_tqdm=disable_tqdm or not self._show_progress)

    def generate_until(self, requests: list, disable_tqdm: bool = False) -> Any:
        self._warn_truncated(sum(self._is_truncated(*request.args) for request in requests), len(requests))
        return super().generate_until(requests, disable_tqdm=disable_tqdm or not self._show_progress)

    def barrier(self) -> None:
        """Wait for all processes and exchange their counts.

        lm-eval calls this in every process when all requests of one kind are done.
        """
        super().barrier()
        if self.world_size > 1:
            self._states = gather(self._read_tallies())

    def get_model_info(self) -> dict:
        """The facts about the model that lm-eval writes into its results, with the activation ratios of the run."""
        if not Path(self.pretrained).exists():
            info = super().get_model_info()
        else:  # lm-eval would look up the commit of a folder on the hub
            info = {"model_num_parameters": self.loaded.num_parameters, "model_dtype": self.loaded.dtype}
        for phase, activity in zip(("prefill", "decode"), self.activities() or (), strict=False):
            info[f"{phase}_activation_ratio"] = activity.activation_ratio if activity.num_tokens else None
            info[f"{phase}_tokens"] = activity.num_tokens
        return info

    def fit_requests(self, requests: list[Request]) -> list[Request]:
        """Cut continuations that are longer than the model to their last tokens.

        `HFLM` cuts long prompts itself, but fails with an assertion on a long continuation.
        """
        most = self.max_length
        num_long = sum(len(continuation) > most for _, _, continuation in requests)
        if num_long:
            logger.warning(
                "%d options are longer than %d tokens: only their last %d are scored", num_long, most, most
            )
        # The last token of a continuation is never an input, hence the one extra position.
        truncated = sum(len(prompt) + len(continuation) > most + 1 for _, prompt, continuation in requests)
        self._warn_truncated(truncated, len(requests))
        return [(key, prompt, continuation[-most:]) for key, prompt, continuation in requests]

    def _is_truncated(self, prompt: str, settings: dict) -> bool:
        """Whether a prompt and the tokens to generate after it do not fit in the model."""
        return len(self.tok_encode(prompt)) > self.max_length - settings.get(
            "max_gen_toks", self.max_gen_toks
        )

    def _warn_truncated(self, num_truncated: int, total: int) -> None:
        """Warn once for all requests; lm-eval would warn for each one."""
        if num_truncated:
            logger.warning(
                "%d of %d prompts do not fit in %d tokens: they lose their beginning",
                num_truncated,
                total,
                self.max_length,
            )

    def after_requests(self, requests: list[Request], log_likelihoods: list[float]) -> None:
        """Raises NonFiniteError if a log-likelihood is NaN or infinite; lm-eval would count the item as wrong."""
        import torch

        bad = [place for place, value in enumerate(log_likelihoods) if not math.isfinite(value)]
        if bad:
            suspects = [
                (
                    f"text {place} of {len(requests)}",
                    torch.tensor([prompt + continuation], device=self.device),
                )
                for place in bad[:_SUSPECTS]
                for _, prompt, continuation in [requests[place]]
            ]
            raise non_finite_error(self.loaded, suspects)

    def before_scoring(self) -> None:
        self._count_pending()

    def after_scoring(self, shape: tuple[int, int]) -> None:
        if self._mask is not None:
            self._pending = self._mask.take(shape)

    def on_selection(self, num_tokens: int) -> None:
        # lm-eval selects once per sequence of the batch, in order: only now is the padding known.
        self._lengths.append(num_tokens)

    def _count_pending(self) -> None:
        """Add the counts of the last scored batch to the prefill tally.

        Batches from which no logits were selected were run only to find the batch size; they are ignored.
        """
        import torch

        counts, lengths = self._pending, self._lengths
        if counts is not None and lengths:
            ends = torch.tensor(lengths, device=counts.device)
            self._prefill.add(counts, torch.arange(counts.shape[-1], device=counts.device) < ends[:, None])
        self._pending, self._lengths = None, []

    def _read_tallies(self) -> tuple[list[int], list[int]]:
        """The counts of this process: prefill, decode."""
        self._count_pending()
        return self._prefill.state(), self._decode.state()

    def generate_with(
        self,
        generate: Callable[[], torch.Tensor],
        prompts: torch.Tensor,
        attention_mask: torch.Tensor,
        stop: list[str],
    ) -> torch.Tensor:
        suspects = (
            (f"prompt {place} of {len(prompts)} in a batch", ids[mask.bool()][None])
            for place, (ids, mask) in enumerate(zip(prompts, attention_mask, strict=True))
        )
        with finite_logits(self.loaded, suspects):
            return self._counted(generate, attention_mask, stop)

    def _counted(
        self, generate: Callable[[], torch.Tensor], attention_mask: torch.Tensor, stop: list[str]
    ) -> torch.Tensor:
        """Generates, and counts the active neurons if there are thresholds."""
        if self._mask is None:
            return generate()
        steps: list[torch.Tensor] = []  # active neurons of each forward, (n_layers, sequences, tokens)
        hook = self.loaded.model.register_forward_hook(
            functools.partial(_append_counts, self._mask, steps), with_kwargs=True
        )
        try:
            output = generate()
        finally:
            hook.remove()
        self._count_generation(steps, output, attention_mask, stop)
        return output

    def _count_generation(
        self, steps: list[torch.Tensor], output: torch.Tensor, attention_mask: torch.Tensor, stop: list[str]
    ) -> None:
        import torch

        if steps[0].shape[1] != len(attention_mask):
            raise InputError(
                "activation ratios are counted for one sequence per prompt; leave num_beams and"
                " num_return_sequences at 1"
            )
        device = steps[0].device
        self._prefill.add(steps[0], attention_mask.to(device).bool())
        if len(steps) == 1:
            return
        decoded = torch.cat(steps[1:], dim=-1)  # (n_layers, sequences, forwards)
        used = [self._used_tokens(row, stop) for row in output[:, attention_mask.shape[1] :].tolist()]
        # Token n was made from the forward of token n - 1, so the last used token was never an input.
        real = torch.arange(decoded.shape[-1], device=device) < torch.tensor(used, device=device)[:, None] - 1
        self._decode.add(decoded, real)

    def _used_tokens(self, tokens: list[int], stop: list[str]) -> int:
        """How many generated tokens count: up to the token that ends the text or completes a stop string.

        A batch goes on until its last sequence has ended, so other sequences have further tokens.
        """
        ends = _end_ids(self.loaded)
        length = next((n for n, token in enumerate(tokens, 1) if token in ends), len(tokens))
        decode = self.tokenizer.decode
        # A stop string stays in the text once it is there, so the first length with it is found by bisection.
        stopped = bisect.bisect_left(
            range(1, length + 1), True, key=lambda n: any(text in decode(tokens[:n]) for text in stop)
        )
        return min(stopped + 1, length)


def _check_tokenizer(loaded: LoadedModel) -> None:
    """Raises InputError if the tokenizer has neither BOS nor EOS: lm-eval puts one of them before a text alone."""
    tokenizer = loaded.tokenizer
    if tokenizer.bos_token_id is None and tokenizer.eos_token_id is None:
        raise InputError(
            f"the tokenizer of {loaded.name!r} has neither a BOS nor an EOS token, and benchmarks need one of them;"
            " give another tokenizer with --tokenizer, or name the token in tokenizer_config.json, e.g. eos_token"
        )


def _append_counts(
    mask: CountingMask, steps: list[torch.Tensor], module: Any, args: tuple, kwargs: dict, output: Any
) -> None:
    """A forward hook of the whole model: keep the counts of this forward."""
    ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
    steps.append(mask.take((ids.shape[0], ids.shape[1])))


def _end_ids(loaded: LoadedModel) -> set[int]:
    config = loaded.model.generation_config
    assert config is not None, "the model could not generate without a generation configuration"
    ids: Any = config.eos_token_id
    return set(ids) if isinstance(ids, list) else {ids}


def _read_thresholds(source: Thresholds | str | Iterable[float] | None) -> Thresholds | None:
    from sparsing.rules.thresholds import Thresholds, read_thresholds

    if source is None or isinstance(source, Thresholds):
        return source
    if isinstance(source, str):
        return read_thresholds(source)
    return Thresholds.from_line(",".join(str(value) for value in source))


def _choose_device(device: str | None) -> str | None:
    """`device`; None, which lets `load_model` choose, for lm-eval's default on a machine without a GPU."""
    import torch

    return None if device == _DEFAULT_DEVICE and not torch.cuda.is_available() else device


def _load(
    name: str,
    device: str | None,
    dtype: str | None,
    revision: str | None,
    trust_remote_code: bool,
    tokenizer: str | None,
) -> LoadedModel:
    from sparsing.models.loading import load_model

    dtype = None if dtype == "auto" else dtype  # lm-eval writes `auto` for the dtype of the checkpoint
    return load_model(
        name,
        dtype=dtype,
        device=device,
        revision=revision,
        trust_remote_code=trust_remote_code,
        tokenizer=tokenizer,
    )


@functools.cache
def make_sparsing_lm() -> type[SparseForwards]:
    """The class that lm-eval makes models of.

    Raises:
        InputError: if lm-eval is not installed.
    """
    return make_model_class("SparsingLM", SparseForwards)


def __getattr__(name: str) -> Any:
    # lm-eval's registry imports the class by the name `SparsingLM`; the class needs lm-eval, this module does not
    if name == "SparsingLM":
        return make_sparsing_lm()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
