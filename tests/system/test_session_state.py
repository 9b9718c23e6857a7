"""What a session holds, through a pool of one and of four, with two clients: it follows, pins or is refused, and nobody
else ever sees it. Each answer is compared with that of a direct connection, on which the same statements were run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from tests.fixtures import stream
from tests.fixtures.cluster import Cluster
from tests.fixtures.process import StartBouncer
from tests.fixtures.states import MADE
from tests.fixtures.stream import Stream
from tests.fixtures.waiting import until
from tests.system.test_restart import restart

FACTS = (
    "SELECT current_setting('work_mem'), current_setting('search_path'), "
    "coalesce(current_setting('my.var', true), ''), current_user, session_user, "
    "current_setting('default_transaction_read_only'), current_setting('TimeZone'), "
    "(SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()), "
    "(SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema()), "
    "(SELECT count(*) FROM pg_cursors WHERE is_holdable), (SELECT count(*) FROM pg_listening_channels()), "
    "(SELECT count(*) FROM pg_prepared_statements WHERE from_sql)"
)
WAYS: dict[str, tuple[str, ...]] = {
    "set": ("SET work_mem = '7MB'",),
    "set in a transaction": ("BEGIN", "SET work_mem = '7MB'", "COMMIT"),
    "set and rolled back": ("SET work_mem = '5MB'", "BEGIN", "SET work_mem = '7MB'", "ROLLBACK"),
    "set and rolled back to": ("BEGIN", "SAVEPOINT a", "SET work_mem = '7MB'", "ROLLBACK TO a", "COMMIT"),
    "set, put back and rolled back": ("SET work_mem = '7MB'", "BEGIN", "RESET ALL", "ROLLBACK"),
    "set locally": ("BEGIN", "SET LOCAL work_mem = '7MB'", "COMMIT"),
    "set by the function": ("SELECT set_config('work_mem', '7MB', false)",),
    "set among others": ("SELECT 1; SET work_mem = '7MB'; SELECT 2",),
    "put back": ("SET work_mem = '7MB'", "RESET work_mem"),
    "put back with all": ("SET work_mem = '7MB'", "SET my.var = 'x'", "SET search_path = a", "RESET ALL"),
    "a list": ("SET search_path = 'a b', public, \"C\"",),
    "a name of one's own": ("SET my.var = E'it''s \\\\'",),
    "by a name in capitals": ("SET \"Work_Mem\" = '7MB'",),
    "with comments": ("/* SET */ -- x\n SET /* y */ work_mem = '7MB'",),
    "a code block": ("DO $$ BEGIN PERFORM set_config('work_mem', '7MB', false); END $$",),
    "a code block with a name of its own": ("DO $$ BEGIN PERFORM set_config('my.var', 'x', false); END $$",),
    "an escape": (r"""SELECT U&"set\005fconfig"('work_mem', '7MB', false)""",),
    "characteristics": ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",),
    "a time zone": ("SET TIME ZONE 'Asia/Tokyo'",),
    "a role": ("SET ROLE plain_user",),
    "a role and back": ("SET ROLE plain_user", "RESET ROLE"),
    "a session's user": ("SET SESSION AUTHORIZATION plain_user",),
    "a lock": ("SELECT pg_advisory_lock(77)",),
    "a lock and back": ("SELECT pg_advisory_lock(77)", "SELECT pg_advisory_unlock(77)"),
    "a temporary table": ("CREATE TEMP TABLE tt (x int)",),
    "a temporary table and back": ("CREATE TEMP TABLE tt (x int)", "DROP TABLE tt"),
    "a temporary table for a transaction": ("BEGIN", "CREATE TEMP TABLE tt (x int) ON COMMIT DROP", "COMMIT"),
    "a temporary table by its path": ("SET search_path = pg_temp, public", "CREATE TABLE tt (x int)"),
    "a cursor": ("DECLARE c CURSOR WITH HOLD FOR SELECT 1",),
    "a cursor and back": ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", "CLOSE c"),
    "a channel": ("LISTEN foo",),
    "a channel and back": ("LISTEN foo", "UNLISTEN *"),
    "a statement": ("PREPARE p AS SELECT 1", "EXECUTE p"),
    "a statement and back": ("PREPARE p AS SELECT 1", "DEALLOCATE p"),
    "everything": ("SET work_mem = '7MB'", "SELECT pg_advisory_lock(77)", "CREATE TEMP TABLE tt ()", "DISCARD ALL"),
}
POLICY = {"session_state": "keep", "max_pinned": "100"}
KEEP: dict[str, Any] = {"pool_mode": "transaction", "sections": {"pooler": POLICY}}


@contextmanager
def client(port: int, **more: Any) -> Iterator[psycopg.Connection[Any]]:
    known: dict[str, Any] = {"host": "127.0.0.1", "port": port, "user": "postgres", "dbname": "app", "autocommit": True}
    with psycopg.connect(**(known | more)) as one:
        yield one


CHANNELS = 10
"""The one of them that is not the client's to see: a listening server has its channels."""


