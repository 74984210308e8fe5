"""Checks the intervals of the activation ratio at PPL-1%, and the search, against known answers.

    python benchmarks/interval_coverage.py              both parts, a few minutes
    python benchmarks/interval_coverage.py search       one part
    python benchmarks/interval_coverage.py comparison --model PATH --text FILE      real comparisons of rules
    python benchmarks/interval_coverage.py intervals --model PATH --text FILE       another model than the demo's

`intervals` runs both demo models, or another model, on a long text: the dense pass, and real sparse passes at levels
around PPL-1%. It then draws sub-texts from the windows, and each sub-text gets the real search and the real interval.
Their passes are interpolated between the tabulated levels, so no sub-text runs the model. The result is the share of
the 95% intervals that contain the activation ratio of the whole text at its own PPL-1%. Sub-texts are random subsets
of the windows, random windows drawn with repetition, and contiguous chunks.

`comparison` runs the real searches of `compare` on random subsets of the windows, with all their passes, and checks the
interval of each rule against the activation ratio of the whole text, which `measure` finds. It takes half an hour and
runs only if it is asked for.

`search` runs the real search on simulated curves with a known level: power laws and bent curves, with arithmetic noise
up to that of bfloat16. The result is the error of the level, the number of passes, and how often the true level lies
within two standard errors that the search states. Each run keeps the other part in the JSON file of the same day. Run
with OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _common import ROOT, save
from numpy.typing import NDArray

from sparsing.demo import DEMO_ACTIVATIONS, checkpoints, heldout_text
from sparsing.measuring.frontier import compare
from sparsing.measuring.observation import Observation
from sparsing.measuring.search import search
from sparsing.measuring.search_result import SearchResult
from sparsing.measuring.stages import part_windows
from sparsing.measuring.subject import Subject, window_counts
from sparsing.measuring.target_interval import target_interval
from sparsing.models.loading import load_model
from sparsing.rules import Reach, make_rule
from sparsing.text.corpus import load_corpus

PARTS = ("intervals", "search")
ON_REQUEST = "comparison"
RULES = ("cett", "cett:gate", "fat:h", "quantile", "top_k:h", "top_p", "teal", "wina")
"""Rules of `comparison`, in the order in which they are searched."""
PPL_RATIO = 1.01
WINDOW = 256
STEP = 5
"""Windows between the starts of contiguous chunks."""
SUBSETS = 200
LEVEL_FACTORS = (0.3, 0.5, 0.65, 0.77, 0.85, 0.93, 1.0, 1.07, 1.15, 1.25, 1.4, 1.8, 3.0)
"""Tabulated levels, relative to the level of PPL-1% on the whole text."""
CETT = make_rule("cett")
REACH = Reach(start=0.2, most=1.0, step=1e-7)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", help="intervals, search, comparison (default: the first two)")
    parser.add_argument("--tokens", type=int, default=60_000, help="length of the long text (default: 60000)")
    parser.add_argument("--model", help="folder of a model (default: both demo models)")
    parser.add_argument("--text", help="text file for --model")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--chunk", type=int, default=31, help="windows of a sub-text (default: 31)")
    parser.add_argument("--texts", type=int, default=40, help="sub-texts of `comparison` (default: 40)")
    parser.add_argument("--runs", type=int, default=60, help="runs per simulated curve (default: 60)")
    args = parser.parse_args()
    parts = args.parts or PARTS
    if unknown := set(parts) - {*PARTS, ON_REQUEST}:
        parser.error(
            f"unknown part {', '.join(sorted(unknown))}; the parts are intervals, search and comparison"
        )
    result: dict[str, Any] = {}
    if "search" in parts:
        result["search"] = run_search(args.runs)
    sources: dict[str, tuple[Path, Any]] = {
        name: (checkpoints(name)[-1], [heldout_text()]) for name in DEMO_ACTIVATIONS
    }
    if args.model:
        sources = {Path(args.model).name: (Path(args.model), args.text)}
    for part, run in (("intervals", run_intervals), (ON_REQUEST, run_comparison)):
        if part in parts:
            result[part] = [row for name, source in sources.items() for row in run(name, *source, args)]
    for rows in result.values():
        _print_table(rows)
    # the other part or another model may have run on the same day
    path = ROOT / "results" / f"interval_coverage-{datetime.date.today().isoformat()}.json"
    earlier = json.loads(path.read_text()) if path.exists() else {}
    for part in result.keys() - {"search"}:
        names = {row["model"] for row in result[part]}
        result[part] += [row for row in earlier.get(part, []) if row["model"] not in names]
    saved = {part: earlier[part] for part in (*PARTS, ON_REQUEST) if part in earlier}
    save("interval_coverage", saved | result)


# ---------------------------------------------------------------- intervals


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PassTable:
    """Sums of each window at the tabulated levels."""

    log_levels: NDArray[np.float64]
    """Shape `(n_levels,)`, increasing."""
    rise: NDArray[np.float64]
    """Rise of the negative log-likelihood, nats, shape `(n_levels, n_windows)`."""
    active: NDArray[np.float64]
    """Activation ratio (mean over layers), summed over the tokens, shape `(n_levels, n_windows)`."""
    labels: NDArray[np.float64]
    """Predicted tokens, shape `(n_windows,)`."""
    tokens: NDArray[np.float64]
    """Counted tokens, shape `(n_windows,)`."""

    @property
    def n_windows(self) -> int:
        return len(self.tokens)

    def observe(self, level: float, windows: NDArray[np.int64], *, on_all: bool = True) -> Observation:
        """The pass at this level over these windows."""
        rise = self._at(self.rise, level)[windows]
        if math.log(level) < self.log_levels[0]:  # a power law: a straight line would become negative
            rise = self.rise[0, windows] * math.exp(2 * (math.log(level) - self.log_levels[0]))
        return Observation(strength=level, rise=rise, labels=self.labels[windows], on_all=on_all)

    def active_at(self, level: float, windows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Sums of the activation ratio over these windows, shape `(n,)`."""
        return self._at(self.active, level)[windows]

    def ratio(self, level: float) -> float:
        """Activation ratio of the whole text."""
        return float(self._at(self.active, level).sum() / self.tokens.sum())

    def target_level(self) -> float:
        """The level at which the whole text meets `PPL_RATIO`, by bisection."""
        everything = np.arange(self.n_windows)
        low, high = np.exp(self.log_levels[[0, -1]]).tolist()
        for _ in range(60):
            middle = math.sqrt(low * high)
            is_below = self.observe(middle, everything).ppl_ratio < PPL_RATIO
            low, high = (middle, high) if is_below else (low, middle)
        return low

    def _at(self, rows: NDArray[np.float64], level: float) -> NDArray[np.float64]:
        """Rows interpolated linearly in the logarithm of the level; constant beyond the table."""
        x = min(max(math.log(level), self.log_levels[0]), self.log_levels[-1])
        right = int(np.clip(np.searchsorted(self.log_levels, x), 1, len(self.log_levels) - 1))
        left = right - 1
        share = (x - self.log_levels[left]) / (self.log_levels[right] - self.log_levels[left])
        return rows[left] * (1 - share) + rows[right] * share


