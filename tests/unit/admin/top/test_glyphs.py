"""Bars and sparklines."""

from __future__ import annotations

import pytest

from admin.top import glyphs
from admin.top.glyphs import BLOCKS, bar, resampled, sparkline


@pytest.mark.parametrize(
    ("busy", "idle", "limit", "text"),
    [
        (0, 0, 10, "··········"),
        (10, 0, 10, "██████████"),
        (5, 2, 10, "█████▒▒···"),
        (1, 0, 1000, "█·········"),
        (1, 1, 1000, "█▒········"),
        (12, 3, 10, "████████▒▒"),
        (0, 0, 0, "··········"),
    ],
)
def test_bars(busy: int, idle: int, limit: int, text: str) -> None:
    assert "".join(part for _, part in bar(BLOCKS, busy, idle, limit, 10, "")) == text


def test_sparklines() -> None:
    line = sparkline(BLOCKS, [0.0, 1.0, 4.0, 8.0, None], 6)
    assert (line[0], line[1], line[4], line[5]) == (" ", "▁", "█", " ")
    assert list(line[1:5]) == sorted(line[1:5])
    assert sparkline(BLOCKS, [], 3) == "   "
    assert sparkline(BLOCKS, [0.0, 0.0], 2) == "▁▁"
    assert resampled([1.0, 3.0, None, 5.0], 2) == [2.0, 5.0]
    assert resampled([1.0], 0) == []
    assert set(glyphs.ASCII.steps) <= set(map(chr, range(128)))
