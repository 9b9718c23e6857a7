"""Functions, triggers, views and defaults that leave something in the session of whoever calls them: it follows or
pins as if it stood in the text, and a stranger who comes right behind never sees it. PostgreSQL 15 and 18 are real.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fixtures import stream
from tests.fixtures.cluster import Cluster
from tests.fixtures.process import WORKERS, Bouncer, StartBouncer
from tests.fixtures.states import CHANNELS, facts
from tests.fixtures.stream import Message, Stream
from tests.fixtures.waiting import until

Facts = list[bytes | None]
LOOKED = re.compile("names? of its own may leave|is looked at for session state")

PL = "LANGUAGE plpgsql AS $$ BEGIN {body} END $$"


def function(name: str, body: str, *, returns: str = "int", result: str = "RETURN 1;", arguments: str = "") -> str:
    return f"CREATE FUNCTION {name}({arguments}) RETURNS {returns} " + PL.format(body=f"{body}; {result}")


SETS = function("leaves", "PERFORM set_config('work_mem', '7MB', false)")
LOCKS = function("leaves", "PERFORM pg_advisory_lock(77)")
TRIGGER = function("leaves", "PERFORM set_config('work_mem', '7MB', false)", returns="trigger", result="RETURN NEW;")
TABLE = "CREATE TABLE held (x int, y text)"
ON_HELD = "CREATE TRIGGER t BEFORE INSERT OR UPDATE ON held FOR EACH ROW EXECUTE FUNCTION leaves()"

INNER_TRIGGER = function("inner_one", "PERFORM leaves()", returns="trigger", result="RETURN NEW;")
PART = "CREATE TABLE held PARTITION OF whole FOR VALUES IN (1)"

WAYS: dict[str, tuple[tuple[str, ...], str]] = {
    "a setting": ((SETS,), "SELECT leaves()"),
    "a setting, by SET": ((function("leaves", "SET work_mem = '7MB'"),), "SELECT leaves()"),
    "a setting, by a SET behind THEN": (
        (function("leaves", "IF true THEN SET work_mem = '7MB'; END IF"),),
        "SELECT leaves()",
    ),
    "a setting, by the view of them": (
        (function("leaves", "UPDATE pg_settings SET setting = '7MB' WHERE name = 'work_mem'"),),
        "SELECT leaves()",
    ),
    "a setting, by a rule": (
        (
            TABLE,
            "CREATE RULE r AS ON INSERT TO held DO ALSO "
            "UPDATE pg_settings SET setting = '7MB' WHERE name = 'work_mem'",
        ),
        "INSERT INTO held VALUES (1)",
    ),
    "a setting in SQL": (
        ("CREATE FUNCTION leaves() RETURNS text LANGUAGE sql AS $$ SELECT set_config('work_mem', '7MB', false) $$",),
        "SELECT leaves()",
    ),
    "a body that the server has read": (
        ("CREATE FUNCTION leaves() RETURNS text BEGIN ATOMIC SELECT set_config('work_mem', '7MB', false); END",),
        "SELECT leaves()",
    ),
    "what calls a body that the server has read": (
        (SETS, "CREATE FUNCTION outer_one() RETURNS int RETURN leaves()"),
        "SELECT outer_one()",
    ),
    "a name of one's own": ((function("leaves", "PERFORM set_config('my.var', 'x', false)"),), "SELECT leaves()"),
    "a name that is given": (
        (function("leaves", "PERFORM set_config(n, 'x', false)", arguments="n text"),),
        "SELECT leaves('my.var')",
    ),
    "a role": ((function("leaves", "SET ROLE trusty"),), "SELECT leaves()"),
    "a session's user": ((function("leaves", "SET SESSION AUTHORIZATION trusty"),), "SELECT leaves()"),
    "a search_path": (
        (function("leaves", "PERFORM set_config('search_path', 'a, public', false)"),),
        "SELECT leaves()",
    ),
    "a lock": ((LOCKS,), "SELECT leaves()"),
    "a temporary table": ((function("leaves", "CREATE TEMP TABLE IF NOT EXISTS tt (x int)"),), "SELECT leaves()"),
    "a channel": ((function("leaves", "EXECUTE 'LISTEN foo'"),), "SELECT leaves()"),
    "a statement": (
        (
            function(
                "leaves",
                "IF NOT EXISTS (SELECT FROM pg_prepared_statements WHERE from_sql) "
                "THEN EXECUTE 'PREPARE p AS SELECT 1'; END IF",
            ),
        ),
        "SELECT leaves()",
    ),
    "a text that is put together": (
        (function("leaves", "EXECUTE 'S' || 'ET work_mem = ''7MB'''"),),
        "SELECT leaves()",
    ),
    "a text, and back as rows": (
        (
            "CREATE FUNCTION leaves() RETURNS SETOF text LANGUAGE plpgsql AS $$ BEGIN "
            "RETURN QUERY EXECUTE 'SELECT set_config(''work_mem'', ''7MB'', false)'; END $$",
        ),
        "SELECT * FROM leaves()",
    ),
    "an escape": (
        (function("leaves", """PERFORM U&"set\\005fconfig"('work_mem', '7MB', false)"""),),
        "SELECT leaves()",
    ),
    "what calls it": ((SETS, function("outer_one", "PERFORM LEAVES()")), "SELECT Outer_One()"),
    "what calls what calls it": (
        (SETS, function("inner_one", "PERFORM leaves()"), function("outer_one", "PERFORM inner_one()")),
        "SELECT outer_one()",
    ),
    "a quoted name": ((SETS.replace("leaves", '"Leaves It"'),), 'SELECT "Leaves It"()'),
    "a name beyond ASCII": ((SETS.replace("leaves", "größe_1"),), "SELECT größe_1()"),
    "a name without ASCII": ((SETS.replace("leaves", "функция"),), "SELECT функция()"),
    "in a schema": (("CREATE SCHEMA s", SETS.replace("leaves", "s.leaves")), "SELECT s/**/./**/leaves()"),
    "in a condition": ((SETS,), "SELECT 1 FROM pg_class WHERE leaves() = 1 LIMIT 1"),
    "by a cursor": ((SETS,), "BEGIN; DECLARE c CURSOR FOR SELECT leaves(); FETCH c; COMMIT"),
    "a trigger": ((TABLE, TRIGGER, ON_HELD), "INSERT INTO held VALUES (1)"),
    "a trigger, by an update": (
        (TABLE, "INSERT INTO held VALUES (1)", TRIGGER, ON_HELD),
        "UPDATE public.held SET x = 2",
    ),
    "a trigger that calls it": (
        (
            TABLE,
            SETS,
            function("inner_one", "PERFORM leaves()", returns="trigger", result="RETURN NEW;"),
            ON_HELD.replace("leaves", "inner_one"),
        ),
        "WITH a AS (INSERT INTO held VALUES (1) RETURNING x) SELECT * FROM a",
    ),
    "a trigger of a partition": (
        (
            "CREATE TABLE whole (x int) PARTITION BY LIST (x)",
            "CREATE TABLE held PARTITION OF whole FOR VALUES IN (1)",
            TRIGGER,
            ON_HELD,
        ),
        "INSERT INTO whole VALUES (1)",
    ),
    "a trigger behind a view": (
        (TABLE, TRIGGER, ON_HELD, "CREATE VIEW shown AS SELECT x FROM held"),
        "INSERT INTO shown VALUES (1)",
    ),
    "a trigger behind a foreign key": (
        (
            "CREATE TABLE above (x int PRIMARY KEY)",
            "CREATE TABLE held (x int REFERENCES above ON UPDATE CASCADE)",
            "INSERT INTO above VALUES (1)",
            "INSERT INTO held VALUES (1)",
            TRIGGER,
            ON_HELD,
        ),
        "UPDATE above SET x = x + 1",
    ),
    "a trigger behind a function": (
        (TABLE, TRIGGER, ON_HELD, function("writes", "INSERT INTO held VALUES (1)")),
        "SELECT writes()",
    ),
    "a trigger that waits": (
        (
            TABLE,
            TRIGGER,
            ON_HELD.replace("TRIGGER", "CONSTRAINT TRIGGER")
            .replace("BEFORE", "AFTER")
            .replace("FOR EACH", "DEFERRABLE INITIALLY DEFERRED FOR EACH"),
        ),
        "BEGIN; INSERT INTO held VALUES (1); COMMIT",
    ),
    "a rule": (
        (TABLE, SETS, "CREATE RULE r AS ON INSERT TO held DO ALSO SELECT leaves()"),
        "INSERT INTO held VALUES (1)",
    ),
    "a view": (("CREATE VIEW shown AS SELECT set_config('work_mem', '7MB', false)",), "SELECT * FROM shown"),
    "a view that calls it": ((SETS, "CREATE VIEW shown AS SELECT leaves()"), "TABLE shown"),
    "a view of a view": (
        (SETS, "CREATE VIEW inner_one AS SELECT leaves()", "CREATE VIEW shown AS SELECT * FROM inner_one"),
        "SELECT * FROM shown",
    ),
    "a default": ((SETS, "CREATE TABLE held (x int, y int DEFAULT leaves())"), "INSERT INTO held VALUES (1)"),
    "a default of PostgreSQL's own": (
        ("CREATE TABLE held (x int, y text DEFAULT set_config('work_mem', '7MB', false))",),
        "INSERT INTO held VALUES (1)",
    ),
    "a condition of a table": ((SETS, "CREATE TABLE held (x int CHECK (leaves() = x))"), "INSERT INTO held VALUES (1)"),
    "a domain": (
        (SETS, "CREATE DOMAIN d AS int CHECK (leaves() = VALUE)", "CREATE TABLE held (x d)"),
        "INSERT INTO held VALUES (1)",
    ),
    "a policy": (
        (
            TABLE,
            "INSERT INTO held VALUES (1)",
            SETS,
            "ALTER TABLE held ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
            "CREATE POLICY p ON held USING (leaves() = 1)",
            "GRANT ALL ON held TO PUBLIC",
        ),
        "SELECT * FROM held",
    ),
    "an operator": (
        (
            function("leaves", "PERFORM set_config('work_mem', '7MB', false)", arguments="a int, b int"),
            "CREATE OPERATOR === (LEFTARG = int, RIGHTARG = int, FUNCTION = leaves)",
        ),
        "SELECT 1 === 2",
    ),
    "a cast": (
        (
            "CREATE TYPE odd AS (x int)",
            function("leaves", "PERFORM set_config('work_mem', '7MB', false)", arguments="a odd"),
            "CREATE CAST (odd AS int) WITH FUNCTION leaves(odd)",
        ),
        "SELECT ROW(1)::odd::int",
    ),
    "an aggregate": (
        (
            function("leaves", "PERFORM set_config('work_mem', '7MB', false)", arguments="a int, b int"),
            "CREATE AGGREGATE gathered(int) (SFUNC = leaves, STYPE = int, INITCOND = '0')",
        ),
        "SELECT gathered(1)",
    ),
    "an event trigger": (
        (
            function("leaves", "SET work_mem = '7MB'", returns="event_trigger", result=""),
            "CREATE EVENT TRIGGER leaving ON ddl_command_end EXECUTE FUNCTION leaves()",
        ),
        "COMMENT ON SCHEMA public IS 'x'",
    ),
}
AWAY = (
    "DROP EVENT TRIGGER IF EXISTS leaving; DROP SCHEMA IF EXISTS s CASCADE; DROP SCHEMA public CASCADE; "
    "CREATE SCHEMA public; GRANT ALL ON SCHEMA public TO PUBLIC"
)
OWN_NAMES = ("a name of one's own", "a name that is given")
"""No server lists them: as long as the code is not known they do not follow."""
HARMLESS: dict[str, tuple[tuple[str, ...], str]] = {
    "for the transaction": (
        (function("leaves", "PERFORM set_config('work_mem', '7MB', true); UPDATE t SET x = 1"),),
        "SELECT leaves()",
    ),
    "a lock of the transaction": ((function("leaves", "PERFORM pg_advisory_xact_lock(1)"),), "SELECT leaves()"),
    "by a clause": (
        ("CREATE FUNCTION leaves() RETURNS int LANGUAGE sql SET work_mem = '7MB' AS 'SELECT 1'",),
        "SELECT leaves()",
    ),
    "a trigger, of who reads": ((TABLE, TRIGGER, ON_HELD), "SELECT * FROM held"),
    "a name within another": ((SETS,), "SELECT 1 AS leavesx, 2 AS x_leaves"),
}


def keep(policy: str = "keep", **settings: Any) -> dict[str, Any]:
    sections = {"pooler": {"session_state": policy, "max_pinned": "100"}}
    return {"pool_mode": "transaction", "server_tls_sslmode": "disable", "sections": sections, **settings}


@pytest.fixture(params=["debian", pytest.param("newest", marks=pytest.mark.slow)])
def server(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    made: Cluster = request.getfixturevalue("cluster" if request.param == "debian" else "newest_cluster")
    made.sql(AWAY, dbname="app")
    yield made
    made.sql(AWAY, dbname="app")


def come(port: int, user: str = "postgres") -> Stream:
    return Stream(("127.0.0.1", port), timeout=10).login("app", user)


def errors(heard: list[Message]) -> list[str]:
    return [message.error["C"] for message in heard if message.type == "E"]


def known(bouncer: Bouncer, *clients: Stream) -> None:
    """Until the pooler has asked for the database's code: each worker that these are in, by a server of its own."""
    several = max(1, min(len(clients), int(WORKERS or 1)))

    def asked() -> bool:
        for one in clients:
            one.query("SELECT 1")
        return len(LOOKED.findall(bouncer.log.read_text())) >= several

    until(asked, "the code to be known")


