"""A figure's last minutes: samples with their length in time, read as equal buckets for a sparkline.

Samples may be of different lengths, since the first ones come from the server's history (a period each)
and the later ones from our own polling (a second each). Times are Unix seconds.
"""

from __future__ import annotations

from collections import deque

WINDOW = 300.0
LEAST_WINDOW = 60.0
"""While there are fewer samples the buckets are shorter, so that a sparkline shows something at once."""
BUCKETS = 60


class Series:
    """One figure's samples of the last WINDOW seconds."""

    __slots__ = ("_samples",)

    def __init__(self) -> None:
        self._samples: deque[tuple[float, float, float]] = deque()

    def add(self, end: float, seconds: float, value: float) -> None:
        """A sample that holds for the `seconds` before `end`; samples come in order of time."""
        start = end - seconds
        if self._samples:
            before, last, _ = self._samples[-1]
            if 0 < start - last <= last - before:
                start = last  # no gap where the next sample came a little late
        self._samples.append((start, end, value))
        while self._samples and self._samples[0][1] < end - WINDOW:
            self._samples.popleft()

    @property
    def filled(self) -> bool:
        return bool(self._samples)

    def span(self, now: float) -> float:
        """How many seconds the buckets cover: what is known, from LEAST_WINDOW to WINDOW."""
        known = now - self._samples[0][0] if self._samples else 0.0
        return min(max(known, LEAST_WINDOW), WINDOW)

    def buckets(self, now: float, span: float | None = None) -> tuple[float | None, ...]:
        """BUCKETS equal parts of the span, oldest first: means by time, None where there was no sample."""
        span = span or self.span(now)
        step = span / BUCKETS
        sums, weights = [0.0] * BUCKETS, [0.0] * BUCKETS
        origin = now - span
        for start, end, value in self._samples:
            first = max(int((start - origin) / step), 0)
            last = min(int((end - origin) / step), BUCKETS - 1)
            for place in range(first, last + 1):
                low = origin + place * step
                overlap = min(end, low + step) - max(start, low)
                if overlap > 0:
                    sums[place] += value * overlap
                    weights[place] += overlap
        return tuple(s / w if w else None for s, w in zip(sums, weights, strict=True))
