"""`sparsing neuron`: print what a study knows about one neuron, without loading the model."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from sparsing.cli import _common as common

if TYPE_CHECKING:
    from sparsing.neurons.lookup import Context, FoundNeuron

EPILOG = """examples:
  sparsing neuron outputs/my-checkpoint 1.12
  sparsing neuron demo-report/relu 0.5 --json

The names of neurons are those of the report: layer.neuron, or layer.expert.neuron for routed experts.
"""


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "neuron",
        help="frequency, words, neighbours and contexts of one neuron, from a study",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "folder", metavar="RUN", help="folder in which `sparsing neurons` or `demo` has written"
    )
    parser.add_argument("neuron", metavar="NEURON", help="name of the neuron, e.g. 1.12")
    parser.add_argument("--json", action="store_true", help="print one JSON document (default: tables)")
    return parser


def run(args: argparse.Namespace) -> int:
    from sparsing.neurons.lookup import find_neuron, find_study

    found = find_neuron(find_study(args.folder), args.neuron)
    if args.json:
        common.print_json(found)
    else:
        _print(found)
    return 0


def _print(found: FoundNeuron) -> None:
    rows = [
        [f"active on {corpus}", f"{share:.2%} of the tokens"] for corpus, share in found.frequency.items()
    ]
    rows.append(["neuron_norm", f"mean {found.mean_norm:.4g}, largest {found.max_norm:.4g}"])
    rows.append(["promotes", _words(found.promoted)])
    rows.append(["demotes", _words(found.demoted)])
    near = [f"{name} ({correlation:.2f})" for name, correlation in found.neighbours]
    rows.append(["fires together with", ", ".join(near) or "-"])
    common.print_table(f"neuron {found.name}", ["", ""], rows, prose=True)
    contexts = [[entry.corpus, f"{entry.value:.3g}", _context(entry)] for entry in found.contexts]
    title = (
        "contexts: the tokens, in [[ ]], at which it is largest; below 0 it promotes what it demotes above 0"
    )
    common.print_table(title, ["text", "value", "context"], contexts, prose=True)


def _words(words: list[str]) -> str:
    """Words in quotation marks, since a space at the beginning of a token matters."""
    return "  ".join(f'"{_one_line(word)}"' for word in words) or "-"


def _context(entry: Context) -> str:
    return _one_line(f"{entry.before}[[{entry.token}]]{entry.after}")


def _one_line(text: str) -> str:
    return text.replace("\n", "\\n")
