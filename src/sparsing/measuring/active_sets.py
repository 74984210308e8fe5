"""Counts the groups and unions of active neurons on a part of the corpus, and the weights that they read.

`measure` runs a pass with an `ActiveSetObserver`. `compare` counts the sets in the passes of its searches, with a
`CountsAndSetsObserver`. `find_savings` turns the counts into the result.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from sparsing.measuring.active_counts import ActiveObserver, ActiveTotals
from sparsing.measuring.passes import Observer, Totals
from sparsing.measuring.savings import GROUP_SIZES, UNION_TOKENS, Savings
from sparsing.measuring.weight_bytes import count_parameters, site_weights, weight_bytes
from sparsing.rules.flag_counts import count_all, count_over_neurons
from sparsing.rules.flags import nonzero
from sparsing.rules.mask import Change
from sparsing.rules.scores import score_for
from sparsing.sites.tap import Rows
from sparsing.text.corpus import Batch, Corpus

if TYPE_CHECKING:
    from sparsing.models.loading import LoadedModel
    from sparsing.rules.thresholds import Thresholds
    from sparsing.sites.site import Site

SET_TOKENS = 2048
"""Groups and unions are counted on about this many tokens, since every neuron of every token is looked at.

Of a longer window they are counted on the first tokens that count."""

_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integers by their number of bytes."""

Floats = NDArray[np.float64]


def windows_of_sets(corpus: Corpus) -> NDArray[np.int64]:
    """Indices of windows with about `SET_TOKENS` tokens, spread evenly over the corpus."""
    wanted = min(corpus.n_windows, max(1, round(SET_TOKENS / corpus.num_tokens * corpus.n_windows)))
    return np.linspace(0, corpus.n_windows - 1, wanted).round().astype(np.int64)


@dataclasses.dataclass(eq=False)
class SetTotals(Totals):
    """Counts over the counted tokens; lists have one tensor per site, float64 or int64."""

    tokens: torch.Tensor
    """Number of tokens, shape `()`, int64, on the CPU."""
    runs: torch.Tensor
    """Number of runs of consecutive tokens, shape `(len(UNION_TOKENS),)`, int64, on the CPU."""
    groups: list[torch.Tensor]
    """Groups with an active neuron, shape `(len(GROUP_SIZES),)`, int64."""
    sorted_groups: list[torch.Tensor]
    """The same after sorting the neurons."""
    union: list[torch.Tensor]
    """Neurons active at one token of a run, shape `(len(UNION_TOKENS),)`, int64."""
    jaccard: list[torch.Tensor]
    """Sums of the Jaccard overlap of two consecutive tokens, shape `()`, float64."""