def without_channels(found: Any) -> Any:
    return found[:CHANNELS] + found[CHANNELS + 1 :]


def facts(one: psycopg.Connection[Any]) -> Any:
    return one.execute(FACTS).fetchone()


@pytest.fixture
def server(each_cluster: Cluster) -> Cluster:
    return each_cluster


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_a_client_has_what_it_would_have_on_a_direct_connection_and_nobody_else_has(
    start_pooler: StartBouncer, server: Cluster, way: str, size: int
) -> None:
    bouncer = start_pooler(server=server, default_pool_size=size, **KEEP)
    with client(server.port) as direct:
        plain = facts(direct)
        for statement in WAYS[way]:
            direct.execute(statement)
        wanted = facts(direct)
    with client(bouncer.port) as one, client(bouncer.port, connect_timeout=5) as stranger:
        for statement in WAYS[way]:
            one.execute(statement)
        for _ in range(3):
            assert without_channels(facts(one)) == without_channels(wanted)
            if size > 1 or bouncer.pool()["sv_active"] == 0:
                assert facts(stranger) == plain
        if "LISTEN" in str(WAYS[way]):
            server.sql("NOTIFY foo", dbname="app")
            assert bool(list(one.notifies(timeout=0.5))) == bool(wanted[CHANNELS])
        one.close()
        until(lambda: facts(stranger) == plain, "the stranger to see nothing of it")


def test_what_is_over_gives_the_server_back(start_pooler: StartBouncer) -> None:
    bouncer = start_pooler(default_pool_size=1, **KEEP)
    with client(bouncer.port) as one, client(bouncer.port) as other:
        one.execute("CREATE TEMP TABLE tt ()")
        (row,) = bouncer.admin("SHOW SESSION_STATE")
        assert (row["kind"], row["fate"], row["statement"]) == ("temp", "pins", "CREATE TEMP TABLE tt ()")
        assert row["pinned_us"] > 0
        assert bouncer.pool()["sv_active"] == 1
        one.execute("DROP TABLE tt")
        assert other.execute("SELECT 1").fetchone() == (1,)
        # What was dropped may have been code: the server is asked.
        until(lambda: bouncer.pool()["sv_active"] == 0)


def test_each_kind_is_told_with_its_own_statement(start_pooler: StartBouncer) -> None:
    bouncer = start_pooler(default_pool_size=2, **KEEP)
    with client(bouncer.port) as one:
        one.execute("SELECT 1; SET work_mem = '7MB'; SET geqo = off; CREATE TEMP TABLE tt (); LISTEN foo")
        told = {row["kind"]: row["statement"] for row in bouncer.admin("SHOW SESSION_STATE")}
        assert told == {"setting": "SET work_mem = ?", "temp": "CREATE TEMP TABLE tt ()", "listen": "LISTEN foo"}
        seen = {row["kind"]: row["statement"] for row in bouncer.admin("SHOW SESSION_STATE_SEEN")}
        assert seen == told
        bouncer.wait_log(r"session state: temp pins: CREATE TEMP TABLE tt \(\)")


def test_a_refusal_names_what_is_refused(start_pooler: StartBouncer) -> None:
    policy = POLICY | {"session_state": "keep temp:refuse"}
    bouncer = start_pooler(default_pool_size=2, **KEEP | {"sections": {"pooler": policy}})
    with client(bouncer.port) as one, pytest.raises(psycopg.errors.FeatureNotSupported, match="CREATE TEMP TABLE"):
        one.execute("SET work_mem = '7MB'; CREATE TEMP TABLE tt ()")


