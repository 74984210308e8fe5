"""`sparsing measure`: measures how sparse a model is, per rule, level and layer, and writes the thresholds."""

from __future__ import annotations

import argparse
import shlex
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsing.cli import _common as common
from sparsing.cli import _gguf as gguf
from sparsing.cli._plan import HERE, plan_of, print_plans

if TYPE_CHECKING:
    from sparsing.measuring.measurement import Measurement
    from sparsing.measuring.subject import Subject
    from sparsing.rules import Rule

DESCRIPTION = """\
Measures how many feed-forward neurons of a model must stay active, and writes thresholds and a report.
Without options it finds PPL-1%, the level at which perplexity rises by 1%, and the share of active neurons there. The
size of a neuron is the norm of what it adds to the output of its block (rule cett), unless --rule names another rule.
docs/measure.md explains how much text is needed, the printed columns and the files.
"""
EPILOG = """examples:
  sparsing measure meta-llama/Llama-3.2-1B --text wikitext:wikitext-2-raw-v1 --split test
  sparsing measure ./my-checkpoint --text book.txt --ppl 1 5 10 -o results/
  sparsing measure ./my-checkpoint --text book.txt --rule cett fat top_k
  sparsing measure meta-llama/Llama-3.1-70B --text book.txt --plan 8xh100
"""


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "measure",
        help="measure the sparsity of a model under Top-k, FAT, CETT and PPL-p%%",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", help="folder of a checkpoint, name on the hub, or GGUF file")
    group = parser.add_argument_group("what to measure")
    group.add_argument(
        "--rule",
        nargs="+",
        metavar="RULE",
        help=f"rules: {common.RULE_NAMES}; NAME:SCORE takes another score, see docs/rules.md (default: cett)",
    )
    group.add_argument(
        "--ppl",
        nargs="+",
        type=common.percentage,
        metavar="P",
        help="rise of perplexity, in percent (default: 1)",
    )
    group.add_argument(
        "--level",
        nargs="+",
        type=float,
        metavar="X",
        help="levels in place of --ppl: the CETT of cett, eps of fat, share k of top_k; docs/rules.md",
    )
    group.add_argument(
        "--tolerance",
        type=float,
        default=1e-4,
        metavar="T",
        help="a search accepts a perplexity ratio this close to the target, or within the sampling error of the text"
        " (default: 1e-4)",
    )
    group.add_argument(
        "--thresholds",
        metavar="FILE",
        help="measure this thresholds.json, or the one in this folder, in place of a rule",
    )
    group.add_argument(
        "--scope",
        choices=("token", "sequence"),
        default="token",
        help="what top_k ranks together: a token, or a sequence as the code of the paper does (default: token)",
    )
    group.add_argument(
        "--per-expert",
        action="store_true",
        help="give each routed expert its own threshold (default: one for all experts of a layer)",
    )
    group.add_argument(
        "--cett-from",
        nargs="+",
        metavar="CKPT",
        help="find one CETT for these checkpoints together (by their mean ppl_ratio) and use it for MODEL",
    )
    common.add_corpus_arguments(parser)
    common.add_model_arguments(parser)
    common.add_run_arguments(parser)
    parser.add_argument(
        "--plan",
        nargs="?",
        const=HERE,
        metavar="MACHINE",
        help="print what this would cost, and end (default MACHINE: this one, timed; or a name such as h100)",
    )
    parser.add_argument(
        "--arrays",
        action="store_true",
        help="with --json, also print the values of every neuron, token and position (default: off)",
    )
    return parser


def run(args: argparse.Namespace) -> int:
    common.check_text(args)
    from sparsing.measuring.run_folder import default_folder

    jobs = jobs_of(args)
    if args.plan:
        print_plans([plan_of(args, jobs)], as_json=args.json)
        return 0
    folder = common.open_run_folder(args, args.output or default_folder(args.model))
    joint = _joint_subjects(args, jobs, folder)
    level = _joint_level(joint, jobs, folder) if joint else None
    scores = {rule.score if rule else asked["thresholds"].on for rule, asked in jobs}
    searches = sum("ppl_ratio" in asked for _, asked in jobs) if level is None else 0
    subject = common.open_subject(
        args,
        common.load_to_measure(args, args.model),
        folder,
        scores,
        what=f"measure {_names(jobs)}",
        searches=searches,
        levels=len(jobs) - searches,
        per_expert=args.per_expert,
    )
    asked = [(rule, asked if level is None else {"level": level}) for rule, asked in jobs]
    results = _measure(subject, asked, args.tolerance, folder)
    page = None if args.no_figures else _draw(results, subject, folder)
    for measured in (*joint, subject):
        measured.journal.clear()
    if args.json:
        common.print_json([_document(result, args.arrays) for result in results])
    else:
        _print(results, folder, page)
        _print_next(args, results, folder)
    return 0


