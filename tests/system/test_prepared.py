"""Prepared statements of the protocol in transaction and statement pooling: names are a client's own, servers share
the statements, and drivers that prepare by default work unchanged. Ours only: Debian's PgBouncer 1.18 cannot.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path

import asyncpg
import psycopg
import pytest

from tests.fixtures import account, stream
from tests.fixtures.cluster import SUPERUSER, Cluster
from tests.fixtures.process import Bouncer, StartBouncer
from tests.fixtures.stream import Message, Stream


def client(bouncer: Bouncer) -> Stream:
    return Stream(("127.0.0.1", bouncer.port)).login()


def prepare(one: Stream, sql: str, name: str) -> list[Message]:
    one.send(stream.parse(sql, name), stream.sync())
    return one.until()


def run(one: Stream, name: str, *values: str) -> list[list[bytes | None]]:
    """Rows of a prepared statement."""
    one.send(stream.bind(values, name), stream.execute(), stream.sync())
    answer = one.until()
    assert not errors(answer), errors(answer)
    return [m.values for m in answer if m.type == "D"]


def errors(answer: list[Message]) -> list[str]:
    return [m.error["C"] for m in answer if m.type == "E"]


@pytest.mark.parametrize("pool_mode", ["transaction", "statement", "session"])
def test_a_statement_outlives_the_server_it_was_prepared_on(start_pooler: StartBouncer, pool_mode: str) -> None:
    bouncer = start_pooler(pool_mode=pool_mode, default_pool_size=4)
    with client(bouncer) as one, ExitStack() as stack:
        prepare(one, "SELECT $1::int + 1", "add")
        if pool_mode != "session":
            others = [stack.enter_context(client(bouncer)) for _ in range(3)]
            for other in others:
                other.send(stream.query("SELECT pg_sleep(0.05)"))
        for value in range(5):
            assert run(one, "add", str(value)) == [[str(value + 1).encode()]]


def test_the_same_name_means_each_clients_own_statement(start_pooler: StartBouncer) -> None:
    bouncer = start_pooler(default_pool_size=1)
    with client(bouncer) as one, client(bouncer) as other:
        prepare(one, "SELECT 'mine'", "s")
        prepare(other, "SELECT 'yours'", "s")
        for _ in range(3):
            assert run(one, "s") == [[b"mine"]]
            assert run(other, "s") == [[b"yours"]]


def test_servers_share_statements_by_text(start_pooler: StartBouncer, cluster: Cluster) -> None:
    bouncer = start_pooler(default_pool_size=1)
    with ExitStack() as stack:
        for number in range(5):
            one = stack.enter_context(client(bouncer))
            prepare(one, "SELECT 'shared by all'", f"name_{number}")
            assert run(one, f"name_{number}") == [[b"shared by all"]]
        listed = one.rows("SELECT count(*) FROM pg_prepared_statements WHERE statement = 'SELECT ''shared by all'''")
        assert listed == [[b"1"]]


def test_the_least_recently_used_is_evicted_and_prepared_again(start_pooler: StartBouncer) -> None:
    bouncer = start_pooler(default_pool_size=1, max_prepared_statements=3)
    with client(bouncer) as one:
        for number in range(10):
            prepare(one, f"SELECT {number}", f"s{number}")
        for number in (*range(10), 0, 5, 9):
            assert run(one, f"s{number}") == [[str(number).encode()]]
        (count,) = one.rows("SELECT count(*) FROM pg_prepared_statements")[0]
        assert int(count or 99) <= 3


def test_describe_and_parameters_of_a_statement(start_pooler: StartBouncer) -> None:
    bouncer = start_pooler()
    with client(bouncer) as one:
        one.send(stream.parse("SELECT $1::int, $2::text", "s"), stream.describe("S", "s"), stream.sync())
        assert [m.type for m in one.until()] == ["1", "t", "T", "Z"]


def test_close_forgets_the_name(start_pooler: StartBouncer) -> None:
    bouncer = start_pooler()
    with client(bouncer) as one:
        prepare(one, "SELECT 1", "s")
        one.send(stream.close("S", "s"), stream.sync())
        assert [m.type for m in one.until()] == ["3", "Z"]
        prepare(one, "SELECT 2", "s")
        assert run(one, "s") == [[b"2"]]


def test_an_error_in_parse_leaves_no_statement_behind(start_pooler: StartBouncer) -> None:
    bouncer = start_pooler(default_pool_size=1)
    with client(bouncer) as one, client(bouncer) as other:
        assert errors(prepare(one, "SELECT nonsense FROM nowhere", "s")) == ["42P01"]
        assert not errors(prepare(one, "SELECT 'good'", "s"))
        assert run(one, "s") == [[b"good"]]
        assert errors(prepare(other, "SELECT nonsense FROM nowhere", "t")) == ["42P01"]


def test_an_error_earlier_in_the_pipeline_skips_the_parse(start_pooler: StartBouncer) -> None:
    bouncer = start_pooler(default_pool_size=1)
    with client(bouncer) as one, client(bouncer) as other:
        one.send(
            *(stream.parse("SELECT 1/0"), stream.bind(), stream.execute()),
            *(stream.parse("SELECT 'skipped'", "s"), stream.sync()),
        )
        assert errors(one.until()) == ["22012"]
        prepare(other, "SELECT 'skipped'", "s")
        assert run(other, "s") == [[b"skipped"]]


@pytest.mark.parametrize("statement", ["DEALLOCATE ALL", "DISCARD ALL"])
def test_forgetting_all_is_understood(start_pooler: StartBouncer, statement: str) -> None:
    bouncer = start_pooler(default_pool_size=1)
    with client(bouncer) as one, client(bouncer) as other:
        prepare(one, "SELECT 'one'", "s")
        prepare(other, "SELECT 'other'", "s")
        assert run(one, "s") == [[b"one"]]
        one.query(statement)
        prepare(one, "SELECT 'anew'", "s")
        assert run(one, "s") == [[b"anew"]]
        assert run(other, "s") == [[b"other"]]


def test_a_changed_table_is_an_error_and_no_disaster(start_pooler: StartBouncer, cluster: Cluster) -> None:
    """PostgreSQL's 'cached plan must not change result type' reaches the client that can deal with it."""
    bouncer = start_pooler(default_pool_size=1)
    cluster.sql("DROP TABLE IF EXISTS changing; CREATE TABLE changing (n int)", dbname="app")
    with client(bouncer) as one:
        prepare(one, "SELECT * FROM changing", "s")
        assert run(one, "s") == []
        cluster.sql("ALTER TABLE changing ADD COLUMN more int", dbname="app")
        one.send(stream.bind((), "s"), stream.execute(), stream.sync())
        assert errors(one.until()) == ["0A000"]
        assert one.rows("SELECT 1") == [[b"1"]]