def run_intervals(name: str, folder: Path, source: Any, args: argparse.Namespace) -> list[dict[str, Any]]:
    """One row per way to draw sub-texts."""
    table, chunk = run_passes(folder, source, args.tokens, args.dtype), args.chunk
    level = table.target_level()
    truth = table.ratio(level)
    last = table.n_windows - 1  # the last window may be short
    rng = np.random.default_rng(0)
    texts = {
        "random subsets": [np.sort(rng.choice(last, chunk, replace=False)) for _ in range(SUBSETS)],
        "random, with repetition": [rng.choice(last, chunk) for _ in range(SUBSETS)],
        "contiguous chunks": [np.arange(k, k + chunk) for k in range(0, last - chunk + 1, STEP)],
    }
    rows: list[dict[str, Any]] = []
    for way, windows in texts.items():
        results = [find_interval(table, chosen) for chosen in windows]
        low, high = np.array([interval for _, interval in results]).T
        slopes = [found.slope for found, _ in results]
        rows.append(
            {
                "model": name,
                "texts": way,
                "dtype": args.dtype,
                "n_texts": len(windows),
                "windows_of_sub_text": chunk,
                "coverage": float(((low <= truth) & (truth <= high)).mean()),
                "interval_below_truth": int((high < truth).sum()),
                "interval_above_truth": int((low > truth).sum()),
                "median_width": float(np.median(high - low)),
                "level": level,
                "activation_ratio": truth,
                "slope_10_50_90": np.quantile(slopes, (0.1, 0.5, 0.9)).tolist(),
                "full_passes": float(np.mean([sum(t.on_all for t in f.tries) for f, _ in results])),
                "windows_of_text": table.n_windows,
            }
        )
    return rows