ENDS = {
    "a table": ("CREATE TEMP TABLE tt ()", "DROP TABLE tt"),
    "a cursor": ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", "CLOSE c"),
    "a statement": ("PREPARE p AS SELECT 1", "DEALLOCATE p"),
    "a lock, and plans": ("SELECT pg_advisory_lock(77)", "DISCARD PLANS"),
}


@pytest.mark.parametrize("what", ENDS)
def test_what_ends_a_pin_may_be_followed_by_more_of_the_same_transaction(
    start_pooler: StartBouncer, cluster: Cluster, what: str
) -> None:
    """Also by what is touched again. What the database has of its own is known by then: nothing else is looked at."""
    bouncer = start_pooler(default_pool_size=2, **KEEP)
    makes, ends = ENDS[what]
    with client(bouncer.port, prepare_threshold=None) as one:
        for _ in range(5):
            one.execute(makes)
            until(lambda: [row["kind"] for row in bouncer.admin("SHOW SESSION_STATE")] != [])
            for statement in ("BEGIN", ends, "SET work_mem = '7MB'", "COMMIT"):
                one.execute(statement)
            assert one.execute("SHOW work_mem").fetchone() == ("7MB",)
            one.execute("DISCARD ALL")


@pytest.mark.slow
def test_an_online_restart_knows_who_holds_what(start_pooler: StartBouncer) -> None:
    """And does not tell of it in the log once more."""
    bouncer = start_pooler(default_pool_size=4, server_tls_sslmode="disable", **KEEP)
    with client(bouncer.port) as one, client(bouncer.port) as two:
        one.execute("CREATE TEMP TABLE tt ()")
        two.execute("SET work_mem = '7MB'")
        bouncer.wait_log("stays with it for temp")
        restart(bouncer)
        until(lambda: len(bouncer.admin("SHOW SESSION_STATE")) == 2, "both to be known")
        rows = {row["kind"]: row for row in bouncer.admin("SHOW SESSION_STATE")}
        assert (rows["temp"]["fate"], rows["setting"]["fate"]) == ("pins", "follows")
        assert rows["temp"]["pinned_us"] > 0
        assert "before the restart" not in bouncer.log_text()
        one.execute("SELECT FROM tt")
        assert two.execute("SHOW work_mem").fetchone() == ("7MB",)


def test_what_only_a_look_has_found_is_told_too(start_pooler: StartBouncer) -> None:
    """By code that hides it: what pins, since when, and how often there was such a thing."""
    bouncer = start_pooler(default_pool_size=2, **KEEP)
    lock = "DO $$ BEGIN EXECUTE 'SELECT pg_advi' || 'sory_lock(7)'; END $$"
    with client(bouncer.port) as one:
        one.execute(lock)
        until(lambda: "advisory_lock" in [row["kind"] for row in bouncer.admin("SHOW SESSION_STATE")])
        rows = {row["kind"]: row for row in bouncer.admin("SHOW SESSION_STATE")}
        assert (rows["advisory_lock"]["fate"], rows["advisory_lock"]["statement"]) == ("pins", "(found afterwards)")
        assert rows["advisory_lock"]["pinned_us"] > 0
        assert rows["code"]["pinned_us"] is None
        one.execute("SELECT pg_advisory_unlock(7)")
        until(lambda: bouncer.pool()["sv_active"] == 0)
        one.execute(lock)
        until(lambda: bouncer.pool()["sv_active"] == 1)
        seen = {(row["kind"], row["fate"]): row["count"] for row in bouncer.admin("SHOW SESSION_STATE_SEEN")}
        assert seen["advisory_lock", "pins"] == 1
    with client(bouncer.port) as one:
        one.execute("SELECT '" + "x" * 3_000_000 + "' FROM set_config('work_mem', '7MB', false)", prepare=False)
        until(lambda: [(row["kind"], row["fate"]) for row in bouncer.admin("SHOW SESSION_STATE")] == [("code", "pins")])


