"""currval and lastval through a pool of one and of four: one's own value or an error, never another client's; and, from
the second time that anybody asks in a transaction of its own, the value that a direct connection tells.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import psycopg
import pytest

from tests.fixtures.cluster import Cluster
from tests.fixtures.process import Bouncer, StartBouncer
from tests.fixtures.waiting import until
from tests.system.test_session_functions import known
from tests.system.test_session_state import client

MADE = """
DROP TABLE IF EXISTS drawn, drawn_too, undrawn; DROP SEQUENCE IF EXISTS drawn_by_name CASCADE;
CREATE TABLE undrawn (x int); GRANT ALL ON undrawn TO PUBLIC;
CREATE TABLE drawn (id serial, x int); CREATE TABLE drawn_too (id serial, x int); CREATE SEQUENCE drawn_by_name;
GRANT ALL ON drawn, drawn_too TO PUBLIC; GRANT ALL ON drawn_id_seq, drawn_too_id_seq, drawn_by_name TO PUBLIC;
SELECT setval('drawn_too_id_seq', 1000); SELECT setval('drawn_by_name', 2000);
CREATE FUNCTION drawn_by_code() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT nextval('drawn_by_name'); END;
"""
INSERT = "INSERT INTO drawn (x) VALUES (1)"
NOT_DEFINED = psycopg.errors.ObjectNotInPrerequisiteState


@pytest.fixture
def server(each_cluster: Cluster) -> Iterator[Cluster]:
    each_cluster.sql(MADE, dbname="app")
    yield each_cluster
    each_cluster.sql("DROP TABLE drawn, drawn_too, undrawn; DROP SEQUENCE drawn_by_name CASCADE", dbname="app")


def keeping(start: StartBouncer, server: Cluster, size: int, policy: str = "keep", **own: str) -> Bouncer:
    pooler = {"session_state": policy, "max_pinned": "100", "sequence_timeout": "0.3", **own}
    return start(server=server, default_pool_size=size, pool_mode="transaction", sections={"pooler": pooler})


def value(one: psycopg.Connection[Any], text: str, *, prepare: bool = False) -> Any:
    (found,) = one.execute(text, prepare=prepare).fetchone() or (None,)
    return found


sizes = pytest.mark.parametrize("size", [1, 4])


def test_the_facts_on_a_direct_connection(server: Cluster) -> None:
    """What else is built upon: the error, and that DISCARD SEQUENCES may stand anywhere and needs no right."""
    with client(server.port, user="trusty") as one:
        for asked in ("SELECT lastval()", "SELECT currval('drawn_id_seq')"):
            with pytest.raises(NOT_DEFINED):
                one.execute(asked)
        one.execute("SET default_transaction_read_only = on")
        one.execute("DISCARD SEQUENCES; SELECT 1")
        one.execute("RESET default_transaction_read_only")
        with one.transaction():
            one.execute(INSERT)
            one.execute("SAVEPOINT a")
            one.execute("DISCARD SEQUENCES")
            one.execute("ROLLBACK TO a")
            with pytest.raises(NOT_DEFINED):
                one.execute("SELECT lastval()")
            one.execute("ROLLBACK TO a")


def strange(bouncer: Bouncer, size: int) -> None:
    """Have every server drawn from by several clients."""
    for _ in range(2):
        held = [client(bouncer.port) for _ in range(size)]
        for one in held:
            connection = one.__enter__()
            connection.execute("BEGIN")
            connection.execute("INSERT INTO drawn_too (x) VALUES (1)")
        for one in held:
            one.__exit__(None, None, None)


@pytest.mark.slow
@sizes
@pytest.mark.parametrize("prepare", [False, True])
@pytest.mark.parametrize("asked", ["lastval()", "currval('drawn_id_seq')", "currval('drawn_too_id_seq')"])
def test_nobody_is_ever_told_anothers_value(
    start_pooler: StartBouncer, server: Cluster, size: int, prepare: bool, asked: str
) -> None:
    bouncer = keeping(start_pooler, server, size)
    strange(bouncer, size)
    for _ in range(3):
        with client(bouncer.port) as one, client(bouncer.port) as other:
            other.execute("INSERT INTO drawn_too (x) VALUES (1)")
            other.execute(INSERT)
            with pytest.raises(NOT_DEFINED):
                value(one, f"SELECT {asked}", prepare=prepare)
            with one.transaction():
                one.execute("SELECT 1")
                with pytest.raises(NOT_DEFINED), one.transaction():
                    value(one, f"SELECT {asked}", prepare=prepare)


LOOKS = pytest.mark.one_process("each worker looks for the database's own code itself")


@pytest.mark.slow
@pytest.mark.parametrize("code", [pytest.param("SELECT taken()", marks=LOOKS), "DO $$ BEGIN PERFORM lastval(); END $$"])
def test_nor_by_code(start_pooler: StartBouncer, server: Cluster, code: str) -> None:
    server.sql("CREATE FUNCTION taken() RETURNS bigint LANGUAGE sql AS 'SELECT lastval()'", dbname="app")
    bouncer = keeping(start_pooler, server, 1)
    try:
        strange(bouncer, 1)
        known(bouncer)
        with client(bouncer.port) as one:
            for _ in range(3):
                with pytest.raises(NOT_DEFINED):
                    one.execute(code)
    finally:
        server.sql("DROP FUNCTION taken()", dbname="app")


@sizes
@pytest.mark.parametrize("prepare", [False, True])
def test_what_was_drawn_in_the_same_transaction_is_told_the_first_time(
    start_pooler: StartBouncer, server: Cluster, size: int, prepare: bool
) -> None:
    bouncer = keeping(start_pooler, server, size)
    strange(bouncer, size)
    for _ in range(3):
        with client(bouncer.port) as one:
            with one.transaction():
                (drawn,) = one.execute(INSERT + " RETURNING id").fetchone() or (0,)
                assert value(one, "SELECT lastval()", prepare=prepare) == drawn
                assert value(one, "SELECT currval('drawn_id_seq')", prepare=prepare) == drawn
            found = one.execute(f"{INSERT}; SELECT lastval()")
            found.nextset()
            assert found.fetchone() == (drawn + 1,)
    until(lambda: bouncer.pool()["sv_active"] == 0)


PATTERNS: dict[str, tuple[str, ...]] = {
    "insert": (INSERT, "SELECT lastval()"),
    "insert by currval": (INSERT, "SELECT currval(pg_get_serial_sequence('drawn', 'id'))"),
    "insert, asked twice": (INSERT, "SELECT lastval()", "SELECT currval('drawn_id_seq')"),
    "insert in a CTE": (f"WITH made AS ({INSERT} RETURNING x) SELECT x FROM made", "SELECT lastval()"),
    "nextval": ("SELECT nextval('drawn_by_name')", "SELECT currval('drawn_by_name')"),
    "setval": ("SELECT setval('drawn_by_name', 5000)", "SELECT currval('drawn_by_name')"),
    "a child": (INSERT, "INSERT INTO drawn_too (x) VALUES (currval('drawn_id_seq')) RETURNING x"),
    "children": (
        INSERT,
        "INSERT INTO drawn_too (x) VALUES (currval('drawn_id_seq')) RETURNING x",
        "INSERT INTO drawn_too (x) VALUES (currval('drawn_id_seq')) RETURNING x",
    ),
    "copy": ("DO $$ BEGIN INSERT INTO drawn (x) VALUES (1); END $$", "SELECT lastval()"),
    "in transactions": ("BEGIN", INSERT, "COMMIT", "BEGIN", "SELECT lastval()", "COMMIT"),
    "with a setting": ("BEGIN", INSERT, "SET work_mem = '7MB'", "COMMIT", "SELECT lastval()"),
}


@pytest.mark.one_process("each worker learns by itself what clients ask for")
@sizes
@pytest.mark.parametrize("prepare", [False, True])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_what_was_drawn_in_the_transaction_before_is_told(
    start_pooler: StartBouncer, server: Cluster, size: int, prepare: bool, pattern: str
) -> None:
    """The first time in a pool is an error, by which it is known that clients do so. (On a loaded machine it may take
    a client longer than usual to ask.)"""
    bouncer = keeping(start_pooler, server, size, sequence_timeout="60")
    strange(bouncer, size)
    with client(bouncer.port) as first, pytest.raises(NOT_DEFINED, match=r"earlier transaction|not yet defined"):
        value(first, "SELECT lastval()", prepare=prepare)
    for _ in range(3):
        with client(bouncer.port) as one, client(bouncer.port, connect_timeout=5) as other:
            one.execute("SELECT 1")
            last: Any = None
            for text in PATTERNS[pattern]:
                found = one.execute(text, prepare=prepare and "DO" not in text)
                if size > 1:
                    other.execute("INSERT INTO drawn_too (x) VALUES (2)")
                if "val(" in text or "RETURNING" in text:
                    last = found.fetchone()
            asked = server.sql("SELECT last_value FROM drawn_id_seq", dbname="app")
            if "name" in str(PATTERNS[pattern]):
                asked = server.sql("SELECT last_value FROM drawn_by_name", dbname="app")
            assert last == asked[0]
    until(lambda: bouncer.pool()["sv_active"] == 0, "all servers to be free")


@pytest.mark.slow
@pytest.mark.one_process("what was drawn is lost by who has the same server")
def test_a_server_stays_for_the_next_transaction_or_for_a_while(start_pooler: StartBouncer, server: Cluster) -> None:
    bouncer = keeping(start_pooler, server, 4, sequence_timeout="1")
    with client(bouncer.port) as one, client(bouncer.port) as two:
        two.execute(INSERT)
        one.execute("SELECT 1")
        two.execute("SELECT 1")
        with pytest.raises(NOT_DEFINED):
            one.execute("SELECT lastval()")
        one.execute(INSERT)
        rows = {(row["kind"], row["fate"]): row["pinned_us"] for row in bouncer.admin("SHOW SESSION_STATE")}
        assert rows["sequence", "pins"] is not None
        assert bouncer.pool()["sv_active"] == 1
        one.execute("SELECT 1")
        until(lambda: bouncer.pool()["sv_active"] == 0, "a transaction that asks for nothing")
        for over in ("DISCARD SEQUENCES", "DISCARD ALL"):
            one.execute(INSERT)
            one.execute(over)
            until(lambda: bouncer.pool()["sv_active"] == 0, over)
        one.execute(INSERT)
        assert bouncer.pool()["sv_active"] == 1
        until(lambda: bouncer.pool()["sv_active"] == 0, "the time limit")
        two.execute("SELECT 1")
        with pytest.raises(NOT_DEFINED):
            one.execute("SELECT lastval()")
        one.execute("SELECT 1")
        two.execute(INSERT)
        two.close()
        until(lambda: bouncer.pool()["sv_active"] == 0, "the end of its client")
    said = bouncer.log_text().count("stays with it")
    assert said == 0


@pytest.mark.one_process("of what may be pinned each worker has one at least")
def test_no_more_stay_than_may_be_pinned(start_pooler: StartBouncer, server: Cluster) -> None:
    """Who finds no room goes without: an error for its next currval, not for its INSERT."""
    bouncer = keeping(start_pooler, server, 4, max_pinned="1", sequence_timeout="5")
    strange(bouncer, 4)
    with client(bouncer.port) as one, client(bouncer.port) as two:
        with pytest.raises(NOT_DEFINED):
            one.execute("SELECT lastval()")
        one.execute(INSERT)
        two.execute(INSERT)
        assert bouncer.pool()["sv_active"] == 1
        assert value(one, "SELECT lastval()")


@pytest.mark.one_process("what leaks is seen by who has the same server")
@pytest.mark.parametrize("policy", ["refuse", "leak", "keep sequence:leak"])
def test_other_policies(start_pooler: StartBouncer, server: Cluster, policy: str) -> None:
    bouncer = keeping(start_pooler, server, 1, policy)
    with client(bouncer.port) as one, client(bouncer.port) as other:
        if policy == "refuse":
            with pytest.raises(psycopg.errors.FeatureNotSupported):
                one.execute("SELECT lastval()")
            return
        other.execute(INSERT)
        assert value(one, "SELECT lastval()")
        other.execute(INSERT)
        until(lambda: bouncer.pool()["sv_active"] == 0)


FIRST_ASKED: dict[str, tuple[str, ...]] = {
    "another's, behind an INSERT": ("BEGIN", INSERT, "SELECT currval('drawn_too_id_seq')"),
    "in one text": (f"{INSERT}; SELECT currval('drawn_too_id_seq')",),
    "an INSERT that draws nothing": ("BEGIN", "INSERT INTO undrawn VALUES (1)", "SELECT lastval()"),
    "the same in one text": ("INSERT INTO undrawn VALUES (1); SELECT lastval()",),
    "a number": ("BEGIN", INSERT, "SELECT currval('drawn_too_id_seq'::regclass::oid::regclass)"),
    "put together": ("BEGIN", INSERT, "SELECT currval('drawn_' || 'too_id_seq')"),
    "behind a setval": ("BEGIN", "SELECT setval('drawn_by_name', 5)", "SELECT lastval()"),
}


@sizes
@pytest.mark.parametrize("prepare", [False, True])
@pytest.mark.parametrize("pattern", FIRST_ASKED)
def test_the_first_that_asks_in_a_pool_is_told_nobody_elses(
    start_pooler: StartBouncer, server: Cluster, size: int, prepare: bool, pattern: str
) -> None:
    *before, asks = FIRST_ASKED[pattern]
    if prepare and not before:
        pytest.skip("several statements")
    bouncer = keeping(start_pooler, server, size)
    strange(bouncer, size)
    with client(bouncer.port) as one:
        for text in before:
            one.execute(text)
        with pytest.raises(NOT_DEFINED):
            one.execute(asks, prepare=prepare)
        one.execute("ROLLBACK")


ANOTHERS, LAST = "SELECT currval('drawn_too_id_seq')", "SELECT lastval()"
UNSET = "SELECT setval('drawn_too_id_seq', 7, false)"
FAILS = "SELECT nextval('drawn_too_id_seq')"
LOCKED: dict[str, tuple[str, ...]] = {
    "the next one is set": (UNSET, ANOTHERS),
    "the last one's": (UNSET, LAST),
    "the last one is set": ("SELECT setval('drawn_too_id_seq', 7)", LAST),
    "the last one's, behind that which was set": ("SELECT setval('drawn_too_id_seq', 7)", ANOTHERS, LAST),
    "by its quoted name": (UNSET.replace("setval", '"setval"'), ANOTHERS),
    "by code": ("SELECT sets()", ANOTHERS),
    "by a trigger": ("UPDATE watched SET x = 2", ANOTHERS),
    "by a block": (f"DO $$ BEGIN PERFORM {UNSET[7:]}; END $$", ANOTHERS),
    "by a block of its own text": ("DO $$ BEGIN EXECUTE 'ALTER SEQUENCE drawn_too_' || 'id_seq CACHE 1'; END $$", LAST),
    "altered": ("ALTER SEQUENCE drawn_too_id_seq INCREMENT 1", ANOTHERS),
    "altered by its table": ("ALTER TABLE numbered ALTER n RESTART", "SELECT currval('numbered_n_seq')"),
    "begun anew": ("TRUNCATE drawn_too RESTART IDENTITY", LAST),
    "taken back": ("SAVEPOINT a", UNSET, "ROLLBACK TO a", ANOTHERS),
    "read only": ("SET TRANSACTION READ ONLY", "SAVEPOINT a", FAILS, "ROLLBACK TO a", ANOTHERS),
    "exhausted": ("SAVEPOINT a", "SELECT nextval('little')", "ROLLBACK TO a", "SELECT currval('little')"),
    "not allowed": (
        "SET LOCAL ROLE stranger", "SAVEPOINT a", "SELECT nextval('numbered_n_seq')", "ROLLBACK TO a", "RESET ROLE",
        "SELECT currval('numbered_n_seq')",
    ),
    "another's schema": (INSERT, "SET LOCAL search_path = elsewhere; SELECT currval('drawn_id_seq')"),
    "that of a setting": (
        INSERT,
        "SELECT set_config('search_path', 'elsewhere', true), currval(pg_get_serial_sequence('drawn', 'id'))",
    ),
    "renamed": (
        INSERT,
        "ALTER SEQUENCE drawn_id_seq RENAME TO x; ALTER SEQUENCE drawn_too_id_seq RENAME TO drawn_id_seq; "
        "SELECT currval('drawn_id_seq')",
    ),
}  # fmt: skip
LOCKING = """
DROP SCHEMA IF EXISTS elsewhere CASCADE; DROP TABLE IF EXISTS watched, numbered; DROP SEQUENCE IF EXISTS little;
CREATE SCHEMA elsewhere; CREATE TABLE elsewhere.drawn (id serial, x int); CREATE SEQUENCE little START 2 MAXVALUE 2;
CREATE TABLE numbered (n int GENERATED ALWAYS AS IDENTITY, x int); CREATE TABLE watched (x int);
INSERT INTO watched VALUES (1); CREATE FUNCTION sets() RETURNS bigint LANGUAGE sql AS
    'SELECT setval(''drawn_too_id_seq'', 7, false)';
