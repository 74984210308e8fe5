"""Peak memory of `sparsing measure` at 10,000 and at 1,000,000 tokens of the same text.

    python benchmarks/memory.py

Each run is a process of its own; peak RSS is what the system reports for it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile

from _common import save, text_file

from sparsing.demo import checkpoints

TOKENS = (10_000, 1_000_000)


def main() -> None:
    text = text_file(6_000_000)
    model = checkpoints("relu")[-1]
    rows = [_run(str(model), str(text), tokens) for tokens in TOKENS]
    peaks = [row["peak_rss_bytes"] for row in rows]
    save("memory", {"model": model.name, "runs": rows, "growth": peaks[-1] / peaks[0] - 1})


def _run(model: str, text: str, tokens: int) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "sparsing",
            "measure",
            model,
            "--text",
            text,
            "--rule",
            "cett",
            "--ppl",
            "1",
        ]
        command += ["--max-tokens", str(tokens), "--dtype", "float32", "--no-figures", "--json", "-o", folder]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)} failed with status {status}")
    measured = json.loads(output)[0]
    return {
        "tokens_asked": tokens,
        "num_tokens": measured["num_tokens"],
        "peak_rss_bytes": usage.ru_maxrss * 1024,
        "wall_sec": measured["cost"]["wall_sec"],
        "ppl_ratio": measured["ppl_ratio"],
        "activation_ratio": measured["activation_ratio"],
    }


if __name__ == "__main__":
    main()
