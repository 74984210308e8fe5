"""Helpers of the benchmark scripts: a small trained model, a text, and a dated result file."""

from __future__ import annotations

import datetime
import itertools
import json
import platform
import shlex
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent
CACHE = ROOT / ".cache"
STEPS = 200


def trained_model() -> Path:
    """Folder of a ReLU Granite of 10.6M parameters, trained for 200 steps of 2,048 tokens on the first call.

    A random model would not do: its perplexity hardly reacts to pruning, so PPL-1% has no meaning for it.
    """
    from sparsing.training import read_train_config, train

    folder = CACHE / f"relu-384x6-{STEPS}"
    if not list(folder.rglob("model.safetensors")):
        print(f"training {folder.name} once (some minutes) ...", flush=True)
        model = {"d_model": 384, "n_layers": 6, "n_heads": 6, "dim_model_base": 64}
        rest = {"training.tokens": STEPS * 2048, "training.decay": 0.2, "checkpoints.at": [STEPS * 2048]}
        train(
            read_train_config(overrides={f"model.{key}": value for key, value in model.items()} | rest),
            folder,
        )
    return next(folder.rglob("model.safetensors")).parent


def text_file(characters: int) -> Path:
    """A file with this many characters of standard-library text. Text that no model was trained on comes first."""
    from sparsing.text.standard_library import library_documents

    path = CACHE / f"text-{characters}.txt"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        text = "\n\n".join(itertools.chain(library_documents("heldout"), library_documents("train")))
        if len(text) < characters:
            sys.exit(f"the standard library has {len(text)} characters of text, {characters} are needed")
        path.write_text(text[:characters], encoding="utf-8")
    return path


def save(name: str, result: dict[str, Any], case: str = "") -> Path:
    """Write `results/<name>-<case>-<date>.json` with command, machine and versions added, and print it."""
    import numpy
    import torch
    import transformers

    import sparsing
    from sparsing.hardware.machine import processor_name

    result |= {
        # a folder or file of this machine is known by its name elsewhere
        "command": shlex.join(
            [
                "python",
                f"benchmarks/{name}.py",
                *(Path(a).name if a.startswith("/") else a for a in sys.argv[1:]),
            ]
        ),
        "date": datetime.date.today().isoformat(),
        "machine": {"processor": processor_name(), "threads": torch.get_num_threads()},
        "versions": {
            "python": platform.python_version(),
            "sparsing": sparsing.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "numpy": numpy.__version__,
        },
    }
    path = ROOT / "results" / f"{'-'.join(filter(None, (name, case)))}-{result['date']}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))
    print(f"written to {path.relative_to(ROOT.parent)}")
    return path
