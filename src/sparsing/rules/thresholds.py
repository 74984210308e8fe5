"""`Thresholds`: a rule at a level for one model. It holds the score, the selection and one number per site.

Thresholds are saved as JSON, keyed by site name. They are also written and read as the `thresholds=t_0,t_1,...` line of
the reference code, which identifies sites by position only.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from sparsing.base.checked_files import file_in_run, read_utf8
from sparsing.base.provenance import Provenance
from sparsing.base.results import Result
from sparsing.errors import InputError
from sparsing.rules.rule import Rule
from sparsing.rules.scores import Score, scores_of
from sparsing.rules.selections import SELECTIONS, Selection, cuts_blocks

if TYPE_CHECKING:
    from torch import Tensor

    from sparsing.rules.curves import Curves
    from sparsing.sites.site import Site

THRESHOLDS_FILE = "thresholds.json"
"""Name of the file in the folder of a measurement."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Thresholds(Result):
    """Everything that `sparsify` needs: a score, a selection and one number per site."""

    kind = "thresholds"

    rule: str
    """Name of the rule that the numbers come from."""
    level: float
    """Level of the rule; NaN if it is not known."""
    on: str
    """The score that is cut, e.g. `gate`, or the two scores of a joint rule, e.g. `neuron_norm+x`."""
    select: str = "above"
    """The selection that uses `values`: `above` (thresholds), `top_k` (shares of `d_ff`), ..."""
    values: Mapping[str, float]
    """One number per site, by site name, in layer order.

    Routed experts may have one number per expert: `<site>.0`, `<site>.1`, ... in place of `<site>`.

    A plain sequence is accepted too. It stands for numbers by position, as in files of schema 1 and in the
    reference's line, and gets the keys `#0`, `#1`, ..."""
    centres: tuple[float, ...] | None = None
    """The centre of each site, to which inactive neurons are set; None if no score has a centre.

    Sites of a score without a centre have 0."""
    target_ppl_ratio: float | None = None
    """The perplexity ratio that the level was searched for; None if the level was given."""
    provenance: Provenance | None = None

    def __post_init__(self) -> None:
        _ = self.scores, self.selection  # an unknown name raises with a suggestion
        given = cast("Mapping[str, float] | Sequence[float]", self.values)
        if not isinstance(given, Mapping):
            object.__setattr__(self, "values", _by_position(given))
        bad = [value for value in self.values.values() if not (math.isfinite(value) and value >= 0)]
        if not self.values or bad:
            raise InputError(f"thresholds must be finite numbers >= 0, one per layer, got {bad or 'none'}")
        if any(score.centred for score in self.scores) != (self.centres is not None):
            raise InputError(
                f"thresholds on {self.on!r} {'lack' if self.centres is None else 'have'} centres; the scores h_centred"
                " and x_centred need one per site, and other scores have none"
            )
        if self.centres is not None and not (
            len(self.centres) == len(self.values) and all(map(math.isfinite, self.centres))
        ):
            raise InputError(
                f"thresholds need one finite centre per site, got {len(self.centres)} for {len(self.values)} sites"
                f" ({self.centres[:3]}...); measure again"
            )
        if not self.selection.is_threshold and max(self.numbers) > 1:
            raise InputError(
                f"the numbers of {self.select} are shares in [0, 1], got {max(self.numbers):g}; 0.1 stands for a tenth"
            )

    @property
    def scores(self) -> tuple[Score, ...]:
        """The score that is cut, or the scores of a joint rule: one per kind of site."""
        return scores_of(self.on)

    @property
    def cuts_blocks(self) -> bool:
        """Whether decoding kernels can skip neurons by these thresholds, see `selections.cuts_blocks`."""
        return cuts_blocks(self.on, self.select)

    @property
    def selection(self) -> Selection:
        """The selection that uses `values`."""
        return SELECTIONS[self.select]

    @property
    def numbers(self) -> tuple[float, ...]:
        """The numbers without the site names, in layer order."""
        return tuple(self.values.values())

    def for_sites(self, sites: Sequence[Site]) -> tuple[tuple[float, ...], ...]:
        """The numbers of each of these sites, in the order of `sites`: one, or one per expert.

        The site names must be equal, except for a prefix that a wrapper of the model adds to all names.

        Raises:
            InputError: If these thresholds belong to a model with other sites, or if a selection that is no threshold
                has one number per expert.
        """
        per_expert = len(self.values) > len(sites)
        units = [
            [f"{site.name}.{i}" for i in range(site.n_experts)]
            if per_expert and site.kind == "expert"
            else [site.name]
            for site in sites
        ]
        names = [name for unit in units for name in unit]
        if len(self.values) != len(names):
            experts = " (or one per routed expert)" if any(site.kind == "expert" for site in sites) else ""
            raise InputError(
                f"{len(self.values)} thresholds for a model of {len(sites)} sites ({self.on});"
                f" give one per layer{experts}, in layer order"
            )
        if per_expert and not self.selection.is_threshold:
            raise InputError(
                f"{self.select} compares all experts of a token, so it cannot have one number per expert; measure"
                " without --per-expert"
            )
        if self.has_names:
            # both are in layer order, so the names of a pair may differ by a prefix only
            for own, name in zip(self.values, names, strict=True):
                if not (own == name or own.endswith("." + name) or name.endswith("." + own)):
                    raise InputError(
                        f"these thresholds are for {own!r} where the model has {name!r}; they were"
                        " measured on another architecture, so measure this model"
                    )
        numbers = iter(self.numbers)
        return tuple(tuple(itertools.islice(numbers, len(unit))) for unit in units)

    @property
    def cut_condition(self) -> str:
        """When a neuron is active, as code over a tensor of `cuts`: `h.abs() > cut`; empty if there are no cuts."""
        if not self.selection.is_threshold or any(score.centred or score.signed for score in self.scores):
            return ""
        names = ("x" if score.kinds == ("linear_input",) else score.value for score in self.scores)
        return ", ".join(f"{name}.abs() > cut" for name in names)

    def cuts(self, model: Any) -> dict[str, Tensor]:
        """Cuts for code of your own: a neuron is active where `value.abs() > cut`.

        The value is `h`, the input of `down_proj`; `cut_condition` names it for other scores. Thresholds of
        `neuron_norm` are divided by the norms of the columns of `down_proj`.

        Args:
            model: A `PreTrainedModel`, or the `LoadedModel` of one.

        Returns:
            Module path of each `down_proj` to a tensor of shape `(d_ff,)`, float32, on the device of its weights.

        Raises:
            InputError: If these are no thresholds, belong to another model, or the model has routed experts, whose
                cuts depend on the routing weight of the token.
        """
        import torch

        from sparsing.rules.coverage import covered_sites
        from sparsing.rules.scores import cut, score_for
        from sparsing.sites.discovery import find_sites

        inner = getattr(model, "model", model) if hasattr(model, "tokenizer") else model
        sites = covered_sites(inner, find_sites(inner), self.on)
        if not self.selection.is_threshold:
            raise InputError(f"{self.select!r} ranks the neurons of each token; only thresholds have cuts")
        if not self.cut_condition:
            raise InputError(
                f"{self.on!r} cuts the distance from a centre or a value with its sign, not a magnitude; use"
                " sparsify(model, thresholds)"
            )
        if any(site.kind == "expert" for site in sites):
            raise InputError(
                "cuts of routed experts depend on the routing weight; use sparsify(model, thresholds)"
            )
        numbers = self.for_sites(sites)
        cuts: dict[str, Tensor] = {}
        for site, (number,) in zip(sites, numbers, strict=True):
            score = score_for(self.scores, site)
            value = torch.as_tensor(cut(number, score.scale(site)), dtype=torch.float32)
            cuts[site.name] = value.to(site.weight.device).expand(site.d_ff).contiguous()
        return cuts

    def __repr__(self) -> str:
        target = f", PPL-{100 * (self.target_ppl_ratio - 1):.4g}%" if self.target_ppl_ratio else ""
        selection = f"{self.select} on {self.on}, {len(self.values)} layers"
        return f"Thresholds({self.rule} {self.level:.4g}{target}: {selection})"

    @property
    def has_names(self) -> bool:
        """False if the numbers are known by position only."""
        return not all(key.startswith("#") for key in self.values)

    @property
    def identity(self) -> str:
        """A key for journals: equal for two thresholds exactly if they drop the same neurons of a model."""
        centres = "" if self.centres is None else f" {self.centres!r}"
        return f"{self.on} {self.select} {self.numbers!r}{centres}"

    @classmethod
    def upgraded(cls, document: dict[str, Any], version: int) -> dict[str, Any]:
        """Schema 1 has a list of values by position."""
        if isinstance(document.get("values"), list):
            document = document | {"values": _by_position(document["values"])}
        return document

    def to_line(self) -> str:
        """The line of the reference code: `thresholds=` and numbers in scientific notation, 4 decimals.

        Raises:
            InputError: If these are not thresholds on `neuron_norm`, since the line can hold nothing else.
        """
        if not (self.on == "neuron_norm" and self.selection.is_threshold):
            raise InputError(
                f"the thresholds= line can only hold cuts of neuron_norm, this is {self.select} on {self.on};"
                " keep the JSON file"
            )
        return "thresholds=" + ",".join(f"{value:.4e}" for value in self.numbers)

    @classmethod
    def from_line(cls, line: str) -> Self:
        """Thresholds from a line as `to_line` writes it; the part `thresholds=` may be left out.

        Raises:
            InputError: If the line is not a comma-separated list of numbers.
        """
        try:
            values = [float(part) for part in line.strip().removeprefix("thresholds=").split(",")]
        except ValueError:
            raise InputError(
                f"cannot read thresholds from {line.strip()[:80]!r}; write thresholds=1.5e-01,2.0e-01,..."
            ) from None
        return cls(rule="cett", level=math.nan, on="neuron_norm", values=_by_position(values))


