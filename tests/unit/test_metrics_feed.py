"""What the live page is told: rates and percentiles of one tick, the hour before, and never more than it can bear."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from metrics.feed import MAX_POOLS, MAX_ROWS, Feed, history_value, value_of
from pooler.history import History
from pooler.stats import ZERO, Counters, Snapshot
from tests.fixtures.figures import counters, database, distributions, pool, snapshot


def at(now: float, queries: int = 0, samples: list[int] | None = None) -> Snapshot:
    gained = counters(100) + Counters(query_count=queries, xact_count=queries, query_time=queries * 50)
    return snapshot(
        now=now,
        databases=(database(counters=gained), database("pgbouncer", counters=gained)),
        pools=(
            pool(counters=gained, distributions=distributions(samples or [])),
            pool("pgbouncer", "pgbouncer", counters=gained),
        ),
    )


def test_a_tick_is_what_happened_since_the_one_before() -> None:
    value = value_of(at(12.0, 300, [5] * 100 + [900] * 100), at(10.0, 100, [5] * 100))
    assert (value["all"]["tps"], value["all"]["qps"]) == (100.0, 100.0)
    assert value["all"]["query"] == [50, 903, 903, 903]
    assert [(entry["db"], entry["tps"]) for entry in value["pools"]] == [("app", 100.0)]
    assert value["databases"] == [["app", False, False]]


def test_the_first_tick_has_no_rates_and_silence_no_times() -> None:
    first = value_of(at(10.0, 100, [5]), None)
    assert (first["all"]["tps"], first["all"]["query"], first["all"]["ca"]) == (None, None, 56)
    silent = value_of(at(12.0, 100, [5]), at(10.0, 100, [5]))
    assert (silent["all"]["tps"], silent["all"]["query"]) == (0.0, None)


def test_counts_that_began_anew_are_not_negative() -> None:
    value = value_of(at(12.0, 10), at(10.0, 5000))
    assert value["all"]["tps"] > 0
    assert value["pools"][0]["tps"] > 0


def test_a_pool_without_counters_of_its_own_has_no_rate() -> None:
    """A PgBouncer that is not ours counts by database."""
    silent = replace(pool(), counters=ZERO)
    value = value_of(snapshot(now=2.0, pools=(silent,)), snapshot(now=1.0, pools=(silent,)))
    assert value["pools"][0]["tps"] is None
    assert value["all"]["tps"] == 0.0


def test_thousands_of_pools_are_cut_to_the_busiest() -> None:
    many = tuple(pool(f"d{n}", cl_waiting=n % 1000) for n in range(2000))
    value = value_of(snapshot(pools=many), None)
    assert len(value["pools"]) == MAX_POOLS
    assert value["hidden"] == 2000 - MAX_POOLS
    assert value["pools"][0]["cw"] == 999
    assert value["all"]["ca"] == 56 * 2000


def test_the_hour_has_the_sums_and_their_true_percentiles() -> None:
    ring = History(0.0)
    ring.record(at(10.0, 100, [5] * 100))
    ring.record(at(20.0, 300, [5] * 100 + [900] * 300))
    value = history_value(ring.everything())
    rows = [dict(zip(value["columns"], row, strict=True)) for row in value["rows"]]
    assert [(row["time"], row["database"]) for row in rows] == [(10.0, "app"), (20.0, "app"), (10.0, ""), (20.0, "")]
    assert (rows[1]["tps"], rows[1]["query_times"]) == (20.0, (903, 903, 903))
    assert (rows[3]["tps"], rows[3]["query_times"], rows[3]["pool_size"]) == (20.0, (903, 903, 903), 20)


def test_a_long_history_of_many_databases_keeps_the_sums_and_the_busiest() -> None:
    ring = History(0.0)
    stats = tuple(database(f"d{n}", counters=counters(n * 100)) for n in range(500))
    for minute in range(1, 61):
        ring.record(snapshot(now=minute * 60.0, databases=stats, pools=()))
    value = history_value(ring.everything())
    assert len(value["rows"]) <= MAX_ROWS
    names = {row[1] for row in value["rows"]}
    assert {"", "d499", "d498"} <= names
    assert "d0" not in names


def test_nothing_is_asked_while_nobody_looks_and_slow_viewers_skip() -> None:
    async def scene() -> None:
        asked = 0

        def source(**_: bool) -> Snapshot:
            nonlocal asked
            asked += 1
            return at(float(asked))

        feed = Feed(source, tick=0.001)
        await asyncio.sleep(0)
        assert asked == 0
        async with feed.viewer() as fast, feed.viewer() as slow:
            for _ in range(10):
                await fast.get()
            assert slow.qsize() == 1
            assert f'"t":{asked}.0'.encode() in await slow.get()
        seen = asked
        for _ in range(5):
            await asyncio.sleep(0.001)
        assert asked == seen

    asyncio.run(scene())
