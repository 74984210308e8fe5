"""Measures the cost of `SparsityCallback` with its default settings: training with and without it, in pairs.

    OMP_NUM_THREADS=1 python benchmarks/callback_overhead.py

Each pair trains the preset `nano-0.9M` (ReLU, 2,048 tokens per step) twice from the same weights, in alternating order.
The callback chooses its interval itself. The measurements at the start, when the interval is chosen, and at the end are
part of the cost, as in a real run. They occur once per run, so `steady_overhead` reports the cost without them. Time is
wall-clock time and the processor time of the one thread.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import time
import warnings
from typing import Any

import torch
from _common import CACHE, save

from sparsing.base.progress import Progress
from sparsing.text.standard_library import library_documents
from sparsing.training.config_file import read_train_config
from sparsing.training.sparsity_callback import SPARSITY_FILE, read_sparsity_rows
from sparsing.training.tokenizer import train_tokenizer
from sparsing.training.trainer import train

PRESET = "nano-0.9M"
BATCH_TOKENS = 2048
LIMIT = 0.03


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=1000, help="steps of each run (default: %(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    _run(False, 12)  # warms up and writes the tokenizer
    pairs = []
    for pair in range(args.pairs):
        order = (False, True) if pair % 2 == 0 else (True, False)
        both = {watched: _run(watched, args.steps) for watched in order}
        pairs.append(_pair(both[False], both[True], args.steps))
        print(pairs[-1], flush=True)
    names = ("cpu_overhead", "clock_overhead", "steady_overhead")
    medians = {name: statistics.median(pair[name] for pair in pairs) for name in names}
    save(
        "callback_overhead",
        {"preset": PRESET, "steps": args.steps, "limit": LIMIT, **medians, "pairs": pairs},
    )
    print(f"overhead in processor time {medians['cpu_overhead']:.2%}, limit {LIMIT:.0%}")
    return int(medians["cpu_overhead"] > LIMIT)


def _run(watched: bool, steps: int) -> dict[str, Any]:
    folder = CACHE / "overhead" / ("watched" if watched else "plain")
    shutil.rmtree(folder, ignore_errors=True)
    tokens = steps * BATCH_TOKENS
    overrides: dict[str, Any] = {
        "model.hidden_act": "relu",
        "data.heldout_tokens": 0,
        "tokenizer.path": str(_tokenizer()),
        "training.tokens": tokens,
        "checkpoints.at": [tokens],
        "checkpoints.resume_every": tokens,
    }
    if watched:
        overrides["tracking.tokens"] = 2048
    config = read_train_config(preset=PRESET, overrides=overrides)
    clock, cpu = time.perf_counter(), time.process_time()
    curve = train(config, folder, progress=Progress(False))
    result = {"clock_sec": time.perf_counter() - clock, "cpu_sec": time.process_time() - cpu}
    return result | {
        "loss": [line["loss"] for line in curve],
        "rows": read_sparsity_rows(folder / SPARSITY_FILE),
    }


def _tokenizer() -> Any:
    folder = CACHE / "overhead" / "tokenizer"
    if not (folder / "tokenizer_config.json").exists():
        train_tokenizer(library_documents("train"), 1024, 256, sample_chars=4_000_000).save_pretrained(folder)
    return folder


def _pair(plain: dict[str, Any], watched: dict[str, Any], steps: int) -> dict[str, Any]:
    """Overheads as fractions of the time of the run without the callback.

    `steady_overhead` is the overhead of a long run: the seconds of a probe per `every` steps, and of PPL-p% per twenty
    probes, over the seconds of plain steps. The first row has no PPL-p%; the last row has both.
    """
    assert plain["loss"] == watched["loss"], "the callback changed training"
    rows = watched["rows"]
    every, step_sec = rows[-1]["every"], plain["clock_sec"] / steps
    probes = [row["seconds"] for row in rows if "ppl" not in row][1:] or [rows[0]["seconds"]]
    probe_sec = statistics.median(probes)
    ppl_sec = max(row["seconds"] for row in rows if "ppl" in row) - probe_sec
    return {
        "cpu_plain_sec": plain["cpu_sec"],
        "cpu_watched_sec": watched["cpu_sec"],
        "clock_plain_sec": plain["clock_sec"],
        "clock_watched_sec": watched["clock_sec"],
        "cpu_overhead": watched["cpu_sec"] / plain["cpu_sec"] - 1,
        "clock_overhead": watched["clock_sec"] / plain["clock_sec"] - 1,
        "every": every,
        "probe_sec": probe_sec,
        "ppl_sec": ppl_sec,
        "steady_overhead": (probe_sec + ppl_sec / 20) / (every * step_sec),
    }


if __name__ == "__main__":
    sys.exit(main())