class ActiveSetObserver(Observer[SetTotals]):
    """Counts groups, unions and overlaps of the active sets that a mask leaves."""

    def __init__(
        self,
        sites: Sequence[Site],
        counts: Sequence[NDArray[np.int64]],
        chosen: torch.Tensor | None = None,
    ):
        """Args:
        counts: Tokens at which each neuron of each site is active, shape `(n_neurons,)`, to sort the neurons by.
        chosen: The windows of the pass on which the sets are counted, shape `(n_windows,)`, bool; None for all.
        """

        def zeros(shape: tuple[int, ...], dtype: torch.dtype) -> list[torch.Tensor]:
            return [torch.zeros(shape, dtype=dtype, device=site.device) for site in sites]

        super().__init__(
            SetTotals(
                tokens=torch.zeros((), dtype=torch.int64),
                runs=torch.zeros(len(UNION_TOKENS), dtype=torch.int64),
                groups=zeros((len(GROUP_SIZES),), torch.int64),
                sorted_groups=zeros((len(GROUP_SIZES),), torch.int64),
                union=zeros((len(UNION_TOKENS),), torch.int64),
                jaccard=zeros((), torch.float64),
            )
        )
        self._sites, self._chosen = sites, chosen
        # the neurons of each expert, the most frequent first
        self._orders = [
            torch.as_tensor(np.argsort(-of_site.reshape(site.n_experts, -1), axis=1, kind="stable")).to(
                site.device
            )
            for of_site, site in zip(counts, sites, strict=True)
        ]

    def begin(self, batch: Batch) -> None:
        windows = torch.arange(len(batch.counted))
        if self._chosen is not None:
            windows = self._chosen[batch.span].nonzero()[:, 0]
        windows = windows.to(batch.counted.device)
        width = batch.counted.shape[1]
        # the first counted tokens of each window, since the flags of a long window may not fit into memory
        first = batch.counted[windows].int().argmax(1, keepdim=True)
        places = first + torch.arange(min(SET_TOKENS, width), device=first.device)
        tokens = windows[:, None] * width + places.clamp_max(width - 1)
        self._tokens = tokens.flatten()
        self._counted = batch.counted.flatten()[self._tokens].view(tokens.shape) & (places < width)
        self._others = (~self._counted).nonzero()  # window and token of each token that does not count
        self._runs = [_run_ends(self._counted, length) for length in UNION_TOKENS]
        self.totals.tokens += int(self._counted.sum())
        self.totals.runs += torch.tensor([int(ends.sum()) for ends in self._runs])

    def see(self, index: int, rows: Rows, change: Change | None) -> None:
        assert change is not None, "active sets need an intervention"
        if len(self._tokens) == 0:
            return
        active = self._sets(index, change.active, rows)  # (windows, tokens, n_experts, d_ff)
        windows, tokens = self._others.to(active.device).T
        active[windows, tokens] = False
        totals = self.totals
        totals.groups[index] += _group_counts(active)
        order = self._orders[index].expand(active.shape)
        totals.sorted_groups[index] += _group_counts(active.gather(-1, order))
        unions = self._unions(active.flatten(2))
        totals.union[index] += torch.stack(
            [(union * ends.to(union.device)).sum() for union, ends in zip(unions, self._runs, strict=True)]
        )
        totals.jaccard[index] += self._overlap(*unions[:2])

    def _sets(self, index: int, active: torch.Tensor, rows: Rows) -> torch.Tensor:
        """The active neurons of each token of all neurons, a copy of shape `(windows, tokens, n_experts, d_ff)`."""
        site, routing, tokens = self._sites[index], rows.routing, self._tokens.to(active.device)
        chosen, routing = (tokens, None) if routing is None else routing.of_tokens(tokens)
        active = active.index_select(0, chosen)
        if routing is not None:
            of_token = active.new_zeros(routing.n_tokens, site.n_experts, site.d_ff)
            of_token[routing.token, routing.expert] = active
            active = of_token
        return active.view(*self._counted.shape, site.n_experts, site.d_ff)

    def _unions(self, active: torch.Tensor) -> list[torch.Tensor]:
        """Neurons active at a token or one of the tokens before it, for each of `UNION_TOKENS`.

        Args:
            active: Shape `(windows, tokens, n_neurons)`, bool.

        Returns: Shape `(windows, tokens)`, int32. Entries of tokens that end no run of this length are arbitrary.
        """
        union, counts = active.clone(), list[torch.Tensor]()
        for back in range(max(UNION_TOKENS)):
            if back:
                union[:, back:] |= active[:, :-back]
            if back + 1 in UNION_TOKENS:
                counts.append(count_over_neurons(union))
        return counts

    def _overlap(self, one: torch.Tensor, two: torch.Tensor) -> torch.Tensor:
        """Sum of the Jaccard overlap of each token and the one before it.

        Args:
            one: Active neurons of each token, shape `(windows, tokens)`.
            two: Neurons active at a token or the one before it, same shape.
        """
        either = two[:, 1:]
        both = one[:, 1:] + one[:, :-1] - either
        # two empty sets are equal
        share = torch.where(either > 0, both / either.clamp_min(1), 1.0).double()
        return (share * _run_ends(self._counted, 2)[:, 1:].to(share.device)).sum()


@dataclasses.dataclass(eq=False)
class CountsAndSetTotals(Totals):
    """Counts over all windows of a pass, and sets over some of them."""

    counts: ActiveTotals
    sets: SetTotals


class CountsAndSetsObserver(Observer[CountsAndSetTotals]):
    """Counts active neurons, and groups, unions and overlaps on some of the windows, in one pass."""

    def __init__(self, sites: Sequence[Site], corpus: Corpus, sorted_by: Sequence[NDArray[np.int64]]):
        """Args:
        sorted_by: Tokens at which each neuron of each site is active, on other windows, shape `(n_neurons,)`.
        """
        self._counter = ActiveObserver(sites, corpus)
        chosen = torch.zeros(corpus.n_windows, dtype=torch.bool)
        chosen[windows_of_sets(corpus)] = True
        self._sets = ActiveSetObserver(sites, sorted_by, chosen)
        super().__init__(CountsAndSetTotals(counts=self._counter.totals, sets=self._sets.totals))

    def begin(self, batch: Batch) -> None:
        self._counter.begin(batch)
        self._sets.begin(batch)

    def see(self, index: int, rows: Rows, change: Change | None) -> None:
        self._counter.see(index, rows, change)
        self._sets.see(index, rows, change)


