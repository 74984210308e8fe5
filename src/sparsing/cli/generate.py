"""`sparsing generate`: generate text with the inactive neurons skipped, and measure the speed.

Decoding (greedy, batch size 1) goes through kernels that read only the active neurons. The prompt goes through the
model's own code with the same rule. A GGUF file is decoded straight from the file, and may be sampled.

A predictor finds the active neurons by reading few bytes: calibrate a predictor
with --predict and --text, or load a predictor that was saved with --save-predictor.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsing.base.dtype_names import full_dtype_name
from sparsing.cli import _common as common
from sparsing.cli import _gguf as gguf

if TYPE_CHECKING:
    from sparsing.decode.predict.predictor import Predictor, PredictorEffect
    from sparsing.decode.stats import DecodeStats
    from sparsing.decode.timed_generation import TimedTokens
    from sparsing.models.loading import LoadedModel
    from sparsing.rules.thresholds import Thresholds

EPILOG = """examples:
  sparsing generate ./my-checkpoint --thresholds outputs/my-checkpoint/cett-ppl-1/thresholds.json --prompt "On"
  sparsing generate ./my-checkpoint --thresholds t.json --prompt "Once" --predict 4 --text book.txt --stats
  sparsing generate model.gguf --thresholds t.json --prompt "Once" --temperature 0.8 --stats
