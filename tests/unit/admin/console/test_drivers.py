"""Real drivers at the console: what they send on connecting, by which protocol they ask, how they leave."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import asyncpg
import psycopg
import pytest
from psycopg import ClientCursor
from psycopg.rows import dict_row

from pooler.verbs import CommandError, Verb
from tests.fixtures.console import Door, FakeHouse, door


@pytest.fixture
def house() -> FakeHouse:
    return FakeHouse()


@pytest.fixture
def console(house: FakeHouse) -> Iterator[Door]:
    with door(house) as opened:
        yield opened


def dsn(console: Door) -> str:
    return f"host=127.0.0.1 port={console.port} user=ann dbname=pgbouncer application_name=probe"


def url(console: Door) -> str:
    return f"postgresql://ann@127.0.0.1:{console.port}/pgbouncer"


# ---- psycopg


@pytest.mark.slow
@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("autocommit", [False, True])
def test_psycopg(console: Door, house: FakeHouse, binary: bool, autocommit: bool) -> None:
    with psycopg.connect(dsn(console), autocommit=autocommit, row_factory=dict_row) as connection:
        pools = connection.execute("SHOW POOLS", binary=binary).fetchall()
        assert [pool["user"] for pool in pools] == ["amy", "zoe", "app"]
        assert pools[2]["cl_waiting"] == 2
        stats = connection.execute("SHOW STATS", binary=binary).fetchone()
        assert stats is not None
        assert stats["total_query_count"] == Decimal(13)
        found = connection.execute(
            "SELECT database FROM pools WHERE cl_waiting >= %s AND user <> %s", (1, "zoe"), binary=binary
        ).fetchall()
        assert found == [{"database": "shop"}]
        connection.execute("RELOAD")
    assert house.performed == [Verb("RELOAD")]


def test_psycopgs_times_are_times(console: Door, house: FakeHouse) -> None:
    with psycopg.connect(dsn(console)) as connection:
        since = datetime.fromtimestamp(house.snap.now - 2.5, UTC)
        for binary in (False, True):
            row = connection.execute("select since from waiting", binary=binary).fetchone()
            assert row == (since,)
        query = "select count(*) from waiting where since between %s and %s and since > now() - %s"
        given = (since.date(), since, timedelta(minutes=1))
        assert connection.execute(query, given).fetchone() == (1,)


def test_psycopg_prepares_and_forgets(console: Door) -> None:
    with psycopg.connect(dsn(console), autocommit=True, prepare_threshold=1) as connection:
        for wanted in range(4):
            row = connection.execute("select count(*) from pools where cl_waiting >= %s", (wanted,)).fetchone()
            assert row == ([3, 1, 1, 0][wanted],)
        connection.execute("DISCARD ALL")


def test_psycopgs_client_cursor_speaks_the_simple_protocol(console: Door) -> None:
    with psycopg.connect(dsn(console), cursor_factory=ClientCursor) as connection:
        assert connection.execute("SHOW VERSION").fetchone() == ("PgBouncer 1.26.1",)
        assert connection.execute("select key from state where value = %s", ("yes",)).fetchall() == [("active",)]


@pytest.mark.parametrize("query", ["SHOW LISTS", "SELECT * FROM lists WHERE items >= %s"])
def test_psycopgs_server_side_cursor(console: Door, query: str) -> None:
    with psycopg.connect(dsn(console)) as connection, connection.cursor("slow reader") as cursor:
        cursor.execute(query, (0,) if "%s" in query else None)
        assert [column.name for column in cursor.description or ()] == ["list", "items"]
        assert cursor.fetchone() == ("databases", 0)
        assert len(cursor.fetchmany(5)) == 5
        cursor.scroll(2)
        assert [row[1] for row in cursor] == list(range(8, 14))


def test_psycopgs_pipeline_and_transactions(console: Door) -> None:
    with psycopg.connect(dsn(console)) as connection:
        with connection.pipeline():
            first = connection.execute("SHOW VERSION")
            second = connection.execute("select 1 + %s", (1,))
            assert (first.fetchone(), second.fetchone()) == (("PgBouncer 1.26.1",), (2,))
        with connection.transaction():
            connection.execute("show state")
        with pytest.raises(psycopg.errors.ProtocolViolation, match="invalid command"), connection.transaction():
            connection.execute("fly")
        assert connection.execute("select 1").fetchone() == (1,)


def test_errors_have_the_classes_that_users_match(console: Door, house: FakeHouse) -> None:
    message = "RELOAD failed, see logs for additional details"
    house.refuses["RELOAD"] = CommandError(message, "F0000")
    with psycopg.connect(dsn(console), autocommit=True) as connection:
        with pytest.raises(psycopg.errors.ConfigFileError, match="RELOAD failed"):
            connection.execute("RELOAD")
        with pytest.raises(psycopg.errors.ProtocolViolation, match="invalid command 'nope', use SHOW HELP;"):
            connection.execute("nope")
        with pytest.raises(psycopg.errors.UndefinedColumn):
            connection.execute("select nope from pools")


def test_notices_reach_the_client(console: Door) -> None:
    notices: list[str] = []
    with psycopg.connect(dsn(console), autocommit=True) as connection:
        connection.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))
        connection.execute("SHOW HELP")
        connection.execute("SET client_encoding = 'UTF8'")
    assert notices == ["Console usage", "SET ignored"]


# ---- asyncpg


def test_asyncpg(console: Door, house: FakeHouse) -> None:
    async def scenario() -> None:
        connection = await asyncpg.connect(url(console), ssl=False)
        pools = await connection.fetch("SHOW POOLS")
        assert [dict(pool)["cl_waiting"] for pool in pools] == [0, 0, 2]
        assert await connection.fetchval("SELECT user FROM pools WHERE cl_waiting > $1", 1) == "app"
        names = await connection.fetch("select name from databases where name = any($1::text[])", ["shop", "x"])
        assert [name["name"] for name in names] == ["shop"]
        since = await connection.fetchval("select since from waiting")
        assert since.timestamp() == pytest.approx(house.snap.now - 2.5)
        assert await connection.fetchval("select json_agg(key) from state") == '["active", "paused"]'
        assert await connection.execute("RELOAD") == "RELOAD"
        async with connection.transaction():
            seen = [row["list"] async for row in connection.cursor("SHOW LISTS", prefetch=3)]
        assert len(seen) == 14
        statement = await connection.prepare("select cl_active from pools where database = $1")
        assert statement.get_parameters()[0].name == "text"
        assert [attribute.type.name for attribute in statement.get_attributes()] == ["int4"]
        with pytest.raises(asyncpg.exceptions.ProtocolViolationError):
            await connection.fetch("fly")
        await connection.reset()
        await connection.close()

    asyncio.run(scenario())


def test_asyncpgs_pool(console: Door) -> None:
    async def scenario() -> None:
        async with asyncpg.create_pool(url(console), ssl=False, min_size=2, max_size=2) as pool:
            values = await asyncio.gather(*(pool.fetchval("show version") for _ in range(8)))
            assert set(values) == {"PgBouncer 1.26.1"}

    asyncio.run(scenario())


# ---- others, where they are installed


def test_psycopg2(console: Door) -> None:
    psycopg2: Any = pytest.importorskip("psycopg2")
    connection = psycopg2.connect(dsn(console))
    try:
        with connection.cursor() as cursor:
            cursor.execute("SHOW LISTS")
            assert cursor.fetchall()[0] == ("databases", 0)
            cursor.execute("select user from pools where cl_waiting > %s", (1,))
            assert cursor.fetchall() == [("app",)]
        connection.commit()
    finally:
        connection.close()


def test_psycopg2s_named_cursor(console: Door) -> None:
    psycopg2: Any = pytest.importorskip("psycopg2")
    connection = psycopg2.connect(dsn(console))
    try:
        with connection.cursor("pieces") as cursor:
            cursor.itersize = 3
            cursor.execute("select list from lists order by items")
            assert len([row for row in cursor]) == 14
    finally:
        connection.close()


def test_pg8000(console: Door) -> None:
    pg8000: Any = pytest.importorskip("pg8000.native")
    connection = pg8000.Connection("ann", host="127.0.0.1", port=console.port, database="pgbouncer")
    assert connection.run("show state")[0] == ["active", "yes"]
    assert connection.run("select value from state where key = :key", key="paused") == [["no"]]
    connection.close()


@pytest.mark.slow
@pytest.mark.parametrize("driver", ["psycopg", "psycopg2", "pg8000"])
def test_sqlalchemy_reflects_the_views(console: Door, driver: str) -> None:
    sqlalchemy: Any = pytest.importorskip("sqlalchemy")
    pytest.importorskip(driver)
    engine = sqlalchemy.create_engine(f"postgresql+{driver}://ann@127.0.0.1:{console.port}/pgbouncer")
    try:
        with engine.connect() as connection:
            inspector = sqlalchemy.inspect(connection)
            assert {"pools", "clients", "history"} <= set(inspector.get_view_names())
            assert inspector.get_pk_constraint("pools")["constrained_columns"] == []
            pools = sqlalchemy.Table("pools", sqlalchemy.MetaData(), autoload_with=connection)
            wanted = sqlalchemy.select(pools.c.database, sqlalchemy.func.sum(pools.c.cl_active).label("n"))
            wanted = wanted.where(pools.c.database.in_(["blog", "shop"])).group_by(pools.c.database)
            assert dict(connection.execute(wanted).all()) == {"blog": 6, "shop": 3}
    finally:
        engine.dispose()


def psql(console: Door, *commands: str, typed: str = "") -> str:
    program = shutil.which("psql")
    if program is None:
        pytest.skip("no psql here")
    arguments = [part for command in commands for part in ("-c", command)]
    done = subprocess.run(
        [program, "-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", dsn(console), *arguments],
        input=typed,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return done.stdout


def test_psql_lists_and_describes_the_views(console: Door) -> None:
    assert "public|pools|view|ann" in psql(console, r"\d")
    assert "cl_waiting|integer|||" in psql(console, r"\d pools")
    assert "key|text" in psql(console, r"\d+ state")
    assert "pgbouncer|ann" in psql(console, r"\l")


@pytest.mark.parametrize("command", [r"\dt", r"\di", r"\df", r"\du", r"\dn", r"\dx", r"\dT", r"\dp", r"\db", r"\dL"])
def test_psqls_other_lists_do_not_fail(console: Door, command: str) -> None:
    psql(console, command)


def test_psqls_gdesc_describes_a_query(console: Door) -> None:
    described = psql(console, typed="select since, wait_us, application_name from waiting \\gdesc\n")
    assert described.split() == ["since|timestamp", "with", "time", "zone", "wait_us|bigint", "application_name|text"]


def test_psql_takes_several_commands_and_expanded_output(console: Door) -> None:
    shown = psql(console, r"\x on", "SHOW STATE; SHOW VERSION;", "begin; select 1; commit")
    assert "version|PgBouncer 1.26.1" in shown


COMPLETION = """
SELECT c.relname, NULL::pg_catalog.text FROM pg_catalog.pg_class c
WHERE c.relkind IN ('r', 'S', 'v', 'm', 'f', 'p') AND (c.relname) LIKE 'po%'
  AND pg_catalog.pg_table_is_visible(c.oid)
  AND c.relnamespace <> (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = 'pg_catalog')