def test_psycopg_prepares_from_the_first_execution(start_pooler: StartBouncer) -> None:
    bouncer = start_pooler(default_pool_size=2)
    with bouncer.connect(prepare_threshold=0) as one, bouncer.connect(prepare_threshold=0) as other:
        for number in range(300):
            for connection in (one, other):
                row = connection.execute(f"SELECT %s::int + {number % 7}", (number,)).fetchone()
                assert row == (number + number % 7,)


def test_psycopg_pipelines(start_pooler: StartBouncer) -> None:
    bouncer = start_pooler(default_pool_size=1)
    with bouncer.connect(prepare_threshold=0) as one, one.pipeline():
        cursors = [one.execute("SELECT %s::int", (number,)) for number in range(200)]
        assert [cursor.fetchone() for cursor in cursors] == [(number,) for number in range(200)]


def test_asyncpg_with_its_defaults(start_pooler: StartBouncer) -> None:
    bouncer = start_pooler(default_pool_size=2)

    async def work(number: int) -> None:
        connection = await asyncpg.connect(host="127.0.0.1", port=bouncer.port, user=SUPERUSER, database="app")
        try:
            for turn in range(20):
                assert await connection.fetchval("SELECT $1::int * $2::int", number, turn) == number * turn
                async with connection.transaction():
                    assert await connection.fetchval("SELECT $1::text", f"{number}") == f"{number}"
        finally:
            await connection.close()

    async def main() -> None:
        await asyncio.gather(*(work(number) for number in range(10)))

    asyncio.run(main())


