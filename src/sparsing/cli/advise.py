"""The command `sparsing advise`: finds out whether skipping neurons pays on this machine.

It parses the arguments, calls `sparsing.decode.advise`, and prints, saves and draws the advice.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from sparsing.cli import _common as common
from sparsing.cli import _gguf as gguf

if TYPE_CHECKING:
    from sparsing.decode.advice.result import Advice, AdviceRow

DESCRIPTION = """\
Finds out whether skipping neurons pays on this machine. First it computes from the bytes of the weights how few neurons
may be active for a speed-up, and measures what that costs in perplexity. If the cost is above the target, the answer is
no. Otherwise it times decoding, dense and sparse, and prints the activation ratio, the bytes read per token, the
bandwidth-limited speed-up, the measured speed-up and the cost in perplexity.
"""
EPILOG = """examples:
  sparsing advise ./my-checkpoint --text book.txt
  sparsing advise model.gguf --thresholds thresholds.json
  sparsing advise meta-llama/Llama-3.2-1B --text book.txt --rule cett --ppl 1 5 10 --dtype bfloat16 -o advice/
"""


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "advise",
        help="find out whether skipping neurons pays on this machine, and what it costs",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", help="checkpoint folder, name on the hub, or GGUF file")
    group = parser.add_argument_group("what is compared")
    group.add_argument("--rule", nargs="+", default=["cett"], help="rules: cett, fat, top_k (default: cett)")
    ppl = "rises of perplexity that are allowed, in percent (default: 1)"
    group.add_argument("--ppl", nargs="+", type=common.percentage, default=[1.0], metavar="P", help=ppl)
    bits = "bits of the copy of the weights that predicts the active neurons; 0 for no predictor (default: 4)"
    group.add_argument("--predict", type=int, choices=(0, 4, 8), default=4, metavar="BITS", help=bits)
    tokens = "tokens of a timed run (default: 48)"
    group.add_argument("--new-tokens", type=int, default=48, metavar="N", help=tokens)
    thresholds = "GGUF files: thresholds.json or its folder; only ReLU models need none (default: none)"
    group.add_argument("--thresholds", metavar="FILE", help=thresholds)
    common.add_corpus_arguments(parser, required=False, max_tokens=4_000)
    common.add_model_arguments(parser)
    common.add_run_arguments(parser, folder="outputs/<owner>--<model>/advise")
    return parser


def run(args: argparse.Namespace) -> int:
    if gguf.is_gguf(args.model):
        return gguf.advise_gguf(args)
    common.check_text(args)
    from sparsing.decode.advice._advise import advise
    from sparsing.errors import InputError
    from sparsing.measuring.run_folder import claim_folder, default_folder
    from sparsing.rules import make_rule

    if not args.text or args.thresholds:
        raise InputError(
            "a checkpoint is measured on a text: give --text, and --thresholds only with a GGUF file"
        )
    rules = [make_rule(name) for name in args.rule]
    if min(args.ppl) <= 0 or args.new_tokens < 2:
        raise InputError(
            f"--ppl must be above 0 percent and --new-tokens at least 2, got {args.ppl} and {args.new_tokens}"
        )
    folder = common.open_run_folder(args, args.output or default_folder(args.model) / "advise")
    loaded = common.load_to_decode(args, args.model)
    claim_folder(folder, loaded)
    scores = {rule.score for rule in rules}
    subject = common.open_subject(
        args, loaded, folder, scores, what="advise", searches=0, levels=1, claim=False
    )
    advice = advise(
        subject,
        rules=args.rule,
        ppl_ratios=[1 + p / 100 for p in args.ppl],
        bits=args.predict or None,
        new_tokens=args.new_tokens,
        threads=args.threads,
    )
    advice.save(folder / "advice.json")
    if advice.rows and not args.no_figures:
        from sparsing.report.charts.decode_charts import advice_picture
        from sparsing.report.static import save_picture

        save_picture(advice_picture(advice), folder, "advice")
    subject.journal.clear()
    if args.json:
        common.print_json(advice)
    else:
        _print(advice)
        print(f"results: {folder}")
    return 0


def _print(advice: Advice) -> None:
    provenance, peak = advice.provenance, advice.roofline.bandwidth.peak_bytes_per_sec
    header = [
        "rule",
        "method",
        "active",
        "ppl ratio",
        "MB/token",
        "ceiling",
        "bandwidth limit",
        "tok/s",
        "dense",
    ]
    header.append("vs dense")
    title = (
        f"{provenance.model}, {provenance.dtype}, {advice.threads} thread{'s' if advice.threads > 1 else ''}:"
        f" {advice.weights.total_bytes / 1e6:.3f} MB a token, {advice.ffn_share:.0%} feed-forward;"
        f" memory {peak / 1e9:.1f} GB/s; the model's own code {advice.torch_tok_per_sec:.1f} tok/s"
    )
    if advice.rows:
        common.print_table(title, header, [_row(row) for row in advice.rows])
    else:
        print(title)
    for bound in advice.bounds:
        print(f"{bound.rule} PPL-{100 * (bound.target_ppl_ratio - 1):g}%, by bytes: {bound.sentence}")
    for row in advice.rows:
        print(f"{_name(row)}, {row.way}: {row.advice}")
    print(advice.sentence)


def _row(row: AdviceRow) -> list[str]:
    change = "" if row.predictor_ppl_change is None else f" {row.predictor_ppl_change:+.3%}"
    speed = f"{row.tok_per_sec:.1f}" + ("" if row.measured else " (predicted)")
    return [
        _name(row),
        row.way,
        f"{row.activation_ratio:.2%}",
        f"{row.ppl_ratio:.5f}{change}",
        f"{row.step_bytes / 1e6:.3f}",
        f"{row.ceiling:.2f}",
        f"{row.byte_speedup:.2f}",
        speed,
        f"{row.dense_tok_per_sec:.1f}",
        _speedup(row),
    ]


def _speedup(row: AdviceRow) -> str:
    """The speed-up with its quartiles over pairs of runs."""
    quartiles = row.speedup_quartiles
    return f"{row.speedup:.2f}" + (f" [{quartiles[0]:.2f}, {quartiles[2]:.2f}]" if quartiles else "")


def _name(row: AdviceRow) -> str:
    return f"{row.rule} PPL-{100 * (row.target_ppl_ratio - 1):g}%"
