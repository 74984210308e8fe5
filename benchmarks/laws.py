"""Benchmark of the laws: fits to the published raw series, coverage of the intervals on simulated series, and time.

Four parts: `published` fits the eleven raw series and compares them with the paper's coefficients. `coverage` runs the
whole fit, with its choice of early points and its verdict, on simulated series. Without more options the fit knows the
form; with `--form auto` it chooses the form, and every form with a limit is drawn from. `intervals` checks only the
intervals, for every form. `timing` times one fit with all intervals, and the comparison of all forms on the eleven
series. Each run merges its part into one dated JSON file in `benchmarks/results/`. Run with OMP_NUM_THREADS=1:

    python benchmarks/laws.py published --data DATA
    python benchmarks/laws.py coverage --data DATA --num-series 600
    python benchmarks/laws.py coverage --form auto --data DATA --num-series 600
    python benchmarks/laws.py intervals --data DATA --num-series 200
    python benchmarks/laws.py timing --data DATA
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import scipy
from scipy.stats import binomtest

from sparsing.base.results import write_text
from sparsing.laws import FORMS, LawFit, Points, compare_forms, fit, published_law, read_points, simulate
from sparsing.laws.coefficient_intervals import coefficient_interval, intervals_over_forms
from sparsing.laws.fitting import fit_curve, rivals_of
from sparsing.laws.forecasting import find_crossing
from sparsing.laws.form import Form
from sparsing.laws.form_comparison import FormSurvey, survey_forms
from sparsing.laws.joint_fit import fit_shared
from sparsing.laws.lawfit import Estimate
from sparsing.laws.solve import Problem, solve
from sparsing.laws.verdict import judge

LEVEL = 0.9
SHAPES = tuple(512 / 36 * (1792 / 3 / (512 / 36)) ** (i / 8) for i in range(9))
"""Nine width-depth ratios at equal factors between the paper's narrowest and widest shape."""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=sorted(PARTS))
    parser.add_argument("--data", type=Path, required=True, help="folder with the raw series as JSON files")
    parser.add_argument(
        "--form",
        choices=("known", "auto"),
        default="known",
        help="`coverage`: whether the fit knows the true form or chooses a form (default: known)",
    )
    parser.add_argument(
        "--num-series", type=int, default=200, help="simulated series per form (default: 200)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the simulated series (default: 0)")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(__file__).parent / "results",
        help="folder of the dated JSON file (default: benchmarks/results)",
    )
    args = parser.parse_args(argv)
    series = {points.name: points for points in read_points(sorted(args.data.glob("*.json")))}
    started = time.perf_counter()
    result = PARTS[args.part](series, args)
    path = args.output / f"laws-{datetime.date.today().isoformat()}.json"
    document = json.loads(path.read_text()) if path.exists() else {}
    part = "coverage_auto" if args.part == "coverage" and args.form == "auto" else args.part
    document[part] = result | {
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
    if args.form == "auto":
        command += " --form auto"
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


def run_published(series: Mapping[str, Points], args: argparse.Namespace) -> dict[str, object]:
    """One row per published series, and the joint tests of a shared limit."""
    rows, fits = [], {}
    for name, points in series.items():
        form, coefficients = published_law(name) or (None, {})
        if form is None:
            continue
        fits[name] = fit(points, form.name, level=LEVEL)
        best = compare_forms(points, level=LEVEL).best
        rows.append(_row(points, form, coefficients, fits[name]) | {"auto": _auto_row(best)})
        print(f"{name}: {fits[name].verdict}\n    auto: {best.verdict}", file=sys.stderr)
    joint = {}
    for form in ("relu", "silu"):
        joint[form] = fit_shared([law for law in fits.values() if law.form == form], ["A0"]).to_dict()
    _print_rows(rows)
    for form, test in joint.items():
        print(f"\n{form}: {test['verdict']}")
    return {"rows": rows, "joint": joint}


def _row(points: Points, form: Form, coefficients: dict[str, float], law: LawFit) -> dict[str, object]:
    same = {}
    for drop in sorted({0, 3, 6, 10, law.num_dropped}):
        x, y = points.scaled[drop:], points.y[drop:]
        ours = fit_curve(form, x, y)
        paper_error = y - form.curve(x, coefficients)
        same[drop] = {
            "ours_rmse": float(np.sqrt(ours.best.rss / len(x))),
            "paper_rmse": float(np.sqrt((paper_error**2).mean())),
            "ours_A0": float(ours.best.theta[-1]),
            "last_from_first_half": _half_forecast(form, x, y),
            "last_measured": float(y[-1]),
        }
    line = next(rival for rival in law.rivals if rival.form == "log_line")
    return {
        "name": points.name,
        "num_points": len(points.x),
        "num_dropped": law.num_dropped,
        "drop_reason": law.drop_reason,
        "key_by_drop": law.key_by_drop,
        "same_points": same,
        "A0": law.estimate("A0").to_dict(),
        "paper_A0": coefficients["A0"],
        "near_limit_billion": _near_limit(law),
        "coefficients": [estimate.to_dict() for estimate in law.coefficients],
        "paper": coefficients,
        "r2": law.r2,
        "noise_sd": law.noise_sd,
        "rho": law.rho,
        "holdout": (law.holdout.to_dict() | {"covered": law.holdout.covered}) if law.holdout else None,
        "identified": law.identified,
        "verdict": law.verdict,
        "delta_aicc_line": line.delta_aicc,
        "delta_aicc_rivals": {rival.form: rival.delta_aicc for rival in law.rivals},
    }


def _auto_row(best: LawFit) -> dict[str, object]:
    """What the fit reports if it chooses the form."""
    return {
        "form": best.form,
        "num_dropped": best.num_dropped,
        "forms": best.forms,
        "interval": best.key_over_forms.to_dict() if best.key_over_forms else None,
        "identified": best.identified,
        "verdict": best.verdict,
    }


def _near_limit(law: LawFit) -> float | None:
    """Billion tokens at which the law is within 10% of its limit (1% for SiLU, whose ratios change less)."""
    share = 1.1 if law.form == "relu" else 0.99
    return find_crossing(law.law, law.values, share * law.estimate("A0").value, law.kept_x)


def _half_forecast(form: Form, x: np.ndarray, y: np.ndarray) -> float:
    """The last point as predicted by a fit to the first half of the points."""
    half = len(x) // 2
    early = fit_curve(form, x[:half], y[:half])
    return float(form.evaluate(x[-1:], early.best.theta)[0])


def _print_rows(rows: Sequence[dict]) -> None:
    """Print the three tables of `docs/laws-study.md`; ratios in percent, errors in percentage points."""
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
    print("\n| series | form with the lowest AICc, points left out | published A0 | verdict |")
    print("|---|---|---|---|")
    for row in rows:
        auto = row["auto"]
        print(
            f"| {row['name']} | {auto['form']}, {auto['num_dropped']} | {100 * row['paper_A0']:.2f}"
            f" | {auto['verdict']} |"
        )


def _end(value: float, closed: bool) -> str:
    return f"{100 * value:.2f}" if closed else "open"


# ---------------------------------------------------------------- coverage


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scenario:
    """What a simulated series is drawn from."""

    name: str
    x: np.ndarray
    """Billion tokens, or width over depth, shape `(num_points,)`."""
    coefficients: dict[str, float]
    noise_sd: float
    rho: float

    def draw(self, form: Form, seed: np.random.SeedSequence) -> Points:
        return simulate(
            form,
            self.coefficients,
            self.x,
            noise_sd=self.noise_sd,
            rho=self.rho,
            seed=seed,
            name=self.name,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the fit of one simulated series reported, compared with the true coefficients."""

    name: str
    identified: bool
    closed: bool
    dropped: bool
    inside: dict[str, bool]
    """Per coefficient: whether its interval holds the true value."""


def run_coverage(series: Mapping[str, Points], args: argparse.Namespace) -> dict[str, object]:
    """The whole fit, with its choice of early points and its verdict, on simulated series."""
    if args.form == "auto":
        return run_auto_coverage(series, args)
    return {"level": LEVEL, **{form: _coverage(series, form, args) for form in ("silu", "relu")}}


def run_intervals(series: Mapping[str, Points], args: argparse.Namespace) -> dict[str, object]:
    """Coverage of the intervals for every form, and how often a limit is claimed for series without a limit."""
    without_limit = {form: _claimed_limits(series, form, args) for form in ("log_line", "power")}
    return {
        "level": LEVEL,
        "no_limit_to_find": without_limit,
        **{name: _intervals(series, name, args) for name in FORMS},
    }


def _published_scenarios(series: Mapping[str, Points], form_name: str) -> list[Scenario]:
    """Per published series of a form: its tokens, its published coefficients, and the noise of our fit."""
    scenarios = []
    for name, points in series.items():
        form, coefficients = published_law(name) or (None, {})
        if form is None or form.name != form_name:
            continue
        law = fit(points, form_name, level=LEVEL, num_resamples=0)
        scenarios.append(
            Scenario(
                name=name,
                x=points.scaled,
                coefficients=coefficients,
                noise_sd=law.noise_sd,
                rho=law.rho,
            )
        )
    return scenarios


def _coverage(series: Mapping[str, Points], form_name: str, args: argparse.Namespace) -> dict[str, object]:
    """Shares over simulated series of one published law."""
    scenarios, outcomes = _published_scenarios(series, form_name), []
    for i in range(args.num_series):
        scenario = scenarios[i % len(scenarios)]
        points = scenario.draw(FORMS[form_name], np.random.SeedSequence([args.seed, i, len(form_name)]))
        law = fit(points, form_name, level=LEVEL, num_resamples=0)
        truth = scenario.coefficients
        outcomes.append(
            Outcome(
                name=scenario.name,
                identified=law.identified,
                closed=law.estimate("A0").closed,
                dropped=law.num_dropped > 0,
                inside={e.name: bool(e.low <= truth[e.name] <= e.high) for e in law.coefficients},
            )
        )
        if i % 20 == 19:
            print(f"{form_name}: {i + 1} of {args.num_series}", file=sys.stderr)
    summary: dict[str, object] = {
        "identified": _limit_share([o for o in outcomes if o.identified]),
        "not_identified": _limit_share([o for o in outcomes if not o.identified]),
        "closed": _limit_share([o for o in outcomes if o.closed]),
        "all": _limit_share(outcomes),
        "dropped_any": _share([o.dropped for o in outcomes]),
        "coefficients": {name: _share([o.inside[name] for o in outcomes]) for name in outcomes[0].inside},
        "per_series": {
            scenario.name: _series_summary([o for o in outcomes if o.name == scenario.name])
            for scenario in scenarios
        },
    }
    print(f"{form_name}: {summary}")
    return summary


def _series_summary(outcomes: Sequence[Outcome]) -> dict[str, object]:
    return {
        "identified": _share([o.identified for o in outcomes]),
        "covered_where_identified": _limit_share([o for o in outcomes if o.identified]),
        "covered": _limit_share(outcomes),
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class AutoOutcome:
    """What the fit of one simulated series reported when it had to choose the form."""

    name: str
    form: str
    """The form with the lowest AICc."""
    num_forms: int
    """Number of forms that are not refuted."""
    refuted: bool
    """Whether the true form is refuted."""
    dropped: bool
    identified: bool
    """By the verdict that covers the choice of the form."""
    covered: bool
    """Whether the interval over all forms that are not refuted holds the true limit."""
    identified_by_form: bool
    """By the verdict that assumes the form with the lowest AICc, with doubts from forms within 2 of its AICc."""
    covered_by_form: bool
    """Whether the interval under the form with the lowest AICc holds the true limit."""
    curve: dict[str, bool]
    """Per horizon: whether the interval over forms holds the true curve. Empty if not computed."""
    curve_by_form: dict[str, bool]
    """The same under the form with the lowest AICc."""


LIMITED = ("relu", "silu", "decay", "sigmoid")
"""The forms with a limit, from which the series of `coverage --form auto` are drawn."""
HORIZONS = (3.0, 10.0)
"""Multiples of the last tokens at which the interval of the curve is checked."""
CURVE_SHARE = 7
"""The curve is checked in one of this many series, since its intervals take longer than the rest.

It has no common factor with the numbers of scenarios (5, 6 and 11), so every scenario is checked equally often.
"""


def run_auto_coverage(series: Mapping[str, Points], args: argparse.Namespace) -> dict[str, object]:
    """Coverage of the limit when the fit chooses the form, and claimed limits of series that have none.

    The simulated series have no warm-up, and most of the time of a fit goes into the choice of early points. All points
    are therefore kept, except in a quarter as many series (`chosen_points`) that show what this choice changes. Another
    quarter has every second point only.
    """
    few = args.num_series // 4
    result: dict[str, object] = {"level": LEVEL}
    published = [*_published_scenarios(series, "relu"), *_published_scenarios(series, "silu")]
    for form in LIMITED:
        scenarios = _limit_scenarios(series, published, form)
        outcomes = _auto_outcomes(form, scenarios, args.num_series, args.seed, drop=0)
        result[form] = _summarise(form, outcomes)
        halves = [dataclasses.replace(scenario, x=scenario.x[::2]) for scenario in scenarios]
        outcomes = _auto_outcomes(form, halves, few, args.seed + 1, drop=0)
        result[f"{form}_every_second_point"] = _summarise(form, outcomes)
        outcomes = _auto_outcomes(form, scenarios, few, args.seed + 2, drop=None)
        result[f"{form}_chosen_points"] = _summarise(form, outcomes)
    for form in ("log_line", "power"):
        scenarios = [
            dataclasses.replace(
                scenario, coefficients=fit(series[scenario.name], form, num_resamples=0).values
            )
            for scenario in _limit_scenarios(series, published, "relu")
        ]
        outcomes = _auto_outcomes(form, scenarios, few, args.seed, drop=0)
        result[f"{form}_no_limit"] = _summarise(form, outcomes)
    return result


def _limit_scenarios(
    series: Mapping[str, Points], published: Sequence[Scenario], form_name: str
) -> list[Scenario]:
    """Per suitable published series: its tokens, the noise of our fit, and a curve of this form with its limit.

    The ReLU and SiLU laws have their published coefficients. Nothing is published for the other forms, so their
    coefficients are those of the best curve through the series with the limit held at its published value.
    """
    form = FORMS[form_name]
    scenarios = []
    for scenario in published:
        own = published_law(scenario.name)
        assert own is not None, "the scenarios are of published series"
        if own[0] is form:
            scenarios.append(scenario)
        elif form_name == "sigmoid" or (form_name == "decay" and own[0].name == "relu"):
            points, index = series[scenario.name], form.names.index("A0")
            held = {index: scenario.coefficients["A0"]}
            theta = solve(Problem(form=form, x=points.scaled, y=points.y, held=held)).theta
            scenarios.append(dataclasses.replace(scenario, coefficients=form.to_coefficients(theta)))
    return scenarios


def _auto_outcomes(
    form_name: str, scenarios: Sequence[Scenario], num_series: int, seed: int, *, drop: int | None
) -> list[AutoOutcome]:
    """Fits of series from one form; `drop` is the number of first points left out, None chooses it."""
    form, outcomes = FORMS[form_name], []
    for i in range(num_series):
        scenario = scenarios[i % len(scenarios)]
        spawned = np.random.SeedSequence([seed, i, sum(map(ord, form_name))])
        points = scenario.draw(form, spawned)
        outcomes.append(_auto_outcome(form, scenario, points, drop, with_curve=i % CURVE_SHARE == 0))
        if i % 50 == 49:
            print(f"{form_name}: {i + 1} of {num_series}", file=sys.stderr, flush=True)
    return outcomes


def _auto_outcome(
    form: Form, scenario: Scenario, points: Points, drop: int | None, *, with_curve: bool
) -> AutoOutcome:
    survey = survey_forms(points, drop=drop, level=LEVEL)
    choice, best = survey.choice, survey.choice.forms[0]
    limit = scenario.coefficients.get("A0", math.nan)
    key = _key_by_form(survey)
    by_form, _ = judge(FORMS[best], key, rivals_of(best, survey.fitted), LEVEL)
    curve, curve_by_form = {}, {}
    for horizon in HORIZONS if with_curve else ():
        x = horizon * float(scenario.x[-1])
        true = float(form.curve(np.array([x]), scenario.coefficients)[0])
        fits = [survey.fitted[name].curve for name in choice.forms]
        for record, chosen in ((curve, fits), (curve_by_form, fits[:1])):
            (low, high), _ = intervals_over_forms(chosen, x, LEVEL)
            record[f"{horizon:g}"] = bool(low <= true <= high)
    return AutoOutcome(
        name=scenario.name,
        form=best,
        num_forms=len(choice.forms),
        refuted=form.name not in choice.forms,
        dropped=survey.num_dropped > 0,
        identified=survey.identified,
        covered=bool(choice.low <= limit <= choice.high),
        identified_by_form=by_form,
        covered_by_form=key is not None and bool(key.low <= limit <= key.high),
        curve=curve,
        curve_by_form=curve_by_form,
    )


def _key_by_form(survey: FormSurvey) -> Estimate | None:
    """The limit with its profile interval under the form with the lowest AICc; None for a form without a limit."""
    curve = survey.fitted[survey.choice.forms[0]].curve
    if curve.form.key is None:
        return None
    index = curve.form.names.index(curve.form.key)
    interval = coefficient_interval(curve, index, LEVEL)
    return Estimate(
        name=curve.form.key,
        value=float(curve.best.theta[index]),
        low=interval.low,
        high=interval.high,
        low_closed=interval.low_closed,
        high_closed=interval.high_closed,
        boot_low=math.nan,
        boot_high=math.nan,
    )


def _summarise(form: str, outcomes: Sequence[AutoOutcome]) -> dict[str, object]:
    """Shares over the series of one form; `before` is the verdict that assumes the form with the lowest AICc."""
    horizons = [f"{horizon:g}" for horizon in HORIZONS]
    with_curve = [o for o in outcomes if o.curve]
    summary: dict[str, object] = {
        "before": {
            "identified": _share([o.identified_by_form for o in outcomes]),
            "covered_where_identified": _share([o.covered_by_form for o in outcomes if o.identified_by_form]),
            "curve": {at: _share([o.curve_by_form[at] for o in with_curve]) for at in horizons},
        },
        "after": {
            "identified": _share([o.identified for o in outcomes]),
            "covered_where_identified": _share([o.covered for o in outcomes if o.identified]),
            "curve": {at: _share([o.curve[at] for o in with_curve]) for at in horizons},
        },
        "true_form_refuted": _share([o.refuted for o in outcomes]),
        "true_form_best": _share([o.form == form for o in outcomes]),
        "mean_forms": float(np.mean([o.num_forms for o in outcomes])),
        "dropped_any": _share([o.dropped for o in outcomes]),
        "per_series": {
            name: {
                "identified": _share([o.identified for o in outcomes if o.name == name]),
                "covered_where_identified": _share(
                    [o.covered for o in outcomes if o.name == name and o.identified]
                ),
            }
            for name in dict.fromkeys(o.name for o in outcomes)
        },
    }
    for when in ("before", "after"):
        print(f"{form}, {len(outcomes)} series, {when}: {summary[when]}", flush=True)
    return summary


def _claimed_limits(
    series: Mapping[str, Points], true_form: str, args: argparse.Namespace
) -> dict[str, dict]:
    """How often the limit of the ReLU law is called identified in series that have no limit."""
    names = [name for name in series if name.endswith("relu")]
    fits = {name: fit(series[name], true_form, level=LEVEL, num_resamples=0) for name in names}
    identified = []
    for i in range(args.num_series):
        law = fits[names[i % len(names)]]
        seed = np.random.SeedSequence([args.seed, i, 77])
        x = series[law.name].scaled
        points = simulate(law.law, law.values, x, noise_sd=law.noise_sd, rho=law.rho, seed=seed)
        identified.append(fit(points, "relu", level=LEVEL, num_resamples=0).identified)
    print(f"{true_form}: identified {_share(identified)}")
    return {"identified": _share(identified)}


def _intervals(series: Mapping[str, Points], name: str, args: argparse.Namespace) -> dict[str, dict]:
    """Coverage of every coefficient's interval; series are drawn from our fits where nothing is published."""
    form, scenarios = FORMS[name], []
    if form.variable == "width_depth":
        coefficients = {"a": 0.055, "b": 0.0002, "r0": 114.0}
        scenarios = [
            Scenario(name=name, x=np.array(SHAPES), coefficients=coefficients, noise_sd=0.001, rho=0.0)
        ]
    elif name in ("relu", "silu"):
        scenarios = _published_scenarios(series, name)
    else:
        for points in series.values():
            law = fit(points, name, level=LEVEL, num_resamples=0)
            scenarios.append(
                Scenario(name=name, x=law.kept_x, coefficients=law.values, noise_sd=law.noise_sd, rho=law.rho)
            )
    inside: dict[str, list[bool]] = {key: [] for key in form.names}
    for i in range(args.num_series):
        scenario = scenarios[i % len(scenarios)]
        points = scenario.draw(form, np.random.SeedSequence([args.seed, i, 991]))
        curve = fit_curve(form, points.scaled, points.y)
        theta = form.to_theta(scenario.coefficients)
        for index, key in enumerate(form.names):
            interval = coefficient_interval(curve, index, LEVEL)
            inside[key].append(bool(interval.low <= theta[index] <= interval.high))
    summary = {key: _share(values) for key, values in inside.items()}
    print(f"{name}, every coefficient: { {k: round(v['share'], 3) for k, v in summary.items()} }")
    return summary


def _limit_share(outcomes: Sequence[Outcome]) -> dict:
    return _share([outcome.inside["A0"] for outcome in outcomes])


def _share(values: Sequence[bool]) -> dict:
    """Share of true values with its exact 95% interval (Clopper-Pearson)."""
    hits, total = int(sum(values)), len(values)
    if not total:
        return {"share": None, "hits": 0, "total": 0, "ci95": None}
    ends = binomtest(hits, total).proportion_ci(0.95)
    return {"share": hits / total, "hits": hits, "total": total, "ci95": [ends.low, ends.high]}


# ---------------------------------------------------------------- timing


def run_timing(series: Mapping[str, Points], args: argparse.Namespace) -> dict[str, object]:
    """Wall and CPU seconds of one fit (the median of three by wall time) and of all comparisons."""
    fits = {}
    for name, points in series.items():
        form, _ = published_law(name) or (FORMS["relu"], {})
        times = [_time(lambda p=points, f=form.name: fit(p, f, level=LEVEL)) for _ in range(3)]
        fits[name] = sorted(times, key=lambda timing: timing["wall_sec"])[1]
        fits[name]["max_wall_sec"] = max(timing["wall_sec"] for timing in times)
        print(f"fit {name}: {fits[name]}")
    every = _time(lambda: [compare_forms(points, level=LEVEL) for points in series.values()])
    print(f"compare, {len(series)} series: {every}")
    return {"fit": fits, "compare_all": every, "num_series": len(series), "load_average": os.getloadavg()[0]}


def _time(call: Callable[[], object]) -> dict[str, float]:
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