def make(server: Cluster, statements: tuple[str, ...]) -> None:
    with come(server.port) as direct:
        for statement in statements:
            assert not errors(direct.query(statement)), statement


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("how", ["at once", "later", "named"])
def test_what_code_leaves_follows_and_nobody_else_has_it(
    start_pooler: StartBouncer, server: Cluster, way: str, how: str
) -> None:
    makes, sql = WAYS[way]
    user = "trusty" if way == "a policy" else "postgres"
    make(server, makes)
    with come(server.port, user) as direct:
        fresh = facts(direct)
        assert not errors(direct.query(sql))
        wanted = facts(direct)
    assert wanted != fresh
    bouncer = start_pooler(server=server, default_pool_size=2, **keep())
    with come(bouncer.port, user) as stranger, come(bouncer.port, user) as one:
        if how != "at once":
            known(bouncer, stranger, one)
        for number in range(2):
            if how == "named" and ";" not in sql:
                parse = [stream.parse(sql, "n")] if number == 0 else []
                one.send(*parse, stream.bind((), "n"), stream.execute(), stream.sync())
                assert not errors(one.until("Z"))
            else:
                assert not errors(one.query(sql))
            for _ in range(3):
                assert facts(stranger) == fresh
            if how != "at once" or way not in OWN_NAMES:
                assert without_channels(facts(one)) == without_channels(wanted)
                assert told_of(one, server) == (wanted[CHANNELS] is not None)
        one.socket.close()
        for _ in range(3):
            assert facts(stranger) == fresh


