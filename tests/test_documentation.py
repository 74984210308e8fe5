"""Runs the commands of the README, the pages of docs and the help of every command, so that they cannot rot.

Each page gets a folder with the inputs that a reader has: a checkpoint, texts, points, a training run. Its commands run
there one after another, so a command may read what an earlier command of the same page wrote. Options that make a
command long are replaced by smaller values (`SMALLER`); commands that cannot run in a test are listed with the reason
(`CANNOT_RUN`) and are only parsed. Everything else runs as it is printed.
"""

from __future__ import annotations

import ast
import copy
import importlib
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from sparsing.cli import build_parser, main

from .helpers.measurements import make_measurement
from .helpers.measuring import text_corpus, trained
from .helpers.outcomes import evaluation, outcome
from .helpers.tiny import save_checkpoint

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
NO_COMMANDS = {
    "accuracy.md",
    "engine.md",
    "gpu.md",
    "laws-study.md",
    "models.md",
    "use-thresholds.md",
    "CONTRIBUTING.md",
    "design.md",
    "demo-models.md",
    "metrics.md",
    "glossary.md",
    "index.md",
    "install.md",
    "security.md",
}

CANNOT_RUN = {
    "wikitext": "downloads a dataset from the hub",
    "meta-llama/": "downloads a model from the hub",
    "Qwen/": "downloads a model from the hub",
    "SparseLLM/": "downloads a model from the hub, in a loop of the shell",
    "torchrun": "starts several processes; tests/measuring, tests/training and tests/cli do so",
    "accelerate launch": "starts several processes",
    "--suite paper": "needs the data of all fourteen tasks; tests/evaluation runs the suite",
    "lm-eval run": "downloads the data of the task; tests/cli/test_lm_eval_command.py runs it on local data",
    "model.gguf": "needs llama-cpp-python; tests/cli/test_gguf_commands.py runs the commands on such files",
    "--address": "needs a Ray cluster",
    "...": "a placeholder for arguments",
    "RUN...": "a placeholder for folders",
}
"""Part of a command to the reason why it cannot run here; such a command is only parsed."""

QUICK = {"forecast", "models", "neuron", "report", "thresholds"}
"""Commands that run in the default suite; all others take seconds even on tiny inputs."""

SMALLER = {
    r"--tokens 2_000_000": "--tokens 4096",
    r"--preset \S+": "--preset nano-0.3M --set model.d_ff=80 model.d_model=32 model.n_layers=1 model.n_heads=2"
    " model.context=32 model.dim_model_base=16 training.batch_tokens=128",
    r"\S*paper-0.1B.toml|\S*demo.toml": "small.toml",
    r"--shape [\w.-]+( \d[\w.]+)*": "--shape nano-0.3M",
    r"--dtype float32 bfloat16 int8": "--dtype float32",
    r"--max-tokens \d+": "--max-tokens 600",
    r"--tasks [^-]+": "--tasks copa ",
}
"""Pattern of an expensive part of a command to its cheap replacement."""

EXTRA = {
    "measure": "--max-tokens 600 --window 48",
    "compare": "--max-tokens 600 --window 48 --steps 3",
    "advise": "--max-tokens 600 --window 48 --new-tokens 4",
    "neurons": "--max-tokens 400 --window 48",
    "track": "--max-tokens 400 --window 64 --last 2 --dtype float32",
    "fit": "--resamples 5",
    "bench": "--rounds 1 --bits 4 --engines",
    "generate": "--max-new-tokens 4",
    "evaluate": "--task-data bench --limit 2",
    "demo": "--max-tokens 1100 -o new-demo",
}
"""Command to the options that make it cheap; options that the command has already keep the value of `SMALLER`."""

EXTRA_WITH = {
    ("compare", "--tasks"): "--limit 2",
    ("evaluate", "--ppl"): "--max-tokens 600 --window 48",
    ("bench", "--shape"): "--ratio 0.1",
    ("bench", "--whole"): "--new-tokens 4 --prompt-tokens 4",
    ("bench", "--model"): "--new-tokens 4 --prompt-tokens 4",
}
"""Command and one of its options to further options that have an effect only together with it."""


def commands_of(text: str) -> Iterator[str]:
    """The command lines of `sparsing` in a text, without comments, with continued lines joined."""
    for line in text.replace("\\\n", " ").splitlines():
        line = re.sub(r"\s+#.*|\s{2,}\(.*\)$|\s[>|] .*", "", line).strip()
        if re.match(r"(sparsing|torchrun|accelerate launch|python -m sparsing)\b", line):
            yield re.sub(r"\s+", " ", line)


def fenced(page: Path, language: str) -> list[str]:
    """The fenced blocks of this language on a page."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return [block for name, block in blocks if name == language]


def documented() -> dict[str, list[str]]:
    """Name of a page or of a command's help to its commands."""
    pages = {
        str(page.relative_to(ROOT)): [c for block in fenced(page, "") for c in commands_of(block)]
        for page in PAGES
    }
    helps = {
        f"sparsing {name} --help": list(commands_of(parser.epilog or ""))
        for name, parser in parsers().items()
    }
    return pages | helps