CREATE FUNCTION set_by() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN PERFORM setval(''drawn_too_id_seq'', 7, false); RETURN NEW; END';
CREATE TRIGGER set_by BEFORE UPDATE ON watched FOR EACH ROW EXECUTE FUNCTION set_by(); CREATE ROLE stranger;
"""
LOCKING_GONE = """
DROP SCHEMA elsewhere CASCADE; DROP TABLE watched, numbered; DROP SEQUENCE little; DROP FUNCTION sets, set_by;
DROP ROLE stranger;
"""


@pytest.mark.slow
@pytest.mark.one_process("strangers have drawn from every server of one process")
@pytest.mark.parametrize("pattern", LOCKED)
def test_nor_is_who_has_only_locked_it(start_pooler: StartBouncer, server: Cluster, pattern: str) -> None:
    """To set it, to alter it and to fail to draw lock a sequence as to draw from it does; a text of several statements
    may mean another one than it says."""
    server.sql(LOCKING, dbname="app")
    bouncer = keeping(start_pooler, server, 1)
    try:
        drawn_elsewhere(bouncer)
        for port in (bouncer.port, server.port):
            with client(port) as one:
                one.execute("BEGIN")
                for text in LOCKED[pattern][:-1]:
                    with suppress(psycopg.Error):
                        one.execute(text)
                with pytest.raises(NOT_DEFINED):
                    one.execute(LOCKED[pattern][-1])
                one.execute("ROLLBACK")
    finally:
        server.sql(LOCKING_GONE, dbname="app")


@pytest.mark.slow
@pytest.mark.parametrize("between", ["SELECT 1 / 0", "SELEKT", "SELECT x FROM nothing", "SELECT 'a'::int"])
def test_what_was_set_is_its_clients(start_pooler: StartBouncer, server: Cluster, between: str) -> None:
    """Of who asks first, in the same transaction: also behind errors by which no sequence is locked."""
    bouncer = keeping(start_pooler, server, 1)
    strange(bouncer, 1)
    known(bouncer)
    for port in (bouncer.port, server.port):
        with client(port) as one:
            one.execute("BEGIN")
            one.execute("SELECT setval('drawn_too_id_seq', 7)")
            one.execute("SAVEPOINT a")
            with pytest.raises(psycopg.Error):
                one.execute(between)
            one.execute("ROLLBACK TO a")
            assert value(one, ANOTHERS) == 7
            one.execute("ROLLBACK")


def drawn_elsewhere(bouncer: Bouncer) -> None:
    """By others, of all that is asked for above."""
    for draw in ("elsewhere.drawn_id_seq", "numbered_n_seq", "little", "drawn_id_seq"):
        with client(bouncer.port) as one:
            one.execute(f"SELECT nextval('{draw}')")
    strange(bouncer, 1)
    known(bouncer)


@pytest.mark.one_process("over TLS a server of another worker's is opened anew, and has no stranger's values")
def test_nor_is_who_asks_again_behind_a_savepoint(start_pooler: StartBouncer, server: Cluster) -> None:
    """To ask for a value marks its sequence as one that the transaction has drawn from."""
    bouncer = keeping(start_pooler, server, 1)
    strange(bouncer, 1)
    with client(bouncer.port) as one, one.transaction():
        (drawn,) = one.execute(INSERT + " RETURNING id").fetchone() or (0,)
        for _ in range(2):
            with pytest.raises(NOT_DEFINED), one.transaction():
                one.execute("SELECT currval('drawn_too_id_seq')")
        with pytest.raises(NOT_DEFINED), one.transaction():
            # All the same: nobody can tell any more.
            one.execute("SELECT currval('drawn_id_seq')")
    with client(bouncer.port) as one, one.transaction():
        (drawn,) = one.execute(INSERT + " RETURNING id").fetchone() or (0,)
        assert value(one, "SELECT currval(pg_get_serial_sequence('drawn', 'id'))") == drawn
        assert value(one, "SELECT currval('drawn_id_seq')") == drawn


@pytest.mark.slow
@pytest.mark.one_process("each worker looks for the database's own code itself, and cannot look here")
@pytest.mark.parametrize("asked", ["lastval()", "currval(pg_get_serial_sequence('drawn', 'id'))"])
def test_where_the_server_may_not_be_asked_nothing_is_told(
    start_pooler: StartBouncer, server: Cluster, asked: str
) -> None:
    """And the transaction goes on from its savepoint."""
    server.sql("REVOKE SELECT ON pg_locks FROM PUBLIC", dbname="app")
    bouncer = keeping(start_pooler, server, 1)
    try:
        strange(bouncer, 1)
        with client(bouncer.port, user="trusty"):
            known(bouncer)
        with client(bouncer.port, user="trusty") as one, client(bouncer.port, user="trusty") as other:
            other.execute("INSERT INTO drawn_too (x) VALUES (1)")
            with one.transaction():
                one.execute(INSERT)
                with pytest.raises(NOT_DEFINED), one.transaction():
                    one.execute(f"SELECT {asked}")
                one.execute("SELECT 1")
    finally:
        server.sql("GRANT SELECT ON pg_locks TO PUBLIC", dbname="app")


def test_what_was_drawn_since_on_another_server_is_not_forgotten_silently(
    start_pooler: StartBouncer, server: Cluster
) -> None:
    """A server where nobody else was has its client's values of then, not those that it drew elsewhere, by code."""
    bouncer = start_pooler(
        server=server, default_pool_size=2, pool_mode="transaction", server_round_robin=1,
        sections={"pooler": {"session_state": "keep", "max_pinned": "100"}},
    )  # fmt: skip
    with client(bouncer.port) as one, client(bouncer.port) as other:
        other.execute("SELECT 1")
        with other.transaction():
            other.execute("SELECT 1")
            with pytest.raises(NOT_DEFINED):
                one.execute("SELECT lastval()")
        told: list[object] = []
        for text in 4 * (INSERT, "SELECT 1"):
            one.execute(text)
        for _ in range(4):
            (drawn,) = one.execute("SELECT drawn_by_code()").fetchone() or (None,)
            try:
                told.append(value(one, "SELECT lastval()") == drawn)
            except NOT_DEFINED:
                told.append(None)
        assert False not in told


