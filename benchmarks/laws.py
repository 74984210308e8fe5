"""What the laws' fitter says of the published raw points, and whether its intervals hold what they promise.

`published`: the eleven raw series against the paper's coefficients. `coverage`: simulated series, with the verdict.
`intervals`: simulated series of every form, intervals alone. `timing`: one fit with all intervals, and the eleven
series with comparison. Each run merges its part into one dated JSON in `benchmarks/results/`. Run with
OMP_NUM_THREADS=1:

    python benchmarks/laws.py published --data ../shared/data/sparsing_law
    python benchmarks/laws.py coverage --data ../shared/data/sparsing_law --num-series 600
    python benchmarks/laws.py intervals --data ../shared/data/sparsing_law --num-series 200
    python benchmarks/laws.py timing --data ../shared/data/sparsing_law
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
import time
from pathlib import Path

import numpy as np
import scipy
from scipy.stats import binomtest

from sparsing.base.results import write_text
from sparsing.laws import FORMS, compare, fit, published, read_points, simulate
from sparsing.laws.coefficient_intervals import coefficient_interval
from sparsing.laws.fitting import least_squares_fit
from sparsing.laws.forecasting import crossing
from sparsing.laws.joint_fit import share_test

LEVEL = 0.9
SHAPES = tuple(512 / 36 * (1792 / 3 / (512 / 36)) ** (i / 8) for i in range(9))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=sorted(PARTS))
    parser.add_argument("--data", type=Path, required=True, help="folder of the raw series (JSON)")
    parser.add_argument(
        "--num-series", type=int, default=200, help="simulated series per form (default: 200)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args(argv)
    series = {points.name: points for points in read_points(sorted(args.data.glob("*.json")))}
    started = time.perf_counter()
    found = PARTS[args.part](series, args)
    path = args.output / f"laws-{datetime.date.today().isoformat()}.json"
    document = json.loads(path.read_text()) if path.exists() else {}
    document[args.part] = found | {
        "wall_sec": time.perf_counter() - started,
        "environment": _environment(args),
    }
    write_text(path, json.dumps(document, indent=1) + "\n")
    print(f"wrote {path.name}", file=sys.stderr)
    return 0


def _environment(args: argparse.Namespace) -> dict[str, object]:
    command = f"python benchmarks/laws.py {args.part} --data DATA --seed {args.seed}"
    if args.part in ("coverage", "intervals"):
        command += f" --num-series {args.num_series}"
    return {
        "command": command,
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


# ---------------------------------------------------------------- the published series


def run_published(series, args) -> dict[str, object]:
    """Show 1: one row per series, the joint tests, and what becomes of the paper's claims."""
    rows, fits = [], {}
    for name, points in series.items():
        form, coefficients = published(name) or (None, {})
        if form is None:
            continue
        fits[name] = fit(points, form.name, level=LEVEL)
        rows.append(_row(points, form, coefficients, fits[name]))
        print(f"{name}: {fits[name].verdict}", file=sys.stderr)
    joint = {}
    for form in ("relu", "silu"):
        group = [found for found in fits.values() if found.form == form]
        joint[form] = share_test(group, ["A0"]).to_dict()
    _print_rows(rows)
    for form, found in joint.items():
        print(f"\n{form}: {found['verdict']}")
    return {"rows": rows, "joint": joint}


def _row(points, form, coefficients, found) -> dict[str, object]:
    same = {}
    for drop in sorted({0, 3, 6, 10, found.num_dropped}):
        x, y = points.scaled[drop:], points.y[drop:]
        ours = least_squares_fit(form, x, y)
        theirs = y - form.curve(x, coefficients)
        same[drop] = {
            "ours_rmse": float(np.sqrt(ours.best.rss / len(x))),
            "paper_rmse": float(np.sqrt((theirs**2).mean())),
            "ours_A0": float(ours.best.theta[-1]),
            "last_from_first_half": _half_forecast(form, x, y),
            "last_measured": float(y[-1]),
        }
    limit = found.estimate("A0")
    line = next(rival for rival in found.rivals if rival.form == "log_line")
    return {
        "name": points.name,
        "num_points": len(points.x),
        "num_dropped": found.num_dropped,
        "drop_reason": found.drop_reason,
        "key_by_drop": found.key_by_drop,
        "same_points": same,
        "A0": limit.to_dict(),
        "paper_A0": coefficients["A0"],
        "near_limit_billion": _near_limit(found),
        "coefficients": [estimate.to_dict() for estimate in found.coefficients],
        "paper": coefficients,
        "r2": found.r2,
        "noise_sd": found.noise_sd,
        "rho": found.rho,
        "holdout": (found.holdout.to_dict() | {"covered": found.holdout.covered}) if found.holdout else None,
        "identified": found.identified,
        "verdict": found.verdict,
        "delta_aicc_line": line.delta_aicc,
        "delta_aicc_rivals": {rival.form: rival.delta_aicc for rival in found.rivals},
    }


