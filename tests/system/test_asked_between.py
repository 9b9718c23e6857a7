"""What ends a statement ends it as well while its server is asked, within the client's transaction, whose sequence's
value it has: the client is told what PostgreSQL tells, and its transaction is what it would be. What its server is
asked between two transactions is not the client's, and is not ended.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest

from tests.fixtures import stream
from tests.fixtures.cluster import Cluster
from tests.fixtures.process import StartBouncer
from tests.fixtures.stream import Message, Stream
from tests.fixtures.waiting import until
from tests.system.test_recalled import carried_out, named
from tests.system.test_sequences import INSERT, keeping, server, strange
from tests.system.test_session_functions import known
from tests.system.test_session_state import KEEP, client

__all__ = ["server"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.one_process("strangers have drawn from every server of one process"),
]
BY_NAME = "SELECT currval('drawn_too_id_seq')"
WAITING = "SELECT pid FROM pg_stat_activity WHERE datname = 'app' AND wait_event_type = 'Lock'"
CANCELLED = ("57014", "canceling statement due to user request")
SYNC = stream.sync()
FORMS: dict[str, tuple[bytes, ...]] = {
    "a query": (stream.query(BY_NAME),),
    "without a name": (*named(BY_NAME, name=""), SYNC),
    "prepared": (*named(BY_NAME, name="n"), SYNC),
    "described": (
        stream.parse(BY_NAME, "n"), stream.describe("S", "n"), SYNC, stream.bind(name="n"), stream.execute(), SYNC,
    ),
}  # fmt: skip
Ends = Callable[[Cluster, Stream, tuple[str, int]], object]


def cancels(server: Cluster, one: Stream, address: tuple[str, int]) -> None:
    stream.cancel(address, one.pid, one.key)


def terminates(server: Cluster, one: Stream, address: tuple[str, int]) -> None:
    ((pid,),) = server.sql(WAITING, dbname="app")
    server.sql(f"SELECT pg_terminate_backend({pid})", dbname="app")


def waits(server: Cluster, one: Stream, address: tuple[str, int]) -> None:
    """A time limit ends it."""


ENDS: dict[str, tuple[str, Ends]] = {
    "a cancel request": ("SELECT 1", cancels),
    "statement_timeout": ("SET LOCAL statement_timeout = 300", waits),
    "lock_timeout": ("SET LOCAL lock_timeout = 300", waits),
    "pg_terminate_backend": ("SELECT 1", terminates),
}


@contextmanager
def locked(server: Cluster) -> Iterator[None]:
    """Nobody gets at that sequence: who asks for its value waits."""
    with client(server.port, autocommit=False) as other:
        other.execute("ALTER SEQUENCE drawn_too_id_seq CACHE 1")
        yield
        other.rollback()


def said(answer: list[Message]) -> list[tuple[str, object]]:
    """Its errors, rows and states: how far a statement has come that is ended is not told the same."""
    return [
        (heard.type, [heard.error[field] for field in "VCM"] if heard.type == "E" else heard.body)
        for heard in answer
        if heard.type in "EDZ"
    ]


def ended(server: Cluster, address: tuple[str, int], form: str, end: str) -> list[tuple[str, object]]:
    """What is told of an ask that is ended in the middle, and of the transaction behind it."""
    before, ends = ENDS[end]
    told: list[tuple[str, object]] = []
    with Stream(address).login() as one:
        carried_out(one, ("BEGIN", INSERT, "SAVEPOINT a", before))
        with locked(server):
            one.send(*FORMS[form])
            if ends is not waits:
                until(lambda: server.sql(WAITING, dbname="app"), "it to wait")
            ends(server, one, address)
            if ends is terminates:
                return said(one.rest())
            for _ in range(sum(message[:1] in b"QS" for message in FORMS[form])):
                told += said(one.until())
        return told + carried_out(one, ("SELECT 3", BY_NAME, "ROLLBACK TO a", "SELECT 4", "COMMIT", "SELECT 5"))


@pytest.mark.parametrize("end", ENDS)
def test_the_client_is_told_what_postgresql_tells(server: Cluster, start_pooler: StartBouncer, end: str) -> None:
    bouncer = keeping(start_pooler, server, 1)
    for form in FORMS:
        strange(bouncer, 1)
        direct, pooled = (ended(server, ("127.0.0.1", port), form, end) for port in (server.port, bouncer.port))
        assert [kind for kind, _ in direct].count("E") == (1 if end == "pg_terminate_backend" else 3)
        assert pooled == direct, form
        until(lambda: bouncer.pool()["sv_active"] == 0)


def test_a_deadlock_is_one(server: Cluster, start_pooler: StartBouncer) -> None:
    bouncer = keeping(start_pooler, server, 1)
    strange(bouncer, 1)
    for port in (server.port, bouncer.port):
        with Stream(("127.0.0.1", port)).login() as one, Stream(("127.0.0.1", server.port)).login() as other:
            carried_out(one, ("BEGIN", "SET LOCAL deadlock_timeout = '100ms'", "LOCK undrawn"))
            carried_out(other, ("BEGIN", "SET LOCAL deadlock_timeout = '60s'"))
            carried_out(other, ("ALTER SEQUENCE drawn_too_id_seq CACHE 1",))
            other.send(stream.query("LOCK undrawn"))
            until(lambda: server.sql(WAITING, dbname="app"), "it to wait")
            assert [heard.error["C"] for heard in one.query(BY_NAME) if heard.type == "E"] == ["40P01"]
            carried_out(one, ("ROLLBACK",))
            assert [heard.type for heard in other.until()] == ["C", "Z"]


def test_so_does_the_pooler_s_own_time_limit(server: Cluster, start_pooler: StartBouncer) -> None:
    """As it ends a statement of the client's."""
    bouncer = start_pooler(server=server, **{**KEEP, "default_pool_size": 1, "query_timeout": 1})
    strange(bouncer, 1)
    with locked(server), client(bouncer.port) as one:
        one.execute("BEGIN")
        one.execute("SELECT 1")
        with pytest.raises(psycopg.OperationalError, match="query timeout"):
            one.execute(BY_NAME)


def test_a_cancel_request_does_not_hit_the_look_at_what_is_left(server: Cluster, start_pooler: StartBouncer) -> None:
    """It waits for what its client has asked for behind that, which it may be too early for all the same: a server that
    has not begun forgets it."""
    bouncer = keeping(start_pooler, server, 1)
    with client(bouncer.port):
        known(bouncer)
    address = ("127.0.0.1", bouncer.port)
    with client(server.port, autocommit=False) as other, Stream(address).login() as one, Stream(address) as asking:
        other.execute("LOCK TABLE pg_locks")
        one.send(stream.query("SELECT pg_advisory_lock(7)"))
        until(lambda: server.sql(WAITING, dbname="app"), "the look to wait")
        one.send(stream.query("SELECT 2"))
        asking.send(stream.request(stream.CANCEL_REQUEST, struct.pack("!I", one.pid) + one.key))
        until(lambda: bouncer.pool()["cl_active_cancel_req"] == 1)
        other.rollback()
        assert asking.ended()
        assert [kind for kind, _ in said(one.until())] == ["D", "Z"]
        assert said(one.until())[0] in (("D", b"\0\1\0\0\0\0012"), ("E", ["ERROR", *CANCELLED]))
        assert one.rows("SELECT pg_advisory_unlock(7)") == [[b"t"]]
    assert "session state is not known" not in bouncer.log_text()
