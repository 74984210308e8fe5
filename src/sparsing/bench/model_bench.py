"""Times a whole model in `generate()`: Hugging Face, our dense path, llama.cpp, and the sparse paths, in one run.

A round goes through all engines. Between them the model is accelerated anew and given back, so that the weights are in
memory once and Hugging Face runs on a model that nobody has touched.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sparsing.base.progress import Progress
from sparsing.base.provenance import made_now
from sparsing.bench.dictation import hugging_face_seconds, llama_cpp_seconds
from sparsing.bench.llama_cpp import BYTES, KINDS, llama_cpp
from sparsing.bench.model_result import WholeBench, WholeLine
from sparsing.bench.planted_model import build_model, plant_model
from sparsing.bench.shapes import DecodeShape, shape_of
from sparsing.decode._accelerate import accelerate
from sparsing.decode.kernels.cuts import layer_cuts
from sparsing.decode.kernels.dispatch import check_kernels
from sparsing.decode.kernels.packing import pack
from sparsing.decode.kernels.plain import hidden
from sparsing.decode.predict.inputs import sample_inputs
from sparsing.decode.predict.quantised import LayerPredictor, build_predictor, recall_of
from sparsing.errors import InputError
from sparsing.hardware.bandwidth import Bandwidth, measure_bandwidth
from sparsing.hardware.machine import processor, with_threads
from sparsing.measuring.weight_bytes import model_weight_bytes
from sparsing.rules.thresholds import Thresholds
from sparsing.sites.discovery import find_sites

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from sparsing.decode.stats import DecodeStats
    from sparsing.models.loading import LoadedModel
    from sparsing.sites.site import Site

OWN_DENSE, HUGGING_FACE = "own dense", "Hugging Face"
JUDGING_TOKENS = 64
"""Tokens on which a predictor's recall is counted."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class WholePlan:
    """What is timed."""

    ratios: tuple[float, ...] = (0.065, 0.4)
    """Wanted activation ratios of planted models, each in (0, 1)."""
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    bits: tuple[int, ...] = (4,)
    """Widths of predictors."""
    recall: float = 0.995
    """That the predictors are calibrated for."""
    rounds: int = 3
    prompt_tokens: int = 64
    new_tokens: int = 24
    """Tokens after the prompt, per round and engine; the first is not timed."""
    threads: int = 0
    """0: as many as torch uses."""
    with_llama_cpp: bool = True
    calibration_tokens: int = 256
    """Tokens that predictors are made on."""

    @property
    def text_tokens(self) -> int:
        """Tokens that a run needs: to make predictors, to judge them, the prompt, and what is written."""
        return self.calibration_tokens + JUDGING_TOKENS + self.prompt_tokens + self.new_tokens

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.prompt_tokens < 1 or self.new_tokens < 3:
            raise InputError(
                "a model is timed with rounds >= 1, a prompt of 1 token or more and 3 new tokens or more, got"
                f" {self.rounds}, {self.prompt_tokens}, {self.new_tokens}"
            )


def bench_planted(
    shapes: Sequence[DecodeShape], plan: WholePlan, *, progress: Progress | None = None
) -> WholeBench:
    """Time planted models of these shapes on the CPU.

    Raises:
        InputError: a ratio or a dtype that is none.
    """
    run = _Run(plan)
    total = len(shapes) * len(plan.dtypes) * len(plan.ratios) * plan.rounds
    with with_threads(run.threads), (progress or Progress(False)).bar("rounds", total) as advance:
        for shape in shapes:
            for dtype in plan.dtypes:
                model = build_model(shape, dtype)
                sites = find_sites(model)
                with ExitStack() as stack:
                    engines = run.llama(shape, dtype, stack)
                    for ratio in plan.ratios:
                        plant_model(model, sites, ratio)
                        rule = Thresholds(rule="fat", level=0.0, on="gate", values=(0.0,) * len(sites))
                        text = _random_text(shape.vocab_size, plan)
                        run.model(model, sites, rule, shape, dtype, ratio, text, engines, advance)
                del model, sites
    weights = "planted: random attention, natural ReLU ratio of every layer as wanted, the text dictated"
    return run.result(weights, ",".join(shape.name for shape in shapes), ",".join(plan.dtypes))


