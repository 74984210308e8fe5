"""Measures decoding speed by number of threads, alone and beside a busy core, and whether the choice is the best.

    python benchmarks/threads.py --model relu/tokens-10.2M SmolLM2-135M-Instruct --dtype float32 bfloat16

Each round decodes the same tokens with every number of threads in turn, then lets `accelerate` choose a number, as
`sparsing generate` does, and decodes with it. The busy core is a process that only counts.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from _common import save

from sparsing.decode import accelerate
from sparsing.decode.autotune.threads import thread_counts
from sparsing.decode.timed_generation import generate_timed
from sparsing.demo import checkpoints
from sparsing.hardware.threads import available_threads
from sparsing.models.loading import LoadedModel, load_model

PROMPT = [1, 2, 3, 4]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    demo = str(checkpoints("relu")[-1])
    parser.add_argument(
        "--model", nargs="+", default=[demo], help="folders or hub names (default: ReLU demo)"
    )
    parser.add_argument(
        "--dtype", nargs="+", default=["float32"], help="dtype of each model (default: float32)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default: 5)")
    parser.add_argument("--new-tokens", type=int, default=32, help="tokens per timing (default: 32)")
    args = parser.parse_args()
    torch.set_num_threads(available_threads())
    rows = {}
    for name, dtype in zip(args.model, args.dtype, strict=True):
        loaded = load_model(name, dtype=dtype, device="cpu")
        row = rows[f"{'/'.join(Path(name).parts[-2:])}, {loaded.dtype}"] = {}
        for load, context in (("alone", contextlib.nullcontext()), ("beside a busy core", busy_core())):
            with context:
                row[load] = measure(loaded, args.rounds, args.new_tokens)
    save("threads", {"new_tokens": args.new_tokens, "rounds": args.rounds, "rows": rows})


def measure(loaded: LoadedModel, rounds: int, new_tokens: int) -> dict[str, Any]:
    """Tokens per second by number of threads, the choices, and the share of the best speed that they reach."""
    counts = thread_counts(torch.get_num_threads())
    for threads in counts:
        tokens_per_sec(loaded, threads, new_tokens)  # compiles the kernels
    speeds: dict[int, list[float]] = {threads: [] for threads in counts}
    chosen, chosen_speeds = [], []
    for _ in range(rounds):
        for threads in counts:
            speeds[threads].append(tokens_per_sec(loaded, threads, new_tokens))
        threads, speed = chosen_tokens_per_sec(loaded, new_tokens)
        chosen.append(threads)
        chosen_speeds.append(speed)
    medians = {threads: statistics.median(values) for threads, values in speeds.items()}
    return {
        "tok_per_sec": medians,
        "all_tok_per_sec": speeds,
        "chosen_threads": chosen,
        "chosen_tok_per_sec": statistics.median(chosen_speeds),
        "share_of_best": statistics.median(chosen_speeds) / max(medians.values()),
    }


def tokens_per_sec(loaded: LoadedModel, threads: int, new_tokens: int) -> float:
    """Decoding speed of the dense kernels with this many threads."""
    with accelerate(loaded.model, None, mode="dense", measure=False, threads=threads):
        return generate_timed(loaded.model, torch.tensor([PROMPT]), max_new_tokens=new_tokens).tok_per_sec


def chosen_tokens_per_sec(loaded: LoadedModel, new_tokens: int) -> tuple[int, float]:
    """The number of threads that `accelerate` chooses, and the decoding speed with it."""
    with accelerate(loaded.model, None, mode="dense", measure=True) as fast:
        threads = fast.threads
    return threads, tokens_per_sec(loaded, threads, new_tokens)


@contextlib.contextmanager
def busy_core() -> Iterator[None]:
    """A process that keeps a core busy inside the block."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main()
