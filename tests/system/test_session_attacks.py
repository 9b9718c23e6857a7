"""By what a setting, a role, a lock or a temporary table of one client could reach another under `keep` and `refuse`:
looks that fail, clients that vanish, servers that are killed, a configuration that changes. PostgreSQL is real.
"""

from __future__ import annotations

import random
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from pooler import routines
from tests.fixtures import stream
from tests.fixtures.cluster import Cluster
from tests.fixtures.process import WORKERS, Bouncer, StartBouncer
from tests.fixtures.states import MADE, Author, facts, talk
from tests.fixtures.stream import Ended, Message, Stream
from tests.fixtures.waiting import until
from tests.system.test_restart import restart

Facts = list[bytes | None]


def keep(most: int = 100, policy: str = "keep", **settings: Any) -> dict[str, Any]:
    sections = {"pooler": {"session_state": policy, "max_pinned": str(most)}}
    return {"pool_mode": "transaction", "server_tls_sslmode": "disable", "sections": sections, **settings}


def come(bouncer: Bouncer, **parameters: str) -> Stream:
    user = parameters.pop("user", "postgres")
    return Stream(("127.0.0.1", bouncer.port), timeout=10).login("app", user, **parameters)


def errors(heard: list[Message]) -> list[str]:
    return [message.error["C"] for message in heard if message.type == "E"]


@pytest.fixture(scope="module")
def made(cluster: Cluster) -> Cluster:
    cluster.sql(MADE, dbname="app")
    return cluster


@pytest.fixture
def fresh(made: Cluster) -> Facts:
    with Stream(("127.0.0.1", made.port)) as plain:
        plain.login("app")
        return facts(plain)


def pinned(bouncer: Bouncer) -> int:
    return int(bouncer.pool()["sv_active"])


# ---- looks that fail


def test_a_client_whose_time_limit_ends_our_looks_keeps_what_it_has(
    start_pooler: StartBouncer, made: Cluster, fresh: Facts
) -> None:
    bouncer = start_pooler(default_pool_size=2, **keep())
    with come(bouncer) as one, come(bouncer) as stranger:
        one.query("SET statement_timeout = '1ms'")
        last = b""
        for n in range(20):
            # The limit may end the block itself.
            if not errors(one.query(f"DO $$ BEGIN PERFORM set_config('my.var', '{n}', false); END $$")):
                last = b"%d" % n
            assert facts(stranger) == fresh
        one.query("SET statement_timeout = 0")
        assert facts(one)[1] == last
        one.socket.close()
        for _ in range(3):
            assert facts(stranger) == fresh
    until(lambda: pinned(bouncer) == 0, "nothing to be pinned")


RIGHTS = ("SELECT ON pg_catalog.pg_locks", "EXECUTE ON FUNCTION pg_catalog.pg_lock_status()")
HOLDS = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = 77"
PID = "SELECT pg_backend_pid()"


@pytest.fixture(params=RIGHTS)
def secret(request: pytest.FixtureRequest, made: Cluster) -> Iterator[Cluster]:
    """A database whose locks nobody may see."""
    made.sql(f"REVOKE {request.param} FROM PUBLIC", dbname="app")
    yield made
    made.sql(f"GRANT {request.param} TO PUBLIC", dbname="app")


