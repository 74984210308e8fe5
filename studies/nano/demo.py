"""Train the models of `sparsing demo`, and store their checkpoints in the package as float16 without optimizer state.

    python studies/nano/demo.py            both models at a time, one thread each
    python studies/nano/demo.py relu       one model

The configuration is `examples/train/demo.toml`. The same command resumes an interrupted training.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch reads it on import

from cells import WORK

from sparsing.demo import DEMO_ACTIVATIONS, MODELS
from sparsing.models.loading import load_model
from sparsing.training import read_train_config, train
from sparsing.training.run_checkpoints import complete_checkpoints, mark_complete

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "examples" / "train" / "demo.toml"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "activations",
        nargs="*",
        metavar="ACTIVATION",
        help=f"activations to train: {', '.join(DEMO_ACTIVATIONS)} (default: all)",
    )
    chosen = parser.parse_args().activations or list(DEMO_ACTIVATIONS)
    if unknown := set(chosen) - set(DEMO_ACTIVATIONS):
        parser.error(
            f"activation must be one of {', '.join(DEMO_ACTIVATIONS)}, got {', '.join(sorted(unknown))}"
        )
    if len(chosen) > 1:
        workers = [subprocess.Popen([sys.executable, __file__, activation]) for activation in chosen]
        return max(worker.wait() for worker in workers)
    run, output = ROOT / WORK / f"demo-{chosen[0]}", MODELS / chosen[0]
    train(read_train_config(RECIPE, overrides={"model.hidden_act": chosen[0]}), run)
    shutil.rmtree(output, ignore_errors=True)
    for folder in save_for_package(run, output):
        print(folder.relative_to(ROOT))
    return 0


def save_for_package(run: Path, output: Path) -> list[Path]:
    """Save every checkpoint of `run` as `output/tokens-<millions>M` in float16, and return the folders."""
    packed = []
    for checkpoint in complete_checkpoints(run):
        loaded = load_model(checkpoint)
        assert loaded.train_step is not None
        assert loaded.train_tokens is not None
        folder = output / f"tokens-{loaded.train_tokens / 1e6:.3g}M"
        loaded.model.half().save_pretrained(folder)
        loaded.tokenizer.save_pretrained(folder)
        mark_complete(folder, loaded.train_step, loaded.train_tokens, loaded.train_phase)
        packed.append(folder)
    return packed


if __name__ == "__main__":
    sys.exit(main())