def without_channels(found: Facts) -> Facts:
    return found[:CHANNELS] + found[CHANNELS + 1 :]


def told_of(one: Stream, server: Cluster) -> bool:
    """Whether it hears of a notification."""
    server.sql("NOTIFY foo", dbname="app")
    heard = [message.type for _ in range(2) for message in one.query("SELECT pg_sleep(0.05)")]
    return "A" in heard


@pytest.mark.slow
@pytest.mark.parametrize("way", HARMLESS)
def test_what_leaves_nothing_is_not_looked_at(start_pooler: StartBouncer, server: Cluster, way: str) -> None:
    makes, sql = HARMLESS[way]
    make(server, ("CREATE TABLE t (x int)", *makes, SETS.replace("leaves", "other_one")))
    bouncer = start_pooler(server=server, default_pool_size=1, **keep())
    with come(bouncer.port) as one:
        one.query("SELECT 1")
        known(bouncer, one)
        for _ in range(3):
            assert not errors(one.query(sql)) or "leavesx" in sql
        assert not looks(bouncer)
        one.query("SELECT other_one()")
        assert looks(bouncer)


def looks(bouncer: Bouncer) -> list[Any]:
    return [row for row in bouncer.admin("SHOW EVENTS") if row["kind"] == "session_state"]