def jobs_of(args: argparse.Namespace) -> list[tuple[Rule | None, dict]]:
    """One entry per measurement: a rule (None with --thresholds) and the keyword arguments of `measure`.

    Raises:
        InputError: If an option is invalid; this happens before a model is loaded.
    """
    from sparsing.errors import InputError
    from sparsing.rules import make_rule
    from sparsing.rules.thresholds import read_thresholds

    chosen = [name for name in ("ppl", "level", "thresholds") if getattr(args, name) is not None]
    if len(chosen) > 1:
        raise InputError(f"--{chosen[0]} and --{chosen[1]} exclude each other; give only one of them")
    _check_options(args)
    if args.cett_from and (chosen not in ([], ["ppl"]) or args.rule not in (None, ["cett"])):
        raise InputError("--cett-from works only with --ppl and the rule cett; leave out the other options")
    if not 0 < args.tolerance < 1:
        raise InputError(f"--tolerance is a distance of perplexity ratios in (0, 1), got {args.tolerance}")
    if args.thresholds:
        return [(None, {"thresholds": read_thresholds(args.thresholds)})]
    names = args.rule or ["cett"]
    rules = [
        make_rule(name, **({"scope": args.scope} if name.partition(":")[0] == "top_k" else {}))
        for name in names
    ]
    if args.level is not None:
        for rule in rules:
            for level in args.level:
                rule.check(level)
        return [(rule, {"level": level}) for rule in rules for level in args.level]
    asked = args.ppl or [1.0]
    if bad := [p for p in asked if not 0 < p < 1e6]:
        raise InputError(
            f"--ppl must be a rise in percent above 0, got {bad[0]:g}; --ppl 1 means ppl_ratio 1.01"
        )
    if args.cett_from and len(asked) > 1:
        raise InputError(f"--cett-from finds one level, got --ppl {asked}; give one percentage")
    return [(rule, {"ppl_ratio": 1 + p / 100}) for rule in rules for p in asked]


def _check_options(args: argparse.Namespace) -> None:
    """Raises InputError for options that would be ignored."""
    if args.thresholds:
        common.refuse_without_effect(args, ["rule", "scope", "tolerance"], "with --thresholds")
    if args.level is not None:
        common.refuse_without_effect(args, ["tolerance"], "with --level, since nothing is searched")
    if args.cett_from:
        common.refuse_without_effect(args, ["tolerance"], "with --cett-from")
    if "top_k" not in {name.partition(":")[0] for name in args.rule or []}:
        common.refuse_without_effect(args, ["scope"], "without --rule top_k")


def _joint_subjects(args: argparse.Namespace, jobs: list, folder: Path) -> list[Subject]:
    """The checkpoints of --cett-from."""
    scores = {jobs[0][0].score} if args.cett_from else set()
    return [
        common.open_subject(
            args,
            common.load_to_measure(args, name),
            folder,
            scores,
            what=f"joint CETT, {name}",
            searches=1,
            claim=False,
            per_expert=args.per_expert,
        )
        for name in args.cett_from or []
    ]


def _names(jobs: list[tuple[Rule | None, dict]]) -> str:
    """The measurements as short names, e.g. `PPL-1%, fat 0.01`."""
    names = []
    for rule, asked in jobs:
        if rule is None:
            names.append("the given thresholds")
        elif "ppl_ratio" in asked:
            prefix = "" if rule.label == "cett" else f"{rule.label} "
            names.append(f"{prefix}PPL-{100 * (asked['ppl_ratio'] - 1):.4g}%")
        else:
            names.append(f"{rule.label} {asked['level']:g}")
    return ", ".join(names)


def _joint_level(subjects: list[Subject], jobs: list, folder: Path) -> float:
    """The CETT at which the checkpoints of --cett-from together reach the wanted perplexity ratio."""
    from sparsing.measuring.joint_search import search_jointly

    (rule, asked) = jobs[0]
    found = search_jointly(subjects, rule, asked["ppl_ratio"])
    found.save(folder / "joint-search.json")
    return found.level


