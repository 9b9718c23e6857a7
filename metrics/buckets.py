"""The relay's log-linear histograms folded into the buckets Prometheus gets.

The boundaries are powers of two microseconds, which are boundaries of the fine buckets too, so folding is
exact: nothing is interpolated, and no sample changes sides.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

from pooler.stats import SUB_BITS, Histogram, bucket_of

EXPONENTS = range(6, 28)
"""64 us to 134 s."""
BOUNDARIES = tuple(2**exponent for exponent in EXPONENTS)
"""In microseconds: a bucket counts the samples below its boundary."""
LABELS = (*(repr(boundary / 1_000_000) for boundary in BOUNDARIES), "+Inf")
"""The `le` labels, in seconds."""

_EDGES = tuple(bucket_of(boundary) for boundary in BOUNDARIES)
assert EXPONENTS.start > SUB_BITS


@dataclass(frozen=True, slots=True)
class Folded:
    """Cumulative counts, one for each of LABELS, and the sum of all samples in seconds."""

    counts: tuple[int, ...]
    sum_seconds: float


def fold(histogram: Histogram) -> Folded:
    counts = histogram.counts
    if not counts:
        return Folded((0,) * len(LABELS), 0.0)
    starts = (0, *_EDGES)
    ends = (*_EDGES, len(counts))
    parts = (sum(counts[start:end]) for start, end in zip(starts, ends, strict=True))
    return Folded(tuple(accumulate(parts)), histogram.total_us / 1_000_000)
