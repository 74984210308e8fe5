"""Run the study: train and track each cell, and write `results/<cell>.json`. The same command resumes after a kill.

    python studies/nano/run.py            one cell at a time
    python studies/nano/run.py --jobs 2   two cells at a time, one thread each

A process locks the cell it works on, and the lock ends with the process, so several commands may run at once.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch reads it on import

import cells
import numpy as np
from cells import CELLS, WORK, Cell, CellResult

from sparsing.models.loading import LoadedModel
from sparsing.models.paper_shapes import PRESETS
from sparsing.text.corpus import Corpus, load_corpus
from sparsing.text.standard_library import library_documents
from sparsing.training.config_file import read_train_config
from sparsing.training.tokenizer import train_tokenizer
from sparsing.training.tracking import find_checkpoints, track
from sparsing.training.trainer import train


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "cells", nargs="*", metavar="CELL", help="names of cells (default: all, in the order of the study)"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="cells at a time (default: 1)")
    parser.add_argument("--list", action="store_true", help="list the cells and which of them are finished")
    args = parser.parse_args()
    os.chdir(Path(__file__).resolve().parents[2])
    chosen = [cell for cell in CELLS if not args.cells or cell.name in args.cells]
    if args.list:
        print("\n".join(f"{'done' if cell.result.exists() else '    '}  {cell.name}" for cell in chosen))
        return 0
    if args.jobs > 1:
        command = [sys.executable, str(cells.HERE / "run.py"), *args.cells]
        workers = [subprocess.Popen(command) for _ in range(args.jobs)]
        return max(worker.wait() for worker in workers)
    WORK.mkdir(parents=True, exist_ok=True)
    for cell in chosen:
        with _lock(cell.name) as locked:
            if locked and not cell.result.exists():
                run(cell)
    return 0


def run(cell: Cell) -> None:
    """Train and track one cell, and write its result."""
    with _lock("tokenizer", wait=True):
        if not (WORK / "tokenizer").exists():
            train_tokenizer(library_documents("train"), 1024, cells.WINDOW).save_pretrained(
                WORK / "tokenizer"
            )
    print(f"{cell.name}: training", flush=True)
    config = read_train_config(preset=cell.preset, overrides=cell.overrides())
    started = time.perf_counter()
    curve = [line for line in train(config, WORK / cell.name) if "loss" in line]
    trained = time.perf_counter()
    print(f"{cell.name}: {trained - started:.0f} s, loss {curve[-1]['loss']:.3f}; tracking", flush=True)
    tracked = track(
        find_checkpoints(WORK / cell.name), read_heldout, WORK / f"{cell.name}-track", name=cell.name
    )
    ended = time.perf_counter()
    result = CellResult(
        name=cell.name,
        preset=cell.preset,
        hidden_act=cell.hidden_act,
        seed=cell.seed,
        d_model=config.model.d_model,
        n_layers=config.model.n_layers,
        num_parameters=config.model.num_parameters,
        block_parameters=PRESETS[cell.preset].block_parameters,
        loss_tokens=tuple(line["tokens"] for line in curve),
        loss=tuple(round(line["loss"], 5) for line in curve),
        track=tracked,
        train_sec=trained - started,
        track_sec=ended - trained,
    )
    result.save(cell.result)
    last = tracked.points[-1]
    print(
        f"{cell.name}: done, tracking took {ended - trained:.0f} s; CETT {tracked.level:.4g},"
        f" activation ratio {last.activation_ratio:.2%}, held-out loss {last.loss:.3f}",
        flush=True,
    )


def read_heldout(loaded: LoadedModel) -> tuple[Corpus, None]:
    """The windows that checkpoints are measured on, spread evenly over the held-out documents; no holdout."""
    corpus = load_corpus(
        library_documents("heldout"), loaded.tokenizer, window=cells.WINDOW, name="builtin, held out"
    )
    return corpus.part(np.linspace(0, corpus.n_windows - 2, cells.WINDOWS).round().astype(int)), None


@contextlib.contextmanager
def _lock(name: str, *, wait: bool = False) -> Iterator[bool]:
    """Whether this process got the lock of that name; the system releases it when the process ends."""
    with Path(WORK / f"{name}.lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


if __name__ == "__main__":
    sys.exit(main())
