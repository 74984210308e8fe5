"""`sparsing models`: lists the published checkpoints and the model types that were checked."""

from __future__ import annotations

import argparse
import dataclasses
from collections import Counter

from sparsing.cli import _common as common
from sparsing.models.model_types import ModelType, checked_types
from sparsing.models.published import PUBLISHED

_EPILOG = """examples:
  sparsing models
  sparsing models --json | python -m json.tool
"""


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "models",
        help="list the published checkpoints and the model types that were checked",
        description="The ten published Sparsing Law checkpoints, and the model types of transformers on which this"
        " package was tested, with the results. docs/models.md gives the reasons.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document (default: tables)")
    return parser


def run(args: argparse.Namespace) -> int:
    types = checked_types()
    if args.json:
        published = [dataclasses.asdict(checkpoint) for checkpoint in PUBLISHED]
        listed = [dataclasses.asdict(model_type) for model_type in types]
        common.print_json(
            {
                "published": published,
                "counts": _counts([t for t in types if not t.composite]),
                "model_types": listed,
            }
        )
    else:
        _print_tables(types)
    return 0


def _counts(types: list[ModelType]) -> dict[str, int]:
    """Status to the number of model types, the largest first."""
    return dict(Counter(model_type.status for model_type in types).most_common())


def _print_tables(types: list[ModelType]) -> None:
    common.print_table(
        "Published checkpoints",
        ["name", "d_model", "n_layers", "d_ff", "n_heads", "params"],
        [
            [
                c.name,
                *map(str, (c.d_model, c.n_layers, c.d_ff, c.n_heads)),
                f"{c.non_embedding_params // 10**6}M",
            ]
            for c in PUBLISHED
        ],
    )
    for title, part in (
        ("Causal-LM types of transformers", [t for t in types if not t.composite]),
        ("Vision-language types, on text alone", [t for t in types if t.composite]),
    ):
        rows = [
            [status, str(count), ", ".join(t.name for t in part if t.status == status)]
            for status, count in _counts(part).items()
        ]
        common.print_table(title, ["result of the tests", "types", "names"], rows, prose=True)
    print(
        "params: without the embedding. Any local folder or name on the hub that has feed-forward blocks works; the"
    )
    print("blocks are found by structure, so other types work too. MiniCPM is loaded as Granite.")
