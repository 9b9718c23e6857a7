"""Servers that go from one worker to another: with all that a client may count on, and in time.

That one was handed over and not opened anew is told by its process id at PostgreSQL.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from tests.fixtures import stream
from tests.fixtures.cluster import Cluster
from tests.fixtures.process import Bouncer, StartBouncer
from tests.fixtures.stream import Ended, Stream
from tests.fixtures.waiting import until

pytestmark = pytest.mark.usefixtures("cleared")
TWO: dict[str, Any] = {"pooler": {"workers": 2}}
PLAIN: dict[str, Any] = {"sections": TWO, "default_pool_size": 1, "server_tls_sslmode": "disable"}
TICK = 0.001
"""Seconds that PostgreSQL sleeps in one turn of the metronome."""
BOUND = 50
"""Of its turns a client may wait for a server that stands idle elsewhere: each takes a millisecond or more, and longer
on a machine that is slow."""


def client(bouncer: Bouncer, **more: str) -> Stream:
    return Stream((bouncer.address, bouncer.port)).login(**more)


@contextmanager
def two(bouncer: Bouncer) -> Iterator[tuple[Stream, Stream]]:
    """One of each worker."""
    with client(bouncer) as one, client(bouncer) as other:
        yield one, other


def backend(who: Stream) -> bytes:
    ((pid,),) = who.rows("SELECT pg_backend_pid()")
    assert pid is not None
    return pid


def values(messages: list[stream.Message]) -> list[list[bytes | None]]:
    return [m.values for m in messages if m.type == "D"]


def test_a_server_is_handed_over_with_its_names(start_pooler: StartBouncer) -> None:
    """It is the same at PostgreSQL, in SHOW SERVERS and in the log, and the limits hold: there is one."""
    bouncer = start_pooler(**PLAIN)
    with two(bouncer) as both:
        assert len({backend(who) for _ in range(4) for who in both}) == 1
        rows = bouncer.admin("SHOW SERVERS")
        backend(both[0])
        assert [(row["ptr"], row["id"]) for row in rows] == [
            (row["ptr"], row["id"]) for row in bouncer.admin("SHOW SERVERS")
        ]
        assert len(rows) == 1
    assert len(set(re.findall(r".* new connection to server.*", bouncer.log_text()))) == 1
    assert "evicted for" not in bouncer.log_text()


def test_what_clients_count_on_goes_with_it(start_pooler: StartBouncer) -> None:
    """Prepared statements of the same text and of the same name, and settings of each client's own."""
    bouncer = start_pooler(**PLAIN, max_prepared_statements=20)
    with two(bouncer) as both:
        for number, who in enumerate(both):
            who.query(f"SET application_name = 'number {number}'")
            who.send(stream.parse("SELECT $1::int + 1", "same"), stream.parse(f"SELECT {number}, $1", "own"))
            who.send(stream.sync())
            assert [m.type for m in who.until()] == ["1", "1", "Z"]
        pids = set()
        for turn in range(6):
            for number, who in enumerate(both):
                who.send(
                    *(stream.bind([str(turn)], "same"), stream.execute()),
                    *(stream.bind([str(turn)], "own"), stream.execute(), stream.sync()),
                )
                assert values(who.until()) == [[b"%d" % (turn + 1)], [b"%d" % number, b"%d" % turn]]
                assert who.rows("SHOW application_name") == [[b"number %d" % number]]
                pids.add(backend(who))
        assert len(pids) == 1
        names = both[0].rows("SELECT name, statement FROM pg_prepared_statements ORDER BY name")
        assert len({name for name, _ in names}) == len(names) <= 4


def test_a_query_is_cancelled_wherever_its_server_has_come_from(start_pooler: StartBouncer, cluster: Cluster) -> None:
    bouncer = start_pooler(**PLAIN)
    sleeping = "SELECT 1 FROM pg_stat_activity WHERE state = 'active' AND query = 'SELECT pg_sleep(600)'"
    with two(bouncer) as both:
        pids = set()
        for who in (*both, *both):
            pids.add(backend(who))
            who.send(stream.query("SELECT pg_sleep(600)"))
            until(lambda: cluster.sql(sleeping))
            stream.cancel((bouncer.address, bouncer.port), who.pid, who.key)
            assert [m.error["C"] for m in who.until() if m.type == "E"] == ["57014"]
        assert len(pids) == 1


