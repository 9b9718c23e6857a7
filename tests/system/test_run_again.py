"""A statement that a table's change has made stale, used outside a transaction: its client is told 0A000 where it would
read the new rows by an old description, as on a direct connection, and else hears nothing of it. PostgreSQL itself says
what the rows are; drivers read them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import asyncpg
import psycopg
import pytest
from psycopg.rows import dict_row

from tests.fixtures import stream
from tests.fixtures.cluster import Cluster
from tests.fixtures.process import Bouncer, StartBouncer
from tests.fixtures.stream import Message, Stream

RESET = """
DROP TABLE IF EXISTS again, told; CREATE TABLE again (id serial, x int, y varchar(5));
INSERT INTO again (x, y) VALUES (7, 'seven'); CREATE TABLE told (n int)
"""
TEXT = "SELECT x, y FROM again"
TYPE = "ALTER TABLE again ALTER x TYPE float8"
LENGTH = "ALTER TABLE again ALTER y TYPE varchar(50)"
SWAPPED = "ALTER TABLE again RENAME x TO z; ALTER TABLE again RENAME y TO x; ALTER TABLE again RENAME z TO y"
WIDER = "ALTER TABLE again ADD w int DEFAULT 5"
"""What is done past the pooler."""


def kinds(answer: Sequence[Message]) -> str:
    """Letters of the messages; of an error its code."""
    return "".join(message.error["C"] if message.type == "E" else message.type for message in answer)


def come(stack: ExitStack, port: int, *, piece: int | None = None) -> Stream:
    return stack.enter_context(Stream(("127.0.0.1", port), piece=piece, timeout=20).login())


def say(one: Stream, *messages: bytes) -> list[Message]:
    one.send(*messages, stream.sync())
    return one.until()


def bind(*formats: int, name: str = "a", portal: str = "") -> bytes:
    packed = b"".join(number.to_bytes(2, "big") for number in (len(formats), *formats))
    return stream.message("B", portal.encode() + b"\0" + name.encode() + b"\0\0\0\0\0" + packed)


D, E = stream.describe("P"), stream.execute()
S = stream.describe("S", "a")
INSERTED = stream.parse("INSERT INTO told VALUES (1)"), stream.bind(), E
BATCHES: dict[str, tuple[tuple[bytes, ...], str, str]] = {
    # what is said behind the change, the answer on a direct connection, the answer through the pooler
    "described, then run": ((bind(1), D, E), "0A000Z", "2TDCZ"),
    "described": ((S,), "t0A000Z", "tTZ"),
    "all of it described": ((S, bind(1), E, bind(1), E), "t0A000Z", "tT2DC2DCZ"),
    "described when it has run": ((bind(1), E, S), "0A000Z", "0A000Z"),
    "run": ((bind(1), E), "0A000Z", "0A000Z"),
    "another portal described": ((bind(1), bind(1, portal="p"), stream.describe("P", "p"), E), "0A000Z", "0A000Z"),
    "a second time undescribed": ((bind(1), D, E, bind(1), E), "0A000Z", "0A000Z"),
    "each described": ((bind(1), D, E, bind(1), D, E), "0A000Z", "2TDC2TDCZ"),
    "a portal with a name": ((bind(1, portal="p"), stream.describe("P", "p"), stream.execute("p")), "0A000Z", "2TDCZ"),
    "columns in formats of their own": ((bind(1, 0), D, E), "0A000Z", "0A000Z"),
    "behind what was prepared": ((stream.parse("SELECT 1", "b"), bind(1), D, E), "10A000Z", "12TDCZ"),
    "ahead of what is prepared": ((bind(1), D, E, *INSERTED), "0A000Z", "2TDC12CZ"),
    "behind what has run": ((*INSERTED, bind(1), D, E), "12C0A000Z", "12C0A000Z"),
    "with a Flush": ((bind(1), D, stream.flush(), E), "0A000Z", "0A000Z"),
    "too long": ((bind(1), D, E, stream.parse("SELECT '" + "x" * 9000 + "'", "b")), "0A000Z", "0A000Z"),
}
HELD = dict.fromkeys(("all of it described", "each described"), "0A000Z")
"""With a pool of two it waits in the middle of the batch for what the statement is described as on the other server."""

OWN = pytest.mark.one_process("each worker has a server of its own")


@pytest.mark.slow
@pytest.mark.parametrize("piece", [None, 7])
@pytest.mark.parametrize("size", [1, pytest.param(2, marks=OWN)])
def test_what_is_told_of_a_stale_statement(
    cluster: Cluster, start_pooler: StartBouncer, size: int, piece: int | None
) -> None:
    """With a pool of two the statement is on the other server only, where it was as it was. In pieces it depends on how
    they come together whether it is told as by PostgreSQL."""
    bouncer = start_pooler(default_pool_size=size)
    for what, (batch, direct, pooled) in BATCHES.items():
        pooled = HELD.get(what, pooled) if size == 2 else pooled
        for port, wanted in ((cluster.port, (direct,)), (bouncer.port, (pooled, direct)[: 2 if piece else 1])):
            cluster.sql(RESET, dbname="app")
            with ExitStack() as stack:
                one, other = come(stack, port), come(stack, port)
                assert kinds(say(one, stream.parse(TEXT, "a"), S)) == "1tTZ"
                assert kinds(say(one, bind(1), E)) == "2DCZ"
                cluster.sql(TYPE, dbname="app")
                if size == 2:
                    other.query("BEGIN")
                one.piece = piece
                said = say(one, *batch)
                got = kinds(said)
                assert got in wanted, what
                if got == pooled and "D" in pooled:
                    assert [m.values for m in said if m.type == "D" and len(m.values) == 2] == (
                        [[b"\x40\x1c" + bytes(6), b"seven"]] * pooled.count("D")
                    ), what
                assert kinds(one.query("SELECT 1")) == "TDCZ"
                # It is not done twice, and not by halves.
                ((count,),) = cluster.sql("SELECT count(*) FROM told", dbname="app")
                assert count == (got == "2TDC12CZ")
                assert kinds(say(one, S)) in ("tTZ", "t0A000Z")


CHANGES = {"length": LENGTH, "type": TYPE, "names": SWAPPED, "columns": WIDER}


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("change", CHANGES)
def test_rows_that_are_read_as_they_were_are_told(
    cluster: Cluster, start_pooler: StartBouncer, change: str, size: int
) -> None:
    """By whoever has an older description: where only a length has changed."""
    bouncer = start_pooler(default_pool_size=size)
    cluster.sql(RESET, dbname="app")
    with ExitStack() as stack:
        one, other, third = (come(stack, bouncer.port) for _ in range(3))
        for client in (one, other):
            assert kinds(say(client, stream.parse("SELECT * FROM again", "a"), S)) == "1tTZ"
        cluster.sql(CHANGES[change], dbname="app")
        if size == 2:
            third.query("BEGIN")
        wanted = "2DCZ" if change == "length" else "0A000Z"
        for client in (one, other, one):
            assert kinds(say(client, bind(0), E)) == wanted
        assert kinds(say(one, bind(0), D, E)) == "2TDCZ"
        # It was told of what they are now.
        assert kinds(say(one, bind(0), E)) == "2DCZ"


@pytest.mark.parametrize("block", ["BEGIN", "BEGIN; SAVEPOINT a"])
def test_in_a_transaction_it_is_told(cluster: Cluster, start_pooler: StartBouncer, block: str) -> None:
    """What came before it in the transaction could not be said again."""
    bouncer = start_pooler(default_pool_size=1)
    for port in (cluster.port, bouncer.port):
        cluster.sql(RESET, dbname="app")
        with ExitStack() as stack:
            one = come(stack, port)
            say(one, stream.parse(TEXT, "a"), S)
            cluster.sql(TYPE, dbname="app")
            one.query(block)
            said = say(one, bind(1), D, E)
            assert kinds(said) == "0A000Z"
            assert said[-1].body == b"E"
            one.query("ROLLBACK")


def test_a_transaction_that_begins_in_the_batch_is_no_second_one(cluster: Cluster, start_pooler: StartBouncer) -> None:
    bouncer = start_pooler(default_pool_size=1)
    begin = stream.parse("BEGIN"), stream.bind(), E
    for port in (cluster.port, bouncer.port):
        cluster.sql(RESET, dbname="app")
        with ExitStack() as stack:
            one = come(stack, port)
            say(one, stream.parse(TEXT, "a"), S)
            cluster.sql(TYPE, dbname="app")
            said = say(one, *begin, bind(1), D, E)
            assert (kinds(said), said[-1].body) == ("12C0A000Z", b"E")


VALUE = "SELECT $1 + x, x FROM again"


def test_values_are_read_as_what_they_were_sent_as(cluster: Cluster, start_pooler: StartBouncer) -> None:
    """A parameter's type was told with the first description: eight bytes of an integer are no float."""
    bouncer = start_pooler(default_pool_size=1)
    cluster.sql(RESET + ";ALTER TABLE again ALTER x TYPE bigint", dbname="app")
    with ExitStack() as stack:
        one = come(stack, bouncer.port)
        assert kinds(say(one, stream.parse(VALUE, "a"), S)) == "1tTZ"
        cluster.sql(TYPE, dbname="app")
        packed = b"\0a\0\0\1\0\1\0\1\0\0\0\x08" + (3).to_bytes(8, "big") + b"\0\0"
        said = say(one, stream.message("B", packed), D, E)
        assert [m.values for m in said if m.type == "D"] == [[b"10", b"7"]]
        # And another, who prepares it now, is told of what it is now.
        other = come(stack, bouncer.port)
        (types,) = [m.body for m in say(other, stream.parse(VALUE, "a"), S) if m.type == "t"]
        assert types == (1).to_bytes(2, "big") + (701).to_bytes(4, "big")


