"""`sparsing models`: the published checkpoints by name, and the model types whose blocks are known."""

from __future__ import annotations

import argparse
import json

_EPILOG = """examples:
  sparsing models
  sparsing models --json | python -m json.tool
"""


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "models",
        help="list the published checkpoints and the supported model types",
        description="The ten published Sparsing Law checkpoints, and the model types of any other checkpoint.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="one JSON document instead of tables")
    return parser


def run(args: argparse.Namespace) -> int:
    listing = models()
    if args.json:
        print(json.dumps(listing, indent=1))
    else:
        _print_tables(listing)
    return 0


def models() -> dict[str, object]:
    """`published`: a list of checkpoints; `model_types`: shape of block to the model types that have it."""
    import dataclasses

    import sparsing.sites.families  # noqa: F401  (fills FAMILIES)
    from sparsing.models.published import PUBLISHED
    from sparsing.sites.discovery import FAMILIES

    shapes: dict[str, list[str]] = {"gated": ["minicpm"]}  # loaded as Granite
    for model_type in FAMILIES:
        shapes.setdefault(FAMILIES[model_type].__module__.rpartition(".")[2], []).append(model_type)
    return {
        "published": [dataclasses.asdict(checkpoint) for checkpoint in PUBLISHED],
        "model_types": {shape: sorted(names) for shape, names in sorted(shapes.items())},
    }


def _print_tables(listing: dict) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    published = Table(title="Published checkpoints", title_justify="left", box=None)
    published.add_column("name", no_wrap=True)
    for name in ("d_model", "n_layers", "d_ff", "n_heads", "params"):
        published.add_column(name, justify="right", no_wrap=True)
    for row in listing["published"]:
        sizes = [str(row[key]) for key in ("d_model", "n_layers", "d_ff", "n_heads")]
        published.add_row(row["name"], *sizes, f"{row['non_embedding_params'] // 1_000_000}M")
    types = Table(title="\nModel types, by shape of block", title_justify="left", box=None)
    types.add_column("shape", no_wrap=True)
    types.add_column("model types")
    for shape, names in listing["model_types"].items():
        types.add_row(shape, ", ".join(names))
    console.print(published)
    console.print(types)
    console.print("\nparams: without the embedding. Any local folder or hub name of these types works.")