def _run_ends(counted: torch.Tensor, length: int) -> torch.Tensor:
    """The last tokens of runs of `length` consecutive counted tokens, shape `(windows, tokens)`, bool."""
    ends = counted.clone()
    for back in range(1, length):
        ends[:, back:] &= counted[:, :-back]
        ends[:, :back] = False
    return ends


def _group_counts(active: torch.Tensor) -> torch.Tensor:
    """Groups with an active neuron for each of `GROUP_SIZES`, summed over all other axes, int64."""
    flags = torch.nn.functional.pad(active, (0, -active.shape[-1] % max(GROUP_SIZES)))
    counts = [count_all(flags)]
    for smaller, larger in itertools.pairwise(GROUP_SIZES):
        # as many flags as a larger group has smaller ones are the bytes of one integer
        flags = nonzero(flags.view(_INTEGERS[larger // smaller]))
        counts.append(count_all(flags))
    return torch.stack(counts)


def find_savings(
    loaded: LoadedModel, sites: Sequence[Site], thresholds: Thresholds, ratios: Floats, totals: SetTotals
) -> Savings:
    """The savings of a rule.

    Args:
        loaded: The model, with its feed-forward sites.
        sites: The sites on which the rule acts.
        ratios: Activation ratio of each of them over the whole corpus, shape `(n_sites,)`.
        totals: Of a pass with an `ActiveSetObserver` over `windows_of_sets`.
    """
    weights = [site_weights(loaded.model, site) for site in sites]
    # a set chosen from the prompt is known before a token is computed
    skipped = [
        1.0 if thresholds.selection.from_prompt else of_site.share(score_for(thresholds.scores, site).skips)
        for of_site, site in zip(weights, sites, strict=True)
    ]
    tokens = int(totals.tokens)
    groups = np.array([[site.top_k * -(-site.d_ff // size) for size in GROUP_SIZES] for site in sites])
    widths = np.array([site.width for site in sites])[:, None]
    runs = totals.runs.numpy().clip(1)

    def stacked(values: Sequence[torch.Tensor]) -> Floats:
        return torch.stack([value.double() for value in values]).numpy()

    return Savings(
        counting_rule=counting_rule(thresholds),
        dense_parameters=count_parameters(loaded.model, loaded.sites),
        dense_bytes=weight_bytes(loaded).total_bytes,
        neuron_parameters=np.array([of_site.parameters for of_site in weights]),
        neuron_bytes=np.array([of_site.bytes for of_site in weights]),
        after_score=np.array(skipped),
        activation_ratio=ratios,
        num_tokens=tokens,
        group_ratio=stacked(totals.groups) / tokens / groups,
        sorted_group_ratio=stacked(totals.sorted_groups) / tokens / groups,
        union_ratio=stacked(totals.union) / runs / widths,
        neighbour_jaccard=stacked(totals.jaccard) / runs[UNION_TOKENS.index(2)],
    )


def counting_rule(thresholds: Thresholds) -> str:
    """The rule by which the weights of a token are counted, in sentences."""
    return (
        "Weights that decoding a token reads: all parameters except embeddings and experts that the token is not"
        " routed to; a tied embedding counts, since the head reads it. " + " ".join(_sentences(thresholds))
    )


def _sentences(thresholds: Thresholds) -> Iterator[str]:
    for score in thresholds.scores:
        if "linear_input" in score.kinds:
            yield "An input of a linear that is not active saves its column of the weight; it is known beforehand."
        elif thresholds.selection.from_prompt:
            yield (
                "The set is chosen from the prompt, so a neuron that is not active saves its rows of gate_proj and"
                " up_proj and its column of down_proj; the prompt is dense."
            )
        else:
            rows = [f"row of {part}_proj" for part in score.skips if part in ("gate", "up")]
            yield (
                f"A neuron that is not active saves its {' and its '.join([*rows, 'column of down_proj'])};"
                f" the rest is read to compute the score {score.name} (without a gate, all of up_proj). If the active"
                " neurons were known beforehand, by a perfect predictor, all weights of the others would be saved."
            )
