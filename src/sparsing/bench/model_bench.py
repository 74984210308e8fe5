"""Times a whole model in `generate()`: Hugging Face, llama.cpp, our dense kernels and our sparse kernels, in one run.

`bench_planted_models` times random models of given shapes, `bench_loaded_model` times a checkpoint. A round goes
through all engines. The model is accelerated and restored within the round, so that its weights are in memory only
once, and Hugging Face runs on the unchanged model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np
import torch

from sparsing.base.progress import Progress
from sparsing.base.provenance import made_now
from sparsing.bench.forced_decoding import hugging_face_seconds, llama_cpp_seconds
from sparsing.bench.llama_cpp import BYTES_PER_WEIGHT, WEIGHT_TYPES, LlamaCpp, open_llama_cpp
from sparsing.bench.model_result import ModelBenchmark, ModelTiming
from sparsing.bench.planted_model import build_model, plant_model
from sparsing.bench.shapes import DecodeShape, shape_of
from sparsing.decode._accelerate import accelerate
from sparsing.decode.kernels.cuts import layer_cuts
from sparsing.decode.kernels.dispatch import check_kernels
from sparsing.decode.kernels.packing import pack
from sparsing.decode.kernels.plain import active_mass
from sparsing.decode.predict.inputs import sample_inputs
from sparsing.decode.predict.quantised import LayerPredictor, build_predictor, recall_of
from sparsing.errors import InputError
from sparsing.hardware.bandwidth import Bandwidth, measure_bandwidth
from sparsing.hardware.machine import inference_threads, processor_name
from sparsing.measuring.finite import finite_logits
from sparsing.measuring.weight_bytes import model_weight_bytes
from sparsing.rules.thresholds import Thresholds
from sparsing.sites.discovery import find_sites

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from sparsing.decode.stats import DecodeStats
    from sparsing.models.loading import LoadedModel
    from sparsing.sites.site import Site

OWN_DENSE, HUGGING_FACE = "own dense", "Hugging Face"
RECALL_TOKENS = 64
"""Tokens on which the recall of a predictor is measured."""
_WARMUP_TOKENS = 3
"""New tokens of the warm-up round, which compiles kernels and is not timed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelPlan:
    """Settings of a benchmark of whole models, validated on construction.

    Raises:
        InputError: if there are fewer than 1 round, 1 token of prompt or 3 new tokens.
    """

    ratios: tuple[float, ...] = (0.065, 0.4)
    """Requested activation ratios of planted models, each in (0, 1)."""
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    """Dtypes of planted models."""
    bits: tuple[int, ...] = (4,)
    """Widths of the predictors."""
    recall: float = 0.995
    """Recall that the predictors are calibrated for, a share."""
    rounds: int = 3
    """Timed rounds."""
    prompt_tokens: int = 64
    """Tokens of the prompt."""
    new_tokens: int = 24
    """Tokens after the prompt, per round and engine. The first of them is not timed."""
    threads: int = 0
    """CPU threads; 0 for as many as torch uses."""
    with_llama_cpp: bool = True
    """Time llama.cpp too."""
    calibration_tokens: int = 256
    """Tokens on which the predictors are calibrated."""

    @property
    def text_tokens(self) -> int:
        """Tokens of text that a run needs: for calibration, for the recall, for the prompt and for decoding."""
        return self.calibration_tokens + RECALL_TOKENS + self.decoded_tokens

    @property
    def decoded_tokens(self) -> int:
        """Tokens of the prompt and of its continuation."""
        return self.prompt_tokens + self.new_tokens

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.prompt_tokens < 1 or self.new_tokens < 3:
            raise InputError(
                "timing a model needs at least 1 round, 1 token of prompt and 3 new tokens, got"
                f" {self.rounds}, {self.prompt_tokens} and {self.new_tokens}"
            )


def bench_planted_models(
    shapes: Sequence[DecodeShape], plan: ModelPlan, *, progress: Progress | None = None
) -> ModelBenchmark:
    """Time random models of these shapes on the CPU, at every dtype and activation ratio of the plan.

    Raises:
        InputError: if an activation ratio is outside (0, 1), if a dtype is not supported, or if Numba is missing.
    """
    run = _Run(plan)
    total = len(shapes) * len(plan.dtypes) * len(plan.ratios) * plan.rounds
    with inference_threads(run.threads), (progress or Progress(False)).bar("rounds", total) as advance:
        for shape in shapes:
            for dtype in plan.dtypes:
                model = build_model(shape, dtype)
                sites = find_sites(model)
                with ExitStack() as stack:
                    llama_cpp = run.open_llama_cpp(shape, dtype, stack)
                    # gate above 0 is what ReLU itself keeps, so the rule changes no output
                    cuts = {site.name: 0.0 for site in sites}
                    rule = Thresholds(rule="fat", level=0.0, on="gate", values=cuts)
                    text = _random_text(shape.vocab_size, plan)
                    for ratio in plan.ratios:
                        plant_model(model, sites, ratio)
                        run.time_model(
                            _Case(model, sites, rule, shape, dtype, ratio, text, llama_cpp), advance
                        )
                del model, sites  # frees the weights before the next model is built
    weights = (
        "random, with the requested activation ratio planted in every layer;"
        " all engines decode the same forced text"
    )
    return run.result(weights, ",".join(shape.name for shape in shapes), ",".join(plan.dtypes))


