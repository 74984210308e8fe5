"""Drop-in for the reference's `eval_entrance.sh`: its arguments, its environment, its folder of results.

    mode=sparse thresholds=t_0,t_1,... python -m sparsing.reference.eval_entrance MODEL_DIR 8 piqa,boolq ppl

Results go to `MODEL_DIR/eval_results/<time>/`. What departs from the reference is in `docs/evaluation.md`.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sparsing.evaluation.outcome import Level

PPL_TASKS = ("piqa", "siqa", "hellaswag", "winogrande", "copa", "boolq", "agieval")
"""The tasks that the reference scores by the likelihood of options; the other seven it generates for."""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="eval_entrance.sh",
        description=(__doc__ or "").partition("\n")[0],
        epilog="environment: mode=sparse, thresholds=t_0,t_1,...; task_data=DIR, limit=N, batch_size=N,"
        " max_gen_toks=N, allow_code_execution=1",
    )
    parser.add_argument("model", type=Path, help="checkpoint folder")
    parser.add_argument("num_gpus", type=int, help="GPUs; fewer are taken where there are fewer")
    parser.add_argument("tasks", help="task1,task2,...")
    parser.add_argument("method", choices=("ppl", "gen"), help="how the reference scores these tasks")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 done, 2 bad input."""
    from sparsing.errors import SparsityError
    from sparsing.evaluation.model.launching import hush

    args = build_parser().parse_args(argv)
    shown = hush(show=True)
    try:
        processes = _processes(args.num_gpus)
        if processes > 1:
            _launch(processes, argv)
        _run(args, shown)
    except SparsityError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


def _processes(num_gpus: int) -> int:
    """One per GPU; 1 within a process that was launched already."""
    from sparsing.evaluation.model.launching import world_size

    if world_size() > 1 or num_gpus <= 1:
        return 1
    import torch

    return min(num_gpus, torch.cuda.device_count())


def _launch(processes: int, argv: Sequence[str] | None) -> None:
    """Replace this process by `torchrun` of the same command; all of them write under one time."""
    os.environ.setdefault("SPARSING_EVAL_TIME", _now())
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    os.execv(
        sys.executable,
        [*command, "-m", "sparsing.reference.eval_entrance", *(sys.argv[1:] if argv is None else argv)],
    )


def _run(args: argparse.Namespace, show_progress: bool) -> None:
    from sparsing.evaluation.model.launching import process_device
    from sparsing.evaluation.suite import Suite
    from sparsing.evaluation.tasks.loading import TaskLoader
    from sparsing.models.loading import load_model
    from sparsing.reference.ultra_eval import write_reference

    level, names = _level(), _names(args)
    loader = TaskLoader(
        task_data=Path(os.environ["task_data"]) if os.environ.get("task_data") else None,
        allow_code_execution=os.environ.get("allow_code_execution") == "1",
        max_gen_toks=_number("max_gen_toks"),
    )
    tasks = loader.check(names)
    folder = args.model / "eval_results" / os.environ.get("SPARSING_EVAL_TIME", _now())
    suite = Suite(
        load_model(args.model, device=process_device(None)),
        loader,
        folder=folder / ".sparsing",
        limit=_number("limit"),
        batch_size=os.environ.get("batch_size"),
        log_items=True,
        show_progress=show_progress,
    )
    suite.run(tasks, [level])
    if suite.is_main:
        sys.stdout.write(write_reference(folder, names, level, args.method) + "\n")


def _level() -> Level:
    """What `mode` and `thresholds` of the environment ask for."""
    from sparsing.errors import InputError
    from sparsing.evaluation.outcome import DENSE, Level
    from sparsing.rules.thresholds import Thresholds

    if os.environ.get("mode") != "sparse":
        return Level(name=DENSE)
    line = os.environ.get("thresholds")
    if not line:
        raise InputError("mode=sparse but no thresholds in the environment; export thresholds=t_0,t_1,...")
    return Level(name="sparse", thresholds=Thresholds.from_line(line))


def _names(args: argparse.Namespace) -> list[str]:
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


def _number(name: str) -> int | None:
    from sparsing.errors import InputError

    value = os.environ.get(name)
    if value and not value.isdigit():
        raise InputError(f"{name}={value!r} in the environment is no whole number")
    return int(value) if value else None


def _now() -> str:
    return time.strftime("%Y-%m-%d_%H-%M-%S")


if __name__ == "__main__":
    sys.exit(main())
