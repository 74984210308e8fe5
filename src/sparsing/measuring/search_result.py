"""`SearchResult`: the level that a search found, and how."""

from __future__ import annotations

import dataclasses

from sparsing.base.results import Result


@dataclasses.dataclass(frozen=True, kw_only=True)
class Try(Result):
    """One sparse pass of the search."""

    kind = "search_try"

    level: float
    ppl_ratio: float
    on_all: bool
    """True for a pass over the whole corpus, False for a pass over the bracketing part."""
    at_several_levels: bool = False
    """True for a pass whose stages ran at several levels; its figures were moved to their mean (`stages.py`)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchResult(Result):
    """The level that a search found, and the passes and the curve that led to it."""

    kind = "search_result"

    level: float
    """The level of one of the passes over the whole corpus."""
    ppl_ratio: float
    """Measured at this level on the whole corpus; in a comparison some windows may be moved there from other levels."""
    target_ppl_ratio: float
    converged: bool
    """False if the target was not met within the tolerance, the sampling error and the arithmetic noise."""
    meets_target: bool = True
    """Whether the pass at `level` meets the target itself. A comparison moves the figures of other passes there."""
    monotone: bool
    """False if a sparser level had a lower perplexity, and arithmetic noise does not explain the difference."""
    slope: float
    """d log(log ppl_ratio) / d log(strength) near the level, on texts of this kind."""
    tries: tuple[Try, ...]
    fitted_ppl_ratio: float | None = None
    """Perplexity ratio at `level` by the curve that is fitted to all passes."""
    ppl_ratio_noise: float | None = None
    """Standard deviation of the arithmetic noise of `ppl_ratio` in half precision; None in other precisions."""
    slope_sd: float = 0.0
    """Standard error of `slope`; it contains the sampling error."""
    level_sd: float = 0.0
    """Standard error of the logarithm of the strength at which the curve meets the target on this corpus."""
    fitted_strength: float | None = None
    """Strength at which the curve meets the target."""
    stretch: float | None = None
    """d log(even strength) / d log(strength) near the level, by which `slope` and `level_sd` are those of the strength;
    None if the search stepped along the strength itself (`even_strengths.py`)."""

    @property
    def exponent(self) -> float:
        """The slope over even strengths."""
        return self.slope / (self.stretch or 1.0)
