"""No byte of one client reaches another, and no server stays with a client that has no use for it, whatever is sent.

The cases that were found by hand; the kinds are those of test_differential.py and of the relay's model
(tests/unit/pooler/relay/test_model.py).
Each case is run on a direct connection as well: PostgreSQL is the oracle.
"""

from __future__ import annotations

import threading

import pytest

from tests.fixtures import stream
from tests.fixtures.cluster import Cluster
from tests.fixtures.process import Bouncer, StartBouncer
from tests.fixtures.programs import TABLES, converse
from tests.fixtures.stream import Stream
from tests.fixtures.waiting import until
from tests.system.test_differential import Told, told

COPY = "COPY plain FROM STDIN"
ROW = stream.copy_data(b"1\tx\n")
BAD = stream.copy_data(b"x\ty\n")
FAIL = stream.copy_fail("enough")
FAILING = stream.parse("SELECT 1 / 0") + stream.bind() + stream.execute()
NAMED = stream.parse(COPY, "n0") + stream.bind(name="n0") + stream.execute()
RUN = stream.bind(name="n0") + stream.execute()

PROGRAMS = {
    "a Query behind an extended error": FAILING + stream.query("SELECT 2") + stream.sync(),
    "two Queries behind it": FAILING + stream.query("SELECT 2") * 2 + stream.sync(),
    "a FunctionCall behind it": FAILING + stream.message("F", bytes(10)) + stream.sync(),
    "a Query behind it, Sync later": FAILING + stream.query("SELECT 2"),
    "COPY ends behind it": FAILING + stream.copy_done() + FAIL + stream.sync(),
    "a COPY failed ahead of its answer": NAMED + FAIL + stream.sync(),
    "a COPY failed ahead of a Sync ahead of its answer": stream.sync() + RUN + FAIL + stream.sync(),
    "the same behind a Query": stream.query("SELECT 1") + RUN + FAIL + stream.sync(),
    "and done": stream.sync() + RUN + stream.copy_done() + stream.sync(),
    "two COPYs in a batch": NAMED + ROW + stream.copy_done() + RUN + ROW + stream.copy_done() + stream.sync(),
    "two of which the first fails": NAMED + BAD + stream.copy_done() + RUN + ROW + stream.copy_done() + stream.sync(),
    "two COPYs in a Query": stream.query(f"{COPY};{COPY}") + (ROW + stream.copy_done()) * 2,
    "of which the first fails": stream.query(f"{COPY};{COPY}") + (BAD + stream.copy_done()) * 2,
    "a Sync among the rows": NAMED + ROW + stream.sync() + ROW + stream.copy_done() + stream.sync(),
    "a Sync among rows that fail": NAMED + ROW + stream.sync() + BAD + stream.copy_done() + stream.sync(),
    "a Sync behind rows that fail": NAMED + BAD + stream.sync() + ROW + stream.copy_done() + stream.sync(),
    "the same in a Query": stream.query(COPY) + BAD + stream.sync() + ROW + stream.sync() + stream.copy_done(),
    "libpq's way, failing": stream.parse(COPY) + stream.bind() + stream.execute() + stream.sync() + BAD
    + stream.copy_done() + stream.sync(),
    "a trigger refuses": stream.query("COPY ruled FROM STDIN") + ROW + stream.sync() + stream.copy_done(),
    "it refuses with a Sync ahead": stream.parse("COPY ruled FROM STDIN") + stream.bind() + stream.execute()
    + stream.sync() + ROW + stream.copy_done() + stream.sync(),
    "a named Parse fails and is bound": stream.parse("SELEKT", "n1") + stream.bind(name="n1") + stream.sync()
    + stream.bind(name="n1") + stream.execute() + stream.sync(),
    "unknown names": stream.bind(name="nope") + stream.sync() + stream.describe(name="nope") + stream.sync(),
    "a name in use": stream.parse("SELECT 1", "n1") + stream.sync() + stream.parse("SELECT 2", "n1") + stream.sync(),
    "a portal's name of 600 bytes": stream.parse("SELECT 1", "n1") + stream.bind(name="n1", portal="p" * 600)
    + stream.execute("p" * 600) + stream.sync(),
    "DISCARD ALL and a text that the server knows": stream.query("DISCARD ALL") + stream.parse(COPY, "n0") + RUN
    + ROW + stream.copy_done() + stream.sync(),
    "DISCARD ALL and a name of its own": stream.parse("SELECT 1", "n1") + stream.query("DISCARD ALL")
    + stream.parse("SELECT 2", "n1") + stream.bind(name="n1") + stream.execute() + stream.sync(),
    "the same in the extended protocol": stream.parse("SELECT 1", "n1") + stream.sync() + stream.parse("DEALLOCATE ALL")
    + stream.bind() + stream.execute() + stream.parse("SELECT 2", "n1") + stream.bind(name="n1") + stream.execute()
    + stream.sync(),
    "DEALLOCATE ALL and an error ahead of a text that the server knows": NAMED + stream.sync()
    + stream.query("DEALLOCATE ALL") + stream.bind(name="nope") + stream.parse(COPY, "n0") + stream.sync()
    + stream.parse(COPY, "n1") + stream.bind(name="n1") + stream.execute() + ROW + stream.copy_done() + stream.sync(),
}  # fmt: skip
END = "the end"