def test_a_lock_stays_with_its_client_where_nobody_may_look_for_it(start_pooler: StartBouncer, secret: Cluster) -> None:
    """And its server is closed when it goes: nobody else has it. The log says why, and each worker not each time."""
    bouncer = start_pooler(default_pool_size=2, **keep())
    with come(bouncer, user="trusty") as one, come(bouncer, user="trusty") as stranger:
        for text in ("BEGIN", "SELECT pg_advisory_lock(77)", "COMMIT"):
            assert not errors(one.query(text))
        ((holder,),) = secret.sql(HOLDS, dbname="app")
        told = [[str(holder).encode()]]
        for _ in range(5):
            assert one.rows("SELECT pg_backend_pid(), set_config('my.var', 'x', false) IS NULL")[0][:1] == told[0]
            assert stranger.rows(PID) != told
        bouncer.wait_log("session state is not known: .*permission denied for (view|function) pg_lock")
        said = {line for line in bouncer.log_text().splitlines() if "is not known: " in line}
        assert len(said) <= int(WORKERS or 1)
        one.socket.close()
        until(lambda: not secret.sql(HOLDS, dbname="app"), "the lock to go with its client")
        alive = f"SELECT count(*) FROM pg_stat_activity WHERE pid = {holder}"
        until(lambda: secret.sql(alive, dbname="app") == [(0,)], "its server to be closed")
        assert stranger.rows(PID) != told
        with come(bouncer, user="trusty") as other:
            other.query("BEGIN")
            assert stranger.rows(PID) != told != other.rows(PID)


@pytest.mark.one_process("of what may be pinned each worker has one at least")
def test_a_look_that_fails_does_not_fail_the_transaction(start_pooler: StartBouncer, secret: Cluster) -> None:
    """Where as many are kept as may be: what was asked is answered, and what it held is lost with its connection."""
    bouncer = start_pooler(default_pool_size=2, **keep(1))
    with come(bouncer, user="trusty") as first, come(bouncer, user="trusty") as one:
        assert not errors(first.query("SELECT pg_advisory_lock(78)"))
        assert not errors(first.query(PID))
        for text in ("BEGIN", "CREATE TABLE IF NOT EXISTS kept_by_commit ()", "DO $$ BEGIN END $$"):
            assert not errors(one.query(text))
        heard = one.query("COMMIT")
        assert [message.type for message in heard] == ["C", "Z"]
        last = one.rest()[-1]
        assert (last.type, last.error["S"]) == ("E", "FATAL")
        assert "session state is not known" in last.error["M"]
        assert not errors(first.query(PID))
    until(lambda: not secret.sql(HOLDS.replace("77", "78"), dbname="app"), "the lock to go with its client")
    assert secret.sql("SELECT count(*) FROM kept_by_commit", dbname="app")
    secret.sql("DROP TABLE kept_by_commit", dbname="app")


@pytest.mark.parametrize("size", [100_000, 3_000_000])
def test_a_long_value_follows_or_keeps_its_server(
    start_pooler: StartBouncer, made: Cluster, fresh: Facts, size: int
) -> None:
    bouncer = start_pooler(default_pool_size=2, **keep())
    with come(bouncer) as one, come(bouncer) as stranger:
        one.query(f"SET my.other = 'y'; SELECT set_config('my.var', repeat('x', {size}), false) IS NULL")
        for _ in range(2):
            assert facts(stranger) == fresh
            assert facts(one)[1:3] == [b"x" * size, b"y"]
        one.socket.close()
        assert facts(stranger) == fresh
    until(lambda: pinned(bouncer) == 0, "nothing to be pinned")


