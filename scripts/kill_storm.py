"""Kills commands at random moments, resumes them, and compares their results with those of undisturbed runs.

    python scripts/kill_storm.py --kills 100 --work /tmp/storm

The commands run on the built-in models. Totals of passes are saved after every batch, so that kills meet the journal.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from compare_results import main as compare

RUN = """
import sys
import sparsing.measuring.journal
sparsing.measuring.journal.SAVE_EVERY_SEC = 0.0
from sparsing.cli import main
sys.exit(main(sys.argv[1:]))
"""
EVALUATE = (
    "evaluate",
    "{model}",
    "--tasks",
    "piqa",
    "--limit",
    "12",
    "--ppl",
    "5",
    "--text",
    "{text}",
    "--quiet",
)
TRAIN = (
    "train",
    "--preset",
    "nano-0.3M",
    "--text",
    "{text}",
    "--tokens",
    "200_000",
    "--no-figures",
    "--quiet",
)
COMMANDS = {
    "measure": (
        "measure",
        "{model}",
        "--text",
        "{text}",
        "--rule",
        "cett",
        "--ppl",
        "5",
        "--no-figures",
        "--quiet",
    ),
    "compare": ("compare", "{model}", "--text", "{text}", "--no-figures", "--quiet"),
    "neurons": ("neurons", "{model}", "--text", "{text}", "--no-figures", "--quiet"),
    "track": ("track", "{run}", "--text", "{text}", "--last", "2", "--no-figures", "--quiet"),
    "train": TRAIN,
    "evaluate": EVALUATE,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="kills in all (default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (default: 0)")
    parser.add_argument("--work", type=Path, required=True, help="folder for the runs; emptied first")
    parser.add_argument("--task-data", type=Path, help="items of piqa; without them evaluate is left out")
    args = parser.parse_args()
    shutil.rmtree(args.work, ignore_errors=True)
    args.work.mkdir(parents=True)
    names = _places(args.work)
    generator = random.Random(args.seed)
    commands = {name: words for name, words in COMMANDS.items() if name != "evaluate" or args.task_data}
    left, bad = args.kills, 0
    seconds = {}
    for name, words in commands.items():
        line = [word.format(**names) for word in words] + _data(name, args)
        begin = time.perf_counter()
        _start(line, args.work / "whole" / name).wait()
        seconds[name] = time.perf_counter() - begin
    turn = 0
    while left > 0:
        name = list(commands)[turn % len(commands)]
        turn += 1
        line = [word.format(**names) for word in commands[name]] + _data(name, args)
        out = args.work / f"killed-{turn}" / name
        kills = 0
        while kills < 4 and left > 0:
            process = _start(line, out)
            try:
                process.wait(generator.uniform(0.3, 1.0) * seconds[name])
                break
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills, left = kills + 1, left - 1
        status = _start(line, out).wait()
        differs = compare(args.work / "whole" / name, out)
        files = [path for path in out.rglob("*") if path.suffix == ".partial" or path.name == ".journal"]
        failed = bool(status or differs or files)
        bad += failed
        print(
            f"{name}: {kills} kills, exit {status}, {'FAILED ' + str(files) if failed else 'equal'}",
            flush=True,
        )
        if not failed:
            shutil.rmtree(out.parent)
    print(f"{args.kills} kills, {turn} runs, {bad} failed")
    return int(bad > 0)


def _places(work: Path) -> dict[str, str]:
    """Model, text and training run on which the commands work."""
    from sparsing.demo import checkpoints, heldout_text

    (work / "text.txt").write_text(heldout_text()[:6_000], encoding="utf-8")
    run = work / "run"
    for checkpoint in checkpoints("relu")[-3:]:
        shutil.copytree(checkpoint, run / checkpoint.name)
    return {"model": str(checkpoints("relu")[-1]), "text": str(work / "text.txt"), "run": str(run)}


def _data(name: str, args: argparse.Namespace) -> list[str]:
    return ["--task-data", str(args.task_data)] if name == "evaluate" else []


def _start(line: list[str], out: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", RUN, *line, "-o", str(out)],
        stdout=subprocess.DEVNULL,
        stderr=(out.parent.parent / "errors.txt").open("ab"),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


if __name__ == "__main__":
    sys.exit(main())