def bench_loaded_model(
    loaded: LoadedModel,
    thresholds: Thresholds,
    plan: ModelPlan,
    *,
    text: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> ModelBenchmark:
    """Time a loaded model under its thresholds on the CPU; llama.cpp runs random weights of the same shape.

    Args:
        text: Token ids to calibrate the predictors on and to decode; None takes random ids.

    Raises:
        InputError: if the thresholds are not of a threshold rule or belong to another model, or if the text is too
            short.
        NonFiniteError: if logits are NaN or infinite.
    """
    shape = shape_of(loaded)
    ids = _random_text(shape.vocab_size, plan) if text is None else _without_end(loaded.model, text)
    if len(ids) < plan.text_tokens:
        raise InputError(f"the text has {len(ids)} tokens, {plan.text_tokens} are needed; give a longer text")
    run = _Run(plan)
    bar = (progress or Progress(False)).bar("rounds", plan.rounds)
    decoded = ("the text", torch.tensor([ids[-plan.decoded_tokens :]]))
    with (
        inference_threads(run.threads),
        bar as advance,
        finite_logits(loaded, [decoded]),
        ExitStack() as stack,
    ):
        llama_cpp = run.open_llama_cpp(shape, loaded.dtype, stack)
        case = _Case(loaded.model, loaded.sites, thresholds, shape, loaded.dtype, None, ids, llama_cpp)
        run.time_model(case, advance)
    return run.result(
        "those of the checkpoint; llama.cpp runs random weights of the same shape", loaded.name, loaded.dtype
    )


def _without_end(model: PreTrainedModel, text: Sequence[int]) -> list[int]:
    """The text without end-of-text tokens, at which `generate()` would stop."""
    end = getattr(model.generation_config, "eos_token_id", None)
    ends = set(end) if isinstance(end, list) else {end}
    return [token for token in text if token not in ends]


def _random_text(vocab_size: int, plan: ModelPlan) -> list[int]:
    """Random token ids from 3 on, since the first ids are usually special tokens."""
    generator = torch.Generator().manual_seed(7)
    return torch.randint(3, vocab_size, (plan.text_tokens,), generator=generator).tolist()


@dataclasses.dataclass(frozen=True, eq=False)
class _Case:
    """One model at one activation ratio, and everything that the engines need to decode with it."""

    model: PreTrainedModel
    sites: Sequence[Site]
    thresholds: Thresholds
    shape: DecodeShape
    dtype: str
    ratio: float | None
    """Requested activation ratio; None for a checkpoint."""
    text: list[int]
    """Token ids: first those for calibration, then those for the recall, last the prompt and its continuation."""
    llama_cpp: Mapping[str, LlamaCpp]
    """Engine name to a model of this shape in llama.cpp; empty if llama.cpp is not timed."""

    def dense_bytes(self) -> dict[str, float]:
        """Name of a dense engine to the bytes of weights that it reads per token."""
        own = model_weight_bytes(self.model, self.sites).total_bytes
        # llama.cpp stores the same number of weights, only in another number of bytes per weight
        element = next(self.model.parameters()).element_size()
        return {HUGGING_FACE: own, OWN_DENSE: own} | {
            f"llama.cpp {kind}": own * size / element for kind, size in BYTES_PER_WEIGHT.items()
        }


@dataclasses.dataclass(kw_only=True)
class _Samples:
    """What one engine did in the timed rounds."""

    seconds: list[float] = dataclasses.field(default_factory=list)
    """Seconds of every timed token."""
    stats: DecodeStats | None = None
    """Counted reads of the last round; None for a dense engine."""
    recall: float | None = None
    """Recall of the predictor; None without one."""


class _Run:
    """Timings and notes of a run, collected case by case."""

    def __init__(self, plan: ModelPlan):
        check_kernels("cpu")
        self.plan = plan
        self.threads = plan.threads or torch.get_num_threads()
        self.bandwidth: Bandwidth = measure_bandwidth(threads=self.threads)
        self.lines: list[ModelTiming] = []
        self.left_out: list[str] = []

    def open_llama_cpp(self, shape: DecodeShape, dtype: str, stack: ExitStack) -> dict[str, LlamaCpp]:
        """Engine name to llama.cpp at this shape; empty if it is not requested or not installed."""
        if not self.plan.with_llama_cpp:
            return {}
        kind = WEIGHT_TYPES[dtype][0]
        opened = open_llama_cpp(shape, kind, threads=self.threads, context=self.plan.decoded_tokens)
        try:
            model = stack.enter_context(opened)
        except InputError as error:
            self.left_out.append(str(error))
            return {}
        return {f"llama.cpp {kind}": model}

    def time_model(self, case: _Case, advance: Callable[[int], None]) -> None:
        """Time all engines on one model, round by round."""
        predictors, recalls = self._predictors(case)
        ids = case.text[-self.plan.decoded_tokens :]
        warmup = ids[: self.plan.prompt_tokens + _WARMUP_TOKENS]
        self._round(case, predictors, warmup, {})  # compiles kernels and fills the allocator's pools
        samples: dict[str, _Samples] = {}
        for _ in range(self.plan.rounds):
            self._round(case, predictors, ids, samples)
            advance(1)
        for name, recall in recalls.items():
            samples[name].recall = recall
        self.lines += self._timings(case, samples)

    def _round(
        self,
        case: _Case,
        predictors: Mapping[str, list[LayerPredictor]],
        ids: list[int],
        samples: dict[str, _Samples],
    ) -> None:
        """Decode `ids` once with every engine and add the times to `samples`."""
        prompt = self.plan.prompt_tokens

        def add(name: str, seconds: list[float], stats: DecodeStats | None = None) -> None:
            engine = samples.setdefault(name, _Samples())
            engine.seconds += seconds
            engine.stats = stats

        add(HUGGING_FACE, hugging_face_seconds(case.model, ids, prompt))
        for name, llama in case.llama_cpp.items():
            add(name, llama_cpp_seconds(llama, ids, prompt))
        for name, predictor in {"sparse, exact": None, **predictors}.items():
            # measure=False: our kernels take every call, also where torch would be faster
            with accelerate(
                case.model, case.thresholds, predictor=predictor, measure=False, prefill="dense"
            ) as fast:
                if predictor is None:
                    # the exact kernels also run dense, so the weights are packed only once for both engines
                    fast.mode = "dense"
                    add(OWN_DENSE, hugging_face_seconds(case.model, ids, prompt))
                    fast.mode = "sparse"
                fast.reset_stats()
                seconds = hugging_face_seconds(case.model, ids, prompt)
                add(name, seconds, fast.stats())

    def _predictors(self, case: _Case) -> tuple[dict[str, list[LayerPredictor]], dict[str, float]]:
        """Predictors by engine name, one per layer, and their mean recall on tokens that did not calibrate them."""
        count = self.plan.calibration_tokens
        parts = case.text[:count], case.text[count : count + RECALL_TOKENS]
        fit, heldout = (
            sample_inputs(case.model, case.sites, case.thresholds, torch.tensor([ids])) for ids in parts
        )
        predictors: dict[str, list[LayerPredictor]] = {f"{bits}-bit predictor": [] for bits in self.plan.bits}
        recalls: dict[str, list[float]] = {name: [] for name in predictors}
        for layer, site in enumerate(case.sites):
            packed = pack(site)
            cuts = layer_cuts(packed, case.thresholds, case.thresholds.numbers[layer])
            mass = active_mass(packed, heldout[layer], cuts)
            for bits, name in zip(self.plan.bits, predictors, strict=True):
                predictor = build_predictor(packed, cuts, fit[layer], bits=bits, recall=self.plan.recall)
                predictors[name].append(predictor)
                recalls[name].append(recall_of(predictor.predict(heldout[layer], packed.act), mass))
        return predictors, {name: sum(values) / len(values) for name, values in recalls.items()}

    def _timings(self, case: _Case, samples: Mapping[str, _Samples]) -> Iterator[ModelTiming]:
        """One result per engine."""
        medians = {name: float(np.median(engine.seconds)) for name, engine in samples.items()}
        dense_bytes = case.dense_bytes()
        dense = [name for name, engine in samples.items() if engine.stats is None]
        for name, engine in samples.items():
            stats = engine.stats
            # dense engines are not instrumented; the bytes of sparse ones were counted by their kernels
            moved = dense_bytes[name] if stats is None else stats.bytes_per_step
            low, high = 1e3 * np.percentile(engine.seconds, [25, 75])
            yield ModelTiming(
                shape=case.shape.name,
                dtype=case.dtype,
                name=name,
                ratio=case.ratio,
                dense=stats is None,
                tok_per_sec=1 / medians[name],
                ms=1e3 * medians[name],
                ms_low=float(low),
                ms_high=float(high),
                active_ratio=None if stats is None else stats.activation_ratio,
                recall=engine.recall,
                bytes_per_token=moved,
                bandwidth_share=moved / medians[name] / self.bandwidth.peak_bytes_per_sec,
                byte_ceiling=dense_bytes[OWN_DENSE] / moved,
                speedups={other: medians[other] / medians[name] for other in dense},
            )

    def result(self, weights: str, model: str, dtype: str) -> ModelBenchmark:
        """All timings so far, with the settings of the run."""
        return ModelBenchmark(
            lines=tuple(self.lines),
            bandwidth=self.bandwidth,
            threads=self.threads,
            rounds=self.plan.rounds,
            prompt_tokens=self.plan.prompt_tokens,
            new_tokens=self.plan.new_tokens - 1,
            left_out=tuple(self.left_out),
            weights=weights,
            processor=processor_name(),
            provenance=made_now(model=model, dtype=dtype, device="cpu"),
        )
