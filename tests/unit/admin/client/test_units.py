"""Numbers as people read them."""

from __future__ import annotations

import pytest

from admin.client import units
from admin.client.answers import Answer, Column
from admin.fieldtypes import INT4, TEXT
from admin.repl.formats import Look, render


@pytest.mark.parametrize(
    ("column", "value", "text"),
    [
        ("avg_query_time", 950, "950 µs"),
        ("total_xact_time", 1_250, "1.25 ms"),
        ("maxwait_us", 999_999, "1000 ms"),
        ("maxwait", 75, "1m 15s"),
        ("wait", 7_380, "2h 03m"),
        ("server_lifetime", 90_000, "1d 01h"),
        ("total_received", 1_536, "1.50 kB"),
        ("avg_recv", 5 << 20, "5.00 MB/s"),
        ("query_p99", 12_345, "12.3 ms"),
        ("total_xact_count", 1_234_567, "1,234,567"),
        ("port", 54321, "54321"),
        ("cl_waiting", 0, "0"),
        ("maxwait", 0, "0"),
    ],
)
def test_human_numbers(column: str, value: int, text: str) -> None:
    assert units.readable(column, value) == text


def test_totals_take_their_unit_from_the_name() -> None:
    totals = Answer((Column("name", TEXT), Column("value", INT4)), [("total_query_time", 2_000_000)])
    assert "2.00 s" in render(totals, Look(human=True))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (999, "999"), (1_000, "1.0k"), (34_567, "34.6k"), (999_600, "1.0M"), (250_000, "250k")],
)
def test_short_numbers(value: int, text: str) -> None:
    assert units.short(value) == text
