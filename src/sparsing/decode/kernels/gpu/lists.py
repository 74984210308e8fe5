"""Lists of neurons on the GPU, in a fixed order and without atomic operations.

Each program of a pass writes one segment of the list and the number of its entries. The next pass sums these numbers
and computes from them where any entry is. The host never waits, and two runs give the same list.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def append(entries, start, kept, neurons, needed):
    """Write the needed neurons into the segment at `start`, behind its first `kept` entries; returns the new number."""
    flags = needed.to(tl.int32)
    place = start + kept + tl.cumsum(flags, 0) - 1
    tl.store(entries + place, neurons, mask=needed)
    return kept + tl.sum(flags, 0)


@triton.jit
def find(sizes, ends, slots, SEGMENT: tl.constexpr):
    """The places of entries number `slots` in the list, shape of `slots`: a binary search for their segments.

    sizes: Entries of each segment; their number is a power of two.
    ends: The running sum of `sizes`.
    SEGMENT: The most entries of a segment.
    """
    segment = tl.zeros_like(slots)  # number of segments that end at or before the slot
    step = sizes.shape[0] // 2
    while step > 0:
        ended = tl.gather(ends, segment + step - 1, 0) <= slots
        segment += tl.where(ended, step, 0)
        step = step // 2
    return segment * SEGMENT + slots - tl.gather(ends - sizes, segment, 0)