def bench_loaded(
    loaded: LoadedModel,
    thresholds: Thresholds,
    plan: WholePlan,
    *,
    text: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> WholeBench:
    """Time a loaded model under its thresholds on the CPU; llama.cpp runs random weights of its shape.

    Args:
        text: Token ids to make predictors on and to decode; None takes random ones.

    Raises:
        InputError: thresholds of no threshold rule or for another model, a text that is too short.
    """
    shape = shape_of(loaded)
    text = _random_text(shape.vocab_size, plan) if text is None else _without_end(loaded.model, text)
    if len(text) < plan.text_tokens:
        raise InputError(f"the text has {len(text)} tokens, {plan.text_tokens} are needed; give a longer one")
    run = _Run(plan)
    bar = (progress or Progress(False)).bar("rounds", plan.rounds)
    with with_threads(run.threads), bar as advance, ExitStack() as stack:
        llamas = run.llama(shape, loaded.dtype, stack)
        run.model(loaded.model, loaded.sites, thresholds, shape, loaded.dtype, None, text, llamas, advance)
    return run.result(
        "the checkpoint's own; llama.cpp has random ones of this shape", loaded.name, loaded.dtype
    )


def _without_end(model: PreTrainedModel, text: Sequence[int]) -> list[int]:
    """Without the tokens at which `generate()` would stop."""
    end = getattr(model.generation_config, "eos_token_id", None)
    ends = set(end) if isinstance(end, list) else {end}
    return [token for token in text if token not in ends]


def _random_text(vocab_size: int, plan: WholePlan) -> list[int]:
    generator = torch.Generator().manual_seed(7)
    return torch.randint(3, vocab_size, (plan.text_tokens,), generator=generator).tolist()


class _Run:
    """Lines and notes of a run as it goes on."""

    def __init__(self, plan: WholePlan):
        check_kernels("cpu")
        self.plan = plan
        self.threads = plan.threads or torch.get_num_threads()
        self.bandwidth: Bandwidth = measure_bandwidth(threads=self.threads)
        self.lines: list[WholeLine] = []
        self.left_out: list[str] = []

    def llama(self, shape: DecodeShape, dtype: str, stack: ExitStack) -> dict[str, Any]:
        """llama.cpp at this shape, by name; empty where it is not wanted or not there."""
        if not self.plan.with_llama_cpp:
            return {}
        context = self.plan.prompt_tokens + self.plan.new_tokens
        try:
            kind = KINDS[dtype][0]
            engine = stack.enter_context(llama_cpp(shape, kind, threads=self.threads, context=context))
        except InputError as error:
            self.left_out.append(str(error))
            return {}
        return {f"llama.cpp {kind}": engine}

    def model(
        self,
        model: PreTrainedModel,
        sites: Sequence[Site],
        rule: Thresholds,
        shape: DecodeShape,
        dtype: str,
        ratio: float | None,
        text: list[int],
        llamas: dict[str, Any],
        advance: Callable[[int], None],
    ) -> None:
        """All engines on one model, round by round."""
        predictors, recalls = self._predictors(model, sites, rule, text)
        sparse = {"sparse, exact": None, **predictors}
        seconds: dict[str, list[float]] = {}
        stats: dict[str, DecodeStats] = {}

        def timed(name: str, found: list[float]) -> None:
            seconds.setdefault(name, []).extend(found)

        prompt = self.plan.prompt_tokens
        for turn in range(self.plan.rounds + 1):
            ids = text[-prompt - self.plan.new_tokens :][: None if turn else prompt + 3]  # round 0 warms up
            timed(HUGGING_FACE, hugging_face_seconds(model, ids, prompt))
            for name, engine in llamas.items():
                timed(name, llama_cpp_seconds(engine, ids, prompt))
            for name, predictor in sparse.items():
                with accelerate(model, rule, predictor=predictor, measure=False, prefill="dense") as fast:
                    if predictor is None:
                        fast.mode = "dense"
                        timed(OWN_DENSE, hugging_face_seconds(model, ids, prompt))
                        fast.mode = "sparse"
                    fast.reset_stats()
                    timed(name, hugging_face_seconds(model, ids, prompt))
                    stats[name] = fast.stats()
            if turn == 0:
                seconds.clear()
            else:
                advance(1)
        dense_bytes = self._dense_bytes(model, sites, shape)
        self.lines += self._lines(shape.name, dtype, ratio, seconds, stats, recalls, dense_bytes)

    def _predictors(
        self, model: PreTrainedModel, sites: Sequence[Site], rule: Thresholds, text: list[int]
    ) -> tuple[dict[str, list[LayerPredictor]], dict[str, float]]:
        """Predictors by name, one per layer each, and their recall on tokens they were not made on."""
        count = self.plan.calibration_tokens
        fit = sample_inputs(model, sites, rule, torch.tensor([text[:count]]))
        judge = sample_inputs(model, sites, rule, torch.tensor([text[count : count + JUDGING_TOKENS]]))
        made: dict[str, list[LayerPredictor]] = {f"{bits}-bit predictor": [] for bits in self.plan.bits}
        recalls: dict[str, list[float]] = {name: [] for name in made}
        for layer, site in enumerate(sites):
            packed = pack(site)
            cuts = layer_cuts(packed, rule, layer)
            mass = hidden(packed, judge[layer], cuts).abs() * packed.column_norms()
            for bits, name in zip(self.plan.bits, made, strict=True):
                built = build_predictor(packed, cuts, fit[layer], bits=bits, recall=self.plan.recall)
                made[name].append(built)
                recalls[name].append(recall_of(built.predict(judge[layer], packed.act), mass))
        return made, {name: sum(found) / len(found) for name, found in recalls.items()}

    def _dense_bytes(
        self, model: PreTrainedModel, sites: Sequence[Site], shape: DecodeShape
    ) -> dict[str, float]:
        """Bytes per token of the dense engines, by name."""
        own = model_weight_bytes(model, sites).total_bytes
        size = next(model.parameters()).element_size()
        return {HUGGING_FACE: own, OWN_DENSE: own} | {
            f"llama.cpp {kind}": own * each / size for kind, each in BYTES.items()
        }

    def _lines(self, shape, dtype, ratio, seconds, stats, recalls, dense_bytes):
        medians = {name: float(np.median(found)) for name, found in seconds.items()}
        dense = [name for name in medians if name not in stats]
        for name, found in seconds.items():
            read = stats.get(name)
            moved = read.bytes_per_step if read else dense_bytes[name]
            quartiles = 1e3 * np.percentile(found, [25, 75])
            yield WholeLine(
                shape=shape,
                dtype=dtype,
                name=name,
                ratio=ratio,
                dense=read is None,
                tok_per_sec=1 / medians[name],
                ms=1e3 * medians[name],
                ms_low=float(quartiles[0]),
                ms_high=float(quartiles[1]),
                active_ratio=read and read.activation_ratio,
                recall=recalls.get(name),
                bytes_per_token=moved,
                bandwidth_share=moved / medians[name] / self.bandwidth.peak_bytes_per_sec,
                byte_ceiling=dense_bytes[OWN_DENSE] / moved,
                speedups={other: medians[other] / medians[name] for other in dense},
            )

    def result(self, weights: str, model: str, dtype: str) -> WholeBench:
        return WholeBench(
            lines=tuple(self.lines),
            bandwidth=self.bandwidth,
            threads=self.threads,
            rounds=self.plan.rounds,
            prompt_tokens=self.plan.prompt_tokens,
            new_tokens=self.plan.new_tokens - 1,
            left_out=tuple(self.left_out),
            weights=weights,
            processor=processor(),
            provenance=made_now(model=model, dtype=dtype, device="cpu"),
        )
