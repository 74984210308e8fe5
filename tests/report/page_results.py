"""Saved results of every kind that a report shows, made without a model where possible."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from sparsing.base.provenance import Provenance
from sparsing.evaluation.outcome import DENSE
from sparsing.laws import fit
from sparsing.laws.points import Points
from sparsing.measuring.frontier import FrontierPoint, RuleComparison
from sparsing.measuring.weight_bytes import WeightBytes
from sparsing.neurons.store import NeuronTable, save_vocabulary
from sparsing.neurons.study import study_neurons
from sparsing.rules.thresholds import Thresholds

from ..helpers.measurements import make_measurement
from ..helpers.measuring import text_corpus, tiny_loaded
from ..helpers.outcomes import evaluation, outcome, score

ALARM = "<script>alert(1)</script>"
MODEL = "<img src=x onerror=alert(1)>"
RULES = ("cett", "fat", "top_k")
LEVELS = ("PPL-1%", ALARM)


def save_measurements(folder: Path) -> None:
    """Two checkpoints of one model and another model, each under two measures."""
    rng = np.random.default_rng(0)
    for model, tokens in (("runs/relu/step-1", 10**6), ("runs/relu/step-2", 10**7), (MODEL, None)):
        for target, level in ((1.01, 0.2), (None, 0.1)):
            result = make_measurement(
                num_tokens=40,
                level=level,
                target_ppl_ratio=target,
                model=model,
                train_tokens=tokens,
                train_step=tokens,
                command=f"sparsing measure {model} --text '{ALARM}'",
                corpus=ALARM,
                token_top_neuron=rng.integers(0, 24, (40, 4, 3)).astype(np.int32),
                token_top_norm=np.sort(rng.random((40, 4, 3)), axis=-1)[..., ::-1].astype(np.float32),
                weights=WeightBytes(total_bytes=10**9, ffn_bytes=6 * 10**8),
            )
            result.save(folder / model.replace("/", "_") / f"{target}" / "measurement.json")


def save_comparison(folder: Path) -> None:
    points = [
        FrontierPoint(
            rule=rule,
            level=float(step),
            activation_ratio=0.6 - 0.1 * step,
            activation_ratio_interval=(0.55 - 0.1 * step, 0.65 - 0.1 * step),
            ppl_ratio=1 + 0.01 * (step + 1) * (index + 1),
            ppl_ratio_interval=None,
        )
        for index, rule in enumerate(RULES)
        for step in range(4)
    ]
    RuleComparison(points=tuple(points), provenance=Provenance(model="runs/relu/step-2", train_step=2)).save(
        folder / "comparison.json"
    )


def save_law(folder: Path) -> None:
    tokens = np.geomspace(1e9, 1e11, 14)
    noise = np.random.default_rng(0).normal(0, 0.001, 14)
    points = Points(
        name=ALARM,
        variable="tokens",
        x=tuple(tokens),
        ratio=tuple(0.1 + 0.3 * (tokens / 1e9) ** -0.4 + noise),
    )
    fit(points, "power", num_resamples=0).save(folder / "law.json")


def save_study(folder: Path, *, seed: int = 0) -> None:
    """A study of two corpora with the tiny model; the name of one corpus is a script."""
    model = tiny_loaded()
    corpora = {"code": text_corpus(900, seed=seed), ALARM: text_corpus(900, seed=seed + 1)}
    cuts = Thresholds(rule="cett", level=0.1, on="neuron_norm", values=(0.03, 0.05))
    folder.mkdir(parents=True, exist_ok=True)
    with NeuronTable(folder / "neurons.parquet", corpora, model.tokenizer) as table:
        study = study_neurons(model, corpora, cuts, contexts=3, on_layer=table.add)
    save_vocabulary(study, model.tokenizer, folder / "vocabulary.parquet")
    study.save(folder / "neurons.json")


def save_evaluation(folder: Path) -> None:
    """Tasks of two groups and one whose name is a script, at two levels; and a perplexity, which has no interval."""
    rng = np.random.default_rng(0)
    outcomes = []
    for task, group, title, items, right in (
        ("piqa", "commonsense", "PIQA", 400, 0.8),
        ("siqa", "commonsense", "SIQA", 40, 0.9),
        ("lambada", "reading", "LAMBADA", 400, 0.0),
        ("own", "", ALARM, 400, 0.7),
    ):
        dense = rng.random(items) < right
        outcomes.append(outcome(DENSE, dense, task, group, title))
        for level in LEVELS:
            kept = dense & (rng.random(items) < 0.95)
            outcomes.append(outcome(level, kept, task, group, title))
    for level in (DENSE, *LEVELS):
        perplexity = (score([-1.0, -2.0], "perplexity", value=4.5),)
        one = outcome(level, [0, 0], "wikitext", "", "perplexity")
        outcomes.append(dataclasses.replace(one, scores=perplexity))
    table = evaluation(*outcomes)
    origin = Provenance(model=MODEL, command=f"sparsing evaluate {MODEL} --tasks '{ALARM}'")
    dataclasses.replace(table, provenance=origin).save(folder / "evaluation.json")
