"""Run the study: train and track each cell, and write `results/<cell>.json`. The same command resumes after a kill.

    python studies/nano/run.py            all cells, as many at a time as there are cores, one thread each
    python studies/nano/run.py --list     the cells, and which of them are finished

The cells run as a sweep (`sparsing.scale`), so a cell that fails is tried again and does not stop the others.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch reads it on import

import cells
import numpy as np
from cells import CELLS, WORK, Cell, CellResult

from sparsing.models.loading import LoadedModel
from sparsing.models.paper_shapes import PRESETS
from sparsing.scale.cell import DONE
from sparsing.scale.cell import Cell as SweepCell
from sparsing.scale.sweep import run_sweep
from sparsing.scale.sweep_view import SweepView
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
    parser.add_argument("--list", action="store_true", help="list the cells and which of them are finished")
    parser.add_argument("--here", action="store_true", help="run the given cells in this process")
    args = parser.parse_args()
    os.chdir(Path(__file__).resolve().parents[2])
    chosen = [cell for cell in CELLS if not args.cells or cell.name in args.cells]
    if args.list:
        print("\n".join(f"{'done' if cell.result.exists() else '    '}  {cell.name}" for cell in chosen))
        return 0
    if args.here:
        for cell in chosen:
            run(cell)
        return 0
    if not (WORK / "tokenizer").exists():
        tokenizer = train_tokenizer(library_documents("train"), 1024, cells.WINDOW)
        tokenizer.save_pretrained(WORK / "tokenizer.partial")
        (WORK / "tokenizer.partial").rename(WORK / "tokenizer")
    left = [_sweep_cell(cell) for cell in chosen if not cell.result.exists()]
    with SweepView(len(chosen), len(chosen) - len(left)) as view:
        records = run_sweep(left, view)
    return 0 if all(record.outcome == DONE for record in records) else 1


def _sweep_cell(cell: Cell) -> SweepCell:
    """The cell as one of a sweep, which runs this script with `--here`."""
    return SweepCell(
        name=cell.name,
        labels={"preset": cell.preset, "activation": cell.hidden_act, "seed": str(cell.seed)},
        folder=WORK / "cells" / cell.name,
        commands=((sys.executable, str(cells.HERE / "run.py"), "--here", cell.name),),
    )


def run(cell: Cell) -> None:
    """Train and track one cell, and write its result."""
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


if __name__ == "__main__":
    sys.exit(main())