def parsers() -> dict:
    """Name of a command to its parser."""
    return build_parser()._subparsers._group_actions[0].choices


DOCUMENTED = documented()


def reason(command: str) -> str:
    """Why a command cannot run; empty if it can."""
    return next((why for part, why in CANNOT_RUN.items() if part in command), "")


def name_of(command: str) -> str:
    return command.removeprefix("python -m ").split()[1]


def test_every_page_has_commands_that_are_found():
    empty = {page for page, commands in DOCUMENTED.items() if not commands}
    assert {Path(page).name for page in empty} <= NO_COMMANDS
    assert all(any(part in c for commands in DOCUMENTED.values() for c in commands) for part in CANNOT_RUN)


@pytest.mark.parametrize("page", DOCUMENTED)
def test_commands_are_parsed(page):
    """Also the commands that cannot run have only options that exist."""
    for command in DOCUMENTED[page]:
        words = shlex.split(re.sub(r"^.*?(?=sparsing )", "", command, count=1))
        if "..." not in command:
            build_parser().parse_args(words[1:])


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """A folder with what a reader of the pages has."""
    folder = tmp_path_factory.mktemp("reader")
    book = Path(textwrap.__file__).read_text("utf-8")[:6000]
    for name in ("book.txt", "heldout.txt", "calibration.txt"):
        (folder / name).write_text(book, "utf-8")
    (folder / "src").mkdir()
    (folder / "src" / "code.py").write_text(book, "utf-8")
    for name in ("gsm8k.jsonl", "calibration.jsonl"):
        (folder / name).write_text(json.dumps({"text": book}) + "\n", "utf-8")
    (folder / "poems.txt").write_text(book[::-1], "utf-8")
    model = save_checkpoint(folder / "my-checkpoint", trained().model)
    for name in ("model", "MODEL", "other-checkpoint"):
        shutil.copytree(model, folder / name)
    for run in ("runs/mine", "runs/nano-relu"):
        _write_checkpoints(folder / run, tokens=True)
    _write_checkpoints(folder / "output_dir", tokens=False)
    (folder / "small.toml").write_text(
        "[model]\nd_model = 32\nn_layers = 1\nn_heads = 2\nvocab_size = 280\ncontext = 32\ndim_model_base = 16\n"
        "[training]\ntokens = 512\nbatch_tokens = 128\n",
        "utf-8",
    )
    (folder / "sweep.toml").write_text(
        'models = ["my-checkpoint"]\nrules = ["cett", "fat"]\n[texts]\nbook = "book.txt"\n'
        "[measure]\nmax_tokens = 600\nwindow = 48\nno_figures = true\n",
        "utf-8",
    )
    _write_points(folder)
    _write_thresholds(folder)
    _write_studies(folder)
    for place in ("outputs/my-checkpoint", "outputs/relu", "outputs/silu"):
        make_measurement(model=place).save(folder / place / "cett-ppl-1" / "measurement.json")
    evaluation(outcome("dense", [1, 0]), outcome("PPL-1%", [1, 1])).save(
        folder / "outputs" / "relu" / "evaluate" / "evaluation.json"
    )
    for step, ratio in enumerate((0.3, 0.26, 0.22, 0.2, 0.19, 0.185, 0.18, 0.178, 0.177, 0.176)):
        point = make_measurement(activation_ratio=ratio, train_tokens=2**step * 10**6, num_tokens=16 + step)
        point.save(folder / "run" / f"step-{step}" / "measurement.json")
    copa = folder / "bench" / "copa"
    copa.mkdir(parents=True)
    item = {
        "premise": "The man slept.",
        "question": "cause",
        "choice1": "He was tired.",
        "choice2": "It rained.",
    }
    rows = [json.dumps({**item, "label": i % 2, "idx": i}) for i in range(4)]
    (copa / "val.jsonl").write_text("\n".join(rows) + "\n", "utf-8")
    return folder


def _write_checkpoints(run: Path, *, tokens: bool) -> None:
    """The checkpoints of a training run: the trained tiny model with less and less noise on its weights.

    Args:
        tokens: Whether they record their training tokens, as those of `sparsing train` do.
    """
    for step in range(1, 8):
        model = copy.deepcopy(trained().model)
        generator = torch.Generator().manual_seed(step)
        for weights in model.parameters():
            noise = torch.randn(weights.shape, generator=generator)
            weights.data.add_(noise, alpha=0.2 / step * float(weights.std()))
        folder = save_checkpoint(run / f"checkpoint-{step}", model)
        if tokens:
            state = {"step": step, "tokens": 2**step * 10**6}
            (folder / "training_state.json").write_text(json.dumps(state), "utf-8")


def _write_points(folder: Path) -> None:
    from sparsing.laws import FORMS, fit, simulate

    truth = {"alpha": 1.0, "b": -3.5, "c": 0.02, "A0": 0.072}
    for name in ("a", "b", "points"):
        points = simulate(
            FORMS["relu"], truth, [6.0 + 11 * i for i in range(24)], noise_sd=1.5e-4, seed=len(name)
        )
        rows = [f"{x!r},{y!r}" for x, y in zip(points.x, points.ratio, strict=True)]
        (folder / f"{name}.csv").write_text("\n".join(["tokens,activation_ratio", *rows]) + "\n", "utf-8")
    fit(points, "relu", drop=0, num_resamples=0).save(folder / "law" / "points.json")