HOSTILE = """
DROP SCHEMA IF EXISTS evil CASCADE;
CREATE SCHEMA evil;
CREATE TABLE evil.called (what text);
GRANT ALL ON SCHEMA evil TO PUBLIC; GRANT ALL ON evil.called TO PUBLIC;
CREATE FUNCTION evil.caught(text) RETURNS bool LANGUAGE sql AS 'INSERT INTO evil.called VALUES ($1); SELECT true';
CREATE FUNCTION evil.current_setting(text, bool) RETURNS text LANGUAGE sql AS
    $$SELECT evil.caught('current_setting')::text$$;
CREATE FUNCTION evil.set_config(text, text, bool) RETURNS text LANGUAGE sql AS
    $$SELECT evil.caught('set_config')::text$$;
CREATE FUNCTION evil.pg_backend_pid() RETURNS int LANGUAGE sql AS $$SELECT evil.caught('pid')::int$$;
CREATE FUNCTION evil.eq(text, text) RETURNS bool LANGUAGE sql AS $$SELECT evil.caught('=')$$;
CREATE FUNCTION evil.eq(int, int) RETURNS bool LANGUAGE sql AS $$SELECT evil.caught('=')$$;
CREATE FUNCTION evil.eq(oid, oid) RETURNS bool LANGUAGE sql AS $$SELECT evil.caught('=')$$;
CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.eq);
CREATE OPERATOR evil.= (LEFTARG = int, RIGHTARG = int, FUNCTION = evil.eq);
CREATE OPERATOR evil.= (LEFTARG = oid, RIGHTARG = oid, FUNCTION = evil.eq);
CREATE VIEW evil.pg_settings AS
    SELECT evil.caught('pg_settings')::text AS name, ''::text AS setting, ''::text AS source;
CREATE VIEW evil.pg_locks AS SELECT evil.caught('pg_locks')::text AS locktype, 1 AS pid;
CREATE DOMAIN evil.text AS pg_catalog.text CHECK (evil.caught('text'));
CREATE DOMAIN evil.oid AS pg_catalog.oid CHECK (evil.caught('oid'));
"""


def test_what_is_asked_of_code_calls_nothing_of_a_hostile_path(made: Cluster) -> None:
    """By any server that comes free, whatever path its last client has set."""
    made.sql(HOSTILE, dbname="app")
    try:
        with Stream(("127.0.0.1", made.port)).login("app") as direct:
            direct.query("SET search_path = evil, pg_catalog")
            seeds = {("1255", "16384"): 1, ("1259", "16385"): 1, ("1247", "16386"): 1}
            for question in (routines.changes(), routines.sources(), routines.callers(seeds)):
                assert not errors(direct.query(question.decode()))
        assert made.sql("SELECT * FROM evil.called", dbname="app") == []
    finally:
        made.sql("DROP SCHEMA evil CASCADE", dbname="app")


def test_nothing_of_a_hostile_path_is_called(start_pooler: StartBouncer, made: Cluster, fresh: Facts) -> None:
    made.sql(HOSTILE, dbname="app")
    try:
        bouncer = start_pooler(default_pool_size=2, **keep())
        with come(bouncer) as one, come(bouncer) as stranger:
            for sql in (
                "SET search_path = evil, pg_catalog",
                "DO ''",
                "DO $$ BEGIN PERFORM pg_catalog.set_config('work_mem', '7MB', false); END $$",
                "SELECT pg_catalog.pg_advisory_lock(1)",
                "SELECT pg_catalog.pg_advisory_unlock(1)",
                "SET row_security = off",
                "SET default_transaction_read_only = on",
                "SET my.var = 'x'",
                "CREATE TEMP TABLE tt ()",
                "DROP TABLE tt",
                "RESET ALL",
            ):
                one.query(sql)
                assert facts(stranger) == fresh, sql
        assert made.sql("SELECT * FROM evil.called", dbname="app") == []
    finally:
        made.sql("DROP SCHEMA evil CASCADE", dbname="app")


def test_what_one_may_not_reset_costs_the_server_and_not_the_next_client(
    start_pooler: StartBouncer, made: Cluster
) -> None:
    """A function with a superuser's rights sets what its caller may not put back."""
    made.sql(
        "CREATE OR REPLACE PROCEDURE logs() LANGUAGE plpgsql SECURITY DEFINER AS "
        "$$ BEGIN PERFORM set_config('log_min_messages', 'error', false); END $$",
        dbname="app",
    )
    bouncer = start_pooler(default_pool_size=1, **keep())
    show = "SHOW log_min_messages"
    with come(bouncer, user="trusty") as one, come(bouncer, user="trusty") as stranger:
        plain = stranger.rows(show)
        one.query("CALL logs()")
        assert stranger.rows(show) == plain
        assert stranger.rows(show) == plain


# ---- what a text hides