def test_what_cannot_be_handed_over_is_opened_anew(start_pooler: StartBouncer, cluster: Cluster) -> None:
    """Of another pool under the same limit: the right goes."""
    bouncer = start_pooler(sections=TWO, max_user_connections=1, server_tls_sslmode="disable")
    bouncer.databases["more"] = bouncer.databases["app"]
    bouncer.write()
    bouncer.admin("RELOAD")
    with client(bouncer) as one, client(bouncer, database="more") as other:
        pids = [backend(who) for _ in range(2) for who in (one, other)]
        assert len(set(pids)) == 4
        assert len(cluster.backends("app")) == 1


def test_condemned_servers_are_not_handed_on(start_pooler: StartBouncer) -> None:
    bouncer = start_pooler(**PLAIN)
    with two(bouncer) as both:
        before = {backend(who) for who in both}
        bouncer.admin("RECONNECT app")
        after = {backend(who) for who in (*both, *both)}
        assert len(before) == len(after) == 1
        assert before != after


def test_the_right_of_a_server_that_has_come_is_free_with_its_worker(
    start_pooler: StartBouncer, cluster: Cluster
) -> None:
    bouncer = start_pooler(**PLAIN)
    with two(bouncer) as both:
        for who in both:
            backend(who)
        owner = next(row for row in bouncer.admin("SHOW WORKERS") if row["servers"])
        os.kill(owner["pid"], signal.SIGKILL)
        served = []
        for who in both:
            try:
                served.append(backend(who))
            except (OSError, Ended):
                continue
        assert len(served) == 1
        until(lambda: len(cluster.backends("app")) == 1)


def test_nobody_waits_while_a_server_stands_idle_elsewhere(start_pooler: StartBouncer, cluster: Cluster) -> None:
    """Never more than a pool's servers are asked for at the same time, of any two workers: whoever waits could be
    served. How long is counted in turns of a metronome, which takes its time as everything else does."""
    bouncer = start_pooler(
        sections={"pooler": {"workers": 3}}, default_pool_size=3, server_tls_sslmode="disable", max_client_conn=100
    )
    bouncer.databases["beat"] = bouncer.databases["app"]
    bouncer.write()
    bouncer.admin("RELOAD")
    room, beats, stop = threading.Semaphore(3), [0], threading.Event()
    pids: set[bytes] = set()

    def beat() -> None:
        with client(bouncer, database="beat") as one:
            while not stop.is_set():
                one.query(f"SELECT pg_sleep({TICK})")
                beats[0] += 1

    def work(number: int) -> list[int]:
        waits = []
        with client(bouncer) as one:
            for turn in range(30):
                with room:
                    began = beats[0]
                    pids.add(backend(one))
                    waits.append(beats[0] - began)
                time.sleep(TICK * (number % 4) * (turn % 3))
        return waits

    metronome = threading.Thread(target=beat)
    metronome.start()
    try:
        with ThreadPoolExecutor(12) as pool:
            waits = [wait for each in pool.map(work, range(12)) for wait in each]
    finally:
        stop.set()
        metronome.join()
    assert len(waits) == 12 * 30
    assert max(waits) <= BOUND
    # They were the same ones all the time.
    assert len(pids) == 3
    assert len(cluster.backends("app")) <= 4


def test_a_server_of_whole_sessions_is_opened_anew(start_pooler: StartBouncer, cluster: Cluster) -> None:
    bouncer = start_pooler(**PLAIN, pool_mode="session")
    with client(bouncer) as one:
        first = backend(one)
        with client(bouncer) as other:
            one.socket.close()
            assert backend(other) != first
            assert len(cluster.backends("app")) == 1
