"""Writes results in the layout of UltraEval, the evaluator that the reference's `eval_entrance.sh` runs.

The layout is `<folder>/_all_results.json` and one folder per part of a task, `<dataset>_<part>_<ppl|gen>/`, with
`config.json`, `final_metrics.json` and `instance.jsonl`. The input is the folder of a `Suite` with `log_items`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sparsing.base.checked_files import parse_object
from sparsing.base.results import write_text
from sparsing.evaluation.level import Level
from sparsing.evaluation.outcome import TaskOutcome, ratio_of


def write_reference(folder: Path, tasks: Sequence[str], level: Level, method: str) -> str:
    """Turn the outcomes in `<folder>/.sparsing/<level>/` into the layout of the reference, and delete them.

    Args:
        tasks: Names of the tasks that were run.
        method: `ppl` or `gen`, a part of the names of folders.

    Returns: The two tables that the reference prints.
    """
    source = folder / ".sparsing" / level.slug
    everything: dict[str, dict[str, dict[str, float]]] = {}  # task to part to metric to value
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
    with path.open(encoding="utf-8") as lines:  # `str.splitlines` would also split at U+2028 inside texts
        for line in lines:
            yield parse_object(line, name=f"a line of {str(path)!r}", hint="evaluate again")


def _part_name(task: str, part: str) -> str:
    """The name of a part without the name of its task: `mmlu_anatomy` of `mmlu` is `anatomy`."""
    for prefix in (f"{task}_cot_fewshot_", f"{task}_goldp_", f"{task}_"):
        if part.startswith(prefix):
            return part.removeprefix(prefix)
    return part


def _metric_name(key: str) -> str:
    """`acc,none` as `acc`. Any other filter stays in the name, since a metric may occur with several filters."""
    return key.removesuffix(",none")


def _mean(parts: list[dict[str, float]]) -> dict[str, float]:
    """The unweighted mean over parts, as in the reference."""
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