"""


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "generate",
        help="generate text with inactive neurons skipped",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", help="folder of a checkpoint, name on the hub, or GGUF file")
    group = parser.add_argument_group("generation")
    group.add_argument("--prompt", required=True, help="prompt to continue")
    group.add_argument(
        "--max-new-tokens",
        type=int,
        default=64,
        metavar="N",
        help="number of tokens to generate (default: 64)",
    )
    group.add_argument(
        "--thresholds", metavar="FILE", help="thresholds.json of a run, or its folder (rules cett, fat)"
    )
    group.add_argument(
        "--dense", action="store_true", help="baseline: the same kernels with nothing skipped (default: off)"
    )
    group.add_argument(
        "--weights",
        type=full_dtype_name,
        choices=("float32", "bfloat16", "int8"),
        help="dtype of the kernels' weights (default: the model's dtype; another dtype needs a second copy in memory)",
    )
    group.add_argument(
        "--no-measure",
        action="store_true",
        help="do not time the kernels at load to choose the fastest (default: time them)",
    )
    group.add_argument(
        "--stats", action="store_true", help="print tokens/s, active share and bytes per token (default: off)"
    )
    group.add_argument(
        "--json", action="store_true", help="print one JSON document instead of text (default: off)"
    )
    gguf.add_gguf_arguments(parser)
    _add_predictor_arguments(parser)
    common.add_corpus_arguments(parser, required=False)
    common.add_model_arguments(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress bars (default: on a terminal)")
    return parser


def _add_predictor_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("predictor")
    group.add_argument("--predictor", metavar="FILE", help="a saved predictor")
    group.add_argument(
        "--predict",
        type=int,
        choices=(4, 8),
        metavar="BITS",
        help="calibrate a predictor of 4 or 8 bits on --text",
    )
    group.add_argument(
        "--recall",
        type=float,
        default=0.995,
        metavar="SHARE",
        help="with --predict: share of the active neurons' norm that must be predicted, in (0, 1] (default: 0.995)",
    )
    group.add_argument(
        "--save-predictor", type=Path, metavar="FILE", help="save the predictor of --predict (.json)"
    )


def run(args: argparse.Namespace) -> int:
    if gguf.is_gguf(args.model):
        return gguf.generate_gguf(args)
    common.check_text(args)
    from sparsing.decode._accelerate import accelerate
    from sparsing.decode.timed_generation import generate_timed
    from sparsing.measuring.finite import finite_logits
    from sparsing.models.tokenizer import check_token_ids
    from sparsing.rules.thresholds import read_thresholds

    _check(args)
    gguf.refuse_gguf_options(args)
    thresholds = read_thresholds(args.thresholds) if args.thresholds else None
    loaded = common.load_to_decode(args, args.model)
    predictor = None if args.dense else _predictor(args, loaded, thresholds)
    ids = loaded.tokenizer(args.prompt, return_tensors="pt")["input_ids"]
    check_token_ids(loaded.model, loaded.tokenizer, ids[0].tolist())
    prompt = ("the prompt", ids.to(loaded.model.device))
    with (
        finite_logits(loaded, [prompt]),
        accelerate(
            loaded.model,
            thresholds,
            predictor=predictor,
            mode="dense" if args.dense else "sparse",
            dtype=args.weights,
            measure=not args.no_measure,
            threads=args.threads,
        ) as fast,
    ):
        fast.reset_stats()
        written = generate_timed(loaded.model, ids, max_new_tokens=args.max_new_tokens)
        stats = fast.stats()
    text = str(loaded.tokenizer.decode(written.ids[0], skip_special_tokens=True))
    if args.json:
        common.print_json(_document(text, written, stats, predictor) | {"threads": fast.threads})
        return 0
    print(text)
    if args.stats:
        _print_stats(written, stats, predictor, fast.threads)
    return 0


def _check(args: argparse.Namespace) -> None:
    from sparsing.errors import InputError

    if not (args.thresholds or args.dense):
        raise InputError(
            "generate needs thresholds: give --thresholds FILE from sparsing measure, or --dense for the baseline"
        )
    if args.dense:
        common.refuse_without_effect(args, ["predictor", "predict"], "with --dense, which skips nothing")
    if not args.predict:
        options = ["recall", "save_predictor", *common.TEXT_OPTIONS]
        common.refuse_without_effect(args, options, "without --predict")
    if args.predictor and args.predict:
        raise InputError("--predictor and --predict exclude each other; give only one of them")
    if args.predict and not args.text:
        raise InputError("--predict calibrates a predictor on a text; give a text with --text")


def _predictor(
    args: argparse.Namespace, loaded: LoadedModel, thresholds: Thresholds | None
) -> Predictor | None:
    """The predictor of --predictor or --predict; None without these. The effect of a new predictor is measured."""
    from sparsing.decode.predict.effect import with_effect
    from sparsing.decode.predict.predictor import Predictor, calibrate_predictor

    if args.predictor:
        return Predictor.load(args.predictor)
    if not args.predict or thresholds is None:
        return None
    corpus, _ = common.read_text(args, loaded)
    progress = common.make_progress(args)
    predictor = calibrate_predictor(
        loaded, corpus, thresholds, bits=args.predict, recall=args.recall, progress=progress
    )
    predictor = with_effect(loaded, corpus, predictor, progress=progress)
    if args.save_predictor:
        predictor.save(args.save_predictor)
    return predictor


def _document(
    text: str, written: TimedTokens, stats: DecodeStats, predictor: Predictor | None
) -> dict[str, Any]:
    effect = predictor.effect if predictor is not None else None
    return {
        "text": text,
        "num_new_tokens": written.num_new_tokens,
        "ttft_sec": written.ttft_sec,
        "tok_per_sec": written.tok_per_sec,
        "stats": stats,
        "predictor_ppl_change": None if effect is None else effect.ppl_change,
    }


def _print_stats(written: TimedTokens, stats: DecodeStats, predictor: Predictor | None, threads: int) -> None:
    rows = [
        ["threads", str(threads)],
        ["new tokens", str(written.num_new_tokens)],
        ["first token, s", f"{written.ttft_sec:.3f}"],
        ["tokens/s after it", f"{written.tok_per_sec:.2f}"],
        ["active share", f"{stats.activation_ratio:.2%}"],
        ["MB read per token", f"{stats.bytes_per_step / 1e6:.3f}"],
        ["MB of dense", f"{stats.dense_bytes_per_step / 1e6:.3f}"],
        ["bandwidth-limited speed-up", f"{stats.byte_speedup:.2f}x vs dense"],
        ["kernels", _ways(stats)],
    ]
    if predictor is not None:
        effect = predictor.effect
        rows.append(["predictor, recall", f"{predictor.mean_recall:.4f} (held-out tokens)"])
        rows.append(["predictor, perplexity", "not measured" if effect is None else _change(effect)])
    common.print_table(f"{stats.mode} decoding", ["", ""], rows)


def _change(effect: PredictorEffect) -> str:
    interval = effect.ppl_change_interval
    bounds = f" [{interval[0]:+.3%}, {interval[1]:+.3%}]" if interval else ""
    return f"{effect.ppl_change:+.3%}{bounds} on {effect.num_tokens:,} tokens"


def _ways(stats: DecodeStats) -> str:
    """The number of layers that decode in each way, e.g. `exact 3, torch 1`."""
    if stats.mode == "dense":
        return "dense"
    ways = [layer.ways.get("1") or layer.ways["any"] for layer in stats.layers]
    layers = {way: ways.count(way) for way in dict.fromkeys(ways)}
    return ", ".join(f"{way} in {count} layer{'s' if count > 1 else ''}" for way, count in layers.items())
