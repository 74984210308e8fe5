"""`sparsing evaluate`: benchmark scores of a model, dense and at sparsity levels, on lm-eval's own tasks."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sparsing.cli import _common as common

if TYPE_CHECKING:
    from sparsing.evaluation.level import Level
    from sparsing.evaluation.outcome import Evaluation, TaskOutcome
    from sparsing.models.loading import LoadedModel
    from sparsing.rules.thresholds import Thresholds

EPILOG = """examples:
  sparsing evaluate ./model --thresholds run/cett-ppl-1/thresholds.json --tasks piqa boolq lambada
  sparsing evaluate ./model --ppl 1 5 10 --text book.txt --suite paper --task-data bench/ --allow-code-execution
  torchrun --nproc-per-node 8 -m sparsing evaluate ./model --thresholds t.json --suite paper
"""


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "evaluate",
        help="scores on benchmarks (lm-eval), dense and under sparsity",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", help="folder of a checkpoint, name on the hub, or GGUF file")
    _add_task_arguments(parser)
    _add_setting_arguments(parser)
    common.add_corpus_arguments(parser, required=False)
    common.add_model_arguments(parser)
    group = parser.add_argument_group("run")
    group.add_argument(
        "-o", "--output", type=Path, metavar="DIR", help="folder (default: outputs/<owner>--<model>/evaluate)"
    )
    group.add_argument("--json", action="store_true", help="one JSON document on stdout in place of tables")
    group.add_argument(
        "--quiet",
        action="store_true",
        help="no progress bars, no advice on --dtype (default: bars on a terminal)",
    )
    parser.set_defaults(every_process=True)
    return parser


def _add_task_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what to run")
    group.add_argument(
        "--tasks", nargs="+", metavar="TASK", help="the paper's or lm-eval's names, with spaces or commas"
    )
    group.add_argument(
        "--suite", choices=("paper",), help="the fourteen tasks of Sparsing Law, with its tables"
    )
    group.add_argument(
        "--thresholds",
        nargs="+",
        metavar="FILE",
        default=[],
        help="also run these levels: thresholds.json files or folders",
    )
    group.add_argument(
        "--ppl",
        nargs="+",
        type=common.percentage,
        metavar="P",
        help="also run PPL-P%%, measured on --text first",
    )
    group.add_argument(
        "--task-data", type=Path, metavar="DIR", help="items from local files (default: downloaded)"
    )
    group.add_argument(
        "--include-path", type=Path, metavar="DIR", help="more task definitions, as for lm-eval"
    )
    group.add_argument(
        "--allow-code-execution",
        action="store_true",
        help="run the programs that the model writes for humaneval and mbpp, in a sandbox (default: refuse them)",
    )


def _add_setting_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("settings")
    group.add_argument("--limit", type=int, metavar="N", help="first N items of each part (default: all)")
    group.add_argument(
        "--batch-size",
        metavar="N",
        help="sequences per batch or auto (default: auto on a GPU, by memory on a CPU)",
    )
    group.add_argument(
        "--max-length", type=int, metavar="N", help="tokens of prompt and answer (default: the model's)"
    )
    group.add_argument(
        "--max-gen-toks", type=int, metavar="N", help="most tokens to generate (default: the task's own)"
    )
    group.add_argument(
        "--chat-template",
        action="store_true",
        help="put prompts through the model's chat template, examples as earlier turns (default: plain text)",
    )
    group.add_argument(
        "--system-instruction", metavar="TEXT", help="text before every prompt (default: none)"
    )
    group.add_argument(
        "--log-items", action="store_true", help="also write prompts and answers (default: off)"
    )


def run(args: argparse.Namespace) -> int:
    common.check_text(args)
    from sparsing.evaluation.model.launching import set_progress_bars
    from sparsing.evaluation.suite import Suite
    from sparsing.evaluation.tasks.loading import TaskLoader
    from sparsing.measuring.run_folder import claim_folder, default_folder

    names = _task_names(args)
    _check_levels(args)
    shown = set_progress_bars(wanted=not args.quiet)
    levels = _given_levels(args)
    folder = common.open_run_folder(args, args.output or default_folder(args.model) / "evaluate")
    loader = TaskLoader(
        task_data=args.task_data,
        include_path=args.include_path,
        allow_code_execution=args.allow_code_execution,
        max_gen_toks=args.max_gen_toks,
    )
    tasks = loader.check(names)
    loaded = _load(args)
    claim_folder(folder, loaded)
    suite = Suite(
        loaded,
        loader,
        folder=folder,
        limit=args.limit,
        batch_size=args.batch_size,
        max_length=args.max_length,
        log_items=args.log_items,
        show_progress=shown,
        chat_template=args.chat_template,
        system_instruction=args.system_instruction,
    )
    evaluation = suite.run(tasks, [*levels, *_measured_levels(args, loaded, folder)], on_done=_log_outcome)
    if suite.is_main:
        _write(args, evaluation, folder)
    return 0


def _task_names(args: argparse.Namespace) -> list[str]:
    from sparsing.errors import InputError
    from sparsing.evaluation.tasks.paper_tasks import PAPER_TASKS

    names = [name for argument in args.tasks or [] for name in argument.split(",") if name]
    if args.suite:
        names += [name for name in PAPER_TASKS if name not in names]
    if not names:
        raise InputError(f"no tasks; give --tasks (of the paper: {', '.join(PAPER_TASKS)}) or --suite paper")
    return names


def _check_levels(args: argparse.Namespace) -> None:
    """Check `--ppl` before the model is loaded."""
    from sparsing.errors import InputError

    if args.ppl is None:
        common.refuse_without_effect(args, common.TEXT_OPTIONS, "without --ppl")
        return
    if args.text is None:
        raise InputError("--ppl measures thresholds on a text before it evaluates; give --text SOURCE")
    if bad := [p for p in args.ppl if not 0 < p < 1e6]:
        raise InputError(
            f"--ppl is a rise of perplexity in percent, above 0 and below 1e6, got {bad[0]:g}; --ppl 1 means"
            " ppl_ratio 1.01"
        )


def _given_levels(args: argparse.Namespace) -> list[Level]:
    """The dense level, and those of `--thresholds`."""
    from sparsing.evaluation.level import Level, level_of
    from sparsing.evaluation.outcome import DENSE
    from sparsing.rules.thresholds import read_thresholds

    files = [(read_thresholds(path), Path(path).stem) for path in args.thresholds]
    return [Level(name=DENSE), *(level_of(thresholds, stem) for thresholds, stem in files)]


def _measured_levels(args: argparse.Namespace, loaded: LoadedModel, folder: Path) -> list[Level]:
    """The levels of `--ppl`; they are measured once per model and text."""
    from sparsing.evaluation.level import level_of
    from sparsing.measuring.levels import measure_levels
    from sparsing.measuring.processes import lead

    if args.ppl is None:
        return []

    def measured() -> list[Thresholds]:
        corpus, heldout = common.read_text(args, loaded)
        progress = common.make_progress(args)
        return measure_levels(loaded, corpus, heldout, args.ppl, folder=folder / "measure", progress=progress)

    levels = lead(measured, models=[loaded])
    return [level_of(thresholds, "") for thresholds in levels]


def _load(args: argparse.Namespace) -> LoadedModel:
    from sparsing.base.launched import num_processes
    from sparsing.evaluation.model.launching import process_device

    args.device = process_device(args.device)
    # several processes would disturb each other's timing of dtypes
    load = common.load_to_measure if num_processes() == 1 else common.load_checkpoint
    return load(args, args.model)


def _log_outcome(outcome: TaskOutcome) -> None:
    import logging

    logging.getLogger("sparsing").info("%s %s: %.1f s", outcome.task, outcome.level, outcome.wall_sec)


def _write(args: argparse.Namespace, evaluation: Evaluation, folder: Path) -> None:
    """Write the evaluation as JSON, Markdown and CSV, and print it."""
    from sparsing.base.results import write_text
    from sparsing.evaluation.tables import overview, paper_tables, to_csv

    whole, of_paper = overview(evaluation), paper_tables(evaluation)
    evaluation.save(folder / "evaluation.json")
    write_text(folder / "evaluation.md", "\n".join(table.markdown() for table in [whole, *of_paper]))
    write_text(folder / "evaluation.csv", to_csv(evaluation))
    if args.json:
        common.print_json(evaluation)
        return
    for table in [whole, *(of_paper if args.suite else [])]:
        common.print_table(table.title, table.header, table.rows)
    print(common.results_line(folder))