async def of_asyncpg(port: int, change: Callable[[], None]) -> list[Any]:
    """asyncpg describes once, and runs without a description; it tries again by itself, but for what it was asked to
    prepare."""
    one = await asyncpg.connect(host="127.0.0.1", port=port, user="postgres", database="app")
    found: list[Any] = [dict(await one.fetchrow(TEXT))]
    change()
    found.append(dict(await one.fetchrow(TEXT)))
    found.append(dict(await one.fetchrow(TEXT)))
    held = await one.prepare("SELECT * FROM again")
    await held.fetchrow()
    change()
    try:
        found.append(dict(await held.fetchrow()))
    except asyncpg.InvalidCachedStatementError:
        found.append("InvalidCachedStatementError")
    await one.close()
    return found


def of_psycopg(port: int, change: Callable[[], None], binary: bool) -> list[Any]:
    """psycopg has every run described."""
    with psycopg.connect(
        host="127.0.0.1", port=port, user="postgres", dbname="app", prepare_threshold=0, autocommit=True,
        row_factory=dict_row,
    ) as one:  # fmt: skip
        found: list[Any] = [one.execute(TEXT, binary=binary).fetchone()]
        for _ in range(2):
            change()
            try:
                found.append(one.execute(TEXT, binary=binary).fetchone())
            except psycopg.errors.FeatureNotSupported:
                found.append("FeatureNotSupported")
        return found


