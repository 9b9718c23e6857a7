"""Two answers as their difference."""

from __future__ import annotations

from admin.repl.rates import rates
from tests.unit.repl_console import rows


def test_rates() -> None:
    names = "database total_xact_count total_received avg_xact_count cl_waiting"
    before = rows(names, ("app", 1000, 2048, 5, 4), ("gone", 1, 1, 1, 1))
    after = rows(names, ("app", 1500, 4096, 7, 1), ("new", 9, 9, 9, 9))
    found = rates(before, after, 2.0, "SHOW STATS")
    assert found.names == ("database", "total_xact_count/s", "total_received/s", "avg_xact_count", "cl_waiting")
    assert list(found.rows) == [("app", "250", "1,024", "7 (+2)", "1 (-3)"), ("new", "0", "0", "9", "9")]
    human = rates(before, after, 2.0, "SHOW STATS", human=True)
    assert human.rows[0][2] == "1.00 kB"


def test_rates_of_totals_and_of_averages() -> None:
    before, after = rows("name value", ("total_xact_count", 10)), rows("name value", ("total_xact_count", 30))
    assert list(rates(before, after, 2.0, "SHOW TOTALS").rows) == [("total_xact_count", "10.0")]
    before, after = rows("database xact_count", ("a", 10)), rows("database xact_count", ("a", 30))
    assert list(rates(before, after, 2.0, "SHOW STATS_AVERAGES").rows) == [("a", "30 (+20)")]
    assert list(rates(after, after, 0.0, "SHOW STATS").rows) == [("a", "0")]
