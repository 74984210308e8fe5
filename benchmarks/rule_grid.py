"""Measures all rules on one model, on the same tokens and at the same rise of perplexity: the grid of scores and rules.

    python benchmarks/rule_grid.py                                   the two demo models
    python benchmarks/rule_grid.py --model PATH --text FILE --tokens 8192 --window 512 --dtype bfloat16
    python benchmarks/rule_grid.py --separate                  also searches each rule on its own, as `measure` does

`SCORE_GRID` varies the score and the rule apart, to see how much of the effect of CETT comes from its score (the norm
of a neuron's output) and how much from its threshold per layer. A cell of the grid is
one rule with one score, at one cost in perplexity. The cost of the whole grid is CPU time, since other processes may
run, in dense passes over the same corpus; it includes calibration, intervals, savings and overlaps. A row is saved when
its model is complete, and rows of the same day stay. An interrupted run continues where it stopped.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

from _common import CACHE, ROOT, save

from sparsing.demo import DEMO_ACTIVATIONS, checkpoints, heldout_text
from sparsing.errors import TargetError
from sparsing.measuring.frontier import RuleComparison, compare
from sparsing.measuring.passes import LossOnly, run_pass
from sparsing.measuring.rule_order import RuleOrder
from sparsing.measuring.run_folder import open_journal
from sparsing.measuring.subject import Subject
from sparsing.models.loading import LoadedModel, load_model
from sparsing.report.chart import Picture
from sparsing.report.charts.rule_charts import frontier_charts
from sparsing.report.static import save_picture
from sparsing.rules import Rule, make_rule
from sparsing.text.corpus import Corpus, load_corpus

SCORE_GRID = (
    *("fat", "fat:h", "fat:neuron_norm"),
    *("quantile:gate", "quantile", "quantile:neuron_norm"),
    *("cett:gate", "cett:h", "cett"),
    *("top_k", "top_k:h", "top_k:neuron_norm"),
)
"""One threshold for all layers, the same share in all layers, the same CETT in all layers, the same share per token."""
OTHERS = (
    *("top_k:up", "top_p", "top_p:neuron_norm", "top_p_l2", "gaussian_top_k", "griffin", "scap"),
    *("quantile:x", "teal", "wina", "teal:x_norm", "cett:neuron_norm+x"),
)

DENSE_PASSES = 3
"""Dense passes before the grid and after it. The median of their times is the unit of the cost."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="folder of a model (default: the demo models)")
    parser.add_argument("--text", help="text file (default: held-out text of the demo)")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--ppl", type=float, default=1.0, help="rise of perplexity in percent (default: 1)")
    parser.add_argument(
        "--separate",
        action="store_true",
        help="also search each rule on its own and save its ratio beside that of the comparison",
    )
    parser.add_argument("--rules", nargs="+", default=[*SCORE_GRID, *OTHERS])
    args = parser.parse_args()
    path = ROOT / "results" / f"rule_grid-{datetime.date.today().isoformat()}.json"
    for name in [args.model] if args.model else DEMO_ACTIVATIONS:
        demo = name in DEMO_ACTIVATIONS
        loaded = load_model(checkpoints(name)[-1] if demo else name, dtype=args.dtype, device="cpu")
        source = args.text or [heldout_text()]
        corpus = load_corpus(source, loaded.tokenizer, window=args.window, max_tokens=args.tokens)
        key = f"{Path(name).name} {args.dtype}"
        rules, ppl_ratio = [make_rule(rule) for rule in args.rules], 1 + args.ppl / 100
        row = _row(loaded, corpus, rules, ppl_ratio, key)
        if args.separate:
            _add_separate(row["points"], loaded, corpus, rules, ppl_ratio)
        rows: dict[str, Any] = json.loads(path.read_text())["rows"] if path.exists() else {}
        save("rule_grid", {"rows": rows | {key: row}})
        shutil.rmtree(_folder(key))


def _folder(key: str) -> Path:
    """Passes of an interrupted run."""
    return CACHE / "rule_grid" / key.replace(" ", "-")


def _row(
    loaded: LoadedModel, corpus: Corpus, rules: list[Rule], ppl_ratio: float, key: str
) -> dict[str, Any]:
    run_pass(loaded, corpus, LossOnly(), key="warm-up")
    dense = [_dense_cpu_sec(loaded, corpus) for _ in range(DENSE_PASSES)]
    folder = _folder(key)
    spent = _Spent(folder / "spent.json")
    began = time.process_time()
    subject = _subject(loaded, corpus, rules, journal=open_journal(folder, loaded, corpus))
    calibration = folder / "calibration_sec"
    if not calibration.exists():  # an interrupted run continues with the calibration of its journal
        calibration.write_text(str(time.process_time() - began))
    calibration_sec = float(calibration.read_text())
    spent.note(subject)
    refused = dict[str, str]()
    for rule in sorted(rules, key=lambda rule: not rule.level_is_error):  # the order of `compare`
        try:
            subject.search(rule, ppl_ratio, compared=True)
        except TargetError as error:
            refused[rule.label] = str(error)
        spent.note(subject)
        _print_passes(rule, subject, ppl_ratio)
    reached = [rule for rule in rules if rule.label not in refused]
    comparison = compare(subject, reached, ppl_ratio=ppl_ratio, steps=1)
    spent.note(subject)
    dense += [_dense_cpu_sec(loaded, corpus) for _ in range(DENSE_PASSES)]
    dense_sec = statistics.median(dense)
    # all rules cost the same perplexity, so the chart of both would show nothing
    _, chart = frontier_charts(comparison.points, at=ppl_ratio)
    save_picture(
        Picture(title=chart.title, subtitle=key, charts=[chart]),
        ROOT / "results",
        f"rule_grid-{key.replace(' ', '-')}-{datetime.date.today().isoformat()}",
    )
    return {
        "num_tokens": corpus.num_tokens,
        "n_windows": corpus.n_windows,
        "ppl_dense": subject.curves.ppl,
        "ppl_ratio": ppl_ratio,
        "dense_cpu_sec": dense_sec,
        "calibration_dense_passes": calibration_sec / dense_sec,
        "grid_dense_passes": spent.cpu_sec / dense_sec,
        "rules": len(rules),
        "dense_passes_per_cell": spent.cpu_sec / dense_sec / len(rules),
        "forward_passes": spent.forward_passes,
        "part_of_the_tokens": 0.0 if subject.part is None else len(subject.part) / corpus.n_windows,
        "points": [_point(comparison, subject, rule) | _passes(subject, rule) for rule in reached],
        "block_weights": _block_weights(subject),
        "refused": refused,
        "orders": [_order(order) for order in comparison.orders],
        "overlap": comparison.overlap.to_dict() if comparison.overlap else None,
    }