def test_what_a_client_makes_is_known_to_all(start_pooler: StartBouncer, server: Cluster) -> None:
    """Also to those of another user, to a transaction that was open before, and to a statement prepared before."""
    bouncer = start_pooler(server=server, default_pool_size=3, **keep())
    with come(server.port) as direct:
        fresh = facts(direct)
    with come(bouncer.port) as maker, come(bouncer.port) as one, come(bouncer.port, "trusty") as other:
        strangers = [come(bouncer.port), come(bouncer.port, "trusty")]
        other_fresh = facts(strangers[1])
        assert not errors(maker.query(function("leaves", "NULL")))
        bouncer.admin("SHOW POOLS")
        for client in (one, other):
            client.send(stream.parse("SELECT leaves()", "n"), stream.bind((), "n"), stream.execute(), stream.sync())
            assert not errors(client.until("Z"))
        one.query("BEGIN")
        assert not errors(maker.query(SETS.replace("FUNCTION", "OR REPLACE FUNCTION")))
        for client in (one, other):
            # Whoever locks something hears of what others have made.
            client.query("SELECT count(*) FROM pg_tables")
            client.send(stream.bind((), "n"), stream.execute(), stream.sync())
            assert not errors(client.until("Z"))
        one.query("COMMIT")
        for _ in range(3):
            assert facts(strangers[0]) == fresh
            assert facts(strangers[1]) == other_fresh
        assert facts(one) != fresh
        assert facts(other) != other_fresh
        for stranger in strangers:
            stranger.socket.close()


