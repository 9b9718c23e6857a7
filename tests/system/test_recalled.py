"""A server that is asked, within its client's transaction, whose sequence's value it has: nothing of the transaction is
another than on a direct connection.
"""

from __future__ import annotations

import pytest

from tests.fixtures import stream
from tests.fixtures.cluster import Cluster
from tests.fixtures.process import StartBouncer
from tests.fixtures.stream import Message, Stream
from tests.system.test_sequences import INSERT, keeping, server, strange

__all__ = ["server"]
MADE = """
DROP TABLE IF EXISTS rates; CREATE TABLE rates (currval int, lastval int); INSERT INTO rates VALUES (4, 5);
DROP SCHEMA IF EXISTS hostile CASCADE; CREATE SCHEMA hostile;
CREATE FUNCTION hostile.currval(text) RETURNS int LANGUAGE plpgsql AS 'BEGIN RAISE ''hostile''; END';
CREATE FUNCTION hostile.same(text, text) RETURNS bool LANGUAGE plpgsql AS 'BEGIN RAISE ''hostile''; END';
CREATE OPERATOR hostile.= (FUNCTION = hostile.same, LEFTARG = text, RIGHTARG = text);
CREATE VIEW hostile.pg_locks AS SELECT 1 AS relation;
"""
ASKS = "SELECT lastval() > 0"
BY_NAME = "SELECT currval('drawn_id_seq') > 0"
OWN = "SAVEPOINT pooler_asks"
SYNC = stream.sync()
Step = str | tuple[bytes, ...]


def begun(*more: Step) -> tuple[Step, ...]:
    return ("BEGIN", INSERT, *more, "COMMIT")


def use(name: str = "", portal: str = "") -> tuple[bytes, ...]:
    return (stream.bind(name=name, portal=portal), stream.execute(portal), SYNC)


PARSED = (stream.parse("SELECT 'unnamed'"), SYNC)
PROGRAMS: dict[str, tuple[Step, ...]] = {
    "columns of these names": begun("SELECT currval, 1 FROM rates", "SELECT lastval::text, r.currval FROM rates r"),
    "its own savepoint": begun(OWN, ASKS, "ROLLBACK TO pooler_asks", OWN, BY_NAME),
    "a statement without a name": begun(PARSED, (stream.parse(ASKS, "n"), SYNC), use("n"), use()),
    "the same, by its Parse": begun((stream.parse(ASKS), SYNC), use(), use()),
    "a statement without a name, of another": begun(PARSED, (stream.parse(BY_NAME, "n"), SYNC), use("n", "p"), use()),
    "cursors": begun(
        "DECLARE a CURSOR FOR SELECT generate_series(1, 3)", "FETCH a", ASKS, "FETCH a",
        (stream.parse("SELECT generate_series(1, 3)"), stream.bind(portal="b"), stream.execute("b", 1), SYNC),
        BY_NAME, (stream.execute("b", 1), SYNC),
    ),
    "read only from then on": begun("SET TRANSACTION READ ONLY", ASKS, INSERT),
    "serializable": ("BEGIN ISOLATION LEVEL SERIALIZABLE", INSERT, ASKS, "SHOW transaction_isolation", "COMMIT"),
    "a time limit": begun("SET LOCAL statement_timeout = '1s'", ASKS, "SHOW statement_timeout"),
    "names in the way": begun(
        "CREATE TEMP TABLE pg_locks (pid int, relation oid, locktype text, mode text) ON COMMIT DROP",
        "SET LOCAL search_path = hostile, pg_temp, public, pg_catalog", ASKS,
        "SELECT currval('public.drawn_id_seq') > 0",
    ),
    "failed": begun("SELECT 1/0", "ROLLBACK", "BEGIN", INSERT, ASKS),
    "in a failed one": begun(
        (stream.parse(ASKS, "n"), SYNC), "SELECT 1/0", ASKS, use("n"), (stream.parse(BY_NAME), *use()), "ROLLBACK",
        "BEGIN", INSERT, ASKS,
    ),
    "all at once, extended": begun((
        stream.parse(BY_NAME), stream.bind(), stream.describe("P"), stream.execute(), stream.parse("SELECT 2", "two"),
        stream.bind(name="two"), stream.execute(), SYNC,
    )),
    "set for the transaction": (
        "BEGIN", "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "SET LOCAL work_mem = '3MB'", INSERT, ASKS,
        "SET TRANSACTION READ ONLY", ASKS, "SHOW work_mem", "SHOW transaction_isolation", "COMMIT",
    ),
    "chained": begun(ASKS, "COMMIT AND CHAIN", INSERT, BY_NAME, "ROLLBACK AND CHAIN", INSERT, ASKS),
    "a copy behind it": begun((
        stream.query(ASKS), stream.query("COPY undrawn FROM STDIN"), stream.copy_data(b"1\n"), stream.copy_done(),
        stream.query("SELECT count(*) > 0 FROM undrawn"),
    )),
}  # fmt: skip


def shown(heard: Message) -> tuple[str, object]:
    if heard.type == "E":
        return "E", (heard.error["C"], heard.error.get("P"))
    return heard.type, heard.values if heard.type == "D" else heard.body if heard.type == "Z" else ""


def carried_out(one: Stream, program: tuple[Step, ...]) -> list[tuple[str, object]]:
    told = []
    for step in program:
        messages = (stream.query(step),) if isinstance(step, str) else step
        one.send(*messages)
        for _ in range(sum(message[:1] in b"QS" for message in messages)):
            told += [shown(heard) for heard in one.until() if heard.type not in "SN"]
    return told


@pytest.mark.one_process("strangers have drawn from every server of one process")
@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("what", PROGRAMS)
def test_nothing_else_is_changed(server: Cluster, start_pooler: StartBouncer, size: int, what: str) -> None:
    server.sql(MADE, dbname="app")
    bouncer = keeping(start_pooler, server, size)
    strange(bouncer, size)
    found = []
    for port in (server.port, bouncer.port):
        with Stream(("127.0.0.1", port)).login() as one:
            found.append(carried_out(one, PROGRAMS[what]))
    server.sql("DROP TABLE rates; DROP SCHEMA hostile CASCADE", dbname="app")
    assert found[0] == found[1]