@pytest.mark.parametrize("mode", ["simple", "extended", "prepared"])
def test_pgbench(start_pooler: StartBouncer, cluster: Cluster, mode: str) -> None:
    """A thread for each client: pgbench waits for the answer to a Parse with all its thread's transactions open."""
    bouncer = start_pooler(default_pool_size=3)
    exists = cluster.sql("SELECT to_regclass('pgbench_accounts') IS NOT NULL", dbname="app")[0][0]
    pgbench: list[str | Path] = [cluster.bin / "pgbench", "-h", "127.0.0.1", "-U", SUPERUSER]
    if not exists:
        account.run([*pgbench, "-p", str(cluster.port), "-i", "-q", "app"])
    said = account.run([*pgbench, "-p", str(bouncer.port), "-n", "-M", mode, "-c", "8", "-j", "8", "-t", "40", "app"])
    assert "number of transactions actually processed: 320/320" in said


def test_a_client_with_too_many_statements_of_its_own_still_works(start_pooler: StartBouncer) -> None:
    bouncer = start_pooler(default_pool_size=2, max_prepared_statements=5)
    with bouncer.connect(prepare_threshold=0) as one, bouncer.connect(prepare_threshold=0) as other:
        for turn in range(3):
            for number in range(40):
                for connection in (one, other):
                    row = connection.execute(f"SELECT {number}").fetchone()
                    assert row == (number,), turn


def test_sql_level_prepare_belongs_to_the_server(start_pooler: StartBouncer) -> None:
    """As documented: PREPARE in SQL is not followed from server to server; in a transaction it works."""
    bouncer = start_pooler(default_pool_size=1)
    with bouncer.connect(autocommit=False, cursor_factory=psycopg.ClientCursor) as one:
        one.execute("PREPARE sql_level AS SELECT 1")
        assert one.execute("EXECUTE sql_level").fetchone() == (1,)
        one.execute("DEALLOCATE sql_level")
        one.rollback()


@pytest.mark.one_process("each worker has a server of its own")
def test_prepare_and_deallocate_with_names_of_ours_cost_nobody_anything(start_pooler: StartBouncer) -> None:
    bouncer = start_pooler(default_pool_size=1)
    with client(bouncer) as one, client(bouncer) as other:
        prepare(one, "SELECT 'mine'", "s")
        assert run(one, "s") == [[b"mine"]]
        (name,) = one.rows("SELECT name FROM pg_prepared_statements WHERE statement = 'SELECT ''mine'''")[0]
        assert name is not None
        other.rows(f'DEALLOCATE "{name.decode()}"')
        assert run(one, "s") == [[b"mine"]]
        other.rows(f"DEALLOCATE \"{name.decode()}\"; PREPARE \"{name.decode()}\" AS SELECT 'somebody''s'")
        assert run(one, "s") == [[b"mine"]]
        number = int(name.decode().rpartition("_")[2])
        other.rows(f"PREPARE \"PGBOUNCER_{number + 1}\" AS SELECT 'somebody''s'")
        prepare(one, "SELECT 'new'", "new")
        assert run(one, "new") == [[b"new"]]
        assert len(bouncer.admin("SHOW SERVERS")) == 1
        assert "closing because" not in "".join(line for line in bouncer.log_text().splitlines() if " S-" in line)


@pytest.mark.slow
def test_one_client_cannot_fill_the_memory_with_statements(start_pooler: StartBouncer) -> None:
    bouncer = start_pooler(default_pool_size=1)
    text = "SELECT 1 /* " + "x" * 1_000_000 + " */"
    with client(bouncer) as one, client(bouncer) as other:
        for number in range(80):
            one.send(stream.parse(f"{text} + {number}", f"s{number}"), stream.sync())
            answer = one.until("Z", "E")
            if errors(answer):
                break
        assert errors(answer) == ["08P01"]
        assert 55 < number < 70
        bouncer.wait_log("closing because: prepared statements need too much memory")
        prepare(other, "SELECT 1", "s")
        assert run(other, "s") == [[b"1"]]