def answered(client: Stream, program: bytes) -> list[Told]:
    """The answer to a program, and to what brings any connection back to rest."""
    ending = FAIL + stream.sync() + stream.query("ROLLBACK") + stream.query(f"SELECT '{END}'")
    return [told(message) for message in converse(client, [program, ending], END, lambda: 0.0)]


@pytest.fixture
def bouncer(start_pooler: StartBouncer, cluster: Cluster) -> Bouncer:
    cluster.sql(TABLES, dbname="app")
    return start_pooler(default_pool_size=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_the_answer_is_postgresqls_and_the_server_comes_free(bouncer: Bouncer, cluster: Cluster, name: str) -> None:
    first = stream.parse(COPY, "n0") + stream.sync()
    with Stream(("127.0.0.1", cluster.port)) as direct, Stream(("127.0.0.1", bouncer.port)) as pooled:
        direct.login()
        pooled.login()
        known = name.startswith(("a COPY failed ahead of a Sync", "the same behind", "and done"))
        for program in (first, PROGRAMS[name]) if known else (PROGRAMS[name],):
            assert answered(pooled, program) == answered(direct, program)
        until(lambda: bouncer.pool()["sv_active"] == 0, "the server to come free")
        assert bouncer.sql("SELECT 'another'") == [("another",)]
        # And nothing of it is left to the next one.
        with Stream(("127.0.0.1", bouncer.port)) as other:
            other.login()
            other.send(RUN + stream.sync())
            (error, _) = other.until()
            assert error.error["C"] == "26000"


@pytest.mark.slow
@pytest.mark.parametrize("tls", ["disable", "require"])
def test_notifications_cut_in_half_reach_nobody_as_something_else(
    start_pooler: StartBouncer, cluster: Cluster, tls: str
) -> None:
    """A client of the pool has said LISTEN; its server is idle, and others take it."""
    bouncer = start_pooler(default_pool_size=2, server_tls_sslmode=tls)
    bouncer.sql("LISTEN channel")
    over = threading.Event()

    def notify() -> None:
        with cluster.connect("app") as connection:
            while not over.is_set():
                for _ in range(20):
                    connection.execute("SELECT pg_notify('channel', repeat('x', 7900))")

    notifier = threading.Thread(target=notify)
    notifier.start()
    try:
        with Stream(("127.0.0.1", bouncer.port)) as client:
            client.login()
            for number in range(3000):
                client.send(stream.query(f"SELECT 'row {number}'"))
                answer = [message for message in client.until() if message.type != "A"]
                assert [message.type for message in answer] == ["T", "D", "C", "Z"]
                assert answer[1].values == [b"row %d" % number]
    finally:
        over.set()
        notifier.join()
