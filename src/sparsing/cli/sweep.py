"""`sparsing sweep`: measures and evaluates many models, texts and rules, on this machine or on a Ray cluster."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sparsing.cli import _common as common
from sparsing.cli._plan import HERE, plan_of, print_plans

if TYPE_CHECKING:
    from sparsing.scale.cell import Cell, CellRecord

EPILOG = """examples:
  sparsing sweep sweep.toml                    # run all cells on this machine
  sparsing sweep sweep.toml --address auto     # run them on the Ray cluster of this machine
  sparsing sweep sweep.toml --list             # number the cells
  sparsing sweep sweep.toml --plan             # what will the measurements cost?
  sbatch --array=0-23 --wrap "sparsing sweep sweep.toml --array"

The same command resumes: finished cells are not run again. docs/scale.md describes the file.
"""


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "sweep",
        help="measure many models, texts and rules, on Ray",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", metavar="SWEEP.toml", help="the models, texts, rules, levels and tasks")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="DIR", help="folder (default: outputs/sweep-<name of the file>)"
    )
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--address", metavar="A", help="address of a Ray cluster (default: start Ray here)")
    group.add_argument(
        "--array",
        nargs="?",
        type=int,
        const=-1,
        metavar="I",
        help="run only cell I, without Ray (default I: SLURM_ARRAY_TASK_ID)",
    )
    group.add_argument("--list", action="store_true", help="list the cells with their numbers, and end")
    group.add_argument(
        "--plan",
        nargs="?",
        const=HERE,
        metavar="MACHINE",
        help="print what the measurements would cost, and end (default MACHINE: this one; or a name such as h100)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress (default: a table or lines)")
    return parser


def run(args: argparse.Namespace) -> int:
    from sparsing.scale.sweep_file import list_cells, read_sweep_file

    common.refuse_without_effect(args, ["threads"], "since cpus under [run] decides the threads of a cell")
    sweep = read_sweep_file(args.file)
    folder = args.output or Path("outputs") / f"sweep-{Path(args.file).stem}"
    cells = list_cells(sweep, folder)
    parsed = _check_commands(cells)
    if args.plan:
        _print_plan(args.plan, parsed)
        return 0
    if args.list:
        for i, cell in enumerate(cells):
            print(f"{i:4d}  {'done' if cell.finished() else '    '}  {cell.name}")
        return 0
    if args.array is not None:
        return _run_one(cells, args.array)
    _check_jobs(parsed)
    return _run_all(args, cells, common.open_run_folder(args, folder), sweep.run.retries)


def _print_plan(machine: str, parsed: Sequence[argparse.Namespace]) -> None:
    """Prints the cost of the cells that measure; that of an evaluation depends on the items of its task."""
    from sparsing.cli import measure

    plans = []
    for args in parsed:
        if args.run is measure.run:
            args.plan = machine
            plans.append(plan_of(args, measure.jobs_of(args)))
    print_plans(plans, as_json=False)
    if len(plans) < len(parsed):
        print(f"without {len(parsed) - len(plans)} evaluations")


def _check_commands(cells: Sequence[Cell]) -> list[argparse.Namespace]:
    """The parsed commands of all cells.

    Raises:
        InputError: If a command has an option that does not exist or has a wrong value.
    """
    from sparsing.cli import evaluate, measure
    from sparsing.errors import InputError

    parser = argparse.ArgumentParser(prog="sparsing")
    commands = parser.add_subparsers()
    for module in (measure, evaluate):
        subparser = module.add_parser(commands)
        subparser.add_argument("--threads", type=int)
        subparser.set_defaults(run=module.run, parser=subparser)
        subparser.allow_abbrev = False  # `tex = "a"` under [measure] would replace the text of the cell
    parsed: list[argparse.Namespace] = []
    for cell in cells:
        for command in cell.commands:
            words = command[command.index("sparsing") + 1 :]
            try:
                parsed.append(parser.parse_args(words))
            except SystemExit:  # argparse has printed what is wrong
                raise InputError(
                    f"`sparsing {words[0]}` refuses an option under [{words[0]}]; see `sparsing {words[0]} --help`"
                ) from None
    return parsed


def _check_jobs(parsed: Sequence[argparse.Namespace]) -> None:
    """Raises InputError if a measurement has a level out of range or an option without effect, before any cell runs."""
    from sparsing.cli import measure

    for args in parsed:
        if args.run is measure.run:
            measure.jobs_of(args)


def _run_one(cells: Sequence[Cell], number: int) -> int:
    """Runs one cell, as a task of a job array."""
    from sparsing.errors import InputError
    from sparsing.scale.cell import DONE
    from sparsing.scale.run_cell import run_cell

    if number < 0:
        task = os.environ.get("SLURM_ARRAY_TASK_ID", "")
        if not task.isdecimal():
            raise InputError("--array needs a number outside of a SLURM job array; --list numbers the cells")
        number = int(task)
    if number >= len(cells):
        raise InputError(f"--array must be below {len(cells)}, the number of cells, got {number}")
    cell = cells[number]
    by_name = {cell.name: cell for cell in cells}
    if missing := [name for name in cell.needs if not by_name[name].finished()]:
        raise InputError(f"cell {number} ({cell.name}) needs {', '.join(missing)}; run these cells first")
    record = run_cell(cell, 1, Path.cwd())
    print(f"{record.outcome}: {cell.name}, {record.wall_sec:.1f} s; results and log: {cell.folder}")
    if record.message:
        print(record.message)
    return 0 if record.outcome == DONE else 1


def _run_all(args: argparse.Namespace, cells: Sequence[Cell], folder: Path, retries: int) -> int:
    from sparsing.scale.cell import DONE
    from sparsing.scale.sweep import run_sweep
    from sparsing.scale.sweep_view import SweepView

    done = sum(cell.finished() is not None for cell in cells)
    with SweepView(len(cells), done, False if args.quiet else None) as view:
        records = run_sweep(cells, view, address=args.address, retries=retries)
    _write(cells, records, folder)
    failed = [(cell, record) for cell, record in zip(cells, records, strict=True) if record.outcome != DONE]
    if failed:
        rows = [
            [c.name, r.outcome, str(r.attempts), (r.message.splitlines() or [""])[-1], str(c.log_file)]
            for c, r in failed
        ]
        common.print_table("not done", ["cell", "outcome", "attempts", "last line", "log"], rows, prose=True)
    counts = Counter(record.outcome for record in records)
    print(
        ", ".join(f"{count} {outcome}" for outcome, count in counts.items()) + f"; table and report: {folder}"
    )
    return 1 if failed else 0


def _write(cells: Sequence[Cell], records: Sequence[CellRecord], folder: Path) -> None:
    """Writes the table and the page of all cells that are done."""
    from sparsing.report.document import build_document
    from sparsing.report.page import write_report
    from sparsing.report.saved_results import read_runs
    from sparsing.scale.cell import DONE
    from sparsing.scale.sweep_table import save_table, sweep_table

    save_table(sweep_table(cells, records), folder / "sweep.parquet")
    finished = [cell.folder for cell, record in zip(cells, records, strict=True) if record.outcome == DONE]
    if finished:
        write_report(build_document(read_runs(finished), title="Sweep"), folder / "index.html")
