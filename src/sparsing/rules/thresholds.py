"""A rule at a level, made concrete for one model: what is cut, how, and one number per layer.

Saved as JSON; also written and read as the `thresholds=t_0,t_1,...` line of the reference code.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Self

from sparsing.base.provenance import Provenance
from sparsing.base.results import Result
from sparsing.errors import InputError
from sparsing.rules import SELECTIONS, Rule
from sparsing.rules.scores import SCORES

if TYPE_CHECKING:
    from sparsing.measuring.calibration import Curves


@dataclasses.dataclass(frozen=True, kw_only=True)
class Thresholds(Result):
    """Everything that `sparsify` needs to know."""

    kind = "thresholds"

    rule: str
    level: float
    on: str
    """The score that is cut: `gate`, `h` or `neuron_norm`."""
    select: str = "above"
    """How `values` act: `above` (thresholds), `top_k` or `top_k_sequence` (shares of `d_ff`)."""
    values: tuple[float, ...]
    """One number per layer, `n_layers` of them."""
    target_ppl_ratio: float | None = None
    """The perplexity ratio the level was searched for; None when the level was given."""
    provenance: Provenance | None = None

    def __post_init__(self) -> None:
        SCORES[self.on], SELECTIONS[self.select]  # raises with a suggestion
        bad = [value for value in self.values if not (math.isfinite(value) and value >= 0)]
        if not self.values or bad:
            raise InputError(f"thresholds must be finite numbers >= 0, one per layer, got {bad or 'none'}")

    def check_layers(self, n_layers: int) -> None:
        """Raise InputError when these are for a model with another number of layers."""
        if len(self.values) != n_layers:
            raise InputError(
                f"{len(self.values)} thresholds for a model of {n_layers} feed-forward layers;"
                " give one per layer, in layer order"
            )

    def to_line(self) -> str:
        """The reference's line: `thresholds=` and scientific numbers with 4 digits after the point.

        Raises:
            InputError: the rule is not a threshold on `neuron_norm`; the line has no way to say so.
        """
        if (self.on, self.select) != ("neuron_norm", "above"):
            raise InputError(
                f"the thresholds= line can only hold cuts of neuron_norm, this is {self.select} on {self.on};"
                " keep the JSON file"
            )
        return "thresholds=" + ",".join(f"{value:.4e}" for value in self.values)

    @classmethod
    def from_line(cls, line: str) -> Self:
        """Read the reference's line, with or without its `thresholds=`.

        Raises:
            InputError: not a comma-separated list of numbers.
        """
        try:
            values = tuple(float(part) for part in line.strip().removeprefix("thresholds=").split(","))
        except ValueError:
            raise InputError(
                f"cannot read thresholds from {line.strip()[:80]!r}; write thresholds=1.5e-01,2.0e-01,..."
            ) from None
        return cls(rule="cett", level=math.nan, on="neuron_norm", values=values)


def read_thresholds(path: str | Path) -> Thresholds:
    """Thresholds from the JSON that a run wrote, or from a text file with the reference's line.

    Raises:
        InputError: no such file, or it holds something else.
    """
    if Path(path).suffix == ".json":
        return Thresholds.load(path)
    try:
        return Thresholds.from_line(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read thresholds from {str(path)!r}: {error}") from error


def thresholds_at(
    rule: Rule, level: float, *, curves: Curves | None = None, n_layers: int, **fields: object
) -> Thresholds:
    """The rule at this level as `Thresholds`.

    Raises:
        InputError: the level is outside what the rule allows.
    """
    rule.check(level)
    values = rule.values(level, curves, n_layers)
    return Thresholds(
        rule=rule.name,
        level=float(level),
        on=rule.score,
        select=rule.selection,
        values=tuple(float(value) for value in values),
        **fields,  # pyright: ignore[reportArgumentType]
    )
