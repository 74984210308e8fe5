"""The model object that lm-eval drives: its own `HFLM`, with thresholds applied and activations counted.

    lm_eval --model sparsing --model_args pretrained=DIR,thresholds=FILE --tasks piqa

`SparseForwards` holds what differs from `HFLM`; `SparsingLM`, the class of both, is made on first use, since
lm-eval is optional. Scores of a dense `SparsingLM` are those of `--model hf`: no computation is replaced.
"""

from __future__ import annotations

import bisect
import functools
import importlib.util
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsing.errors import InputError
from sparsing.evaluation.model.activity import Activity, Tally, activity
from sparsing.evaluation.model.launching import accelerator_of_launch, gathered

if TYPE_CHECKING:
    import torch

    from sparsing.models.loading import LoadedModel
    from sparsing.rules.thresholds import Thresholds

logger = logging.getLogger(__name__)

_KEPT_TEXTS = 16
"""Texts whose tokens are kept: those of an item with several options."""


def require_lm_eval() -> None:
    """Raise InputError where lm-eval is not installed."""
    if importlib.util.find_spec("lm_eval") is None:
        raise InputError("this needs lm-eval, which is not installed: pip install 'sparsing[eval]'")


class SparseForwards:
    """Mixed into `HFLM`: takes a loaded model, applies thresholds, counts active neurons per phase."""

    def __init__(
        self,
        pretrained: str | LoadedModel,
        *,
        thresholds: Thresholds | str | Iterable[float] | None = None,
        device: str | None = None,
        dtype: str | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        show_progress: bool = True,
        **options: Any,
    ):
        """`pretrained` to `trust_remote_code` as in `load_model`; `options` go to `HFLM` (`max_length`, ...)."""
        accelerator = accelerator_of_launch()
        self.loaded: LoadedModel = (
            _load(pretrained, accelerator, device, dtype, revision, trust_remote_code)
            if isinstance(pretrained, str)
            else pretrained
        )
        model, tokenizer = self.loaded.model, self.loaded.tokenizer
        self._encode = functools.lru_cache(_KEPT_TEXTS)(super().tok_encode)  # pyright: ignore
        super().__init__(pretrained=model, tokenizer=tokenizer, **options)  # pyright: ignore[reportCallIssue]
        self.pretrained, self.revision = self.loaded.name, self.loaded.revision
        if accelerator is not None:  # lm-eval splits the items over ranks by these
            self.accelerator = accelerator
            self._rank, self._world_size = accelerator.process_index, accelerator.num_processes
        self._show_progress = show_progress
        self._handles: list[Any] = []
        self.apply(_thresholds(thresholds))

    def apply(self, thresholds: Thresholds | None) -> None:
        """Put these thresholds in place of the former ones (None: dense) and begin to count anew.

        Raises:
            InputError: thresholds for another number of layers.
        """
        from sparsing.evaluation.model.counting import CountingMask
        from sparsing.sites.tap import attach

        mask = CountingMask(self.loaded.sites, thresholds) if thresholds is not None else None
        for handle in self._handles:
            handle.remove()
        sites = self.loaded.sites
        self._handles = attach(sites, mask.see, gate=mask.needs_gate) if mask is not None else []
        self._mask = mask
        self._prefill, self._decode = Tally(len(sites)), Tally(len(sites))
        self._pending: torch.Tensor | None = None
        self._lengths: list[int] = []
        self._states: list[tuple[list[int], list[int]]] = []

    def activities(self) -> tuple[Activity, Activity] | None:
        """Prefill and decode since `apply`, over all processes; None for a dense model."""
        if self._mask is None:
            return None
        prefill, decode = zip(*(self._states or [self._state()]), strict=True)
        return activity(prefill, self._mask.d_ff), activity(decode, self._mask.d_ff)

    def tok_encode(self, string: str, *args: Any, **kwargs: Any) -> list[int]:
        """Options of an item come one after the other: the prompt that they share is encoded once."""
        return self._encode(string, *args, **kwargs).copy()

    def loglikelihood(self, requests: list, disable_tqdm: bool = False):
        hidden = disable_tqdm or not self._show_progress
        return super().loglikelihood(requests, disable_tqdm=hidden)  # pyright: ignore

    def loglikelihood_rolling(self, requests: list, disable_tqdm: bool = False):
        hidden = disable_tqdm or not self._show_progress
        return super().loglikelihood_rolling(requests, disable_tqdm=hidden)  # pyright: ignore

    def generate_until(self, requests: list, disable_tqdm: bool = False):
        hidden = disable_tqdm or not self._show_progress
        self._tell_cut(sum(self._is_cut(*request.args) for request in requests), len(requests))
        return super().generate_until(requests, disable_tqdm=hidden)  # pyright: ignore

    def barrier(self) -> None:
        """Called by lm-eval in every process when requests of a kind are done: the place to add up counts."""
        super().barrier()  # pyright: ignore[reportAttributeAccessIssue]
        if self.world_size > 1:  # pyright: ignore[reportAttributeAccessIssue]
            self._states = gathered(self._state())

    def _state(self) -> tuple[list[int], list[int]]:
        self._count_pending()
        return self._prefill.state(), self._decode.state()

    def get_model_info(self) -> dict:
        """What lm-eval writes of the model in its results, with the activation ratios of the run."""
        parent = super()
        if not Path(self.pretrained).exists():
            info = parent.get_model_info()  # pyright: ignore[reportAttributeAccessIssue]
        else:  # a folder has no commit on the hub to ask for
            info = {"model_num_parameters": self.loaded.num_parameters, "model_dtype": self.loaded.dtype}
        for phase, seen in zip(("prefill", "decode"), self.activities() or (), strict=False):
            info[f"{phase}_activation_ratio"] = seen.activation_ratio if seen.num_tokens else None
            info[f"{phase}_tokens"] = seen.num_tokens
        return info

    def _loglikelihood_tokens(self, requests: list, **options: Any):
        """Options longer than the model keep their last tokens, where `HFLM` stops with an assertion."""
        most = self.max_length  # pyright: ignore[reportAttributeAccessIssue]
        long = sum(len(continuation) > most for _, _, continuation in requests)
        if long:
            logger.warning("%d options are longer than %d tokens: their last %d are scored", long, most, most)
        self._tell_cut(sum(len(one[1]) + len(one[2]) > most + 1 for one in requests), len(requests))
        cut = [(key, context, continuation[-most:]) for key, context, continuation in requests]
        return super()._loglikelihood_tokens(cut, **options)  # pyright: ignore[reportAttributeAccessIssue]

    def _is_cut(self, prompt: str, settings: dict) -> bool:
        room = self.max_length - settings.get("max_gen_toks", self.max_gen_toks)  # pyright: ignore
        return len(self.tok_encode(prompt)) > room  # pyright: ignore[reportAttributeAccessIssue]

    def _tell_cut(self, cut: int, total: int) -> None:
        """Once for all requests; lm-eval says it for each."""
        if cut:
            most = self.max_length  # pyright: ignore[reportAttributeAccessIssue]
            logger.warning(
                "%d of %d prompts do not fit in %d tokens: they lose their beginning", cut, total, most
            )

    def _model_call(self, inps: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        self._count_pending()
        logits = super()._model_call(inps, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]
        if self._mask is not None:
            self._pending = self._mask.take((inps.shape[0], inps.shape[1]))
        return logits

    def _select_cont_toks(self, logits: torch.Tensor, contlen: int | None = None, inplen: int | None = None):
        assert inplen is not None
        self._lengths.append(inplen)  # called once per sequence of the batch, in order: its unpadded length
        return super()._select_cont_toks(logits, contlen=contlen, inplen=inplen)  # pyright: ignore

    def _count_pending(self) -> None:
        """Count the last scored batch; one that nobody selected from was a trial of the batch size."""
        import torch

        counts, lengths = self._pending, self._lengths
        if counts is not None and lengths:
            ends = torch.tensor(lengths, device=counts.device)
            self._prefill.add(counts, torch.arange(counts.shape[-1], device=counts.device) < ends[:, None])
        self._pending, self._lengths = None, []

    def _model_generate(self, context: torch.Tensor, max_length: int, stop: list[str], **kwargs: Any):
        generate = super()._model_generate  # pyright: ignore[reportAttributeAccessIssue]
        if self._mask is None:
            return generate(context, max_length, stop, **kwargs)
        steps: list[torch.Tensor] = []
        hook = self.loaded.model.register_forward_hook(
            functools.partial(_keep_step, self._mask, steps), with_kwargs=True
        )
        try:
            output = generate(context, max_length, stop, **kwargs)
        finally:
            hook.remove()
        self._count_generation(steps, output, kwargs["attention_mask"], stop)
        return output

    def _count_generation(
        self, steps: list[torch.Tensor], output: torch.Tensor, attention: torch.Tensor, stop: list[str]
    ) -> None:
        import torch

        if steps[0].shape[1] != len(attention):
            raise InputError(
                "activation ratios are counted for one sequence per prompt; leave num_beams and"
                " num_return_sequences at 1"
            )
        device = steps[0].device
        self._prefill.add(steps[0], attention.to(device).bool())
        if len(steps) == 1:
            return
        decoded = torch.cat(steps[1:], dim=-1)  # (n_layers, sequences, forwards)
        used = [self._used(row, stop) for row in output[:, attention.shape[1] :].tolist()]
        # token n was made from the forward of token n - 1, so the last used one was never an input
        real = torch.arange(decoded.shape[-1], device=device) < torch.tensor(used, device=device)[:, None] - 1
        self._decode.add(decoded, real)

    def _used(self, tokens: list[int], stop: list[str]) -> int:
        """How many generated tokens count: up to the one that ends the text or completes a stop string."""
        ends = _end_ids(self.loaded)
        length = next((n for n, token in enumerate(tokens, 1) if token in ends), len(tokens))
        decode = self.tokenizer.decode  # pyright: ignore[reportAttributeAccessIssue]
        full = range(1, length + 1)
        stopped = bisect.bisect_left(full, True, key=lambda n: any(s in decode(tokens[:n]) for s in stop))
        return min(stopped + 1, length)


def _keep_step(mask: Any, steps: list, module: Any, args: tuple, kwargs: dict, output: Any) -> None:
    ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
    steps.append(mask.take((ids.shape[0], ids.shape[1])))


def _end_ids(loaded: LoadedModel) -> set[int]:
    ids = loaded.model.generation_config.eos_token_id  # pyright: ignore[reportOptionalMemberAccess]
    return set(ids) if isinstance(ids, list) else {ids}


def _thresholds(source: Thresholds | str | Iterable[float] | None) -> Thresholds | None:
    """Thresholds as given, from a file, from the reference's line, or from numbers (`[t_0,t_1,...]`)."""
    from sparsing.rules.thresholds import Thresholds, read_thresholds

    if source is None or isinstance(source, Thresholds):
        return source
    if isinstance(source, str):
        return read_thresholds(source)
    return Thresholds.from_line(",".join(str(value) for value in source))


def _load(
    name: str,
    accelerator: Any,
    device: str | None,
    dtype: str | None,
    revision: str | None,
    trust_remote_code: bool,
) -> LoadedModel:
    from sparsing.models.loading import load_model

    own = None if dtype == "auto" else dtype  # lm-eval's word for the checkpoint's own
    where = str(accelerator.device) if accelerator is not None else device
    return load_model(name, dtype=own, device=where, revision=revision, trust_remote_code=trust_remote_code)


@functools.cache
def sparsing_lm() -> type:
    """The class that lm-eval makes models of.

    Raises:
        InputError: lm-eval is not installed.
    """
    require_lm_eval()
    from lm_eval.models.huggingface import HFLM  # pyright: ignore[reportMissingImports]

    return type("SparsingLM", (SparseForwards, HFLM), {"__module__": __name__, "__doc__": __doc__})


def __getattr__(name: str) -> Any:
    if name == "SparsingLM":
        return sparsing_lm()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