UNION ALL
SELECT NULL::pg_catalog.text, n.nspname || '.' FROM pg_catalog.pg_namespace n
WHERE n.nspname LIKE 'po%'
  AND (SELECT pg_catalog.count(*) FROM pg_catalog.pg_namespace WHERE nspname LIKE 'po%') > 1
LIMIT 1000
"""
"""Shaped like what psql sends for `SELECT * FROM po<Tab>`."""


def test_tab_completion_finds_the_views(console: Door) -> None:
    with psycopg.connect(dsn(console), cursor_factory=ClientCursor) as connection:
        names = sorted(name for name, _ in connection.execute(COMPLETION).fetchall())
        assert names == ["pool_latency", "pools"]


DATADOG = ("SHOW STATS", "SHOW POOLS", "SHOW DATABASES", "SHOW CONFIG", "SHOW CLIENTS", "SHOW SERVERS", "SHOW VERSION;")
EXPORTER = ("SHOW STATS", "SHOW VERSION;", "SHOW LISTS;", "SHOW CONFIG;", "SHOW CLIENTS;", "SHOW databases;",
            "SHOW stats_totals;", "SHOW pools;", ";", "-- ping")  # fmt: skip


@pytest.mark.parametrize("queries", [DATADOG, EXPORTER], ids=["datadog", "pgbouncer_exporter"])
def test_what_monitors_ask_is_answered(console: Door, queries: tuple[str, ...]) -> None:
    with psycopg.connect(dsn(console), autocommit=True, cursor_factory=ClientCursor) as connection:
        for query in queries:
            connection.execute(query)