BY_TRIGGER = """
DROP TABLE IF EXISTS audited; CREATE TABLE audited (n bigint); INSERT INTO audited VALUES (0);
CREATE OR REPLACE FUNCTION audits() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN NEW.n := nextval(''drawn_by_name''); RETURN NEW; END';
CREATE TRIGGER audits BEFORE UPDATE ON audited FOR EACH ROW EXECUTE FUNCTION audits();
"""


@pytest.mark.slow
@pytest.mark.one_process("what was drawn is lost by who has the same server")
@sizes
@pytest.mark.parametrize("draw", ["UPDATE audited SET n = 0 RETURNING n", "SELECT drawn_by_code()"])
@pytest.mark.parametrize("asked", ["lastval()", "currval('drawn_by_name')"])
def test_what_only_code_has_drawn_is_told_or_known_to_be_lost(
    start_pooler: StartBouncer, server: Cluster, size: int, draw: str, asked: str
) -> None:
    """Nothing is seen of it. In its own transaction it is told the first time; behind that, when others have drawn, it
    is an error, ahead of any use of a wrong value, and the log has named who asks."""
    server.sql(BY_TRIGGER, dbname="app")
    bouncer = keeping(start_pooler, server, size)
    strange(bouncer, size)
    try:
        with client(bouncer.port) as one, client(bouncer.port) as other:
            with one.transaction():
                drawn = value(one, draw)
                assert value(one, f"SELECT {asked}") == drawn
            for _ in range(3):
                drawn = value(one, draw)
                other.execute("INSERT INTO drawn_too (x) VALUES (1)")
                other.execute("SELECT nextval('drawn_by_name')")
                try:
                    assert value(one, f"SELECT {asked}") == drawn
                except NOT_DEFINED:
                    bouncer.wait_log("session state: sequence pins: SELECT (currval|lastval)")
                else:
                    assert size > 1
    finally:
        server.sql("DROP TABLE audited; DROP FUNCTION audits()", dbname="app")
