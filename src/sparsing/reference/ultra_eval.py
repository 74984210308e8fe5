"""Results in the layout of UltraEval, which the reference's `eval_entrance.sh` runs.

`<folder>/_all_results.json` and one folder per part of a task, `<dataset>_<part>_<ppl|gen>/`, with
`config.json`, `final_metrics.json` and `instance.jsonl`. Read from what a suite with `log_items` has left.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sparsing.base.results import write_text
from sparsing.evaluation.outcome import Level, TaskOutcome, ratio_of


def write_reference(folder: Path, tasks: Sequence[str], level: Level, method: str) -> str:
    """Turn `<folder>/.sparsing/<level>/` into the reference's layout; returns its two printed tables."""
    source = folder / ".sparsing" / level.slug
    everything: dict[str, dict[str, dict[str, float]]] = {}
    for task in tasks:
        outcome = TaskOutcome.load(source / f"{task}.json")
        samples = list(_samples(source / f"{task}.items.jsonl"))
        everything[task] = {}
        for part in outcome.parts:
            name = _part_name(task, part.name)
            own = [sample for sample in samples if sample["part"] == part.name]
            metrics = {_metric_name(key): value for key, value in part.metrics.items()}
            everything[task][name] = metrics
            _write_part(folder / f"{task}_{name}_{method}", name, outcome, level, metrics, own)
        everything[task]["mean_result"] = _mean(list(everything[task].values()))
    _write_json(folder / "_all_results.json", everything)
    shutil.rmtree(folder / ".sparsing")
    return _printed(everything)


def _write_part(
    folder: Path,
    name: str,
    outcome: TaskOutcome,
    level: Level,
    metrics: dict[str, float],
    samples: list[dict[str, Any]],
) -> None:
    line = level.thresholds.to_line() if level.thresholds is not None else None
    config = {
        "task_name": name,
        "fewshot": outcome.shots,
        "mode": "sparse" if line else "dense",
        "thresholds": line.removeprefix("thresholds=") if line else None,
        "prefill_activation_ratio": ratio_of(outcome.prefill),
        "decode_activation_ratio": ratio_of(outcome.decode),
        "wall_sec": outcome.wall_sec,
    }
    _write_json(folder / "config.json", config)
    instances: dict[str, list[Any]] = {}
    for sample in samples:
        for metric in sample["metrics"]:
            instances.setdefault(_metric_name(f"{metric},{sample['filter']}"), []).append(sample[metric])
    final = {"task_name": name, "instance_result": instances, "overall_result": metrics}
    _write_json(folder / "final_metrics.json", final)
    lines = (json.dumps(_instance(sample), ensure_ascii=False) + "\n" for sample in samples)
    write_text(folder / "instance.jsonl", "".join(lines))


def _instance(sample: dict[str, Any]) -> dict[str, Any]:
    values = {metric: sample[metric] for metric in sample["metrics"]}
    return {
        "data": sample["doc"],
        "ground_truth": sample["target"],
        "prompt_inputs": [arguments[0] for arguments in sample["arguments"]],
        "raw_outputs": sample["resps"],
        "processed_outputs": sample["filtered_resps"],
        "eval_results": values,
        "metrics": list(values),
    }


def _samples(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def _part_name(task: str, part: str) -> str:
    """The part without what says to which task it belongs: `mmlu_anatomy` of `mmlu` is `anatomy`."""
    for prefix in (f"{task}_cot_fewshot_", f"{task}_goldp_", f"{task}_"):
        if part.startswith(prefix):
            return part.removeprefix(prefix)
    return part


def _metric_name(key: str) -> str:
    """`acc,none` as `acc`; a filter that does something stays in the name."""
    metric, _, chosen = key.partition(",")
    return metric if chosen == "none" else f"{metric},{chosen}"


def _mean(parts: list[dict[str, float]]) -> dict[str, float]:
    """Unweighted over parts, as in the reference."""
    return {metric: sum(part[metric] for part in parts) / len(parts) for metric in parts[0]}


def _printed(everything: dict[str, dict[str, dict[str, float]]]) -> str:
    lines = ["| Task | Metric | Value |", "| --- | --- | ---: |"]
    for parts in everything.values():
        for name, metrics in parts.items():
            if name != "mean_result":
                lines += [f"| {name} | {metric} | {value:.4f} |" for metric, value in metrics.items()]
    lines += ["", "| Dataset | Metric | Value |", "| --- | --- | ---: |"]
    for dataset, parts in everything.items():
        mean = parts["mean_result"]
        lines += [f"| {dataset} | {metric} | {value:.4f} |" for metric, value in mean.items()]
    return "\n".join(lines)


def _write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")
