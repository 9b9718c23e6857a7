"""Servers that go from one worker to another: with all that a client may count on, and in time.

That one was handed over and not opened anew is told by its process id at PostgreSQL.
"""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import psycopg
import pytest

from tests.fixtures import stream
from tests.fixtures.cluster import Cluster
from tests.fixtures.process import Bouncer, StartBouncer
from tests.fixtures.proxy import FaultProxy
from tests.fixtures.stream import Ended, Stream
from tests.fixtures.waiting import until

pytestmark = pytest.mark.usefixtures("cleared")
TWO: dict[str, Any] = {"pooler": {"workers": 2}}
PLAIN: dict[str, Any] = {"sections": TWO, "default_pool_size": 1, "server_tls_sslmode": "disable"}
BEATS = """
CREATE SEQUENCE beats;
CREATE PROCEDURE beat() LANGUAGE plpgsql AS $$
BEGIN LOOP PERFORM pg_sleep(0.001), nextval('beats'); END LOOP; END $$;
"""
"""A metronome in PostgreSQL: a turn takes a millisecond, and as much longer as the machine is slow."""
BOUND = 50
"""Of its turns a client may wait for a server that stands idle elsewhere."""


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


@pytest.mark.slow
@pytest.mark.parametrize("changed", [False, True])
def test_who_is_the_first_of_its_worker_is_let_in_though_nobody_says_by_what(
    start_pooler: StartBouncer, changed: bool
) -> None:
    """A RELOAD has the desk forget what servers say of themselves; the one that there is has said it elsewhere."""
    bouncer = start_pooler(**PLAIN)
    with client(bouncer) as first:
        backend(first)
        bouncer.databases["app" if changed else "other"] += " connect_query='select 1'"
        bouncer.write()
        bouncer.admin("RELOAD")
        # Of two one is in the other worker.
        with client(bouncer) as second, client(bouncer) as third:
            assert all(backend(who) for who in (second, third))
        assert backend(first)


@pytest.mark.slow
def test_who_comes_while_postgresql_is_away_is_let_in_by_any_worker(
    start_pooler: StartBouncer, cluster: Cluster, start_proxy: Callable[[int], FaultProxy]
) -> None:
    """As by one process: what a server says of itself is known, though not by one of this worker's."""
    proxy = start_proxy(cluster.port)
    away = {"app": f"host=127.0.0.1 port={proxy.port} dbname=app"}
    bouncer = start_pooler(databases=away, sections=TWO, server_login_retry=0.3)
    with client(bouncer) as first:
        backend(first)
        proxy.refuse()
        proxy.cut()
        until(lambda: bouncer.pool()["sv_idle"] == 0, "its server to be gone")
        with ExitStack() as stack:
            for _ in range(4):
                late = stack.enter_context(client(bouncer))
                assert late.parameters["server_version"] == first.parameters["server_version"]


@pytest.mark.slow
def test_who_comes_while_the_first_is_opened_elsewhere_gets_that_one(start_pooler: StartBouncer) -> None:
    """It asked before anybody knew what a server says of itself, and is told when that is known."""
    bouncer = start_pooler(**PLAIN)
    bouncer.databases["app"] += " connect_query='select pg_sleep(0.5)'"
    bouncer.write()
    bouncer.admin("RELOAD")
    with ThreadPoolExecutor(4) as pool, ExitStack() as stack:
        come = [stack.enter_context(one) for one in pool.map(lambda _: client(bouncer), range(4))]
        assert len({backend(one) for one in come}) == 1
    assert len(set(re.findall(r".* new connection to server.*", bouncer.log_text()))) == 1


@pytest.mark.slow
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


@pytest.mark.slow
def test_who_prepares_behind_a_change_by_another_workers_client_is_told_of_what_is(
    start_pooler: StartBouncer, cluster: Cluster
) -> None:
    """As on a direct connection, where only who has prepared before it hears of it."""
    found = []
    for made in (cluster, start_pooler(**PLAIN, max_prepared_statements=20)):
        cluster.sql("DROP TABLE IF EXISTS changed; CREATE TABLE changed (x int)", dbname="app")
        with ExitStack() as stack:
            one, other = (stack.enter_context(Stream(("127.0.0.1", made.port)).login()) for _ in range(2))
            told = [*prepare(one, "before"), *use(one, "before")]
            other.query("ALTER TABLE changed ADD COLUMN y int")
            told += [*prepare(one, "behind"), *use(one, "behind"), *use(one, "before")]
            found.append(told)
    assert found[0] == found[1] == ["0A000"]


