"""The active set as a list on the device, in a fixed order and without atomics.

Each program of a pass keeps a segment of the list and the number of entries in it; the next pass adds the numbers up
and finds from them where any entry lies. Nothing waits for the host, and two runs give the same list.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def append(entries, start, kept, neurons, needed):
    """Write the needed neurons behind the `kept` that stand in the segment at `start`; returns how many there are."""
    flags = needed.to(tl.int32)
    place = start + kept + tl.cumsum(flags, 0) - 1
    tl.store(entries + place, neurons, mask=needed)
    return kept + tl.sum(flags, 0)


@triton.jit
def find(sizes, ends, slots, SEGMENT: tl.constexpr):
    """Where entries number `slots` of a list lie, shape of `slots`: a binary search for the segment.

    sizes: Entries of each segment, a power of two of them; ends: their running sum; SEGMENT: room of a segment.
    """
    segment = tl.zeros_like(slots)  # how many segments end at or before the slot
    step = sizes.shape[0] // 2
    while step > 0:
        ended = tl.gather(ends, segment + step - 1, 0) <= slots
        segment += tl.where(ended, step, 0)
        step = step // 2
    return segment * SEGMENT + slots - tl.gather(ends - sizes, segment, 0)