@pytest.mark.parametrize("kind", ["a lock", "set", "a channel", "a code block", "a role"])
def test_refused_is_an_error_and_no_more(start_pooler: StartBouncer, kind: str) -> None:
    refusing = {"pooler": {"session_state": "refuse"}}
    bouncer = start_pooler(default_pool_size=1, pool_mode="transaction", sections=refusing)
    with client(bouncer.port) as one:
        plain = facts(one)
        for prepared in (False, True):
            with pytest.raises(psycopg.errors.FeatureNotSupported, match="session state is refused"):
                one.execute(WAYS[kind][0], prepare=prepared)
        assert facts(one) == plain
        with pytest.raises(psycopg.errors.FeatureNotSupported), one.transaction():
            one.execute(WAYS[kind][0])
        assert facts(one) == plain
        one.execute("SET LOCAL work_mem = '7MB'")
        for harmless in ("DISCARD ALL", "SELECT pg_advisory_unlock_all()", "UNLISTEN *", "RESET ALL", "CLOSE ALL"):
            one.execute(harmless)
    refused = [row for row in bouncer.admin("SHOW EVENTS") if row["kind"] == "session_state"]
    assert refused
    assert all(row["reason"].endswith("is refused") for row in refused)


@pytest.mark.slow
def test_what_leaks_is_told(start_pooler: StartBouncer) -> None:
    # Over TLS a server that another worker wants is opened anew.
    bouncer = start_pooler(default_pool_size=1, pool_mode="transaction", server_tls_sslmode="disable")
    with client(bouncer.port, application_name="mine") as one, client(bouncer.port) as stranger:
        one.execute("SET work_mem = '7MB'")
        one.execute("SET ROLE plain_user")
        assert facts(stranger)[0] == "7MB"
        rows = {row["kind"]: row for row in bouncer.admin("SHOW SESSION_STATE")}
        assert rows["setting"]["fate"] == rows["role"]["fate"] == "leaks"
        assert rows["setting"]["application_name"] == "mine"
    bouncer.wait_log("LOG C-.* session state: setting leaks: SET work_mem = [?]")
    bouncer.wait_log("WARNING C-.* session state: role leaks: SET ROLE plain_user")
    asked = "SELECT kind, count(*) AS n, min(statement) AS said FROM session_state_seen GROUP BY 1 ORDER BY 1"
    seen = bouncer.admin(asked)
    assert [(row["kind"], row["n"], row["said"]) for row in seen] == [
        ("role", 1, "SET ROLE plain_user"),
        ("setting", 1, "SET work_mem = ?"),
    ]


def test_who_leaves_at_once_is_told_of_too(start_pooler: StartBouncer) -> None:
    bouncer = start_pooler(default_pool_size=1, pool_mode="transaction")
    with Stream(("127.0.0.1", bouncer.port)).login() as one:
        one.send(stream.query("SET work_mem = '7MB'"), stream.terminate())
    bouncer.wait_log("LOG C-.* session state: setting leaks: SET work_mem = [?]")
    assert bouncer.admin("SHOW SESSION_STATE") == []


@pytest.mark.one_process("of what may be pinned each worker has one at least")
def test_no_more_are_pinned_than_may_be(start_pooler: StartBouncer) -> None:
    bouncer = start_pooler(default_pool_size=2, pool_mode="transaction", sections={"pooler": {"session_state": "keep"}})
    with client(bouncer.port) as one, client(bouncer.port) as two:
        one.execute("SELECT pg_advisory_lock(1)")
        with pytest.raises(psycopg.errors.FeatureNotSupported, match="session state is refused") as refusal:
            two.execute("SELECT pg_advisory_lock(2)")
        assert "max_pinned" in str(refusal.value.diag.message_detail)
        one.execute("SELECT pg_advisory_unlock(1)")
        until(lambda: bouncer.pool()["sv_active"] == 0)
        two.execute("SELECT pg_advisory_lock(2)")