def _by_position(values: Sequence[float]) -> dict[str, float]:
    return {f"#{index}": value for index, value in enumerate(values)}


def read_thresholds(path: str | Path) -> Thresholds:
    """Thresholds from a JSON file that a run wrote, from the folder of a run, or from a text file with the line of the
    reference code.

    Raises:
        InputError: If there is no such file, if it does not hold thresholds, or if a folder holds several such files.
    """
    path = file_in_run(path, THRESHOLDS_FILE)
    if path.suffix == ".json":
        return Thresholds.load(path)
    hint = (
        "give thresholds.json or the folder of a run, or a file with the line thresholds=1.5e-01,2.0e-01,..."
    )
    return Thresholds.from_line(read_utf8(path, hint=hint, limit=2**24))


def _centres(rule: Rule, curves: Curves | None) -> tuple[float, ...] | None:
    if not any(score.centred for score in scores_of(rule.score)):
        return None
    if curves is None:
        raise InputError(f"rule {rule.label} needs curves; call calibrate(model, corpus) first")
    modes = curves[rule.score].modes
    assert modes is not None, "calibration measures the modes of every centred score"
    return tuple(map(float, modes))


def thresholds_at(
    rule: Rule,
    level: float,
    *,
    sites: Sequence[str],
    curves: Curves | None = None,
    target_ppl_ratio: float | None = None,
    provenance: Provenance | None = None,
) -> Thresholds:
    """The rule at this level as `Thresholds` of a model.

    Args:
        sites: Names of the sites of the model, in layer order, or `curves.sites`.
        curves: Calibration curves of the model, for rules that need curves.

    Raises:
        InputError: If the level is outside the range of the rule, or if the rule needs curves that are missing.
    """
    rule.check(level)
    values = rule.values(level, curves, len(sites))
    return Thresholds(
        rule=rule.label,
        level=float(level),
        on=rule.score,
        select=rule.selection,
        values=dict(zip(sites, map(float, values), strict=True)),
        centres=_centres(rule, curves),
        target_ppl_ratio=target_ppl_ratio,
        provenance=provenance,
    )
