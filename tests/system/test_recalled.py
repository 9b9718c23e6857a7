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
from tests.system.test_session_functions import known

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


NEXT = "SELECT nextval('drawn_by_name')"
BY_ITS_NAME = "SELECT currval('drawn_by_name') > 0"
ANOTHERS = "SELECT currval('drawn_too_id_seq') > 0"


def named(text: str, *more: bytes, name: str = "n") -> tuple[bytes, ...]:
    """Prepared and used in one piece, as pgjdbc and node-postgres do."""
    return (stream.parse(text, name), *more, stream.bind(name=name), stream.execute())


PIECES: dict[str, tuple[Step, ...]] = {
    "a named statement": begun((*named(ASKS), SYNC)),
    "described": begun((*named(ASKS, stream.describe("S", "n")), SYNC), (*named(BY_NAME, name="m"), SYNC)),
    "its Sync between": begun((*named(BY_NAME, SYNC), SYNC)),
    "behind what draws": ("BEGIN", (*named(NEXT, name="d"), SYNC, *named(BY_ITS_NAME), SYNC), "COMMIT"),
    "without a name": ("BEGIN", (*named(NEXT, name=""), SYNC, *named(ASKS, name=""), SYNC), "COMMIT"),
    "queries": (tuple(stream.query(text) for text in ("BEGIN", NEXT, ASKS, BY_ITS_NAME, "COMMIT")),),
    "behind what fails": begun(
        "SAVEPOINT a", (*named("SELECT 1/0", name="f"), SYNC, *named(ASKS), SYNC), "ROLLBACK TO a", (*named(ASKS), SYNC)
    ),
}  # fmt: skip


@pytest.mark.one_process("strangers have drawn from every server of one process")
@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("what", PIECES)
def test_what_is_sent_in_one_piece_is_answered_the_first_time(
    server: Cluster, start_pooler: StartBouncer, size: int, what: str
) -> None:
    bouncer = keeping(start_pooler, server, size)
    strange(bouncer, size)
    found = []
    for port in (server.port, bouncer.port):
        with Stream(("127.0.0.1", port)).login() as one:
            found.append(carried_out(one, PIECES[what]))
    assert ("D", [b"t"]) in found[0]
    assert [heard for heard in found[1] if not is_number(heard)] == [
        heard for heard in found[0] if not is_number(heard)
    ]


def is_number(heard: tuple[str, object]) -> bool:
    """A value that was drawn, another each time."""
    return heard[0] == "D" and heard[1] != [b"t"]


TOO = "SELECT nextval('drawn_too_id_seq')"
NOT_OWN: dict[str, tuple[Step, ...]] = {
    "behind a draw that is not executed": ("BEGIN", (*named(TOO, name="d")[:2], *named(ANOTHERS), SYNC)),
    "behind a draw of no row": ("BEGIN", (*named(f"{TOO} WHERE false", name="d"), *named(ANOTHERS), SYNC)),
    "behind what has the name of a draw": (
        "BEGIN", "CREATE SCHEMA hostile",
        "CREATE FUNCTION hostile.nextval(text) RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "SET LOCAL search_path = hostile, public, pg_catalog", (*named(TOO, name="d"), *named(ANOTHERS), SYNC),
    ),
    "in one piece": (*begun()[:2], (*named(ANOTHERS), SYNC)),
    "behind what draws": ("BEGIN", (*named(NEXT, name="d"), SYNC, *named(ANOTHERS), SYNC)),
    "queries": ((*map(stream.query, ("BEGIN", INSERT, ANOTHERS)),),),
    "its own is asked for, and another's is bound": (
        (stream.parse(ANOTHERS, "a"), SYNC), *begun()[:2],
        (stream.parse(ASKS, "n"), stream.bind(name="a"), stream.execute(), SYNC),
    ),
    "its own fails, and another's is bound": (
        *begun()[:2], (stream.parse(ANOTHERS, "a"), SYNC), "SAVEPOINT a",
        (*named(ASKS, name="n"), stream.parse("SELECT", "n"), SYNC), "ROLLBACK TO a", use("a"),
    ),
}  # fmt: skip


@pytest.mark.one_process("strangers have drawn from every server of one process")
@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("what", NOT_OWN)
def test_nor_is_anothers_told_in_one_piece(server: Cluster, start_pooler: StartBouncer, size: int, what: str) -> None:
    bouncer = keeping(start_pooler, server, size)
    strange(bouncer, size)
    with Stream(("127.0.0.1", bouncer.port)).login() as one:
        heard = carried_out(one, NOT_OWN[what])
    assert [told for kind, told in heard if kind == "E"][-1:] == [("55000", None)]


@pytest.mark.slow
@pytest.mark.one_process("a text is shared by clients of one process")
def test_one_that_has_to_be_described_first_is_asked_for_all_the_same(
    server: Cluster, start_pooler: StartBouncer
) -> None:
    """Its Bind is held, and has been judged by then."""
    bouncer = keeping(start_pooler, server, 2)
    strange(bouncer, 2)
    known(bouncer)
    with Stream(("127.0.0.1", bouncer.port)).login() as one, Stream(("127.0.0.1", bouncer.port)).login() as other:
        carried_out(one, ("BEGIN", INSERT))
        carried_out(other, ((stream.parse(ASKS, "n"), SYNC),))
        assert carried_out(one, ((*named(ASKS), SYNC),))[2] == ("D", [b"t"])
