"""`sparsing neurons`: study every feed-forward neuron on one or several texts, in one streaming pass."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from sparsing.cli import _common as common

if TYPE_CHECKING:
    from sparsing.models.loading import LoadedModel
    from sparsing.neurons.study import NeuronStudy
    from sparsing.text.corpus import Corpus

EPILOG = """examples:
  sparsing neurons ./my-checkpoint --text code=src/ prose=book.txt --max-tokens 500000
  sparsing neurons Qwen/Qwen3-0.6B --text book.txt --thresholds outputs/Qwen--Qwen3-0.6B/cett-ppl-1/thresholds.json
"""


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "neurons",
        help="firing frequency, contexts, neighbours and words of every neuron",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", help="folder of a checkpoint, name on the hub, or GGUF file")
    group = parser.add_argument_group("when a neuron is active")
    choice = group.add_mutually_exclusive_group()
    choice.add_argument(
        "--thresholds", metavar="FILE", help="thresholds.json of `sparsing measure`, or its folder"
    )
    choice.add_argument(
        "--cett", type=float, default=0.2, metavar="C", help="learn thresholds with this CETT (default: 0.2)"
    )
    group.add_argument(
        "--contexts", type=int, default=8, metavar="K", help="contexts kept per neuron (default: 8)"
    )
    group = parser.add_argument_group("text")
    group.add_argument(
        "--text",
        nargs="+",
        required=True,
        metavar="[NAME=]SOURCE",
        help="texts to compare: files, folders, .jsonl, .csv, .parquet, or datasets on the hub; docs/inputs.md",
    )
    common.add_source_arguments(group)
    group.add_argument(
        "--max-tokens", type=int, metavar="N", help="tokens read from each text (default: all)"
    )
    group.add_argument(
        "--window",
        type=int,
        metavar="N",
        help=f"tokens per window (default: the model's length, at most {common.DEFAULT_WINDOW})",
    )
    common.add_model_arguments(parser)
    common.add_run_arguments(parser, folder="outputs/<owner>--<model>/neurons")
    return parser


def run(args: argparse.Namespace) -> int:
    sources = _sources(args.text, args.split, args.column)  # before torch is imported
    from sparsing.measuring.run_folder import default_folder
    from sparsing.neurons.store import write_study
    from sparsing.rules.thresholds import read_thresholds

    thresholds = read_thresholds(args.thresholds) if args.thresholds else None
    # Before the model is loaded, so that a wrong folder fails at once.
    folder = common.open_run_folder(args, args.output or default_folder(args.model) / "neurons")
    loaded = common.load_to_measure(args, args.model)
    study = write_study(
        loaded,
        {name: _corpus(args, loaded, source) for name, source in sources.items()},
        folder,
        thresholds=thresholds,
        cett=args.cett,
        contexts=args.contexts,
        batch_size=args.batch_size,
        progress=common.make_progress(args),
    )
    page = None if args.no_figures else _write_page(folder)
    if args.json:
        common.print_json({"folder": str(folder), "cost": study.cost})
    else:
        _print(study, folder, page)
    return 0


def _sources(texts: list[str], split: str | None, column: str | None) -> dict[str, str]:
    """Sources by name; a text without a name is named after its file.

    Raises:
        InputError: If two texts have the same name, or a text cannot exist.
    """
    from sparsing.errors import InputError
    from sparsing.text.reading import check_options

    sources: dict[str, str] = {}
    for text in texts:
        name, equals, source = text.partition("=")
        if not equals or Path(text).exists():  # a path may contain `=`
            name, source = Path(text).name.partition(".")[0] or text, text
        if name in sources:
            raise InputError(
                f"two texts have the name {name!r}; give them names: --text first=... second=..."
            )
        sources[name] = source
    for source in sources.values():
        check_options(source, split=split, column=column)
    return sources


def _corpus(args: argparse.Namespace, loaded: LoadedModel, source: str) -> Corpus:
    from sparsing.text.corpus import load_corpus

    return load_corpus(
        source,
        loaded.tokenizer,
        window=common.window_of(loaded, args.window),
        max_tokens=args.max_tokens,
        split=args.split,
        column=args.column,
        join=args.join,
    )


def _write_page(folder: Path) -> Path:
    from sparsing.report.document import build_document
    from sparsing.report.page import write_report
    from sparsing.report.saved_results import read_runs

    return write_report(build_document(read_runs([folder])), folder / "index.html")


def _print(study: NeuronStudy, folder: Path, page: Path | None) -> None:
    from sparsing.report import measurement_tables as tables

    common.print_table(f"{study.provenance.model}: {study.frequency.shape[1]} layers", *tables.neurons(study))
    cost = study.cost
    print(f"cost: {cost.dense_forward_equivalents:.2f} dense passes over the text, {cost.wall_sec:.1f} s")
    print(common.results_line(folder, page))
    print(f"one neuron: sparsing neuron {shlex.quote(str(folder))} {study.site_names[0].neuron(0)}")
