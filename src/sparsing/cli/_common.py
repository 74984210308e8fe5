"""Parts that several commands share: groups of arguments, loading of model and text, printing of results.

Commands import this module as `common`. It imports torch only inside functions, as the commands do.
"""

from __future__ import annotations

import argparse
import json
import logging
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.text import Text

    from sparsing.base.progress import Progress
    from sparsing.measuring.subject import Subject
    from sparsing.models.loading import LoadedModel
    from sparsing.models.outline import Outline
    from sparsing.text.corpus import Corpus

DEFAULT_WINDOW = 2048
"""Tokens per window for models that can read more: long windows cost memory and change the metrics little."""

RULE_NAMES = "cett, fat, top_k, cats, gaussian_top_k, griffin, quantile, scap, teal, top_p, top_p_l2, wina"
"""The names of all rules. Written out, because importing the rules would slow down `sparsing --help`."""


def percentage(text: str) -> float:
    """A number of percent, with or without the sign."""
    return float(text.removesuffix("%"))


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say how a model is loaded."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--dtype", help="float32, bfloat16 (bf16), float16 (fp16) or float64 (default: the checkpoint's own)"
    )
    group.add_argument(
        "--device",
        help="cpu, cuda, cuda:1, mps, or auto to spread over all devices (default: cuda, else cpu)",
    )
    group.add_argument("--revision", help="branch, tag or commit on the hub (default: main)")
    group.add_argument(
        "--tokenizer", metavar="SOURCE", help="folder or hub name of the tokenizer (default: the model's own)"
    )
    group.add_argument(
        "--adapter", metavar="DIR", help="folder of a LoRA or other PEFT adapter, merged into the weights"
    )
    group.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="run code that comes with the checkpoint (default: off)",
    )


def add_corpus_arguments(
    parser: argparse.ArgumentParser, *, required: bool = True, max_tokens: int | None = None
) -> None:
    """Adds the options that say which text is read and how it is divided into windows.

    Args:
        required: Whether `--text` must be given.
        max_tokens: Default of `--max-tokens`; None reads all tokens.
    """
    group = parser.add_argument_group("text")
    group.add_argument(
        "--text",
        required=required,
        metavar="SOURCE",
        help="text file, folder, .jsonl, .csv, .parquet, or a dataset on the hub (name or name:config); docs/inputs.md",
    )
    add_source_arguments(group)
    group.add_argument(
        "--max-tokens",
        type=int,
        default=max_tokens,
        metavar="N",
        help=f"read at most N tokens (default: {max_tokens or 'all'})",
    )
    group.add_argument(
        "--window",
        type=int,
        metavar="N",
        help=f"tokens per window (default: the model's maximum, but at most {DEFAULT_WINDOW})",
    )
    group.add_argument(
        "--stride", type=int, metavar="N", help="tokens between the starts of windows (default: no overlap)"
    )
    group.add_argument(
        "--documents", action="store_true", help="one document per window (default: documents are packed)"
    )
    group.add_argument(
        "--bos",
        choices=("auto", "always", "never"),
        default="auto",
        help="put a BOS token before each window (default: auto, as the tokenizer does)",
    )
    group.add_argument("--count-bos", action="store_true", help="count BOS as a token (default: off)")
    group.add_argument(
        "--holdout",
        type=float,
        default=0.1,
        metavar="SHARE",
        help="share of the text, at its end, that only checks the thresholds, in [0, 0.9] (default: 0.1)",
    )


def add_source_arguments(group: argparse._ArgumentGroup) -> None:
    """Adds the options that say how rows of files and datasets become texts."""
    group.add_argument("--split", help="split of a dataset (default: train)")
    group.add_argument("--column", help="column of rows that holds the text (default: text)")
    group.add_argument(
        "--join",
        type=_unescaped,
        metavar="TEXT",
        help=r"text between documents, e.g. '\n\n' as is usual for WikiText (default: the end-of-text token)",
    )


def _unescaped(text: str) -> str:
    r"""The text with `\n` and `\t` as line break and tab, which a shell cannot write easily."""
    return text.replace(r"\n", "\n").replace(r"\t", "\t")


