"""`sparsing train`: pre-trains a decoder with the recipe of Sparsing Law, at any scale; an unfinished run resumes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsing.cli import _common as common

if TYPE_CHECKING:
    from sparsing.training.config import TrainConfig

EPILOG = """examples:
  sparsing train --preset nano-0.3M --hidden-act relu --tokens 2_000_000 -o runs/relu
  torchrun --nproc-per-node 8 -m sparsing train examples/train/paper-0.1B.toml --set training.seed=2 -o runs/0.1B

Rerun the same command to resume after the last checkpoint. docs/training.md lists every key.
"""


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "train",
        help="pre-train a model with the paper's recipe (muP, WSD), resumable",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "config",
        nargs="?",
        metavar="CONFIG.toml",
        help="configuration of the run (default: the preset alone)",
    )
    parser.add_argument("--preset", metavar="NAME", help="shape of the model by name, see --list-presets")
    parser.add_argument("--list-presets", action="store_true", help="print the shapes and exit")
    parser.add_argument(
        "--hidden-act", metavar="NAME", help="activation function, e.g. relu, silu (default: relu)"
    )
    parser.add_argument("--tokens", metavar="N", help="training tokens, e.g. 10_000_000")
    parser.add_argument(
        "--text", metavar="SOURCE", help="text as for `sparsing measure`, or builtin (default: builtin)"
    )
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="set any key of the configuration, e.g. training.lr=0.02; wins over the file",
    )
    parser.add_argument("-o", "--output", type=Path, metavar="RUN", help="folder of the run (required)")
    parser.add_argument("--json", action="store_true", help="print the loss curve as JSON on stdout")
    parser.add_argument("--no-figures", action="store_true", help="write no figure (default: loss.png)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar (default: on a terminal)")
    parser.set_defaults(every_process=True)
    return parser


def run(args: argparse.Namespace) -> int:
    from sparsing.errors import InputError
    from sparsing.training.config_file import read_train_config

    if args.list_presets:
        _list_presets()
        return 0
    if not (args.config or args.preset):
        raise InputError(
            "no configuration to train; give a CONFIG.toml or --preset NAME (see --list-presets)"
        )
    config = read_train_config(args.config, preset=args.preset or "", overrides=_overrides(args))
    if args.output is None:
        raise InputError("no folder for the run; give one with -o")
    from sparsing.training.trainer import is_main_process, train

    curve = train(config, args.output, progress=common.make_progress(args))
    if not is_main_process():
        return 0
    if not args.no_figures:
        _draw(args.output, curve)
    if args.json:
        common.print_json(curve)
    else:
        _print(config, args.output, curve)
    return 0


def _overrides(args: argparse.Namespace) -> dict[str, Any]:
    """The keys that the command line sets; `--set` wins over the short options."""
    from sparsing.training.config_file import parse_pairs

    short = {"model.hidden_act": args.hidden_act, "data.text": args.text}
    tokens = [] if args.tokens is None else [f"training.tokens={args.tokens}"]
    return {key: value for key, value in short.items() if value is not None} | parse_pairs(
        [*tokens, *args.set]
    )


def _list_presets() -> None:
    from sparsing.models.paper_shapes import PRESETS

    shapes = sorted((PRESETS[name] for name in PRESETS), key=lambda preset: preset.parameters)
    columns = ("preset", "d_model x n_layers", "width/depth", "blocks", "with embedding", "context")
    common.print_table(
        "shapes for --preset",
        [*columns, "tokens/step", ""],
        [
            [
                p.name,
                f"{p.d_model}x{p.n_layers}",
                f"{p.d_model / p.n_layers:.1f}",
                f"{p.block_parameters / 1e6:,.2f}M",
                f"{p.parameters / 1e6:,.2f}M",
                str(p.context),
                f"{p.batch_tokens:,}",
                p.note,
            ]
            for p in shapes
        ],
    )


def _draw(folder: Path, curve: list[dict[str, Any]]) -> Path:
    from sparsing.report.loss_figure import loss_figure
    from sparsing.report.style import save_image

    return save_image(loss_figure(curve, f"{folder.name}: loss"), folder / "loss.png")


def _print(config: TrainConfig, folder: Path, curve: list[dict[str, Any]]) -> None:
    from sparsing.training.run_checkpoints import complete_checkpoints, step_of

    model = config.model
    heldout = {line["step"]: f"{line['heldout_loss']:.4f}" for line in curve if "heldout_loss" in line}
    trained = {line["step"]: line for line in curve if "loss" in line}
    rows = []
    for checkpoint in complete_checkpoints(folder):
        line = trained[step_of(checkpoint)]
        row = [checkpoint.name, f"{line['tokens']:,}", f"{line['loss']:.4f}", heldout.get(line["step"], "")]
        rows.append(row)
    common.print_table(
        f"{folder}: {model.hidden_act}, {model.d_model}x{model.n_layers}, {model.num_parameters:,} parameters",
        ["checkpoint", "tokens", "loss, nats", "held-out loss, nats"],
        rows,
    )
    print(
        f"curve: {folder / 'loss.jsonl'}; measure the checkpoints with: sparsing track {folder} --text FILE"
    )