def _write_thresholds(folder: Path) -> None:
    """Thresholds at the places where the pages expect those of an earlier `sparsing measure`."""
    import numpy as np

    from sparsing.rules.thresholds import Thresholds

    loaded = trained()
    values = {site.name: float(np.float32(0.05)) for site in loaded.sites}
    thresholds = Thresholds(rule="cett", level=0.2, on="neuron_norm", values=values)
    for place in ("outputs/my-checkpoint/cett-ppl-1", "outputs/my-model/cett-ppl-1", "run/cett-ppl-1", "."):
        for name in ("thresholds.json", "t.json"):
            thresholds.save(folder / place / name)


def _write_studies(folder: Path) -> None:
    """Studies of neurons where the help of `sparsing neuron` expects them."""
    from sparsing.neurons.store import write_study
    from sparsing.rules.thresholds import Thresholds

    cuts = Thresholds(rule="cett", level=0.1, on="neuron_norm", values=(0.03, 0.05))
    for place in ("outputs/my-checkpoint", "demo-report/relu"):
        write_study(
            trained(), {"book": text_corpus(90, window=40)}, folder / place / "neurons", thresholds=cuts
        )


def cheap(command: str) -> str:
    """The command with small values for its expensive options."""
    for pattern, replacement in SMALLER.items():
        command = re.sub(pattern, replacement, command)
    options = EXTRA.get(name_of(command), "")
    for (name, option), extra in EXTRA_WITH.items():
        options += f" {extra}" if name == name_of(command) and option in command else ""
    present = re.findall(r"(?<=\s)--?[a-z][\w-]*", command)
    for option in re.findall(r"(?<!\S)--?[a-z][\w-]*(?: (?!-)\S+)*", options):
        if option.split()[0] not in present:
            command += f" {option}"
    return command


def run_page(page: str, folder: Path, names: set[str] | None, monkeypatch) -> None:
    """Runs the commands of a page in `folder`, one after another; only those with these names, if given."""
    monkeypatch.chdir(folder)
    for command in runnable(page, names):
        words = shlex.split(cheap(command))
        paths = [sorted(map(str, folder.glob(word))) if "*" in word else [word] for word in words[1:]]
        with warnings.catch_warnings():
            warnings.simplefilter("default")  # the settings of the tests would make errors of them
            status = main([word for group in paths for word in group])
        assert status == 0, f"{page}: {command}\nran as: {shlex.join(words)}"


def runnable(page: str, names: set[str] | None) -> list[str]:
    """The commands of a page that can run in a test."""
    return [c for c in DOCUMENTED[page] if not reason(c) and (names is None or name_of(c) in names)]


@pytest.fixture
def reader(inputs, tmp_path) -> Path:
    return Path(shutil.copytree(inputs, tmp_path / "reader"))


@pytest.mark.parametrize("page", [page for page in DOCUMENTED if runnable(page, QUICK) and "--help" in page])
def test_quick_commands_run(page, reader, monkeypatch, capsys):
    run_page(page, reader, QUICK, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in DOCUMENTED if runnable(page, None)])
def test_all_commands_run(page, reader, monkeypatch, capsys):
    pytest.importorskip("lm_eval", reason="needs lm-eval: pip install 'sparsing[eval]'")
    pytest.importorskip("numba", reason="needs numba: pip install 'sparsing[cpu]'")
    monkeypatch.setattr("sparsing.hardware.bandwidth.last_cache_bytes", lambda: 2**16)
    run_page(page, reader, None, monkeypatch)


@pytest.mark.parametrize("page", [str(page.relative_to(ROOT)) for page in PAGES])
def test_links_lead_to_a_file_and_a_heading(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", (ROOT / page).read_text("utf-8")):
        if link.startswith("https://"):
            continue
        name, _, heading = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        assert target.exists(), link
        assert not heading or heading in _headings(target), link


def _headings(page: Path) -> set[str]:
    """The anchors of the headings of a page, by GitHub's rule."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [str(page.relative_to(ROOT)) for page in PAGES])
def test_python_snippets_import_what_exists(page):
    """Every snippet is valid Python, and every name that it imports from the package exists."""
    for block in fenced(ROOT / page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sparsing"):
                module = importlib.import_module(node.module or "")
                for alias in node.names:
                    assert hasattr(module, alias.name) or _is_module(f"{node.module}.{alias.name}"), (
                        alias.name
                    )


@pytest.mark.slow
@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_examples_run(example, tmp_path):
    """In a process of their own, because an example may register a rule."""
    pytest.importorskip("numba", reason="needs numba: pip install 'sparsing[cpu]'")
    done = subprocess.run(
        [sys.executable, example], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def _is_module(name: str) -> bool:
    return importlib.util.find_spec(name) is not None
