"""Samples as buckets."""

from __future__ import annotations

from admin.top.series import BUCKETS, LEAST_WINDOW, WINDOW, Series


def test_series() -> None:
    series, now = Series(), 1_000_000.0
    assert series.buckets(now) == (None,) * BUCKETS
    series.add(now - 60, 60, 5.0)
    for second in range(59, -1, -1):
        series.add(now - second, 1, 10.0)
    assert series.span(now) == 120
    buckets = series.buckets(now)
    assert buckets[0] == 5.0
    assert buckets[-1] == 10.0
    assert Series().span(now) == LEAST_WINDOW
    for minute in range(10):
        series.add(now + 60 * minute, 60, 1.0)
    assert series.span(now + 540) == WINDOW
    assert None not in series.buckets(now + 540)
