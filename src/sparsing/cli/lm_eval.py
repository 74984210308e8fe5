"""`sparsing lm-eval`: lm-eval's own command line, in which `--model sparsing` is this package's model."""

from __future__ import annotations

import argparse
import sys

EPILOG = """examples:
  sparsing lm-eval run --model sparsing --model_args pretrained=./model,thresholds=t.json --tasks piqa
  sparsing lm-eval run --model sparsing --model_args pretrained=./model,thresholds=[0.12,0.15] --tasks piqa
  sparsing lm-eval run --help        (lm-eval's options)
"""


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "lm-eval",
        help="lm-eval's own command line, with `--model sparsing`",
        description="Passes all arguments to the command line of lm-eval, after making `--model sparsing` known to it."
        " Without thresholds the model is dense.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="sparsing lm-eval ARGUMENT ...",
        # argparse must treat lm-eval's options as plain arguments, so no argument may look like an option to it.
        prefix_chars="\0",
        add_help=False,
    )
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="passed to lm-eval as they are")
    parser.set_defaults(print_help=parser.print_help)
    parser.set_defaults(every_process=True)
    return parser


def run(args: argparse.Namespace) -> int:
    from sparsing.evaluation.model.lm_eval_internals import require_lm_eval

    if args.arguments in ([], ["-h"], ["--help"]):
        args.print_help()
        return 0
    require_lm_eval()
    from lm_eval.__main__ import cli_evaluate

    import sparsing.evaluation.model.plugin  # noqa: F401  (the import registers the model)

    sys.argv = ["lm-eval", *args.arguments]  # lm-eval's parser reads no other list of arguments
    cli_evaluate()
    return 0