def run_passes(folder: Path, source: Any, tokens: int, dtype: str) -> PassTable:
    """Real passes of a model over a text."""
    loaded = load_model(folder, dtype=dtype, device="cpu")
    corpus = load_corpus(source, loaded.tokenizer, window=WINDOW, max_tokens=tokens)
    subject = Subject(loaded, corpus, scores=["neuron_norm"])
    levels = [subject.search(CETT, PPL_RATIO).level * factor for factor in LEVEL_FACTORS]
    passes = [subject.sparse_pass(subject.thresholds(CETT, level)) for level in levels]
    return PassTable(
        log_levels=np.log(levels),
        rise=np.stack([one.nll - subject.curves.window_nll for one in passes]),
        active=np.stack([(window_counts(one.totals) / subject.widths(CETT.score)).mean(1) for one in passes]),
        labels=passes[0].labels.astype(float),
        tokens=passes[0].totals.tokens.numpy().astype(float),
    )


def find_interval(table: PassTable, windows: NDArray[np.int64]) -> tuple[SearchResult, tuple[float, float]]:
    """The search and the interval of the activation ratio on these windows."""
    part = part_windows(len(windows), WINDOW)

    def run(level: float, on_all: bool) -> Observation:
        assert on_all or part is not None
        return table.observe(level, windows if on_all else windows[part], on_all=on_all)

    found = search(CETT, run, ppl_ratio=PPL_RATIO, reach=REACH, part=part)
    grid = np.linspace(-2, 2, 81)
    # on a corpus the package takes these factors from the calibration curves
    factors = np.array([table.ratio(found.level * math.exp(step)) for step in grid]) / table.ratio(
        found.level
    )
    interval = target_interval(
        table.active_at(found.level, windows),
        table.tokens[windows],
        table.observe(found.level, windows),
        found,
        lambda shift: np.interp(shift, grid, factors),
    )
    assert interval is not None
    return found, interval


# ---------------------------------------------------------------- comparison


def run_comparison(name: str, folder: Path, source: Any, args: argparse.Namespace) -> list[dict[str, Any]]:
    """One row per rule."""
    loaded = load_model(folder, dtype=args.dtype, device="cpu")
    corpus = load_corpus(source, loaded.tokenizer, window=WINDOW, max_tokens=args.tokens)
    rules = [make_rule(rule) for rule in RULES]
    scores = sorted({rule.score for rule in rules})
    whole = Subject(loaded, corpus, scores=scores)
    truth = {
        rule.label: float(whole.ratios(whole.thresholds(rule, whole.search(rule, PPL_RATIO).level)).mean())
        for rule in rules
    }
    rng, results = (
        np.random.default_rng(0),
        {rule.label: list[tuple[float, float, float, int, int]]() for rule in rules},
    )
    for number in range(args.texts):
        windows = np.sort(rng.choice(corpus.n_windows - 1, args.chunk, replace=False))
        subject = Subject(loaded, corpus.part(windows), scores=scores)
        for point in compare(subject, rules, ppl_ratio=PPL_RATIO, steps=1).points:
            assert point.activation_ratio_interval is not None
            passes = [one.on_all for one in subject.passes_of(make_rule(point.rule))]
            results[point.rule].append(
                (point.activation_ratio, *point.activation_ratio_interval, sum(passes), len(passes))
            )
        print(f"{name}: {number + 1} of {args.texts} texts", flush=True)
    rows: list[dict[str, Any]] = []
    for rule, found in results.items():
        ratio, low, high, on_all, passes = np.array(found).T
        rows.append(
            {
                "model": name,
                "rule": rule,
                "dtype": args.dtype,
                "n_texts": len(found),
                "windows_of_sub_text": args.chunk,
                "activation_ratio": truth[rule],
                "coverage": float(((low <= truth[rule]) & (truth[rule] <= high)).mean()),
                "interval_below_truth": int((high < truth[rule]).sum()),
                "interval_above_truth": int((low > truth[rule]).sum()),
                "median_width": float(np.median(high - low)),
                "mean_ratio": float(ratio.mean()),
                "passes_on_all": float(on_all.mean()),
                "passes_on_the_part": float((passes - on_all).mean()),
            }
        )
    return rows