def test_what_is_made_past_the_pooler_is_known_when_something_is_made(
    start_pooler: StartBouncer, server: Cluster
) -> None:
    bouncer = start_pooler(server=server, default_pool_size=1, **keep())
    with come(bouncer.port) as one, come(bouncer.port) as stranger:
        fresh = facts(stranger)
        make(server, (LOCKS,))
        assert not errors(one.query("CREATE VIEW v AS SELECT 1"))
        known(bouncer, one, stranger)
        assert not errors(one.query("SELECT leaves()"))
        assert bouncer.pool()["sv_active"] == 1
        one.query("SELECT pg_advisory_unlock(77)")
        assert facts(stranger) == fresh


@pytest.mark.slow
@pytest.mark.parametrize("way", ["a setting", "a lock", "a trigger", "a text that is put together"])
def test_what_is_refused_is_refused_behind_a_name_too(start_pooler: StartBouncer, server: Cluster, way: str) -> None:
    makes, sql = WAYS[way]
    make(server, makes)
    bouncer = start_pooler(server=server, default_pool_size=2, **keep(policy="refuse"))
    with come(bouncer.port) as one, come(bouncer.port) as stranger:
        fresh = facts(stranger)
        # As long as it is not known nothing is refused, and nobody else has it.
        one.query(sql)
        assert facts(stranger) == fresh
        one.query("DISCARD ALL")
        known(bouncer, one, stranger)
        assert errors(one.query(sql)) == ["0A000"]
        one.send(stream.parse(sql), stream.bind(), stream.execute(), stream.sync())
        assert errors(one.until("Z")) == ["0A000"]
        assert facts(one) == facts(stranger) == fresh


@pytest.mark.slow
def test_who_may_not_read_the_code_has_everything_looked_at(start_pooler: StartBouncer, server: Cluster) -> None:
    make(server, (LOCKS, SETS.replace("leaves", "sets_it")))
    with come(server.port) as direct:
        direct.query("REVOKE SELECT ON pg_catalog.pg_proc FROM PUBLIC")
    try:
        bouncer = start_pooler(server=server, default_pool_size=2, **keep())
        with come(bouncer.port, "trusty") as one, come(bouncer.port, "trusty") as stranger:
            fresh = facts(stranger)
            bouncer.wait_log("WARNING app: every transaction is looked at .* permission denied")
            for sql in ("SELECT sets_it()", "SELECT leaves()"):
                assert not errors(one.query(sql))
                for _ in range(3):
                    assert facts(stranger) == fresh
            assert one.rows("SELECT count(*) FROM pg_locks WHERE objid = 77") == [[b"1"]]
            one.socket.close()
            until(lambda: facts(stranger) == fresh)
            until(lambda: stranger.rows("SELECT count(*) FROM pg_locks WHERE objid = 77") == [[b"0"]])
    finally:
        with come(server.port) as direct:
            direct.query("GRANT SELECT ON pg_catalog.pg_proc TO PUBLIC")


@pytest.mark.slow
@pytest.mark.parametrize("size", [70_000, 300_000])
def test_a_long_text_that_calls_leaves_nothing(start_pooler: StartBouncer, server: Cluster, size: int) -> None:
    make(server, (TABLE, TRIGGER, ON_HELD))
    bouncer = start_pooler(server=server, default_pool_size=1, **keep())
    with come(bouncer.port) as one, come(bouncer.port) as stranger:
        fresh = facts(stranger)
        known(bouncer, one, stranger)
        assert not errors(one.query(f"SELECT '{'x' * size}'; INSERT INTO held VALUES (1)"))
        bouncer.wait_log(r"session state: code \w+: \(too long to be read\)")
        for _ in range(3):
            assert facts(stranger) == fresh
        until(lambda: bouncer.pool()["sv_active"] == 0)


def test_an_unnamed_statement_of_an_earlier_transaction_leaves_nothing(
    start_pooler: StartBouncer, server: Cluster
) -> None:
    bouncer = start_pooler(server=server, default_pool_size=1, **keep())
    with come(bouncer.port) as one, come(bouncer.port) as stranger:
        fresh = facts(stranger)
        one.send(stream.parse("SELECT set_config('work_mem', '7MB', false)"), stream.sync())
        assert not errors(one.until("Z"))
        one.send(stream.bind(), stream.execute(), stream.sync())
        one.until("Z")
        for _ in range(3):
            assert facts(stranger) == fresh
