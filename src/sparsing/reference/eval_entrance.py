"""Drop-in for the reference's `eval_entrance.sh`: the same arguments, environment variables and folder of results.

    mode=sparse thresholds=t_0,t_1,... python -m sparsing.reference.eval_entrance MODEL_DIR 8 piqa,boolq ppl

Results go to `MODEL_DIR/eval_results/<time>/`. `docs/evaluation.md` lists the differences from the reference.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

PPL_TASKS = ("piqa", "siqa", "hellaswag", "winogrande", "copa", "boolq", "agieval")
"""The tasks that the reference scores by the likelihood of options. For the other seven it generates text."""

_START_TIME = "SPARSING_EVAL_TIME"
"""Variable by which the processes of one run agree on the name of the folder of results."""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="eval_entrance.sh",
        description=(__doc__ or "").partition("\n")[0],
        epilog="environment: mode=sparse, thresholds=t_0,t_1,...; task_data=DIR, limit=N, batch_size=N,"
        " max_gen_toks=N, allow_code_execution=1",
    )
    parser.add_argument("model", type=Path, help="checkpoint folder")
    parser.add_argument("num_gpus", type=int, help="number of GPUs; all GPUs are used if there are fewer")
    parser.add_argument("tasks", help="task1,task2,...")
    parser.add_argument("method", choices=("ppl", "gen"), help="how the reference scores these tasks")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 0 done, 2 bad input."""
    from sparsing.errors import SparsityError
    from sparsing.evaluation.model.launching import set_progress_bars

    args = build_parser().parse_args(argv)
    shown = set_progress_bars(wanted=True)
    try:
        processes = _num_processes(args.num_gpus)
        if processes > 1:
            _launch(processes, argv)
        _run(args, shown)
    except SparsityError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


def _num_processes(num_gpus: int) -> int:
    """The number of processes to start: one per GPU; 1 within a process that was launched already."""
    from sparsing.base.launched import num_processes

    if num_processes() > 1 or num_gpus <= 1:
        return 1
    import torch

    return min(num_gpus, torch.cuda.device_count())


def _launch(processes: int, argv: Sequence[str] | None) -> None:
    """Replace this process by `torchrun` of the same command."""
    os.environ.setdefault(_START_TIME, _now())
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    os.execv(
        sys.executable,
        [*command, "-m", "sparsing.reference.eval_entrance", *(sys.argv[1:] if argv is None else argv)],
    )


def _run(args: argparse.Namespace, show_progress: bool) -> None:
    from sparsing.evaluation.level import Level
    from sparsing.evaluation.model.launching import process_device
    from sparsing.evaluation.outcome import DENSE
    from sparsing.evaluation.suite import Suite
    from sparsing.evaluation.tasks.loading import TaskLoader
    from sparsing.models.loading import load_model
    from sparsing.reference.environment import EvaluationEnvironment, environment_thresholds
    from sparsing.reference.ultra_eval import write_reference

    thresholds, names = environment_thresholds(), _check_tasks(args)
    level = Level(name=DENSE if thresholds is None else "sparse", thresholds=thresholds)
    settings = EvaluationEnvironment.read()
    loader = TaskLoader(
        task_data=settings.task_data,
        allow_code_execution=settings.allow_code_execution,
        max_gen_toks=settings.max_gen_toks,
    )
    tasks = loader.check(names)
    folder = args.model / "eval_results" / os.environ.get(_START_TIME, _now())
    suite = Suite(
        load_model(args.model, device=process_device(None)),
        loader,
        folder=folder / ".sparsing",
        limit=settings.limit,
        batch_size=settings.batch_size,
        log_items=True,
        show_progress=show_progress,
    )
    suite.run(tasks, [level])
    if suite.is_main:
        sys.stdout.write(write_reference(folder, names, level, args.method) + "\n")


def _check_tasks(args: argparse.Namespace) -> list[str]:
    """The names of the tasks.

    Raises:
        InputError: if the model is no folder, or a task does not belong to the method.
    """
    from sparsing.errors import InputError
    from sparsing.evaluation.tasks.paper_tasks import PAPER_TASKS

    if not args.model.is_dir():
        raise InputError(
            f"no folder {str(args.model)!r}; give a checkpoint folder, results are written into it"
        )
    names = [name for name in args.tasks.split(",") if name]
    fit = [name for name in PAPER_TASKS if (name in PPL_TASKS) == (args.method == "ppl")]
    if wrong := [name for name in names if name not in fit]:
        raise InputError(f"{wrong[0]} is no {args.method} task; these are: {', '.join(fit)}")
    return names


def _now() -> str:
    return time.strftime("%Y-%m-%d_%H-%M-%S")


if __name__ == "__main__":
    sys.exit(main())