class _Spent:
    """CPU time and forward passes of a grid, also of the runs before it was interrupted."""

    def __init__(self, path: Path):
        self._path, self._began = path, time.process_time()
        before = json.loads(path.read_text()) if path.exists() else {"cpu_sec": 0.0, "forward_passes": 0.0}
        self._before, self.cpu_sec, self.forward_passes = before, 0.0, 0.0

    def note(self, subject: Subject) -> None:
        """Saves what was spent so far."""
        self.cpu_sec = self._before["cpu_sec"] + time.process_time() - self._began
        self.forward_passes = self._before["forward_passes"] + subject.meter.cost().forward_passes
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps({"cpu_sec": self.cpu_sec, "forward_passes": self.forward_passes}))


def _subject(loaded: LoadedModel, corpus: Corpus, rules: list[Rule], **options: Any) -> Subject:
    """The model on the corpus, calibrated for all of these rules."""
    return Subject(loaded, corpus, scores=sorted({rule.score for rule in rules}), **options)


def _add_separate(
    points: list[dict[str, Any]], loaded: LoadedModel, corpus: Corpus, rules: list[Rule], ppl_ratio: float
) -> None:
    """Adds to each point the activation ratio that a search of this rule alone finds on the same tokens."""
    subject, by_label = _subject(loaded, corpus, rules), {rule.label: rule for rule in rules}
    for point in points:
        found = subject.search(by_label[point["rule"]], ppl_ratio)
        thresholds = subject.thresholds(by_label[point["rule"]], found.level)
        point["separate_activation_ratio"] = float(subject.ratios(thresholds).mean())
        point["separate_ppl_ratio"] = found.ppl_ratio


def _dense_cpu_sec(loaded: LoadedModel, corpus: Corpus) -> float:
    """CPU time of a dense pass with the loss."""
    began = time.process_time()
    run_pass(loaded, corpus, LossOnly(), key="dense")
    return time.process_time() - began


def _block_weights(subject: Subject) -> list[float] | None:
    """How much an error of each feed-forward block hurts, relative to the mean, as the searches have shown."""
    rule = make_rule("cett")
    weights = subject.site_weights(rule) if rule.score in subject.curves.scores else None
    return None if weights is None else (weights / weights.mean()).tolist()


def _point(comparison: RuleComparison, subject: Subject, rule: Rule) -> dict[str, Any]:
    (point,) = comparison.of(rule.label)
    assert point.savings is not None
    savings, errors = point.savings, rule.squared_errors(point.level, subject.curves)
    return {
        "rule": rule.label,
        "level": point.level,
        "activation_ratio": point.activation_ratio,
        "activation_ratio_interval": point.activation_ratio_interval,
        "measured_ppl_ratio": point.measured_ppl_ratio,
        "mean_squared_cett": None if errors is None else float(errors.mean()),
        "bytes_share_score_first": savings.active_bytes(known=False) / savings.dense_bytes,
        "bytes_share_known": savings.active_bytes(known=True) / savings.dense_bytes,
        "group_ratio": savings.group_ratio.mean(0).tolist(),
        "sorted_group_ratio": savings.sorted_group_ratio.mean(0).tolist(),
        "union_ratio": savings.union_ratio.mean(0).tolist(),
        "neighbour_jaccard": float(savings.neighbour_jaccard.mean()),
    }


def _passes(subject: Subject, rule: Rule) -> dict[str, int]:
    """How many passes the search of the rule ran. A pass over all tokens goes on with a try on the part."""
    passes = subject.passes_of(rule)
    on_all = [one for one in passes if one.on_all]
    return {
        "passes_on_all_tokens": len(on_all),
        "passes_at_several_levels": sum(len(one.stages) > 0 for one in on_all),
        "tries_on_the_part": len(passes) - len(on_all),
    }


def _print_passes(rule: Rule, subject: Subject, ppl_ratio: float) -> None:
    """A line with the rise of each pass, 1 at the target."""
    passes = [
        f"{one.mean_rise / math.log(ppl_ratio):.2f}{'' if one.on_all else ' on the part'}"
        f"{' at several levels' if one.stages else ''}"
        for one in subject.passes_of(rule)
    ]
    print(f"{datetime.datetime.now():%H:%M} {rule.label}: rise {', '.join(passes)}", flush=True)


def _order(order: RuleOrder) -> dict[str, Any]:
    last = len(order.rules) - 1
    return {
        "measure": order.measure,
        "rules": order.rules,
        "values": order.values.tolist(),
        "more_than_first": [
            [float(order.difference_low[i, 0]), float(order.difference_high[i, 0])] for i in range(last + 1)
        ],
        "below_next": [float(order.probability[i, i + 1]) for i in range(last)],
    }


if __name__ == "__main__":
    main()