def prepare(who: Stream, name: str) -> list[str]:
    return codes(who, stream.parse("SELECT * FROM changed", name))


def use(who: Stream, name: str) -> list[str]:
    return codes(who, stream.bind((), name), stream.execute())


def codes(who: Stream, *messages: bytes) -> list[str]:
    who.send(*messages, stream.sync())
    return [m.error["C"] for m in who.until() if m.type == "E"]


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_condemned_servers_are_not_handed_on(start_pooler: StartBouncer) -> None:
    bouncer = start_pooler(**PLAIN)
    with two(bouncer) as both:
        before = {backend(who) for who in both}
        bouncer.admin("RECONNECT app")
        after = {backend(who) for who in (*both, *both)}
        assert len(before) == len(after) == 1
        assert before != after


@pytest.mark.slow
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


@contextmanager
def metronome(cluster: Cluster) -> Iterator[None]:
    cluster.sql(BEATS, dbname="app")
    with cluster.connect("app") as one:
        beating = threading.Thread(target=beat, args=(one,))
        beating.start()
        try:
            yield
        finally:
            one.cancel()
            beating.join()
            cluster.sql("DROP PROCEDURE beat(); DROP SEQUENCE beats", dbname="app")


def beat(one: psycopg.Connection[Any]) -> None:
    with suppress(psycopg.errors.QueryCanceled):
        one.execute("CALL beat()")


@contextmanager
def load(bouncer: Bouncer, count: int) -> Iterator[None]:
    """As many clients, of another pool, that ask without a pause."""
    stop = threading.Event()

    def ask() -> None:
        with client(bouncer, database="more") as one:
            while not stop.is_set():
                one.query("SELECT 1")

    with ThreadPoolExecutor(count) as pool:
        asking = [pool.submit(ask) for _ in range(count)]
        try:
            yield
        finally:
            stop.set()
        for each in asking:
            each.result()


@pytest.mark.slow
def test_nobody_waits_while_a_server_stands_idle_elsewhere(start_pooler: StartBouncer, cluster: Cluster) -> None:
    """Of two servers one is in use, and the other is wanted in one worker after the other. How long that takes is told
    by the server itself, in turns of a metronome: of ten, one may have met with a busy machine."""
    bouncer = start_pooler(sections={"pooler": {"workers": 3}}, default_pool_size=2, server_tls_sslmode="disable")
    bouncer.databases["more"] = bouncer.databases["app"]
    bouncer.write()
    bouncer.admin("RELOAD")
    waits, pids = [], set()
    with ExitStack() as stack:
        stack.enter_context(metronome(cluster))
        stack.enter_context(load(bouncer, 6))
        several = [stack.enter_context(client(bouncer)) for _ in range(4)]
        beside = stack.enter_context(cluster.connect("app"))
        several[3].query("BEGIN")
        for turn in range(60):
            ((began,),) = beside.execute("SELECT last_value FROM beats")
            ((now, pid),) = several[turn % 3].rows("SELECT last_value, pg_backend_pid() FROM beats")
            assert now is not None
            waits.append(int(now) - began)
            pids.add(pid)
    assert sorted(waits)[len(waits) * 9 // 10] <= BOUND, waits
    assert len(pids) == 1


@pytest.mark.slow
@pytest.mark.parametrize("more", [{"pool_mode": "session"}, {"server_tls_sslmode": "require"}])
def test_a_server_that_cannot_change_hands_is_opened_anew(
    start_pooler: StartBouncer, cluster: Cluster, more: dict[str, str]
) -> None:
    """Of whole sessions, and with TLS, whose state is OpenSSL's own."""
    bouncer = start_pooler(**(PLAIN | more))
    with client(bouncer) as one:
        first = backend(one)
        with client(bouncer) as other:
            one.socket.close()
            assert backend(other) != first
            assert len(cluster.backends("app")) == 1