def add_run_arguments(parser: argparse.ArgumentParser, *, folder: str = "outputs/<owner>--<model>") -> None:
    """Adds the options that say where results go and what is printed.

    Args:
        folder: The default folder of the command, for its help.
    """
    group = parser.add_argument_group("run")
    group.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="DIR",
        help=f"folder for the results (default: {folder})",
    )
    group.add_argument("--batch-size", type=int, metavar="N", help="windows per batch (default: by memory)")
    group.add_argument("--json", action="store_true", help="print one JSON document (default: tables)")
    group.add_argument("--no-figures", action="store_true", help="write no figures (default: PNG and SVG)")
    group.add_argument(
        "--quiet",
        action="store_true",
        help="no progress, no advice on --dtype (default: bars on a terminal, a line every 30 s in a log)",
    )


TEXT_OPTIONS = (
    *("text", "split", "column", "join", "max_tokens", "window", "stride", "documents", "bos", "count_bos"),
    "holdout",
)
"""The options of `add_corpus_arguments`."""


def refuse_without_effect(args: argparse.Namespace, options: Iterable[str], because: str) -> None:
    """Raises InputError if one of these options was given, since it would be ignored.

    An option that was given with its default value changes nothing and passes.

    Args:
        options: Names in the namespace, e.g. `max_tokens` for `--max-tokens`.
        because: Why they have no effect, e.g. "without --predict".
    """
    from sparsing.errors import InputError

    given = [name for name in options if getattr(args, name) != args.parser.get_default(name)]
    if given:
        names = " and ".join(f"--{name.replace('_', '-')}" for name in given)
        raise InputError(
            f"{names} would have no effect {because}; leave out {'it' if len(given) == 1 else 'them'}"
        )


def check_text(args: argparse.Namespace) -> None:
    """Raises InputError if the text of `--text` cannot exist, before torch is imported and a model is loaded."""
    from sparsing.text.reading import check_options

    if args.text is not None:
        check_options(args.text, split=args.split, column=args.column)


def make_progress(args: argparse.Namespace) -> Progress:
    """Progress: bars on a terminal, lines in a log, nothing with `--quiet`."""
    from sparsing.base.progress import Progress

    return Progress(False if args.quiet else None)


def load_checkpoint(args: argparse.Namespace, name: str) -> LoadedModel:
    """Loads the model `name` as the options of `add_model_arguments` say."""
    from sparsing.errors import InputError
    from sparsing.measuring.processes import load_everywhere
    from sparsing.models.loading import load_model

    if args.revision is not None and Path(name).expanduser().exists():
        raise InputError(
            f"--revision chooses a version on the hub, but {name!r} is a local folder; leave out --revision"
        )
    return load_everywhere(
        load_model,
        name,
        dtype=args.dtype,
        device=args.device,
        revision=args.revision,
        trust_remote_code=args.trust_remote_code,
        tokenizer=args.tokenizer,
        adapter=args.adapter,
    )


def load_to_measure(args: argparse.Namespace, name: str) -> LoadedModel:
    """As `load_checkpoint`, and logs once per command if another dtype would be faster on this machine.

    The user who gives `--dtype` or `--quiet` gets no such message.
    """
    from sparsing.measuring.dtype_advice import faster_dtype_advice

    loaded = load_checkpoint(args, name)
    # a command may load many checkpoints: the namespace lives as long as the command
    if args.dtype is None and not args.quiet and not getattr(args, "dtype_was_timed", False):
        args.dtype_was_timed = True
        if advice := faster_dtype_advice(loaded):
            logging.getLogger("sparsing").warning("%s", advice)
    return loaded


def load_to_decode(args: argparse.Namespace, name: str) -> LoadedModel:
    """As `load_checkpoint`, but a float16 checkpoint on a CPU becomes bfloat16 unless `--dtype` is given.

    The CPU kernels support no float16. `args` needs the options of `add_model_arguments`.
    """
    loaded = load_checkpoint(args, name)
    if args.dtype is None and loaded.device == "cpu" and loaded.dtype == "float16":
        args.dtype = "bfloat16"
        loaded = load_checkpoint(args, name)
    return loaded


def read_text(args: argparse.Namespace, loaded: LoadedModel | Outline) -> tuple[Corpus, Corpus | None]:
    """Reads the text as the options of `add_corpus_arguments` say; returns calibration and held-out corpus."""
    from sparsing.errors import InputError
    from sparsing.text.corpus import load_corpus, split_holdout

    corpus = load_corpus(
        args.text,
        loaded.tokenizer,
        window=window_of(loaded, args.window),
        stride=args.stride,
        documents=args.documents,
        max_tokens=args.max_tokens,
        bos=args.bos,
        count_bos=args.count_bos,
        split=args.split,
        column=args.column,
        join=args.join,
    )
    if args.count_bos and corpus.bos is None:
        raise InputError(
            "--count-bos would have no effect, because no BOS token is put before the windows; add --bos always, or"
            " leave it out"
        )
    return split_holdout(corpus, args.holdout)