HIDDEN = (
    "UPDATE pg_settings SET setting = '7MB' WHERE name = 'work_mem'",
    "WITH x AS (SELECT 1) UPDATE pg_catalog.\"pg_settings\" AS s SET setting = '7MB' FROM x WHERE name = 'work_mem'",
    "/* /* */ x */ SET work_mem = '7MB'",
    "-- a comment\rSET work_mem = '7MB'",
    "SET my.var TO none",
    "SET \"My.Ünfug\" = 'x'",
    "RESET work_mem; SET work_mem = '7MB'",
    "SELECT $€$ ' $€$; SET work_mem = '7MB' --'",
    "SELECT 1 AS x\u00a0$a$; SET work_mem = '7MB'; SELECT 1 AS y\u00a0$a$",
    "SELECT query_to_xml('SELECT set_config(''work_mem'', ''7MB'', false)', true, false, '')",
    "SET SESSION AUTHORIZATION trusty",
    "DO $$ BEGIN EXECUTE 'SET SESSION AUTHORIZATION trusty'; END $$",
    "DO $$ BEGIN PERFORM set_config('my.' || 'var', 'x', false); END $$",
    "SET LOCAL search_path = 'pg_temp'; CREATE TABLE tt ()",
    "SELECT set_config('search_path', 'pg_' || 'temp', true); CREATE TABLE tt ()",
)


@pytest.mark.slow
@pytest.mark.parametrize("pieces", [None, 1])
def test_what_hides_is_seen(start_pooler: StartBouncer, made: Cluster, fresh: Facts, pieces: int | None) -> None:
    bouncer = start_pooler(default_pool_size=1, **keep())
    with come(bouncer) as stranger:
        for sql in HIDDEN:
            with come(bouncer) as one:
                one.piece = pieces
                # Not every build has libxml.
                assert errors(one.query(sql)) in ([], ["0A000"] if "xml" in sql else []), sql
                if "tt" not in sql:
                    assert facts(stranger) == fresh, sql
            assert facts(stranger) == fresh, sql
        until(lambda: bouncer.pool()["sv_active"] == 0)


DOCUMENT = "Don''t execute; set; do or declare a temporary thing: /* -- \"; create temp x; select set_config(" * 1_000
"""Of more than the relay collects, between the quotes of a constant."""
AHEAD = (
    f"SELECT '{DOCUMENT}'; ",
    f"/* isn't {'x' * 100_000} */ ",
    f"-- isn't {'x' * 100_000}\n",
    f"SELECT '' AS \"isn't {'x' * 100_000}\"; ",
    f"SELECT E'isn\\'t {'x' * 100_000}'; ",
    f"SELECT $a$ isn't {'x' * 100_000} $a$; ",
    f"/* isn't /* nested */ {'x' * 100_000} */ ",
)


@pytest.mark.slow
@pytest.mark.parametrize("ahead", AHEAD, ids=[text[:20] for text in AHEAD])
def test_what_hides_in_a_long_text_is_seen(
    start_pooler: StartBouncer, made: Cluster, fresh: Facts, ahead: str
) -> None:
    bouncer = start_pooler(default_pool_size=1, **keep())
    with come(bouncer) as stranger:
        for sql in HIDDEN:
            with come(bouncer) as one:
                assert errors(one.query(ahead + sql)) in ([], ["0A000"] if "xml" in sql else []), sql
            assert facts(stranger) == fresh, sql


