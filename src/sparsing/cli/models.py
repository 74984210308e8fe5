"""`sparsing models`: lists the published checkpoints and the supported model types."""

from __future__ import annotations

import argparse
import dataclasses

from sparsing.cli import _common as common
from sparsing.models.published import PUBLISHED

_EPILOG = """examples:
  sparsing models
  sparsing models --json | python -m json.tool
"""


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "models",
        help="list the published checkpoints and the supported model types",
        description="The ten published Sparsing Law checkpoints, and the model types that are supported.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document (default: tables)")
    return parser


def run(args: argparse.Namespace) -> int:
    model_types = list_model_types()
    if args.json:
        published = [dataclasses.asdict(checkpoint) for checkpoint in PUBLISHED]
        common.print_json({"published": published, "model_types": model_types})
    else:
        _print_tables(model_types)
    return 0


def list_model_types() -> dict[str, list[str]]:
    """Shape of feed-forward block (the file in `sites/families/`) to the model types that have this shape."""
    import sparsing.sites.families  # noqa: F401  (fills FAMILIES)
    from sparsing.sites.layouts import FAMILIES

    shapes: dict[str, list[str]] = {
        "gated": ["minicpm"]
    }  # MiniCPM is loaded as Granite, so no family lists it
    for model_type in FAMILIES:
        shapes.setdefault(FAMILIES[model_type].__module__.rpartition(".")[2], []).append(model_type)
    return {shape: sorted(names) for shape, names in sorted(shapes.items())}


def _print_tables(model_types: dict[str, list[str]]) -> None:
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
    rows = [[shape, ", ".join(names)] for shape, names in model_types.items()]
    common.print_table("Model types, by shape of block", ["shape", "model types"], rows, prose=True)
    print("params: without the embedding. Any local folder or name on the hub of these types works.")