# ---------------------------------------------------------------- search


@dataclasses.dataclass(frozen=True, kw_only=True)
class Simulated:
    """A curve of the rise on windows that differ, with arithmetic noise."""

    power: float = 2.2
    bend: float = 0.0
    """Change of the slope per unit of `log(strength)`, halved."""
    noise: float = 0.0
    """Standard deviation of the arithmetic noise of the mean rise, nats."""
    spread: float = 0.3
    """Standard deviation of the logarithm of the rise between windows."""
    ppl_ratio: float = PPL_RATIO


CURVES = (
    Simulated(),
    Simulated(bend=0.2),
    Simulated(bend=-0.2),
    Simulated(noise=1e-4),
    Simulated(noise=1e-3),
    Simulated(noise=3e-3),
    Simulated(noise=5e-3),
    Simulated(noise=1e-3, bend=0.2),
    Simulated(noise=1e-3, power=4.0),
    Simulated(noise=5e-3, ppl_ratio=1.1),
    Simulated(spread=0.02),
)
START = 0.045
"""Strength near which the simulated curves meet the target."""


def run_search(runs: int) -> list[dict[str, Any]]:
    """One row per simulated curve."""
    rows: list[dict[str, Any]] = []
    for curve in CURVES:
        results = [simulate(curve, seed) for seed in range(runs)]
        errors = np.array([math.log(found.fitted_strength or found.level) - true for found, true in results])
        reported = np.array([math.log(found.level) - true for found, true in results])
        doubts = np.array([found.level_sd for found, _ in results])
        full = [sum(one.on_all for one in found.tries) for found, _ in results]
        noises = [f.ppl_ratio_noise for f, _ in results if f.ppl_ratio_noise is not None]
        rows.append(
            dataclasses.asdict(curve)
            | {
                "level_error": float(np.sqrt((reported**2).mean())),
                "fitted_level_error": float(np.sqrt((errors**2).mean())),
                "median_level_sd": float(np.median(doubts)),
                "within_2_sd": float((np.abs(errors) <= 2 * doubts).mean()),
                "full_passes": float(np.mean(full)),
                "most_full_passes": max(full),
                "part_passes": float(np.mean([len(found.tries) for found, _ in results]) - np.mean(full)),
                "converged": float(np.mean([found.converged for found, _ in results])),
                "noise_found": float(np.median(noises)) if noises else None,
                "noise_found_share": len(noises) / runs if curve.noise else None,
            }
        )
    return rows


def simulate(curve: Simulated, seed: int, *, n_windows: int = 18) -> tuple[SearchResult, float]:
    """The search on a simulated curve, and the logarithm of the true strength."""
    rng = np.random.default_rng(seed)
    target, labels = math.log(curve.ppl_ratio), np.full(n_windows, 1024.0)
    factor = np.exp(curve.spread * rng.standard_normal(n_windows))
    slope = curve.power + 0.15 * rng.standard_normal(n_windows)
    part = np.array([0, n_windows - 1])

    def rise(strength: float) -> NDArray[np.float64]:
        x = math.log(strength / START)
        return target * factor * np.exp(slope * x + curve.bend * x * x)

    def run(level: float, on_all: bool) -> Observation:
        rounding = np.random.default_rng([seed, round(level * 1e9)])  # the same level repeats its rounding
        noise = curve.noise * math.sqrt(n_windows) * rounding.standard_normal(n_windows)
        windows = np.arange(n_windows) if on_all else part
        total = (rise(level) + noise) * labels
        return Observation(strength=level, rise=total[windows], labels=labels[windows], on_all=on_all)

    found = search(CETT, run, ppl_ratio=curve.ppl_ratio, reach=REACH, part=part, noisy=curve.noise > 0)
    low, high = 1e-3, 0.5
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if rise(middle).mean() < target else (low, middle)
    return found, math.log(low)


def _print_table(rows: Sequence[dict[str, Any]]) -> None:
    def text(value: object) -> str:
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    cells = [list(rows[0]), *([text(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    print()
    for line in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


if __name__ == "__main__":
    started = time.perf_counter()
    main()
    print(f"{time.perf_counter() - started:.0f} s")