@pytest.mark.parametrize("size", [1, 4])
def test_startup_parameters_of_any_name_follow(start_pooler: StartBouncer, server: Cluster, size: int) -> None:
    bouncer = start_pooler(server=server, default_pool_size=size, server_round_robin=1, **KEEP)
    with client(bouncer.port, options="-c work_mem=7MB -c my.var=x") as one, client(bouncer.port) as other:
        for reset in ("SELECT 1", "RESET ALL", "DISCARD ALL", "SET work_mem = '9MB'; RESET work_mem"):
            one.execute(reset)
            assert facts(other)[0] == "4MB"
            assert (facts(one)[0], facts(one)[2]) == ("7MB", "x")
        with pytest.raises(psycopg.OperationalError), client(bouncer.port, options="-c nosuch=1") as wrong:
            wrong.execute("SELECT 1")
        assert facts(other)[0] == "4MB"
        until(lambda: bouncer.pool()["sv_active"] == 0, "its server to be free")


PUT_BACK = (
    "RESET ALL",
    "SET search_path = y; RESET ALL",
    "SET search_path = y",
    "RESET search_path",
    "SET TimeZone = 'UTC'",
    "BEGIN; RESET ALL; ROLLBACK",
    "RESET ALL; SELECT 1/0",
    "BEGIN; SAVEPOINT a; RESET ALL; ROLLBACK TO a; COMMIT",
    "BEGIN; RESET ALL; SAVEPOINT a; SET search_path = z; ROLLBACK TO a; COMMIT",
    "SET TimeZone = 'UTC'; SET search_path = y",
    "DISCARD ALL",
    "BEGIN; SET LOCAL search_path = z; RESET ALL; COMMIT",
    "SELECT set_config('search_path', NULL, false)",
    "SET TimeZone = 'UTC'; SET search_path = y",
    "SELECT set_config('TimeZone', NULL::text, false)",
    "SET TimeZone = 'UTC'",
    "SET TimeZone TO DEFAULT",
)


@pytest.mark.slow
def test_what_a_server_tells_by_itself_is_put_back_too(start_pooler: StartBouncer, server: Cluster) -> None:
    """Where it tells of all that the client came with, as PostgreSQL 18 does, there is nothing to ask it for once it is
    known that the database has no code that sets anything else."""
    server.sql(MADE, dbname="app")
    bouncer = start_pooler(server=server, default_pool_size=1, **KEEP)

    def seen(port: int) -> list[list[bytes | None]]:
        with Stream(("127.0.0.1", port)).login("app", TimeZone="Asia/Tokyo", search_path="x") as one:
            found = []
            for text in PUT_BACK:
                one.query(text)
                found += one.rows("SELECT current_setting('TimeZone'), current_setting('search_path')")
        return found

    wanted = seen(server.port)
    for _ in range(5):
        assert seen(bouncer.port) == wanted
        bouncer.admin("RECONNECT")


@pytest.mark.slow
@pytest.mark.parametrize("harm", ["statement_timeout = '1ms'", "default_transaction_read_only = on"])
def test_nobody_suffers_from_what_another_has_set(start_pooler: StartBouncer, harm: str) -> None:
    """Where a server cannot be made another's, that one gets another server."""
    bouncer = start_pooler(default_pool_size=1, **KEEP)
    with client(bouncer.port, application_name="stays") as stays:
        for round_ in range(20):
            with client(bouncer.port) as one:
                one.execute(f"SET {harm}")
            assert stays.execute("SELECT pg_sleep(0.005)", prepare=False).rowcount == 1, round_


@pytest.mark.one_process("each worker has a server of its own")
def test_a_client_that_leaves_in_a_transaction_costs_no_server(start_pooler: StartBouncer) -> None:
    bouncer = start_pooler(default_pool_size=1, **KEEP)
    with client(bouncer.port) as stays:
        (pid,) = stays.execute("SELECT pg_backend_pid()").fetchone() or (0,)
        for statement in ("CREATE TEMP TABLE tt ()", "SELECT 1/0", "SET work_mem = '7MB'"):
            with client(bouncer.port, autocommit=False) as leaves:
                if "/" in statement:
                    with pytest.raises(psycopg.errors.DivisionByZero):
                        leaves.execute(statement)
                else:
                    leaves.execute(statement)
                leaves.close()
            assert stays.execute("SELECT pg_backend_pid()").fetchone() == (pid,)
            assert facts(stays)[0] == "4MB"