@pytest.mark.parametrize("policy", ["keep", "refuse"])
@pytest.mark.parametrize("pieces", [None, pytest.param(5_000, marks=pytest.mark.slow)])
def test_a_long_document_leaves_nothing(
    start_pooler: StartBouncer, made: Cluster, policy: str, pieces: int | None
) -> None:
    """Whatever stands in it, the server is anybody's behind it."""
    bouncer = start_pooler(default_pool_size=1, **keep(policy=policy))
    with come(bouncer) as one, come(bouncer) as other:
        one.piece = pieces
        ((told,),) = one.rows(f"SELECT length('{DOCUMENT}')")
        assert int(told or b"") == len(DOCUMENT.replace("''", "'"))
        assert other.rows("SELECT 1") == [[b"1"]]
        assert bouncer.admin("SHOW SESSION_STATE") == []


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "policy"), [("statement", "keep"), ("session", "keep"), ("session", "refuse")])
def test_what_hides_in_other_modes(
    start_pooler: StartBouncer, made: Cluster, fresh: Facts, mode: str, policy: str
) -> None:
    """In a session nothing has to be refused: it is reset when its client goes."""
    bouncer = start_pooler(default_pool_size=1, **keep(policy=policy) | {"pool_mode": mode})
    for sql in HIDDEN:
        with come(bouncer) as one:
            assert errors(one.query(sql)) in ([], ["0A000"] if "xml" in sql else []), sql
        with come(bouncer) as stranger:
            assert facts(stranger) == fresh, sql


@pytest.mark.parametrize("way", ["simple", "unnamed", "named", "call"])
def test_what_is_refused_is_refused_however_it_is_said(
    start_pooler: StartBouncer, made: Cluster, fresh: Facts, way: str
) -> None:
    bouncer = start_pooler(default_pool_size=2, **keep(policy="refuse"))
    with come(bouncer) as one, come(bouncer) as stranger:
        for sql in HIDDEN:
            if way == "simple":
                heard = one.query(sql)
            elif way == "call":
                one.send(stream.function_call(2078, ("work_mem", "7MB", b"t")))
                heard = one.until("Z")
            elif sql.startswith(("RESET", "SELECT $", "SELECT 1", "SET LOCAL", "SELECT set_config")):
                continue
            else:
                name = "n" if way == "named" else ""
                one.send(stream.parse(sql, name), stream.bind((), name), stream.execute(), stream.sync())
                heard = one.until("Z")
            assert errors(heard) == ["0A000"] or "set_config('search_path'" in sql, (sql, heard)
            assert facts(stranger) == fresh, sql


def test_names_that_are_the_servers_pin_it(start_pooler: StartBouncer, made: Cluster, fresh: Facts) -> None:
    """Without max_prepared_statements nobody but the server knows what a name means."""
    bouncer = start_pooler(default_pool_size=2, **keep(max_prepared_statements=0))
    with come(bouncer) as one, come(bouncer) as stranger:
        one.send(stream.parse("SET work_mem = '7MB'", "s"), stream.parse("SELECT 1", "t"), stream.sync())
        assert not errors(one.until("Z"))
        one.send(stream.bind((), "s"), stream.execute(), stream.sync())
        assert not errors(one.until("Z"))
        for _ in range(3):
            assert facts(stranger) == fresh
    with come(bouncer) as another:
        assert facts(another) == fresh


def test_a_name_that_comes_with_the_values_follows(start_pooler: StartBouncer, made: Cluster, fresh: Facts) -> None:
    bouncer = start_pooler(default_pool_size=1, **keep())
    sql = "SELECT set_config($1, $2, false)"
    with come(bouncer) as one, come(bouncer) as stranger:
        for n, statement in enumerate(("", "n", "n", "")):
            parse = [stream.parse(sql, statement)] if n < 2 or not statement else []
            one.send(*parse, stream.bind(["My.Var", str(n)], statement), stream.execute(), stream.sync())
            assert not errors(one.until("Z"))
            assert facts(stranger) == fresh
            assert facts(one)[1] == str(n).encode()


def test_a_path_to_temporary_tables_from_the_start(start_pooler: StartBouncer, made: Cluster, fresh: Facts) -> None:
    bouncer = start_pooler(default_pool_size=2, **keep())
    with come(bouncer) as stranger:
        with come(bouncer, search_path="pg_temp, public") as one:
            one.query("CREATE TABLE tt ()")
            for _ in range(3):
                assert facts(stranger) == fresh
            assert facts(one)[8] == b"{tt}"
        for _ in range(3):
            assert facts(stranger) == fresh