def window_of(loaded: LoadedModel | Outline, wanted: int | None) -> int:
    """Tokens per window: `wanted` if given, else the model's number of positions, but at most `DEFAULT_WINDOW`.

    Raises:
        InputError: If `wanted` is more than the model's number of positions.
    """
    from sparsing.errors import InputError

    length = getattr(loaded.config.get_text_config(), "max_position_embeddings", None)
    if wanted is not None and length is not None and wanted > length:
        raise InputError(
            f"--window {wanted} is longer than the model's {length} positions; use --window {length} or less"
        )
    return wanted or min(length or DEFAULT_WINDOW, DEFAULT_WINDOW)


def open_run_folder(args: argparse.Namespace, folder: Path) -> Path:
    """Creates the folder and locks it until the command ends; see `base.run_lock`. Returns the folder."""
    from sparsing.base.run_lock import lock_folder

    return args.until_the_end.enter_context(lock_folder(folder))


def open_subject(
    args: argparse.Namespace,
    loaded: LoadedModel,
    folder: Path,
    scores: set[str],
    *,
    what: str,
    searches: int,
    levels: int = 0,
    claim: bool = True,
    per_expert: bool = False,
    compared: bool = False,
) -> Subject:
    """Reads the text and calibrates the model on it; a journal in `folder` lets a later run continue.

    Args:
        what: Name of the work, for the progress.
        searches: Number of searches that will follow, for the estimate of the time.
        levels: Number of given levels that will be measured.
        claim: Whether the results in `folder` are of this model, see `claim_folder`.
        per_expert: Gives each routed expert its own threshold.
        compared: Whether rules are compared, which takes fewer passes.
    """
    from sparsing.measuring.cost import usual_passes
    from sparsing.measuring.run_folder import claim_folder, open_journal
    from sparsing.measuring.subject import Subject
    from sparsing.models.identity import identify

    corpus, heldout = read_text(args, loaded)
    identity = identify(loaded)
    if claim:
        claim_folder(folder, loaded, corpus, identity=identity)
    passes = usual_passes(
        num_tokens=corpus.num_tokens,
        searches=searches,
        levels=levels,
        half_precision=loaded.dtype in ("bfloat16", "float16"),
        holdout=heldout.num_tokens / corpus.num_tokens if heldout else 0,
        compared=compared,
    )
    progress = make_progress(args)
    progress.plan(
        f"{what}, {corpus.num_tokens:,} tokens, about {passes:.0f} passes", passes * corpus.num_tokens
    )
    return Subject(
        loaded,
        corpus,
        scores=sorted(scores),
        heldout=heldout,
        journal=open_journal(folder, loaded, corpus, batch_size=args.batch_size, identity=identity),
        batch_size=args.batch_size,
        progress=progress,
        per_expert=per_expert,
    )


def results_line(folder: Path, page: Path | None = None) -> str:
    """Where the results are, and their report or the command that writes the report."""
    hint = f"report to open or to send, a single file: {page}"
    if page is None:
        hint = f"report: sparsing report {shlex.quote(str(folder))}"
    return f"results: {folder}; {hint}"


def print_json(value: Any) -> None:
    """Prints one JSON document on stdout. `value` may contain results, which are printed as their `to_dict()`."""
    print(json.dumps(value, indent=1, default=lambda result: result.to_dict()))


def plain(text: str) -> Text:
    """`text` for rich as it is: `[...]` in a name is no markup, and control characters are escaped."""
    from rich.text import Text

    return Text("".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text))


def file_name(name: str) -> str:
    """`name`, which may come from a file of somebody else, as the name of a file that stays in its folder."""
    allowed = "".join(c if c.isalnum() or c in "-_+=., ()" else "-" for c in name).lstrip(". ")
    return allowed[:100] or "unnamed"


def print_table(
    title: str, header: Sequence[str], rows: Sequence[Sequence[str]], *, prose: bool = False
) -> None:
    """Print an aligned table on stdout.

    Args:
        prose: Align every column to the left, for cells of words instead of numbers.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=plain(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for i, name in enumerate(header):
        table.add_column(plain(name), justify="right" if i and not prose else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(plain, row))
    # a fixed width in a pipe: rich's default of 80 columns would wrap the tables
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 160)
    with console.capture() as printed:  # rich itself would end the process if the reader of a pipe has gone
        console.print(table)
    print(printed.get(), end="")
