"""Train a model of `sparsing demo` and pack its checkpoints for the package: float16, no optimizer.

    OMP_NUM_THREADS=1 python scripts/train_demo_models.py relu --run runs/demo-relu --output src/sparsing/demo/models

The recipe is `examples/train/demo.toml`; the same command goes on where it was cut off.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from sparsing.models import load_model
from sparsing.training import read_config, train
from sparsing.training.saving import checkpoint_folders, mark_whole

RECIPE = Path(__file__).parents[1] / "examples" / "train" / "demo.toml"


def pack(run: Path, output: Path) -> list[Path]:
    """Every kept checkpoint of `run` as `output/tokens-<millions>M`, in float16."""
    packed = []
    for checkpoint in checkpoint_folders(run):
        loaded = load_model(checkpoint)
        assert loaded.train_step is not None
        assert loaded.train_tokens is not None
        folder = output / f"tokens-{loaded.train_tokens / 1e6:.3g}M"
        loaded.model.to(torch.float16).save_pretrained(folder)
        loaded.tokenizer.save_pretrained(folder)
        mark_whole(folder, loaded.train_step, loaded.train_tokens)
        packed.append(folder)
    return packed


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a model of `sparsing demo`.")
    parser.add_argument("activation", choices=("relu", "silu"))
    parser.add_argument("--run", type=Path, required=True, help="folder of the run")
    parser.add_argument("--output", type=Path, required=True, help="folder; packed into OUTPUT/ACTIVATION")
    args = parser.parse_args()
    train(read_config(RECIPE, overrides={"model.hidden_act": args.activation}), args.run)
    for folder in pack(args.run, args.output / args.activation):
        print(folder)


if __name__ == "__main__":
    main()
