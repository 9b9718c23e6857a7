"""Rows of SHOW as figures: of old versions and new ones, of what is lacking, and of what was told when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from pooler.readback import UNCOUNTED, Readings, sample_of, snapshot_of
from pooler.stats import UNKNOWN, ZERO

ROW = {"a": 1}


def test_what_is_due() -> None:
    readings = Readings()
    assert readings.due(("POOLS", "STATE"), 0.0, within=5.0) == ["POOLS", "STATE"]
    readings.take("POOLS", [ROW], 0.0)
    readings.lack("STATE")
    assert readings.due(("POOLS", "STATE"), 5.0, within=5.0) == []
    assert readings.due(("POOLS", "STATE"), 5.1, within=5.0) == ["POOLS"]
    assert readings.due(("POOLS", "STATE"), 0.0) == ["POOLS"], "now is now"
    assert readings.rows("POOLS") == [ROW]
    assert readings.rows("STATE") == ()
    readings.take("STATS", [], 1.0)
    readings.forget("STATS")
    assert readings.due(("POOLS", "STATS"), 1.0, within=5.0) == ["STATS"]
    readings.forget()
    assert readings.due(("POOLS", "STATE"), 1.0, within=5.0) == ["POOLS"], "what it lacks stays known"
    assert readings.rows("POOLS") == ()


def test_nothing_told_is_nothing() -> None:
    found = Readings().snapshot(1.0, 2.0)
    assert (found.now, found.steady, found.databases, found.pools, found.clients) == (1.0, 2.0, (), (), ())
    assert (found.active, found.paused, found.suspended, found.stats_period) == (True, False, False, 60)


def answers(**views: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    return views


def test_a_whole_answer() -> None:
    found = snapshot_of(
        answers(
            VERSION=[{"version": "PgBouncer 1.18.0"}],
            CONFIG=[{"key": "max_client_conn", "value": "100"}, {"key": "stats_period", "value": None}],
            LISTS=[{"list": "pools", "items": 2}],
            STATE=[{"key": "active", "value": "no"}, {"key": "suspended", "value": "yes"}],
            DATABASES=[{"name": "app", "pool_size": 20, "reserve_pool": 5, "paused": 1, "force_user": "owner"}],
            STATS=[{"database": "app", "total_xact_count": "12", "avg_query_time": 7, "avg_recv": 3}],
            POOLS=[
                {"database": "app", "user": "u", "cl_active": 3, "maxwait": 2, "maxwait_us": 5, "pool_mode": "session"}
            ],
            CLIENTS=[{"user": "u", "database": "app", "wait": 1, "wait_us": 2, "id": None, "ptr": "0x1"}],
        ),
        9.0,
    )
    [database], [pool], [client] = found.databases, found.pools, found.clients
    assert (found.pgbouncer_version, found.process.version) == ("PgBouncer 1.18.0", "1.18.0")
    assert (found.max_client_conn, found.stats_period, found.lists[0].items) == (100, 60, 2)
    assert (found.active, found.paused, found.suspended) == (False, True, True)
    assert (database.pool_size, database.reserve_pool_size, database.paused, database.force_user) == (
        20,
        5,
        True,
        "owner",
    )
    assert (database.counters.xact_count, database.averages.query_time, database.averages.bytes_received) == (12, 7, 3)
    assert (pool.cl_active, pool.maxwait_us, pool.pool_mode, pool.pool_size, pool.reserve_pool_size) == (
        3, 2_000_005, "session", 20, 5,
    )  # fmt: skip
    assert pool.counters == database.counters, "it is the one pool of its database"
    assert (client.wait_us, client.id, client.ptr) == (1_000_002, 0, "0x1")


def test_counts_that_are_not_told_are_of_another_thing() -> None:
    pools = [{"database": "app", "user": user} for user in "ab"]
    found = snapshot_of(answers(DATABASES=[{"name": "app"}], STATS=[{"database": "new"}], POOLS=pools), 0.0)
    assert [(stat.name, stat.born) for stat in found.databases] == [("app", UNCOUNTED), ("new", UNKNOWN)]
    assert {(pool.born, pool.counters) for pool in found.pools} == {(UNCOUNTED, ZERO)}


@pytest.mark.parametrize(
    "time",
    [
        "2026-11-28 10:00:00+00",
        "2026-11-28 10:00:00",
        "2026-11-28 12:00:00+02:00",
        datetime(2026, 11, 28, 10, tzinfo=UTC),
        datetime(2026, 11, 28, 12, tzinfo=timezone(timedelta(hours=2))),
    ],
)
def test_a_sample(time: object) -> None:
    found = sample_of({"time": time, "database": "app", "seconds": "60", "tps": 1.5, "cl_active": 3, "pool_size": None})
    assert found.time == datetime(2026, 11, 28, 10, tzinfo=UTC).timestamp()
    assert (found.database, found.seconds, found.tps, found.qps, found.cl_active) == ("app", 60.0, 1.5, 0.0, 3)


def test_a_sample_without_a_time_is_none() -> None:
    with pytest.raises(ValueError, match="isoformat"):
        sample_of({"time": "soon", "database": "app"})