# ---- the configuration changes


@pytest.mark.one_process("what leaks is seen by who has the same server")
@pytest.mark.parametrize("policy", ["keep", "refuse"])
def test_what_has_leaked_goes_when_nothing_may_leak_any_more(
    start_pooler: StartBouncer, made: Cluster, fresh: Facts, policy: str
) -> None:
    bouncer = start_pooler(default_pool_size=1, **keep(policy="leak"))
    with come(bouncer) as one, come(bouncer) as stranger:
        one.query("SET work_mem = '7MB'")
        assert facts(stranger) != fresh
        bouncer.sections["pooler"]["session_state"] = policy
        bouncer.write()
        bouncer.admin("RELOAD")
        assert facts(stranger) == fresh


def test_a_statement_of_before_is_refused_where_it_is_bound(
    start_pooler: StartBouncer, made: Cluster, fresh: Facts
) -> None:
    bouncer = start_pooler(default_pool_size=1, **keep())
    with come(bouncer) as one, come(bouncer) as stranger:
        one.send(stream.parse("SELECT set_config('my.var', $1, false)", "n"), stream.sync())
        assert not errors(one.until("Z"))
        bouncer.sections["pooler"]["session_state"] = "refuse"
        bouncer.write()
        bouncer.admin("RELOAD")
        for value in ("x", "x" * 200_000):
            one.send(stream.bind([value], "n"), stream.execute(), stream.sync())
            assert errors(one.until("Z")) == ["0A000"]
            assert facts(stranger) == facts(one) == fresh


@pytest.mark.one_process("of what may be pinned each worker has one at least")
def test_a_prepared_lock_counts_as_one(start_pooler: StartBouncer, made: Cluster) -> None:
    bouncer = start_pooler(default_pool_size=2, **keep(most=1))
    with come(bouncer) as one, come(bouncer) as two:
        for client in (one, two):
            client.send(stream.parse("SELECT pg_advisory_lock($1::int)", "n"), stream.sync())
            assert not errors(client.until("Z"))
        bound = [stream.bind(["1"], "n"), stream.execute(), stream.sync()]
        one.send(*bound)
        assert not errors(one.until("Z"))
        bouncer.wait_log("its server stays with it for advisory_lock")
        two.send(*bound)
        assert errors(two.until("Z")) == ["0A000"]


# ---- notifications, cancels, the administrator


@pytest.mark.slow
def test_notifications_come_to_the_one_who_listens(start_pooler: StartBouncer, made: Cluster) -> None:
    """Also while its server answers a question of ours."""
    bouncer = start_pooler(default_pool_size=3, **keep())
    with come(bouncer) as one, come(bouncer) as stranger, Stream(("127.0.0.1", made.port)) as notifier:
        notifier.login("app")
        one.query("LISTEN a")
        got = 0
        for n in range(60):
            notifier.send(stream.query(f"NOTIFY a, '{n}'"))
            got += sum(message.type == "A" for message in one.query("DO ''"))
            assert not any(message.type == "A" for message in stranger.query("SELECT 1"))
            notifier.until("Z")
        while got < 60:
            got += one.read().type == "A"


@pytest.mark.slow
def test_cancels_hit_nobody_else_and_lose_nothing(start_pooler: StartBouncer, made: Cluster, fresh: Facts) -> None:
    bouncer = start_pooler(default_pool_size=2, **keep())
    with come(bouncer) as one, come(bouncer) as stranger:
        for n in range(60):
            one.send(stream.query(f"SET my.var = '{n}'"), stream.query("DO ''"))
            stream.cancel(("127.0.0.1", bouncer.port), one.pid, one.key)
            heard = one.until("Z")
            one.until("Z")
            if not errors(heard):
                assert facts(one)[1] == str(n).encode()
            assert facts(stranger) == fresh


