"""Statements that are named behind the end of a COPY, in one go: they are what their clients were told, and the answers
come as on a direct connection (PostgreSQL documentation, "COPY Operations")."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.fixtures import stream
from tests.fixtures.cluster import Cluster
from tests.fixtures.process import Bouncer, StartBouncer
from tests.fixtures.stream import Stream
from tests.system.test_restart import restart
from tests.system.test_unnamed import ask

BEFORE = "DROP TABLE IF EXISTS copied, beside; CREATE TABLE copied (n int); CREATE TABLE beside AS SELECT 1 AS x"
CHANGE = "ALTER TABLE beside ALTER x TYPE float8 USING 1.5"
TEXT = "SELECT x FROM beside"
COPIED = stream.copy_data(b"1\n") + stream.copy_done()
CHANGED = ("E", "0A000", "cached plan must not change result type")


def prepared(name: str) -> bytes:
    return stream.parse(TEXT, name) + stream.describe("S", name) + stream.sync()


def used(name: str) -> bytes:
    return stream.bind(name=name) + stream.execute() + stream.sync()


@pytest.fixture
def bouncer(start_pooler: StartBouncer, cluster: Cluster) -> Bouncer:
    cluster.sql(BEFORE, dbname="app")
    return start_pooler(default_pool_size=2, server_tls_sslmode="disable")


@pytest.fixture
def clients(bouncer: Bouncer) -> Iterator[list[Stream]]:
    with ExitStack() as stack:
        yield [stack.enter_context(Stream(("127.0.0.1", bouncer.port), timeout=10).login()) for _ in range(3)]


def begin_copy(one: Stream) -> None:
    name = "copies"
    one.send(stream.parse("COPY copied FROM STDIN", name), stream.bind(name=name), stream.execute(), stream.flush())
    one.until("G")


def copy_and(one: Stream, *messages: bytes) -> list[tuple[str, ...]]:
    """What is answered to messages that come with the end of a COPY, behind the answer to that."""
    begin_copy(one)
    end, *rest = ask(one, COPIED, *messages)
    assert end == ("C",)
    return rest


def move(stays: Stream, comes: Stream) -> None:
    """`stays` begins on the server that is free, and that of `comes` is free instead."""
    stays.query("BEGIN")
    comes.query("COMMIT")


@pytest.mark.parametrize("name", ["s", ""])
def test_what_was_described_elsewhere_is_what_it_was_or_an_error(
    clients: list[Stream], cluster: Cluster, name: str
) -> None:
    """Nor is it taken for what it was by whoever comes next."""
    one, other, third = clients
    third.query("BEGIN")
    for client in (one, other):
        ask(client, prepared(name))
    cluster.sql(CHANGE, dbname="app")
    move(other, third)
    assert copy_and(one, used(name)) == [CHANGED, ("Z",)]
    if name:
        move(one, other)
        move(third, one)
        assert CHANGED in ask(other, used(name))


@pytest.mark.parametrize("again", [False, True])
def test_what_is_prepared_there_stays_what_it_is(
    bouncer: Bouncer, clients: list[Stream], cluster: Cluster, *, again: bool
) -> None:
    """Described in the same go, or behind an online restart."""
    one, other, third = clients
    third.query("BEGIN")
    described = stream.describe("S", "s")
    copy_and(one, stream.parse(TEXT, "s"), *(() if again else (described,)), stream.sync())
    if again:
        restart(bouncer)
        ask(one, described, stream.sync())
    cluster.sql(CHANGE, dbname="app")
    move(other, third)
    assert CHANGED in ask(one, used("s"))


def test_what_waits_for_an_answer_gets_one(clients: list[Stream], cluster: Cluster) -> None:
    """Of a COPY of an Execute the end is not told before a Sync: a name that may be free by then waits for it."""
    found = []
    with Stream(("127.0.0.1", cluster.port)).login() as direct:
        for client in (direct, clients[0]):
            ask(client, stream.parse("SELECT 'n'", "n"), stream.parse("SELECT 'm'", "m"), stream.sync())
            begin_copy(client)
            found.append(
                ask(
                    client,
                    COPIED,
                    stream.bind(name="m"),
                    stream.execute(),
                    stream.parse("SELECT 3", "n"),
                    stream.sync(),
                )
            )
    assert found[0] == found[1]