def _near_limit(found) -> float | None:
    """Billion tokens at which the law is within 10% of its limit (1% for SiLU, whose ratios move less)."""
    share = 1.1 if found.form == "relu" else 0.99
    return crossing(found.law, found.values, share * found.estimate("A0").value, found.kept_x)


def _half_forecast(form, x, y) -> float:
    half = len(x) // 2
    early = least_squares_fit(form, x[:half], y[:half])
    return float(form.evaluate(x[-1:], early.best.theta)[0])


def _print_rows(rows) -> None:
    """The two tables of `docs/laws.md`; ratios in percent, errors in percentage points."""
    print(
        "| series | points, left out | RMSE, all points: ours, paper | RMSE, kept points: ours, paper |",
        end="",
    )
    print(" A0: ours (90%), paper | A0 if 0 to a third is left out | noise sd, rho | line in ln D, AICc |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        every, kept, a0 = row["same_points"][0], row["same_points"][row["num_dropped"]], row["A0"]
        print(
            f"| {row['name']} | {row['num_points']}, {row['num_dropped']}"
            f" | {100 * every['ours_rmse']:.4f}, {100 * every['paper_rmse']:.4f}"
            f" | {100 * kept['ours_rmse']:.4f}, {100 * kept['paper_rmse']:.4f}"
            f" | {100 * a0['value']:.2f} ({_end(a0['low'], a0['low_closed'])} to"
            f" {_end(a0['high'], a0['high_closed'])}), {100 * row['paper_A0']:.2f}"
            f" | {100 * min(row['key_by_drop'].values()):.2f} to {100 * max(row['key_by_drop'].values()):.2f}"
            f" | {100 * row['noise_sd']:.3f}, {row['rho']:.2f} | {row['delta_aicc_line']:+.1f} |"
        )
    print(
        "\n| series | last point from first half: error, inside 90% | near A0 at, billion tokens | verdict |"
    )
    print("|---|---|---|---|")
    for row in rows:
        held, near = row["holdout"], row["near_limit_billion"]
        error = 100 * (held["last_predicted"] - held["last_measured"])
        print(
            f"| {row['name']} | {error:+.2f}, {'yes' if held['covered'] else 'no'}"
            f" | {'never' if near is None else format(near, '.0f')} | {row['verdict']} |"
        )


def _end(value: float, closed: bool) -> str:
    return f"{100 * value:.2f}" if closed else "open"


# ---------------------------------------------------------------- coverage


def run_coverage(series, args) -> dict[str, object]:
    """Show 2: the whole tool, with its drop rule and verdict, on the two published laws."""
    return {"level": LEVEL, **{form: _whole(series, form, args) for form in ("silu", "relu")}}


def run_intervals(series, args) -> dict[str, object]:
    """The intervals alone, for every coefficient of every form; and limits claimed where there is none."""
    false = {form: _without_limit(series, form, args) for form in ("log_line", "power")}
    return {
        "level": LEVEL,
        "no_limit_to_find": false,
        **{name: _intervals(series, name, args) for name in FORMS},
    }


def _truths(series, form_name):
    """Per published series of a form: its name, tokens, published coefficients, noise seen in the data."""
    truths = []
    for name, points in series.items():
        form, coefficients = published(name) or (None, {})
        if form is None or form.name != form_name:
            continue
        found = fit(points, form_name, level=LEVEL, num_resamples=0)
        truths.append((name, points.scaled, coefficients, found.noise_sd, found.rho))
    return truths


def _whole(series, form_name, args) -> dict[str, object]:
    """`fit` with its drop rule and verdict, on series drawn from the published coefficients."""
    truths, rows = _truths(series, form_name), []
    for i in range(args.num_series):
        name, x, values, sd, rho = truths[i % len(truths)]
        seed = np.random.SeedSequence([args.seed, i, len(form_name)])
        points = simulate(FORMS[form_name], values, x, noise_sd=sd, rho=rho, seed=seed, name=name)
        found = fit(points, form_name, level=LEVEL, num_resamples=0)
        limit = found.estimate("A0")
        inside = {e.name: bool(e.low <= values[e.name] <= e.high) for e in found.coefficients}
        rows.append((name, found.identified, limit.closed, inside["A0"], found.num_dropped, inside))
        if i % 20 == 19:
            print(f"{form_name}: {i + 1} of {args.num_series}", file=sys.stderr)
    pick = {
        "identified": [r[3] for r in rows if r[1]],
        "not_identified": [r[3] for r in rows if not r[1]],
        "closed": [r[3] for r in rows if r[2]],
        "all": [r[3] for r in rows],
    }
    summary: dict[str, object] = {key: _share(values) for key, values in pick.items()}
    summary["dropped_any"] = _share([r[4] > 0 for r in rows])
    summary["coefficients"] = {key: _share([r[5][key] for r in rows]) for key in rows[0][5]}
    summary["per_series"] = {
        t[0]: {
            "identified": _share([r[1] for r in rows if r[0] == t[0]]),
            "covered_where_identified": _share([r[3] for r in rows if r[0] == t[0] and r[1]]),
            "covered": _share([r[3] for r in rows if r[0] == t[0]]),
        }
        for t in truths
    }
    print(f"{form_name}: {summary}")
    return summary


def _without_limit(series, truth_name, args) -> dict[str, object]:
    """How often the ReLU law's limit is called identified in series that have none."""
    rows = []
    names = [name for name in series if name.endswith("relu")]
    fits = {name: fit(series[name], truth_name, level=LEVEL, num_resamples=0) for name in names}
    for i in range(args.num_series):
        found = fits[names[i % len(names)]]
        seed = np.random.SeedSequence([args.seed, i, 77])
        x = series[found.name].scaled
        points = simulate(found.law, found.values, x, noise_sd=found.noise_sd, rho=found.rho, seed=seed)
        rows.append(fit(points, "relu", level=LEVEL, num_resamples=0).identified)
    print(f"{truth_name}: identified {_share(rows)}")
    return {"identified": _share(rows)}


def _intervals(series, name, args) -> dict[str, object]:
    """Coverage of every coefficient's interval, drawn from our fits where nothing is published."""
    form, truths = FORMS[name], []
    if form.variable == "width_depth":
        truths = [(np.array(SHAPES), {"a": 0.055, "b": 0.0002, "r0": 114.0}, 0.001, 0.0)]
    elif name in ("relu", "silu"):
        truths = [truth[1:] for truth in _truths(series, name)]
    else:
        for points in series.values():
            found = fit(points, name, level=LEVEL, num_resamples=0)
            truths.append((found.kept_x, found.values, found.noise_sd, found.rho))
    inside: dict[str, list[bool]] = {key: [] for key in form.names}
    for i in range(args.num_series):
        x, values, sd, rho = truths[i % len(truths)]
        seed = np.random.SeedSequence([args.seed, i, 991])
        points = simulate(form, values, x, noise_sd=sd, rho=rho, seed=seed)
        fitted = least_squares_fit(form, points.scaled, points.y)
        truth = form.internal(values)
        for index, key in enumerate(form.names):
            low, high, _, _ = coefficient_interval(fitted, index, LEVEL)
            inside[key].append(bool(low <= truth[index] <= high))
    summary = {key: _share(values) for key, values in inside.items()}
    print(f"{name}, every coefficient: { {k: round(v['share'], 3) for k, v in summary.items()} }")
    return summary


def _share(values) -> dict[str, float | int | list[float] | None]:
    """Share of true values with its 95% interval (exact)."""
    hits, total = int(sum(values)), len(values)
    if not total:
        return {"share": None, "hits": 0, "total": 0, "ci95": None}
    ends = binomtest(hits, total).proportion_ci(0.95)
    return {"share": hits / total, "hits": hits, "total": total, "ci95": [ends.low, ends.high]}


# ---------------------------------------------------------------- timing


def run_timing(series, args) -> dict[str, object]:
    """Show 3: wall and CPU seconds of one fit (the middle of three by wall time) and of all comparisons."""
    fits = {}
    for name, points in series.items():
        form, _ = published(name) or (FORMS["relu"], {})
        times = [_timed(lambda p=points, f=form.name: fit(p, f, level=LEVEL)) for _ in range(3)]
        fits[name] = sorted(times, key=lambda timing: timing["wall_sec"])[1]
        fits[name]["max_wall_sec"] = max(timing["wall_sec"] for timing in times)
        print(f"fit {name}: {fits[name]}")
    every = _timed(lambda: [compare(points, level=LEVEL) for points in series.values()])
    print(f"compare, {len(series)} series: {every}")
    return {"fit": fits, "compare_all": every, "num_series": len(series), "load_average": os.getloadavg()[0]}


def _timed(call) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return {"wall_sec": time.perf_counter() - wall, "cpu_sec": time.process_time() - cpu}


PARTS = {
    "published": run_published,
    "coverage": run_coverage,
    "intervals": run_intervals,
    "timing": run_timing,
}

if __name__ == "__main__":
    raise SystemExit(main())