@pytest.mark.slow
@pytest.mark.parametrize("what", ["RECONNECT", "PAUSE", "SUSPEND", "-R", "kill"])
def test_what_is_pinned_outlives_the_administrator(
    start_pooler: StartBouncer, made: Cluster, fresh: Facts, what: str
) -> None:
    bouncer = start_pooler(default_pool_size=2, **keep())
    with come(bouncer) as one, come(bouncer) as stranger, come(bouncer) as third:
        one.query("SELECT pg_advisory_lock(9); SET my.var = 'mine'")
        third.query("SET my.other = 'third'")
        third.query("BEGIN")
        third.query("SET work_mem = '9MB'")
        mine = facts(one)
        if what == "-R":
            restart(bouncer)
        elif what == "kill":
            ((pid,),) = one.rows("SELECT pg_backend_pid()")
            made.sql(f"SELECT pg_terminate_backend({int(pid or 0)})")
            assert one.ended()
            until(lambda: pinned(bouncer) == 1, "the server to be gone")
        elif what == "SUSPEND":
            with bouncer.connect("pgbouncer", autocommit=True) as console:
                console.execute("SUSPEND")
                console.execute("RESUME")
        elif what == "PAUSE":
            with Stream(("127.0.0.1", bouncer.port)) as console:
                console.login("pgbouncer")
                console.send(stream.query("PAUSE"))
                assert facts(one) == mine
                third.query("COMMIT")
                one.query("SELECT pg_advisory_unlock(9)")
                assert not errors(console.until("Z"))
                assert not errors(console.query("RESUME"))
            mine = facts(one)
        else:
            bouncer.admin(what)
        if what != "kill":
            assert facts(one) == mine
        third.query("COMMIT")
        assert facts(third)[2] == b"third"
        assert facts(stranger) == fresh
        one.socket.close()
        third.socket.close()
        until(lambda: pinned(bouncer) == 0, "nothing to be pinned")
        for _ in range(3):
            assert facts(stranger) == fresh


# ---- chaos


def vanish(client: Stream) -> None:
    """Without a word, and what is on its way is thrown away."""
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.socket.close()


ENDS_ONE = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = 'app' AND state = 'idle' AND pid <> pg_backend_pid() LIMIT 1"""


def chaos(bouncer: Bouncer, cluster: Cluster, fresh: Facts, seed: int, rounds: int) -> None:
    chance, author = random.Random(seed), Author(seed)
    with ExitStack() as stack:
        stranger = stack.enter_context(come(bouncer))
        for _ in range(rounds):
            client = come(bouncer)
            for step in author.program():
                data = b"".join(step.messages)
                if chance.random() < 0.6:
                    client.send(data[: chance.randrange(len(data) + 1)])
                    time.sleep(chance.choice((0, 0, 0.001, 0.003)))
                    break
                talk(client, step)
            if chance.random() < 0.1:
                cluster.sql(ENDS_ONE)
            vanish(client)
            try:
                assert facts(stranger) == fresh
            except Ended:
                stranger = stack.enter_context(come(bouncer))


@pytest.mark.slow
@pytest.mark.one_process("how many may be pinned is shared out among workers")
@pytest.mark.parametrize("rounds", [25, pytest.param(1500, marks=pytest.mark.slow)])
def test_clients_that_vanish_at_any_moment_leave_nothing(
    start_pooler: StartBouncer, made: Cluster, fresh: Facts, rounds: int
) -> None:
    bouncer = start_pooler(default_pool_size=2, **keep(most=2))
    chaos(bouncer, made, fresh, 5, rounds)
    until(lambda: pinned(bouncer) == 0, "nothing to be pinned")
    with ExitStack() as stack:
        # As many may be pinned as before, and no more.
        clients = [stack.enter_context(come(bouncer)) for _ in range(2)]
        for n, client in enumerate(clients):
            assert not errors(client.query(f"SELECT pg_advisory_lock({n + 20})"))
        assert pinned(bouncer) == 2
