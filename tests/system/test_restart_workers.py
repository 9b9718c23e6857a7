"""The online restart between services of one process and of several: whatever clients are at, they notice nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import psycopg
import pytest

from tests.fixtures import stream
from tests.fixtures.cluster import Cluster
from tests.fixtures.process import Bouncer, StartBouncer
from tests.fixtures.stream import Stream
from tests.fixtures.waiting import until
from tests.system.test_listen import LISTENING, follows, told
from tests.system.test_restart import backend, restart, start_plain
from tests.system.test_workers import alive, child_pids, workers
from tests.system.test_workers_harm import worker_of

pytestmark = pytest.mark.usefixtures("cleared")
__all__ = ["start_plain"]

ASLEEP = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = 'app'"
TIMES = [(1, 2), (2, 1), (2, 2), (2, 3)]
"""Of how many processes the old service and the new one are."""


def sections(count: int, **more: object) -> dict[str, dict[str, object]]:
    return {"pooler": {"workers": count, **more}}


def restart_with(bouncer: Bouncer, count: int) -> None:
    """The new service is of so many."""
    bouncer.sections["pooler"]["workers"] = count
    bouncer.write()
    restart(bouncer)
    assert len(workers(bouncer)) == count


@contextmanager
def asking(*clients: psycopg.Connection[Any], seconds: float = 2) -> Iterator[list[Any]]:
    """Each asks something slow meanwhile; what they were answered."""
    answers: list[Any] = []

    def ask(client: psycopg.Connection[Any]) -> None:
        try:
            answers.append(client.execute(f"SELECT 5 FROM pg_sleep({seconds})", prepare=True).fetchone())
        except psycopg.Error as error:
            answers.append(error)

    threads = [threading.Thread(target=ask, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    yield answers
    for thread in threads:
        thread.join(30)


def at_work(bouncer: Bouncer, cluster: Cluster, count: int) -> None:
    """So many servers have something to do at once, and no more are there."""
    try:
        until(lambda: len(cluster.sql(ASLEEP)) == count, "all that there may be to be at work")
    except AssertionError as error:
        there = "SELECT pid, client_port, state, wait_event, query FROM pg_stat_activity WHERE datname = 'app'"
        error.add_note(f"{cluster.sql(there)}\n{bouncer.pool()}\n{workers(bouncer)}\n{bouncer.log_text()}")
        raise


@pytest.mark.slow
@pytest.mark.parametrize(("old", "new"), TIMES)
def test_everybody_goes_on(start_plain: StartBouncer, cluster: Cluster, old: int, new: int) -> None:
    """Idle, in transactions, in queries, waiting; with their servers and statements, and within the same limits."""
    bouncer = start_plain(sections=sections(old), default_pool_size=4)
    with ExitStack() as stack:
        come = [stack.enter_context(bouncer.connect(prepare_threshold=0)) for _ in range(9)]
        for number, one in enumerate(come):
            assert one.execute(f"SELECT %s::int + {number % 3}", (1,)).fetchone() == (1 + number % 3,)
        inside, rest = come[:2], come[2:]
        for one in inside:
            one.execute("BEGIN")
            one.execute("CREATE TEMP TABLE kept AS SELECT 7 AS n")
        servers = [backend(one) for one in inside]
        with asking(*rest[:4]) as answers:
            until(lambda: bouncer.pool()["cl_waiting"] == 2, "two at work and two that wait")
            before = set(cluster.backends("app"))
            restart_with(bouncer, new)
            assert set(cluster.backends("app")) == before
            assert [backend(one) for one in inside] == servers
        assert answers == [(5,)] * 4
        for again in (old, new):
            for number, one in enumerate(come):
                assert one.execute(f"SELECT %s::int + {number % 3}", (1,)).fetchone() == (1 + number % 3,)
            restart_with(bouncer, again)
        for one in inside:
            assert one.execute("SELECT n FROM kept").fetchone() == (7,)
            one.execute("ROLLBACK")
        assert len(cluster.backends("app")) <= 4
        assert bouncer.pool()["cl_active"] == 9
        assert sum(row["servers"] for row in workers(bouncer)) <= 4
        several = [stack.enter_context(bouncer.connect()) for _ in range(4)]
        with asking(*come[:6], *several) as answers:
            at_work(bouncer, cluster, 4)
            assert len(cluster.backends("app")) <= 4
        assert answers == [(5,)] * 10


@pytest.mark.slow
@pytest.mark.parametrize(("old", "new"), TIMES)
def test_who_listens_misses_nothing(start_plain: StartBouncer, cluster: Cluster, old: int, new: int) -> None:
    """On the same connection, by which all are told as before; and a cancel key is good in whatever process."""
    bouncer = start_plain(sections=sections(old, session_state="keep"), default_pool_size=4)
    with ExitStack() as stack:
        come = [stack.enter_context(bouncer.connect()) for _ in range(4)]
        for one in come:
            one.execute("LISTEN foo")
        follows(bouncer, 4)
        before = cluster.sql(LISTENING.replace("count(*)", "pid"))
        done, sent = threading.Event(), [0]

        def notify() -> None:
            with cluster.connect("app") as direct:
                while not done.wait(0.002):
                    sent[0] += 1
                    direct.execute(f"NOTIFY foo, '{sent[0]}'")
                direct.execute("NOTIFY foo, 'last'")

        thread = threading.Thread(target=notify)
        thread.start()
        try:
            for count in (new, old):
                restart_with(bouncer, count)
        finally:
            done.set()
            thread.join(20)
        for one in come:
            assert [payload for _, payload, _ in told(one, "last")] == [*map(str, range(1, sent[0] + 1)), "last"]
        assert cluster.sql(LISTENING.replace("count(*)", "pid")) == before
        come[0].execute("NOTIFY foo, 'own'")
        for one in come:
            assert told(one, "own") == [("foo", "own", come[0].info.backend_pid)]
        with asking(come[1], seconds=20) as answers:
            until(lambda: cluster.sql(ASLEEP), "it to sleep")
            come[1].cancel_safe()
        assert isinstance(answers[0], psycopg.errors.QueryCanceled)


@pytest.mark.slow
def test_a_statement_without_a_name_stays_its_client_s(start_plain: StartBouncer) -> None:
    """Two workers have counted theirs alike."""
    bouncer = start_plain(sections=sections(2), default_pool_size=2)
    with ExitStack() as stack:
        come = [stack.enter_context(Stream((bouncer.address, bouncer.port)).login()) for _ in range(2)]
        for number, one in enumerate(come):
            one.send(stream.parse(f"SELECT {number}"), stream.sync())
            one.until()
        restart_with(bouncer, 1)
        for _ in range(2):
            for number, one in enumerate(come):
                one.send(stream.bind(), stream.execute(), stream.sync())
                found = [message.values for message in one.until() if message.type == "D"]
                assert found == [[str(number).encode()]]


# ---- a process that ends, or stands, in the middle


@contextmanager
def standing(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@contextmanager
def in_the_middle(bouncer: Bouncer) -> Iterator[tuple[subprocess.Popen[bytes], subprocess.Popen[bytes], int]]:
    """The old process and the new one, which has asked to take over; one of the old workers does not answer yet."""
    old = bouncer.process
    assert old is not None
    stands = workers(bouncer)[0]["pid"]
    with standing(stands):
        new = bouncer.launch("-R")
        bouncer.wait_log("a new process wants to take over")
        yield old, new, stands


def of_worker(bouncer: Bouncer, number: int, stack: ExitStack) -> psycopg.Connection[Any]:
    """A client of that worker. Who comes is given to the one that has the fewest; a console on its way out counts."""
    for _ in range(10):
        one = stack.enter_context(bouncer.connect(autocommit=True))
        if worker_of(bouncer, one) == number:
            return one
    raise AssertionError(f"nobody is given to worker {number}")


@pytest.mark.slow
def test_a_worker_that_ends_in_the_middle_ends_the_takeover_alone(start_plain: StartBouncer) -> None:
    bouncer = start_plain(sections=sections(2))
    with ExitStack() as stack:
        one = of_worker(bouncer, 1, stack)
        one.execute("BEGIN")
        with in_the_middle(bouncer) as (old, new, stands):
            assert one.execute("SELECT 1").fetchone() == (1,)
            os.kill(stands, signal.SIGKILL)
            assert new.wait(30) == 1
        bouncer.process = old
        # Which, depends on whether its end was seen before it was asked.
        bouncer.wait_log("the new process did not take over: a worker (has failed|is missing)")
        assert "cannot take over from the old process: " in bouncer.log_text()
        assert one.execute("SELECT 2").fetchone() == (2,)
        until(lambda: [row["state"] for row in workers(bouncer)] == ["serving"] * 2, "another worker")
        restart_with(bouncer, 2)
        assert one.execute("SELECT 3").fetchone() == (3,)


@pytest.mark.slow
def test_with_the_old_desk_all_ends(start_plain: StartBouncer) -> None:
    bouncer = start_plain(sections=sections(2))
    with bouncer.connect() as one:
        pids = child_pids(bouncer)
        with in_the_middle(bouncer) as (old, new, _):
            old.kill()
            assert new.wait(30) == 1
        old.wait(20)
        until(lambda: not any(map(alive, pids)), "its workers to end")
        with pytest.raises(psycopg.OperationalError):
            one.execute("SELECT 1")


@pytest.mark.slow
def test_with_a_new_worker_what_was_to_be_its_ends(start_plain: StartBouncer) -> None:
    bouncer = start_plain(sections=sections(2), default_pool_size=2)
    with ExitStack() as stack:
        clients = [of_worker(bouncer, number, stack) for number in (1, 0)]
        for one in clients:
            one.execute("SELECT 1")
        with in_the_middle(bouncer) as (old, _, _):
            os.kill(child_pids(bouncer)[0], signal.SIGKILL)
        assert old.wait(30) == 0
        bouncer.wait_log("worker 0 has not taken over its clients")
        assert clients[0].execute("SELECT 2").fetchone() == (2,)
        with pytest.raises(psycopg.OperationalError):
            clients[1].execute("SELECT 2")
        until(lambda: [row["state"] for row in workers(bouncer)] == ["serving"] * 2, "another worker")
        assert bouncer.sql("SELECT 3") == [(3,)]


@pytest.mark.slow
def test_a_new_desk_that_ends_leaves_all_as_it_was(start_plain: StartBouncer) -> None:
    bouncer = start_plain(sections=sections(2))
    with bouncer.connect() as one:
        one.execute("BEGIN")
        with in_the_middle(bouncer) as (old, new, _):
            pids = child_pids(bouncer)
            new.kill()
            new.wait(20)
        bouncer.process = old
        bouncer.wait_log("the new process did not take over")
        until(lambda: not any(map(alive, pids)), "its workers to end")
        assert one.execute("SELECT 1").fetchone() == (1,)
        assert bouncer.sql("SELECT 2") == [(2,)]
        restart_with(bouncer, 2)
        assert one.execute("SELECT 3").fetchone() == (3,)


@pytest.mark.slow
def test_an_old_desk_that_stands_in_the_middle_goes_on_with_all(start_plain: StartBouncer) -> None:
    """The new process gives it up; its workers serve meanwhile, since nobody has let go of anything."""
    bouncer = start_plain(sections=sections(2), default_pool_size=2)
    with ExitStack() as stack:
        clients = [of_worker(bouncer, number, stack) for number in (1, 0)]
        clients[0].execute("BEGIN")
        with in_the_middle(bouncer) as (old, new, _), standing(old.pid):
            assert new.wait(60) == 1
            assert clients[0].execute("SELECT 1").fetchone() == (1,)
        bouncer.process = old
        bouncer.wait_log("the new process did not take over")
        for one in clients:
            assert one.execute("SELECT 2").fetchone() == (2,)
        assert [row["state"] for row in workers(bouncer)] == ["serving"] * 2
        restart_with(bouncer, 2)
        for one in clients:
            assert one.execute("SELECT 3").fetchone() == (3,)
