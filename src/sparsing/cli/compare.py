"""`sparsing compare`: measures which rule needs the fewest active neurons at the same rise of perplexity."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from sparsing.cli import _common as common

if TYPE_CHECKING:
    from sparsing.measuring.frontier import RuleComparison
    from sparsing.measuring.subject import Subject
    from sparsing.rules import Rule

DESCRIPTION = """\
Measures which rule needs the fewest active neurons at the same rise of perplexity, on the same tokens. The result is a
curve of perplexity against activation ratio for each rule, and the order of the rules with its probability.
"""
EPILOG = """examples:
  sparsing compare ./my-checkpoint --text book.txt
  sparsing compare Qwen/Qwen3-0.6B --text wikitext:wikitext-2-raw-v1 --split test --rule cett top_k --ppl 5
  sparsing compare ./my-checkpoint --text book.txt --rule cett top_k --tasks piqa --task-data bench/ --score-drop 1
"""


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "compare",
        help="compare rules: perplexity against activation ratio",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", help="folder of a checkpoint, name on the hub, or GGUF file")
    group = parser.add_argument_group("what to compare")
    group.add_argument(
        "--rule",
        nargs="+",
        default=["cett", "fat", "top_k"],
        help=f"rules: {common.RULE_NAMES}; NAME:SCORE takes another score, see docs/rules.md (default: cett fat top_k)",
    )
    group.add_argument(
        "--ppl",
        type=common.percentage,
        default=10.0,
        metavar="P",
        help="largest rise of perplexity, in percent (default: 10)",
    )
    group.add_argument("--steps", type=int, default=6, metavar="N", help="levels per rule (default: 6)")
    tasks = parser.add_argument_group("at an equal downstream score (needs lm-eval)")
    tasks.add_argument(
        "--tasks", nargs="+", metavar="TASK", help="evaluate every level on these tasks (default: none)"
    )
    tasks.add_argument(
        "--score-drop",
        type=float,
        default=1.0,
        metavar="X",
        help="loss of the mean score at which rules are compared, in points (default: 1)",
    )
    tasks.add_argument("--limit", type=int, metavar="N", help="first N items of each part (default: all)")
    tasks.add_argument(
        "--task-data", type=Path, metavar="DIR", help="items from local files (default: downloaded)"
    )
    common.add_corpus_arguments(parser)
    common.add_model_arguments(parser)
    common.add_run_arguments(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    common.check_text(args)
    from sparsing.evaluation.model.launching import set_progress_bars

    # before PyTorch, which imports tqdm
    shown = args.tasks is not None and set_progress_bars(wanted=not args.quiet)
    from sparsing.errors import InputError
    from sparsing.measuring.frontier import check_labels, compare, searched_targets
    from sparsing.measuring.run_folder import default_folder
    from sparsing.rules import make_rule

    rules = [make_rule(name) for name in args.rule]
    check_labels(rules)
    if not 0 < args.ppl < 1e6 or args.steps < 2:
        raise InputError(
            f"--ppl must be above 0 and --steps at least 2, got {args.ppl:g} and {args.steps};"
            " the defaults are 10 and 6"
        )
    evaluator = _evaluator(args, rules, shown)
    folder = common.open_run_folder(args, args.output or default_folder(args.model))
    loaded = common.load_to_measure(args, args.model)
    searches = len(searched_targets(1 + args.ppl / 100))
    subject = common.open_subject(
        args,
        loaded,
        folder,
        {rule.score for rule in rules},
        what=f"compare {', '.join(rule.label for rule in rules)}",
        searches=len(rules) * searches,
        levels=len(rules) * max(0, args.steps - searches),
        compared=True,
    )
    comparison = compare(subject, rules, ppl_ratio=1 + args.ppl / 100, steps=args.steps)
    comparison.save(folder / "comparison.json")
    if evaluator is not None:
        comparison = evaluator(subject, comparison, folder)
        comparison.save(folder / "comparison.json")
    if not args.no_figures:
        from sparsing.report.charts.rule_charts import comparison_picture
        from sparsing.report.static import save_picture

        save_picture(comparison_picture(comparison), folder, "ppl_against_ratio")
    subject.journal.clear()
    if args.json:
        common.print_json(comparison)
    else:
        _print(comparison)
        print(common.results_line(folder))
    return 0


def _evaluator(
    args: argparse.Namespace, rules: list[Rule], shown: bool
) -> Callable[[Subject, RuleComparison, Path], RuleComparison] | None:
    """A function that adds the order of the rules at an equal downstream score; None without `--tasks`."""
    from sparsing.errors import InputError

    if args.tasks is None:
        common.refuse_without_effect(args, ("score_drop", "limit", "task_data"), "without --tasks")
        return None
    from sparsing.base.launched import num_processes
    from sparsing.evaluation.equal_score import check_rules, levels_to_evaluate, order_at_score
    from sparsing.evaluation.outcome import TaskOutcome
    from sparsing.evaluation.suite import Suite
    from sparsing.evaluation.tasks.loading import TaskLoader

    if not 0 < args.score_drop < 100:
        raise InputError(
            f"--score-drop is in points, above 0 and below 100, got {args.score_drop:g}; the default is 1"
        )
    if num_processes() > 1:
        raise InputError(
            "compare --tasks runs in one process; start it without torchrun, or leave out --tasks"
        )
    check_rules(rules)
    loader = TaskLoader(task_data=args.task_data)
    tasks = loader.check([name for argument in args.tasks for name in argument.split(",") if name])

    def evaluate(subject: Subject, comparison: RuleComparison, folder: Path) -> RuleComparison:
        outcomes: list[TaskOutcome] = []
        suite = Suite(
            subject.loaded, loader, folder=folder / "evaluate", limit=args.limit, show_progress=shown
        )
        levels = levels_to_evaluate(subject, rules, comparison.points)
        total = len(tasks) * len(levels)
        subject.progress.plan(f"compare on {', '.join(task.name for task in tasks)}", total)
        with subject.progress.bar("tasks at a level", total) as advance:

            def done(outcome: TaskOutcome) -> None:
                outcomes.append(outcome)
                advance(1)

            suite.run(tasks, levels, on_done=done)
        order = order_at_score(comparison.points, outcomes, drop=args.score_drop / 100)
        return dataclasses.replace(comparison, orders=(*comparison.orders, order))

    return evaluate


def _print(comparison: RuleComparison) -> None:
    from sparsing.report import measurement_tables as tables
    from sparsing.report import order_tables

    where = f"{comparison.provenance.model}, {comparison.num_tokens:,} tokens"
    title = f"{where}: activation ratio at a rise of perplexity (lower is sparser)"
    common.print_table(title, *tables.frontier(comparison))
    if note := tables.frontier_note(comparison):
        print(note)
    if comparison.orders:
        title = (
            "order of the rules, the smallest value first, with the probability that the next one is larger"
        )
        common.print_table(title, *order_tables.orders(comparison.orders))
    if comparison.overlap is not None:
        common.print_table(
            "overlap of active sets (Jaccard), dense inputs", *order_tables.overlap(comparison.overlap)
        )
