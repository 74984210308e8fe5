"""Drop-in for the reference's `calc_activation.py` (thunlp/SparsingLaw): the same options and the same printed lines.

    python -m sparsing.calc_activation --from-pretrained DIR --input-file F --prune-strategy topk --prune-arg 0.05

As in the reference, the text is one sequence and BOS counts as a token. The model may be any that `sparsing` supports.
`--dtype`, `--device` and `--output-json` are additions to the options of the reference.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sparsing.measuring.measurement import Measurement

_STRATEGIES = {
    "fat": ("fat", "level"),
    "topk": ("top_k", "level"),
    "cett": ("cett", "level"),
    "pplp": ("cett", "ppl_ratio"),
}
"""The reference's name of a strategy to the rule, and to the argument of `measure` that gets `--prune-arg`."""
_WHOLE_TEXT = 1 << 30
"""A window that holds any text: the reference runs the whole text as one sequence."""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sparsing.reference.calc_activation", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--from-pretrained", required=True, help="checkpoint folder or hub name")
    parser.add_argument("--input-file", required=True, help="text file, run as one sequence")
    parser.add_argument("--prune-strategy", required=True, choices=sorted(_STRATEGIES), help="rule")
    parser.add_argument(
        "--prune-arg",
        required=True,
        type=float,
        help="eps, share of neurons, CETT, or 1 + p%% (1.01: PPL-1%%)",
    )
    parser.add_argument("--output-image", action="store_true", help="write outputs/activation.jpg")
    parser.add_argument("--dtype", help="default: the checkpoint's own (the reference: bfloat16)")
    parser.add_argument("--device", help="default: cuda or cpu")
    parser.add_argument("--output-json", type=Path, metavar="FILE.json", help="write the full measurement")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 0 done, 2 bad input."""
    from sparsing.errors import SparsityError

    args = build_parser().parse_args(argv)
    try:
        result = _measure(args)
    except SparsityError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if result.rule == "cett":
        print("Thresholds List for Evaluation:")
        print(result.thresholds.to_line())
    print(f"Average activation: {100 * result.activation_ratio:2.2f}%")
    print(f"PPL ratio: {100 * result.ppl_ratio:.3f}%")
    return 0


def _measure(args: argparse.Namespace) -> Measurement:
    from sparsing.measuring._measure import measure
    from sparsing.measuring.subject import Subject
    from sparsing.models.loading import load_model
    from sparsing.rules import make_rule
    from sparsing.text.corpus import load_corpus

    name, argument = _STRATEGIES[args.prune_strategy]
    # The reference's top-k ranks the neurons of all tokens of the sequence together.
    rule = make_rule(name, **({"scope": "sequence"} if name == "top_k" else {}))
    if argument == "level":
        rule.check(args.prune_arg)  # before the model is loaded
    loaded = load_model(args.from_pretrained, dtype=args.dtype, device=args.device)
    corpus = load_corpus(args.input_file, loaded.tokenizer, window=_WHOLE_TEXT, count_bos=True)
    print("Input Text:", Path(args.input_file).read_text(encoding="utf-8"))
    subject = Subject(loaded, corpus, scores=[rule.score], longer_windows=True)
    result = measure(subject, rule, **{argument: args.prune_arg})
    if args.output_json:
        result.save(args.output_json)
    if args.output_image:
        from sparsing.report.charts.measurement_charts import token_picture
        from sparsing.report.static import draw
        from sparsing.report.style import save_image

        save_image(draw(token_picture(result)), Path("outputs") / "activation.jpg")
    return result


if __name__ == "__main__":
    sys.exit(main())
