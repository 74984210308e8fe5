"""Drop-in for the reference's `calc_activation.py` (thunlp/SparsingLaw): same options, same lines printed.

    python -m sparsing.reference.calc_activation --from-pretrained DIR --input-file F --prune-strategy topk --prune-arg 0.05

The text is one sequence and BOS counts, as in the reference; any model `sparsing` knows will do. Options
beyond the reference: `--dtype`, `--device`, `--output-json`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sparsing.measuring.measurement import Measurement

_STRATEGIES = {"fat": ("fat", "level"), "topk": ("top_k", "level"), "cett": ("cett", "level")} | {
    "pplp": ("cett", "ppl_ratio")
}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sparsing.reference.calc_activation", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--from-pretrained", required=True, help="checkpoint folder or hub name")
    parser.add_argument("--input-file", required=True, help="text, taken as one sequence")
    parser.add_argument("--prune-strategy", required=True, choices=sorted(_STRATEGIES), help="rule")
    parser.add_argument(
        "--prune-arg", required=True, type=float, help="eps, share k, CETT, or 1 + p%% (1.01 for PPL-1%%)"
    )
    parser.add_argument("--output-image", action="store_true", help="write outputs/activation.jpg")
    parser.add_argument("--dtype", help="default: the checkpoint's own (the reference: bfloat16)")
    parser.add_argument("--device", help="default: cuda or cpu")
    parser.add_argument("--output-json", type=Path, metavar="FILE.json", help="the figures in full")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 done, 2 bad input."""
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

    name, asked = _STRATEGIES[args.prune_strategy]
    rule = make_rule(name, **({"scope": "sequence"} if name == "top_k" else {}))
    if asked == "level":
        rule.check(args.prune_arg)
    loaded = load_model(args.from_pretrained, dtype=args.dtype, device=args.device)
    corpus = load_corpus(args.input_file, loaded.tokenizer, window=_WHOLE, count_bos=True)
    print("Input Text:", Path(args.input_file).read_text(encoding="utf-8"))
    result = measure(Subject(loaded, corpus, scores=[rule.score]), rule, **{asked: args.prune_arg})
    if args.output_json:
        result.save(args.output_json)
    if args.output_image:
        from sparsing.report.figures import token_layer_heatmap
        from sparsing.report.style import save_image

        save_image(token_layer_heatmap(result), Path("outputs") / "activation.jpg")
    return result


_WHOLE = 1 << 30
"""A window that holds any text: the reference runs the whole of it as one sequence."""


if __name__ == "__main__":
    sys.exit(main())
