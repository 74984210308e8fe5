"""Kills commands at random moments, resumes them, and compares their files with those of undisturbed runs.

    python scripts/kill_storm.py --kills 100 --work /tmp/storm

The commands run on the built-in models, each in a process that is forked from this one, so that a run takes a few
seconds. Totals of passes are saved after every batch, so that kills meet the journal. Finished runs are noted in
`WORK/turns.jsonl`; the same command goes on after the last one.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported; results depend on the number of threads

from compare_results import main as compare

COMMANDS = {
    "measure": "measure {model} --text {text} --rule cett --ppl 5 --window 64 --batch-size 4 --no-figures",
    "compare": "compare {model} --text {text} --window 64 --batch-size 4 --no-figures",
    "neurons": "neurons {model} --text {text} --window 64 --batch-size 4 --no-figures",
    "track": "track {run} --text {text} --window 64 --batch-size 4 --last 2 --no-figures",
    "train": "train --preset nano-0.3M --text {text} --tokens 60_000 --no-figures",
    "evaluate": "evaluate {model} --tasks piqa --task-data {bench} --ppl 5 --text {text} --window 64",
}
MOST_KILLS = 4
"""Kills of one run before it may end."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="kills in all (default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (default: 0)")
    parser.add_argument("--work", type=Path, required=True, help="folder for the runs")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    _import_everything()
    lines = {name: line.format(**_places(args.work)).split() for name, line in COMMANDS.items()}
    seconds = {name: _whole(line, args.work / "whole" / name) for name, line in lines.items()}
    notes = args.work / "turns.jsonl"
    turns = [json.loads(line) for line in notes.read_text().splitlines()] if notes.exists() else []
    while sum(turn["kills"] for turn in turns) < args.kills:
        name = list(lines)[len(turns) % len(lines)]
        left = args.kills - sum(turn["kills"] for turn in turns)
        generator = random.Random(f"{args.seed} {len(turns)}")
        out = args.work / "killed" / name
        shutil.rmtree(out, ignore_errors=True)
        kills = _disturb(lines[name], out, seconds[name], generator, min(left, MOST_KILLS))
        status = _wait(_start(lines[name], out))
        problems = [f"exit status {status}"] * (status != 0) + _problems(args.work / "whole" / name, out)
        if problems:
            shutil.move(out, args.work / f"failed-{len(turns)}-{name}")
        turns.append({"name": name, "kills": kills, "problems": problems})
        with notes.open("a", encoding="utf-8") as file:
            file.write(json.dumps(turns[-1]) + "\n")
        print(f"{name}: {kills} kills, {problems or 'equal'}", flush=True)
    failed = sum(bool(turn["problems"]) for turn in turns)
    print(f"{sum(turn['kills'] for turn in turns)} kills, {len(turns)} runs, {failed} failed")
    return int(failed > 0)


def _import_everything() -> None:
    """Imports what the commands need, so that a forked process begins to work at once."""
    import lm_eval.evaluator
    import lm_eval.models.huggingface
    import torch
    import transformers

    import sparsing.training.trainer
    from sparsing.cli import build_parser
    from sparsing.measuring import journal

    journal.SAVE_EVERY_SEC = 0.0
    build_parser()
    del lm_eval, torch, transformers, sparsing


def _places(work: Path) -> dict[str, str]:
    """Model, text, training run and items of a task on which the commands work."""
    from sparsing.demo import checkpoints, heldout_text

    text, run, items = work / "text.txt", work / "run", work / "bench" / "piqa" / "validation.jsonl"
    if not items.exists():
        words = heldout_text()
        text.write_text(words[:6_000], encoding="utf-8")
        for checkpoint in checkpoints("relu")[-3:]:
            shutil.copytree(checkpoint, run / checkpoint.name, dirs_exist_ok=True)
        parts = [words[at : at + 40] for at in range(0, 720, 40)]
        rows = [
            {"goal": goal, "sol1": one, "sol2": two, "label": number % 2}
            for number, (goal, one, two) in enumerate(zip(parts[::3], parts[1::3], parts[2::3], strict=True))
        ]
        items.parent.mkdir(parents=True, exist_ok=True)
        items.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    model = str(checkpoints("relu")[-1])
    return {"model": model, "text": str(text), "run": str(run), "bench": str(items.parents[1])}


def _whole(line: list[str], out: Path) -> float:
    """Runs a command undisturbed, unless that is done already. Returns its seconds."""
    done = out.with_suffix(".seconds")
    if not done.exists():
        shutil.rmtree(out, ignore_errors=True)
        begin = time.perf_counter()
        if status := _wait(_start(line, out)):
            sys.exit(f"{line[0]} ends with status {status} without any kill: see {out.parent / 'output.txt'}")
        done.write_text(str(time.perf_counter() - begin))
    return float(done.read_text())


def _disturb(line: list[str], out: Path, seconds: float, generator: random.Random, most: int) -> int:
    """Starts a command up to `most` times and kills it at random moments. Returns the number of kills."""
    for kills in range(most):
        process = _start(line, out)
        # each start has less to do than the one before, so the later kills come earlier
        if _wait(process, generator.uniform(0, 1) * seconds / (1 + kills)) is not None:
            return kills
        os.kill(process, signal.SIGKILL)
        _wait(process)
    return most


def _problems(whole: Path, out: Path) -> list[str]:
    """Files that one folder has and the other has not, and differences in the files that both have."""
    names, other = ({str(path.relative_to(folder)) for path in folder.rglob("*")} for folder in (whole, out))
    problems = [f"only one folder has {name}" for name in sorted(names ^ other)]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        return problems + (printed.getvalue().splitlines() if compare(whole, out) else [])


def _start(line: list[str], out: Path) -> int:
    """Forks a process that runs the command. Returns its number."""
    out.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    with (out.parent / "output.txt").open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    from sparsing.cli import main as command

    status = 1
    try:
        sys.argv = ["sparsing", *line, "-o", str(out), "--quiet"]
        status = command(sys.argv[1:])
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def _wait(process: int, seconds: float | None = None) -> int | None:
    """The exit status of the process; None if it still runs after `seconds`."""
    end = None if seconds is None else time.monotonic() + seconds
    while end is None or time.monotonic() < end:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


if __name__ == "__main__":
    sys.exit(main())
