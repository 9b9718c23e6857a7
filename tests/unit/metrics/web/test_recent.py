"""The last minutes by the second: true, bounded, and joined to the hour without a seam."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from metrics.web import recent
from metrics.web.recent import ALL, COLUMNS, SPAN, Happened, Recent, of_name, past
from pooler.history import History
from pooler.stats import Event
from tests.fixtures.figures import snapshot

POOL = ("app", "u")


def entry(**changes: Any) -> dict[str, Any]:
    plain = dict.fromkeys(("tps", "qps", "recv", "sent", "ca", "cw", "sa", "si", "size"), 0)
    return {**plain, "query": None, "wait": None, **changes}


def test_a_row_is_what_was_kept() -> None:
    kept = Recent()
    kept.keep(10.0, 1.0, {POOL: entry(tps=12.3, ca=4, query=[50, 40, 900, 1_200_000], wait=[7, None, None, None])})
    (row,) = kept.rows(POOL)
    assert dict(zip(COLUMNS, row, strict=True)) == {
        "time": 10.0, "seconds": 1.0, "tps": 12.3, "qps": 0, "recv": 0, "sent": 0, "ca": 4, "cw": 0, "sa": 0, "si": 0,
        "size": 0, "query": [50, 40, 900, 1_200_000], "wait": [7, None, None, None],
    }  # fmt: skip
    assert kept.rows(("app", "another")) == []


def test_a_rate_that_is_not_known_is_none() -> None:
    kept = Recent()
    kept.keep(1.0, 1.0, {POOL: entry(tps=None)})
    assert kept.rows(POOL)[0][2] is None


def test_five_minutes_are_kept_and_no_more() -> None:
    kept = Recent()
    for second in range(1000):
        kept.keep(float(second), 1.0, {ALL: entry(ca=second)})
    times = [row[0] for row in kept.rows(ALL)]
    assert times == [float(second) for second in range(999 - int(SPAN), 1000)]
    assert SPAN >= 300 + 60


def test_a_clock_that_was_set_back_leaves_no_row_in_the_future() -> None:
    kept = Recent()
    for now in (100.0, 101.0, 102.0, 50.0, 51.0):
        kept.keep(now, 1.0, {ALL: entry()})
    assert [row[0] for row in kept.rows(ALL)] == [50.0, 51.0]


def test_who_does_nothing_costs_a_name() -> None:
    kept, idle = Recent(), {(f"d{n}", "u"): entry(ca=3) for n in range(recent.MOST_POOLS)}
    for second in range(3):
        kept.keep(float(second), 1.0, idle)
    ticks = [entries for _, _, entries in kept._ticks]
    assert all(first is last for first, last in zip(ticks[0].values(), ticks[-1].values(), strict=True))
    assert sys.getsizeof(next(iter(ticks[0].values()))) < 150


def test_trends_have_a_place_for_each_tick() -> None:
    kept = Recent()
    kept.keep(1.0, 1.0, {ALL: entry(tps=9)})
    kept.keep(2.0, 1.0, {ALL: entry(tps=9), POOL: entry(tps=5)})
    assert kept.trends() == ([1.0, 2.0], [["app", "u", [None, 5]]])


@pytest.mark.parametrize("period", [60, 15, 1])
def test_the_hour_goes_over_into_the_seconds_without_a_seam(period: int) -> None:
    ring, kept = History(0.0), Recent()
    for second in range(1, 2001):
        if second % period == 0:
            ring.record(snapshot(now=float(second)))
        kept.keep(float(second), 1.0, {ALL: entry()})
    rows = list(past(of_name(ring.everything(), ""), kept.rows(ALL)))
    ends = [row[0] for row in rows]
    assert ends[0] == max(period, 0)
    assert ends[-1] == 2000
    assert all(row[0] - row[1] == pytest.approx(before) for row, before in zip(rows[1:], ends, strict=False))
    assert sum(row[1] == 1.0 and row[0] > 1700 for row in rows) == 300


def test_the_hour_alone_and_the_seconds_alone() -> None:
    ring, kept = History(0.0), Recent()
    ring.record(snapshot(now=60.0))
    kept.keep(70.0, 1.0, {ALL: entry()})
    assert [row[0] for row in past(of_name(ring.everything(), ""), [])] == [60.0]
    assert [row[0] for row in past((), kept.rows(ALL))] == [70.0]
    assert [sample.database for sample in of_name(ring.everything(), "app")] == ["app"]
    assert list(of_name(ring.everything(), "pgbouncer")) == []


def test_rare_things_have_a_time() -> None:
    seen = Happened()
    seen.keep(10.0, [Event("timeout", "app", "query_wait_timeout", 5), Event("connect", "app", "", 100)])
    assert seen.troubles() == 0
    seen.keep(20.0, [Event("timeout", "app", "query_wait_timeout", 7), Event("connect", "app", "", 150)])
    assert seen.troubles() == 2
    assert seen.rows() == [
        ["connect", "app", "", 150, 50, 20.0],
        ["timeout", "app", "query_wait_timeout", 7, 2, 20.0],
    ]
    seen.keep(400.0, [Event("timeout", "app", "query_wait_timeout", 7), Event("error", "", "server", 1)])
    assert seen.troubles() == 1
    assert seen.rows()[1] == ["timeout", "app", "query_wait_timeout", 7, 0, 20.0]
