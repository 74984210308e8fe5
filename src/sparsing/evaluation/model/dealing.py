"""`deal`: several processes compute the batches of one process, so that their scores are equal to the last digit.

lm-eval gives each process a share of the items, and each process would form batches from its share. Sequences in a
batch are padded to the longest one, and sums of floats depend on the padding. `deal` therefore collects the requests of
all processes, forms the batches that lm-eval forms in one process, and gives each process whole batches.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

from sparsing.base.launched import num_processes, rank
from sparsing.evaluation.model.launching import gather

T = TypeVar("T")


def deal(
    requests: Sequence[T],
    compute: Callable[[list[T]], Sequence[Any]],
    *,
    size: int,
    order: Callable[[T], Any],
    part: Callable[[T], Hashable] = lambda request: None,
    entry: Callable[[T], Hashable] | None = None,
) -> list[Any]:
    """The results of the requests of this process. Every process must call this.

    Args:
        compute: Computes requests in batches of `size`, sorted by `order`, and returns results in the given order.
        size: Entries of a batch.
        order: Sort key of the requests.
        part: Requests in different parts are never in one batch.
        entry: Requests with the same key are one entry of a batch; None makes each request an entry.
    """
    every = gather(list(requests))
    flat = [request for share in every for request in share]
    own = [
        index
        for batch in _batches(flat, size, order, part, entry)[rank() :: num_processes()]
        for index in batch
    ]
    computed = gather(list(zip(own, compute([flat[index] for index in own]) if own else (), strict=True)))
    results = dict(pair for pairs in computed for pair in pairs)
    begin = sum(len(share) for share in every[: rank()])
    return [results[begin + index] for index in range(len(requests))]


def _batches(
    requests: Sequence[T],
    size: int,
    order: Callable[[T], Any],
    part: Callable[[T], Hashable],
    entry: Callable[[T], Hashable] | None,
) -> list[list[int]]:
    """Indices of the requests of each batch."""
    parts: dict[Hashable, dict[Hashable, list[int]]] = {}
    for index, request in enumerate(requests):
        key = index if entry is None else entry(request)
        parts.setdefault(part(request), {}).setdefault(key, []).append(index)
    batches: list[list[int]] = []
    for entries in parts.values():
        ordered = sorted(entries.values(), key=lambda indices: order(requests[indices[0]]))
        for begin in range(0, len(ordered), size):
            batches.append([index for indices in ordered[begin : begin + size] for index in indices])
    return batches
