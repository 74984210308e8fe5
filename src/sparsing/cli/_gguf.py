"""What `generate`, `bench` and `advise` do with a GGUF file: it is decoded by the engine of `decode/engine`.

The commands share their arguments with checkpoints; options that have no meaning for a GGUF file are refused.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from sparsing.cli import _common as common

if TYPE_CHECKING:
    from sparsing.bench.gguf_result import GgufBenchmark
    from sparsing.decode.engine.writing import EngineStats, Written
    from sparsing.rules.thresholds import Thresholds

_SAMPLING = ("temperature", "top_k", "top_p", "seed")
"""Options of the choice of tokens; their defaults mean greedy."""
_CHECKPOINT = ("dtype", "device", "revision", "tokenizer", "trust_remote_code")
"""Options of the loading of a checkpoint."""


def is_gguf(name: str) -> bool:
    """Whether the model is a GGUF file, by its name or by its first bytes, or the name of a missing GGUF file."""
    from sparsing.models.gguf_file import is_gguf_file

    return name.lower().endswith(".gguf") or is_gguf_file(Path(name).expanduser())


def add_gguf_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that only GGUF files have."""
    group = parser.add_argument_group("only for GGUF files: choice of the next token, rounding")
    temperature = "divides the logits; 0 takes the likeliest token (default: 0)"
    group.add_argument("--temperature", type=float, default=0.0, metavar="T", help=temperature)
    group.add_argument(
        "--top-k", type=int, default=0, metavar="K", help="choose among K tokens (default: 0, all)"
    )
    top_p = "choose among the fewest tokens of this probability, in (0, 1] (default: 1, all)"
    group.add_argument("--top-p", type=float, default=1.0, metavar="P", help=top_p)
    group.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the choice (default: 0)")
    parts = "give the inputs of quantised weights 15 bits (default: off, 8 bits as in llama.cpp)"
    group.add_argument("--two-part-inputs", action="store_true", help=parts)


def refuse_gguf_options(args: argparse.Namespace) -> None:
    """Raises InputError if options are given that only GGUF files have."""
    _refuse(args, _SAMPLING, "checkpoints are decoded greedily")
    _refuse(args, ["two_part_inputs"], "the inputs of a checkpoint are not rounded")


def generate_gguf(args: argparse.Namespace) -> int:
    """`sparsing generate model.gguf`."""
    args.model = str(Path(args.model).expanduser())
    _check_engine()
    from sparsing.decode.engine._engine import open_engine
    from sparsing.decode.engine.choose import choose_ways
    from sparsing.decode.engine.rule import sparse_rule
    from sparsing.decode.engine.sampling import Sampling
    from sparsing.decode.engine.vocabulary import Vocabulary
    from sparsing.decode.engine.writing import engine_stats, write

    unused = [
        "predictor",
        "predict",
        "save_predictor",
        "recall",
        "weights",
        *common.TEXT_OPTIONS,
        *_CHECKPOINT,
    ]
    _refuse(args, unused, "a GGUF file is decoded as it is")
    sampling = Sampling(**{name: getattr(args, name) for name in _SAMPLING})
    thresholds = _thresholds(args)
    with Vocabulary(args.model) as vocabulary:
        prompt = vocabulary.encode(args.prompt)
        with open_engine(
            args.model,
            context=len(prompt) + args.max_new_tokens,
            threads=args.threads,
            two_part_inputs=args.two_part_inputs,
        ) as engine:
            if not args.dense:
                engine.rule = sparse_rule(engine.arch, engine.weights, thresholds)
                if not args.no_measure:
                    choose_ways(engine, prompt)
            written = write(
                engine,
                prompt,
                max_new_tokens=args.max_new_tokens,
                sampling=sampling,
                end_id=vocabulary.end_id,
            )
            stats = engine_stats(engine, engine.position)
        text = args.prompt + vocabulary.decode(list(written.ids))
    if args.json:
        common.print_json(
            {
                "text": text,
                "num_new_tokens": len(written.ids),
                "ttft_sec": written.ttft_sec,
                "tok_per_sec": written.tok_per_sec,
                "stats": stats,
            }
        )
        return 0
    print(text)
    if args.stats:
        _print_stats(written, stats, dense=args.dense)
    return 0


def run_gguf_bench(args: argparse.Namespace) -> int:
    """`sparsing bench --model model.gguf`."""
    args.model = str(Path(args.model).expanduser())
    from sparsing.measuring.run_folder import default_folder

    # before minutes of timing, not after
    folder = common.open_run_folder(args, args.output or default_folder(args.model) / "bench")
    result = _bench(args, rounds=args.rounds or 5, new_tokens=args.new_tokens)
    path = result.save(folder / "gguf.json")
    if args.json:
        common.print_json(result)
    else:
        _print_bench(result)
        print(f"written to {path}")
    return 0


def advise_gguf(args: argparse.Namespace) -> int:
    """`sparsing advise model.gguf`."""
    args.model = str(Path(args.model).expanduser())
    if args.output:
        common.open_run_folder(args, args.output)
    result = _bench(args, rounds=3, new_tokens=args.new_tokens)
    if args.output:
        result.save(args.output / "advice-gguf.json")
    if args.json:
        common.print_json(result)
    else:
        _print_bench(result)
        print(result.advice)
    return 0