def _measure(
    subject: Subject, jobs: list[tuple[Rule | None, dict]], tolerance: float, folder: Path
) -> list[Measurement]:
    from sparsing.errors import WeakResultWarning
    from sparsing.measuring._measure import Request, measure_all
    from sparsing.measuring.run_folder import save_measurement

    requests = [Request(**asked) if rule is None else Request(rule=rule, **asked) for rule, asked in jobs]
    with warnings.catch_warnings():
        # the command prints these warnings as cautions, below the figures
        warnings.simplefilter("ignore", WeakResultWarning)
        results = measure_all(subject, requests, tolerance=tolerance)
    for result in results:
        save_measurement(result, folder / result.slug)
    return results


def _draw(results: list[Measurement], subject: Subject, folder: Path) -> Path:
    """Writes the page and figures; figures only of the searched levels if there are any. Returns the page."""
    from sparsing.report.charts.measurement_charts import measurement_pictures
    from sparsing.report.document import build_document
    from sparsing.report.page import write_report
    from sparsing.report.saved_results import Runs
    from sparsing.report.static import save_pictures

    for result in [r for r in results if r.target_ppl_ratio] or results:
        save_pictures(measurement_pictures(result, subject.curves), folder / result.slug)
    return write_report(build_document(Runs(measurements=results)), folder / "index.html")


def _document(result: Measurement, arrays: bool) -> dict[str, Any]:
    """The fields of a measurement and its cautions; values per neuron, token and position only with `arrays`."""
    from numpy import ndarray

    from sparsing.report.cautions import measurement_cautions

    document = result.to_dict() | {"cautions": measurement_cautions(result)}
    if not arrays:
        large = {name for name, value in vars(result).items() if isinstance(value, ndarray)} | {"token_text"}
        document = {name: value for name, value in document.items() if name not in large}
    return document


def _print(results: list[Measurement], folder: Path, page: Path | None) -> None:
    from sparsing.report import measurement_tables as tables
    from sparsing.report.answers import answer, main_measurement
    from sparsing.report.cautions import measurement_cautions

    first = results[0]
    where = first.provenance
    common.print_table(
        f"{where.model}: {first.num_tokens:,} tokens of {where.corpus}, dense perplexity {first.ppl_dense:.4f}",
        *tables.summary(results),
    )
    common.print_table(f"{first.name}, layer by layer", *tables.layers(first))
    if first.experts:
        common.print_table(f"{first.name}, routed experts", *tables.experts(first))
    for result in results:
        if result.fitted_ppl_ratio is not None:
            noise = result.ppl_ratio_noise
            rounding = f", rounding moves it by {noise:.1e}" if noise is not None else ""
            print(
                f"{result.name}: ppl_ratio {result.ppl_ratio:.5f} measured, {result.fitted_ppl_ratio:.5f} by the"
                f" curve through {len(result.tries)} passes{rounding}"
            )
    if without := where.layers_without_site:
        print(f"{len(without)} layers have no feed-forward block and are not counted: {', '.join(without)}")
    print(answer(main_measurement(results)))
    for result in results:
        for caution in measurement_cautions(result):
            print(f"caution, {result.name}: {caution}")
    cost = first.cost
    print(f"cost of {first.name}: {cost.forward_passes:.1f} passes over the text, {cost.wall_sec:.1f} s")
    print(common.results_line(folder, page))


def _print_next(args: argparse.Namespace, results: list[Measurement], folder: Path) -> None:
    """Prints how to use a measurement: in Python, in the user's own module, and for a decision on this machine."""
    from sparsing.report.answers import main_measurement

    result = main_measurement(results)
    run = folder / result.slug
    print("next:")
    print(f"  from sparsing import Measurement; run = Measurement.load({str(run)!r})")
    print(f"  run.to_frame()              # a row per layer, as pandas; also in {run / 'layers.csv'}")
    if (condition := result.thresholds.cut_condition) and not result.experts:
        print(
            f"  run.thresholds.cuts(model)  # a tensor per layer for your own module: active where {condition}"
        )
    words = ["--thresholds", str(run)] if gguf.is_gguf(args.model) else ["--text", args.text]
    print(f"  sparsing advise {shlex.join([args.model, *words])}  # does it pay on this machine")
