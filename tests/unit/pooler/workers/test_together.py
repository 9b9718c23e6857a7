"""Figures of several workers as those of one service."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pooler.house.snapshot import TOTAL
from pooler.stats import ZERO, Counters, DatabaseStat, Event, LoopStat, Snapshot, Window, workers
from pooler.workers.together import Lost, counted, together
from tests.fixtures import figures

LIMITS = ("pool_size", "reserve_pool_size", "pool_mode", "load_balance_hosts", "database", "user", "born", "averages")


def worker(**changes: Any) -> Snapshot:
    return figures.snapshot(total=figures.counters(100), steady=10.0, **changes)


def desk() -> Snapshot:
    """It has the configuration, and serves nobody."""
    rows = [replace(row, current_connections=0, current_client_connections=0) for row in figures.snapshot().databases]
    empty = [replace(row, counters=Counters()) for row in rows]
    return figures.snapshot(databases=tuple(empty), pools=(), total=Counters(), steady=10.0, events=())


def summed(*found: Snapshot, lost: Lost | None = None, window: Window | None = None) -> Snapshot:
    return together(desk(), dict(enumerate(found)), lost or Lost(), window or Window(0.0))


def test_what_counts_is_added_and_what_is_a_limit_is_not() -> None:
    one = figures.pool(distributions=figures.distributions([5, 7]))
    two = figures.pool(distributions=figures.distributions([900]), maxwait_us=3_000_000)
    whole = summed(worker(pools=(one,)), worker(pools=(two, figures.pool("other"))))
    pools = {(pool.database, pool.user): pool for pool in whole.pools}
    assert set(pools) == {("app", "u"), ("other", "u")}
    both = pools["app", "u"]
    assert (both.cl_active, both.cl_waiting, both.sv_idle, both.sv_login) == (112, 4, 32, 20)
    assert (both.maxwait_us, both.pool_size, both.pool_mode) == (3_000_000, 20, "transaction")
    assert both.counters == one.counters + two.counters
    assert both.distributions is not None
    assert (both.distributions.query.count, both.distributions.query.total_us) == (3, 912)


def test_every_count_of_a_pool_is_added() -> None:
    """Of a field that is new somebody has to say what it is."""
    one = figures.pool()
    (both,) = summed(worker(pools=(one,)), worker(pools=(one,))).pools
    for name in one.__dataclass_fields__:
        value = getattr(one, name)
        if isinstance(value, int) and name not in LIMITS and name != "maxwait_us":
            assert getattr(both, name) == 2 * value, name


def test_a_database_has_the_limits_of_the_service() -> None:
    whole = summed(worker(), worker())
    row = {stat.name: stat for stat in whole.databases}["app"]
    one = figures.database()
    assert (row.pool_size, row.max_connections, row.min_pool_size) == (20, one.max_connections, 1)
    assert row.current_connections == 2 * one.current_connections
    assert row.current_client_connections == 2 * one.current_client_connections
    assert row.counters == one.counters + one.counters


def test_a_database_that_nobody_has_used_is_the_desks_own_row_and_what_a_lost_worker_counted_stays() -> None:
    unused = replace(figures.database(), name="unused", counters=ZERO)
    here, lost = replace(desk(), databases=(*desk().databases, unused)), Lost()

    def row() -> DatabaseStat:
        whole = together(here, {0: worker(databases=())}, lost, Window(0.0))
        return {stat.name: stat for stat in whole.databases}["unused"]

    assert row() is unused
    counters = replace(ZERO, query_count=7)
    lost.add(worker(databases=(replace(unused, counters=counters),)))
    assert row().counters == counters


def test_totals_do_not_fall_with_a_worker() -> None:
    lost, window = Lost(), Window(0.0)
    one, two = worker(), worker()
    before = summed(one, two, lost=lost)
    for now in (5.0, 6.0):
        window.turn(now, counted((desk(), one, two), lost.counters))
    lost.add(two)
    after = summed(one, lost=lost, window=window)
    assert after.total == before.total
    assert {d.name: d.counters for d in after.databases} == {d.name: d.counters for d in before.databases}
    assert after.events == before.events == (Event("timeout", "app", "query_wait_timeout", 18),)
    assert after.process.cpu_seconds == before.process.cpu_seconds
    assert counted((desk(), one), lost.counters)[TOTAL] == before.total
    # Nobody has done anything in between.
    assert all(stat.averages.xact_count == 0 for stat in after.databases)


def test_averages_are_of_all() -> None:
    window = Window(0.0)
    whole = summed(worker(), worker(), window=window)
    (row,) = (stat for stat in whole.databases if stat.name == "app")
    assert row.averages.xact_count == 2 * figures.counters(100).xact_count // 10


def test_the_console_is_one_pool() -> None:
    whole = summed(worker(), worker())
    assert [pool.user for pool in whole.pools if pool.database == "pgbouncer"] == ["pgbouncer"]
    assert whole.pools[-1].cl_active == 112


def test_a_state_of_one_is_a_state_of_all_and_the_longest_is_the_longest() -> None:
    slow = worker(paused=True, active=False, loop=LoopStat(70, 9, "no kernel"))
    whole = summed(slow, worker(suspended=True, loop=LoopStat(5, 50)))
    assert (whole.paused, whole.suspended, whole.active) == (True, True, False)
    assert whole.loop == LoopStat(70, 50, "no kernel")


def test_who_waits_has_waited_until_the_desk_shows_it() -> None:
    """A worker that has answered earlier than the others has told less."""
    rows = [figures.client("waits", wait_us=5), figures.client("works", xact_us=7), figures.client("rests")]
    early, late = replace(worker(clients=rows), steady=9.5), worker(clients=rows)
    shown = [(row.wait_us, row.xact_us) for row in summed(early, late).clients if row.application_name]
    assert shown == [(500_005, 0), (0, 500_007), (0, 0), (5, 0), (0, 7), (0, 0)]


def test_lists_are_sums_but_for_what_all_know() -> None:
    items = {item.list: item.items for item in summed(worker(), worker()).lists}
    one = {name: place for place, name in enumerate(figures.LISTS, 1)}
    assert items["used_clients"] == 3 * one["used_clients"]
    assert items["peers"] == one["peers"]
    assert (items["databases"], items["pools"]) == (2, 2)


def test_a_service_of_one_process_has_one_worker() -> None:
    (row,) = workers(figures.snapshot())
    assert (row.number, row.pid, row.state, row.clients) == (0, figures.PROCESS.pid, "serving", 7)
