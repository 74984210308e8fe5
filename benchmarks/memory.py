"""Measures the peak memory of `sparsing measure` at 10,000 and at 1,000,000 tokens of the same text.

    python benchmarks/memory.py

Each run is a separate process, whose peak resident set size (RSS) is read from the operating system.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from typing import Any

from _common import save, text_file

from sparsing.demo import checkpoints

TOKENS = (10_000, 1_000_000)


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    text = text_file(6_000_000)
    model = checkpoints("relu")[-1]
    rows = [_run(str(model), str(text), tokens) for tokens in TOKENS]
    peaks = [row["peak_rss_bytes"] for row in rows]
    save("memory", {"model": model.name, "runs": rows, "growth": peaks[-1] / peaks[0] - 1})


def _run(model: str, text: str, tokens: int) -> dict[str, Any]:
    """Measure on this many tokens, and return the peak memory with the figures that show what was run."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "sparsing", "measure", model, "--text", text, "--rule", "cett"]
        command += ["--ppl", "1", "--max-tokens", str(tokens), "--dtype", "float32"]
        command += ["--no-figures", "--json", "-o", folder]
        # wait4 gives the memory of this process alone; getrusage would give the largest of all runs
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)} failed with status {status}")
    result = json.loads(output)[0]
    return {
        "tokens_asked": tokens,
        "num_tokens": result["num_tokens"],
        "peak_rss_bytes": usage.ru_maxrss * 1024,
        "wall_sec": result["cost"]["wall_sec"],
        "ppl_ratio": result["ppl_ratio"],
        "activation_ratio": result["activation_ratio"],
    }


if __name__ == "__main__":
    main()