def _check_engine() -> None:
    """Raises InputError if a package that the engine needs is not installed."""
    from importlib.util import find_spec

    from sparsing.base.extras import install_command
    from sparsing.errors import InputError

    if missing := [name for name in ("gguf", "llama_cpp", "numba", "psutil") if find_spec(name) is None]:
        raise InputError(f"decoding GGUF files needs {' and '.join(missing)}: {install_command('engine')}")


def _bench(args: argparse.Namespace, *, rounds: int, new_tokens: int) -> GgufBenchmark:
    _check_engine()
    from sparsing.bench.gguf_bench import GgufPlan, bench_gguf

    engines = getattr(args, "engines", ["llama.cpp"])
    plan = GgufPlan(
        rounds=rounds, new_tokens=new_tokens, threads=args.threads, with_llama_cpp="llama.cpp" in engines
    )
    _refuse(args, _CHECKPOINT, "a GGUF file is decoded as it is")
    unused = ["ratio", "batch", "bits", "recall", "prompt_tokens", "rule", "ppl", "predict", "batch_size"]
    text_options = [name for name in common.TEXT_OPTIONS if name != "text"]
    _refuse(args, [*unused, *text_options], "a GGUF file is timed as a whole, on the first tokens of a text")
    return bench_gguf(
        args.model,
        _thresholds(args),
        plan,
        text=_text(args, new_tokens),
        progress=common.make_progress(args),
    )


def _text(args: argparse.Namespace, count: int) -> list[int] | None:
    """The first `count` tokens of the text of `--text`; None without one."""
    from sparsing.decode.engine.vocabulary import Vocabulary
    from sparsing.text.reading import read_pieces

    if not args.text:
        return None
    text = ""
    for piece in read_pieces(args.text):
        text += piece.text
        if len(text) >= 40 * count:
            break
    with Vocabulary(args.model) as vocabulary:
        return vocabulary.encode(text[: 40 * count])[:count]


def _thresholds(args: argparse.Namespace) -> Thresholds | None:
    from sparsing.rules.thresholds import read_thresholds

    return read_thresholds(args.thresholds) if args.thresholds else None


def _refuse(args: argparse.Namespace, options: Iterable[str], reason: str) -> None:
    """Raises InputError if one of these options of the command has another value than its default."""
    from sparsing.errors import InputError

    known = [name for name in options if hasattr(args, name)]
    given = [name for name in known if getattr(args, name) != args.parser.get_default(name)]
    if given:
        names = ", ".join("--" + name.replace("_", "-") for name in given)
        raise InputError(f"{names} cannot be used here: {reason}; leave it out")


def _print_stats(written: Written, stats: EngineStats, *, dense: bool) -> None:
    shares = stats.shares
    rows = [
        ["new tokens", str(len(written.ids))],
        ["prompt, s", f"{written.ttft_sec:.3f}"],
        ["tokens/s after it", f"{written.tok_per_sec:.2f}"],
        ["active share", f"{stats.activation_ratio:.2%}"],
        ["MB read per token", f"{stats.bytes_per_token / 1e6:.3f}"],
        ["MB of dense", f"{stats.dense_bytes_per_token / 1e6:.3f}"],
        ["sparse layers", str(stats.sparse_layers)],
        [
            "time",
            f"attention {shares.attention:.0%}, feed-forward {shares.feed_forward:.0%}, head {shares.head:.0%}",
        ],
    ]
    common.print_table("dense decoding" if dense else "sparse decoding", ["", ""], rows)


def _print_bench(result: GgufBenchmark) -> None:
    header = ["engine", "tok/s", "ms", "quartiles", "MB/token", "of memory's", "/ baseline"]
    rows = [
        [
            line.name,
            f"{line.tok_per_sec:.2f}",
            f"{line.ms:.2f}",
            f"{line.ms_low:.2f}-{line.ms_high:.2f}",
            f"{line.bytes_per_token / 1e6:.1f}",
            f"{line.bandwidth_share:.0%}",
            f"{line.speedup:.2f}",
        ]
        for line in result.lines
    ]
    types = ", ".join(f"{count} {name}" for name, count in result.weight_types.items())
    title = f"{result.file} ({types}), {result.threads} thread{'s' if result.threads > 1 else ''}, {result.processor}"
    common.print_table(title, header, rows)
    parts = [
        [
            name,
            f"{stats.shares.attention:.0%}",
            f"{stats.shares.feed_forward:.0%}",
            f"{stats.shares.head:.0%}",
        ]
        for name, stats in (("own dense", result.dense), ("own sparse", result.sparse))
    ]
    common.print_table("shares of the time", ["engine", "attention", "feed-forward", "head"], parts)
    print(
        f"copies of down: {result.copy_bytes / 1e6:.1f} MB of memory, error {result.copy_error:.2%} of the weights;"
        f" memory {result.bandwidth.peak_bytes_per_sec / 1e9:.1f} GB/s"
    )
    for why in result.left_out:
        print(f"left out: {why}")
    print(result.sentence)