WAYS = ("ALTER TABLE again ALTER x TYPE float8 USING 7.5", "ALTER TABLE again ALTER x TYPE text USING 'eight'")
ROWS = [{"x": 7, "y": "seven"}, {"x": 7.5, "y": "seven"}, {"x": "eight", "y": "seven"}]


def changing(cluster: Cluster) -> Callable[[], None]:
    cluster.sql(RESET, dbname="app")
    ways = iter(WAYS)

    def change() -> None:
        cluster.sql(next(ways), dbname="app")

    return change


def test_who_prepares_and_says_flush_is_not_told(cluster: Cluster, start_pooler: StartBouncer) -> None:
    """As asyncpg does, which does not try that again: on a direct connection there is nothing stale either."""
    bouncer = start_pooler(default_pool_size=1)
    change = changing(cluster)
    with ExitStack() as stack:
        one, other = come(stack, bouncer.port), come(stack, bouncer.port)
        assert kinds(say(one, stream.parse(TEXT, "a"), S)) == "1tTZ"
        change()
        other.send(stream.parse(TEXT, "a"), S, stream.flush())
        assert kinds(other.until("T", "E")) == "1tT"
        said = say(other, bind(0), E)
        assert kinds(said) == "2DCZ"
        assert [m.values for m in said if m.type == "D"] == [[b"7.5", b"seven"]]
        assert kinds(say(other, bind(0), E)) == "2DCZ"


async def prepare_both(port: int, change: Callable[[], None]) -> list[Any]:
    one, other = [await asyncpg.connect(host="127.0.0.1", port=port, user="postgres", database="app") for _ in range(2)]
    found: list[Any] = [dict(await one.fetchrow(TEXT))]
    change()
    found.append(dict(await other.fetchrow(TEXT)))
    await one.close()
    await other.close()
    return found


def test_a_driver_that_prepares_behind_a_change_is_not_told(cluster: Cluster, start_pooler: StartBouncer) -> None:
    bouncer = start_pooler(default_pool_size=1)
    for port in (cluster.port, bouncer.port):
        assert asyncio.run(prepare_both(port, changing(cluster))) == ROWS[:2]


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2])
def test_drivers_read_what_is_there(cluster: Cluster, start_pooler: StartBouncer, size: int) -> None:
    bouncer: Bouncer = start_pooler(default_pool_size=size)
    for port in (cluster.port, bouncer.port):
        found = asyncio.run(of_asyncpg(port, changing(cluster)))
        assert [type(row) for row in found[:3]] == [dict] * 3
        assert found[:3] == [ROWS[0], ROWS[1], ROWS[1]]
        assert found[3] == "InvalidCachedStatementError"
        for binary in (False, True):
            told = of_psycopg(port, changing(cluster), binary)
            assert told == (ROWS if port == bouncer.port else [ROWS[0], "FeatureNotSupported", "FeatureNotSupported"])
