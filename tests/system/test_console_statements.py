"""Statements of a stats user, at a pooler with traffic: they hold nobody up, and nothing of them is left anywhere."""

from __future__ import annotations

import os
import signal
import socket
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.fixtures.process import ADMIN, Bouncer, StartBouncer
from tests.fixtures.waiting import DEADLINE, million_turns, until

STATS = "postgres"
LIMIT = 1.5
"""Of what a million turns of a loop take here: processor time between two looks at the connections. A third of that is
usual. Each of the statements below took seconds."""

SLOW_TO_READ = (
    "select " + "+".join("1" * 20_000),
    "select " + "+" * 900,
    "select 1;" * 7_000,
    "select 1;" * 20_000,
    "select " + "case when 1 then " * 1_400 + "1" + " end" * 1_400,
    "select nosuch from " + "(select * from " * 50 + "pools" + ") a" * 50,
    "select 1" + " like 'a'" * 4_000,
    "set x = " + '"' * 900,
    "fly " + "'a' " * 15_000,
)
NEVER = "with recursive c(n) as (select 1 union all select n + 1 from c) select count(*) from c"


def console(bouncer: Bouncer) -> psycopg.Connection[Any]:
    return bouncer.connect(ADMIN, STATS, cursor_factory=psycopg.ClientCursor)


def attempt(visitor: psycopg.Connection[Any], sql: str) -> str | None:
    """The SQLSTATE of the refusal, None for an answer."""
    try:
        visitor.execute(sql.encode())
    except psycopg.Error as error:
        return error.sqlstate
    return None


class Traffic:
    """One query after the other by an ordinary client, until the block ends."""

    def __init__(self, bouncer: Bouncer) -> None:
        self._client = bouncer.connect()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.answers = 0

    def _run(self) -> None:
        while not self._stop.is_set():
            assert self._client.execute("SELECT 1").fetchone() == (1,)
            self.answers += 1

    def goes_on(self) -> None:
        before = self.answers
        until(lambda: self.answers > before + 10, "answers of the database")

    def __enter__(self) -> Traffic:
        self._thread.start()
        self.goes_on()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(DEADLINE)
        self._client.close()


def children(pid: int) -> list[int]:
    """None of a process that has ended."""
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def askers(pooler: Bouncer) -> list[int]:
    """The processes in which statements are answered."""
    return sorted({*children(pooler.pid)} - {*pooler.pids})


def ready(worker: int) -> bool:
    """Whether the server takes sessions: what makes it has ended, and it has processes of its own."""
    return any(len(children(each)) > 1 for each in children(worker))


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_traffic_goes_on_whatever_a_stats_user_asks(start_pooler: StartBouncer) -> None:
    pooler = start_pooler(admin_users="", stats_users=STATS)
    with Traffic(pooler) as traffic, closing(console(pooler)) as visitor:
        assert visitor.execute("SELECT count(*) FROM pools").fetchone()
        for sql in (*SLOW_TO_READ, NEVER):
            assert attempt(visitor, sql) is not None
            traffic.goes_on()
        assert visitor.execute("SELECT count(*) FROM pools").fetchone()
        turn = visitor.execute("SHOW LOOP").fetchone()
        assert turn
        assert turn[1] < LIMIT * million_turns() * 1e6
        until(lambda: sum(map(lives, askers(pooler))) == 1, "one process to be left")


@pytest.mark.slow
@pytest.mark.parametrize("what", ["SELECT 1", NEVER])
def test_the_process_ends_with_the_pooler_and_holds_nothing_of_it(start_pooler: StartBouncer, what: str) -> None:
    pooler = start_pooler()
    with closing(pooler.connect()), closing(console(pooler)) as visitor:
        asking = threading.Thread(target=attempt, args=(visitor, what))
        asking.start()
        (worker,) = until(lambda: askers(pooler), "a process for the statement")
        (server,) = until(lambda: children(worker) if ready(worker) else [], "its PostgreSQL")
        sockets = [
            each for each in os.listdir(f"/proc/{worker}/fd") if "socket" in os.readlink(f"/proc/{worker}/fd/{each}")
        ]
        assert sockets == ["0"]
        os.kill(pooler.pid, signal.SIGKILL)
        pooler.wait()
        until(lambda: not lives(worker) and not lives(server), "the processes to end")
        asking.join(DEADLINE)
        with socket.create_server(("127.0.0.1", pooler.port), reuse_port=False):
            pass


@pytest.mark.slow
def test_a_successor_answers_and_the_process_of_the_old_one_ends(start_pooler: StartBouncer) -> None:
    pooler = start_pooler(server_tls_sslmode="disable")
    with pooler.connect() as client:
        assert pooler.admin("SELECT 1 AS n") == [{"n": 1}]
        (worker,) = askers(pooler)
        old = pooler.process
        assert old is not None
        pooler.launch("-R")
        assert old.wait(DEADLINE) == 0
        until(lambda: not lives(worker), "the old one's process to end")
        assert pooler.admin("SELECT 2 AS n") == [{"n": 2}]
        assert client.execute("SELECT 3").fetchone() == (3,)
