"""What drivers leave in a session and ask for again, through pools of one and of four under `keep`, while somebody else
has each server between two statements: all is told that the same driver is told on a direct connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import asyncpg
import psycopg
import psycopg2
import pytest
import sqlalchemy

from tests.fixtures import node
from tests.fixtures.cluster import Cluster
from tests.fixtures.process import StartBouncer

Ask = Callable[[str], list[tuple[Any, ...]]]
OPTIONS = {"work_mem": "6MB", "my.var": "start"}
STAY = ("a lock", "a temporary table", "a cursor")
"""What keeps a server."""


def dsn(port: int) -> str:
    options = "%20".join(f"-c%20{name}%3D{value}" for name, value in OPTIONS.items())
    return f"://postgres@127.0.0.1:{port}/app?options={options}"


@contextmanager
def by_psycopg(port: int, threshold: int | None = 5) -> Iterator[Ask]:
    with psycopg.connect("postgresql" + dsn(port), autocommit=True, prepare_threshold=threshold) as one:

        def ask(text: str) -> list[tuple[Any, ...]]:
            found = one.execute(text)
            return list(found) if found.description else []

        yield ask


@contextmanager
def by_psycopg2(port: int) -> Iterator[Ask]:
    with closing(psycopg2.connect("postgresql" + dsn(port))) as one:
        one.autocommit = True
        cursor = one.cursor()

        def ask(text: str) -> list[tuple[Any, ...]]:
            cursor.execute(text)
            return cursor.fetchall() if cursor.description else []

        yield ask


@contextmanager
def by_sqlalchemy(port: int) -> Iterator[Ask]:
    engine = sqlalchemy.create_engine("postgresql+psycopg" + dsn(port), isolation_level="AUTOCOMMIT")
    with closing(engine.connect()) as one:

        def ask(text: str) -> list[tuple[Any, ...]]:
            found = one.exec_driver_sql(text)
            return [tuple(row) for row in found] if found.returns_rows else []

        yield ask
    engine.dispose()


@contextmanager
def by_asyncpg(port: int) -> Iterator[Ask]:
    with asyncio.Runner() as runner:
        one = runner.run(asyncpg.connect(f"postgresql://postgres@127.0.0.1:{port}/app", server_settings=OPTIONS))

        def ask(text: str) -> list[tuple[Any, ...]]:
            return [tuple(row) for row in runner.run(one.fetch(text))]

        yield ask
        runner.run(one.close())


def by_node(port: int, *, named: bool = False) -> Any:
    return node.asking(f"postgresql://postgres@127.0.0.1:{port}/app", OPTIONS, named=named)


DRIVERS: dict[str, Callable[[int], Any]] = {
    "psycopg": by_psycopg,
    "psycopg, prepared": lambda port: by_psycopg(port, 0),
    "psycopg2": by_psycopg2,
    "asyncpg": by_asyncpg,
    "sqlalchemy": by_sqlalchemy,
    "node-postgres": by_node,
    "node-postgres, prepared": lambda port: by_node(port, named=True),
}
MADE = "DROP SEQUENCE IF EXISTS drivers_draw; CREATE SEQUENCE drivers_draw; GRANT ALL ON drivers_draw TO PUBLIC"
SHOWN = (
    "SELECT current_setting('work_mem'), current_setting('my.var', true), current_setting('search_path'), "
    "current_user, session_user, current_setting('TimeZone'), current_setting('default_transaction_isolation')"
)
KINDS: dict[str, tuple[str, ...]] = {
    "as it came": (SHOWN,),
    "set": ("SET work_mem = '7MB'", SHOWN, "SET my.var = 'it''s'", SHOWN, "SET search_path = 'a b', public", SHOWN),
    "set otherwise": (
        "SELECT set_config('my.var', 'x', false)", "SET TIME ZONE 'Asia/Tokyo'", SHOWN,
        "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE", SHOWN,
    ),
    "set in a transaction": ("BEGIN", "SET work_mem = '7MB'", "SET LOCAL my.var = 'y'", SHOWN, "COMMIT", SHOWN),
    "set and rolled back": ("BEGIN", "SET work_mem = '7MB'", SHOWN, "ROLLBACK", SHOWN),
    "put back": ("SET work_mem = '7MB'", "SET my.var = 'x'", "RESET work_mem", SHOWN, "RESET ALL", SHOWN),
    "put away": ("SET work_mem = '7MB'", "SET ROLE plain_user", "DISCARD ALL", SHOWN),
    "a role": ("SET ROLE plain_user", SHOWN, "RESET ROLE", SHOWN),
    "a user": ("SET SESSION AUTHORIZATION plain_user", SHOWN, "RESET SESSION AUTHORIZATION", SHOWN),
    "a statement": ("PREPARE p AS SELECT 41 + $1", "EXECUTE p (1)", "EXECUTE p (2)", "DEALLOCATE p"),
    "a lock": ("SELECT pg_advisory_lock(31)", "SELECT pg_try_advisory_lock(31)", "SELECT pg_advisory_unlock_all()"),
    "a temporary table": ("CREATE TEMP TABLE tt AS SELECT 7 AS x", "SELECT x FROM tt", "INSERT INTO tt VALUES (8)",
                          "SELECT x FROM tt", "DROP TABLE tt"),
    "a cursor": ("DECLARE c CURSOR WITH HOLD FOR SELECT generate_series(1, 3)", "FETCH c", "FETCH c", "CLOSE c"),
    "a sequence": (
        "BEGIN", "SELECT nextval('drivers_draw') > 0", "SELECT currval('drivers_draw') = lastval()", "COMMIT",
    ),
    "a code block": ("DO $$ BEGIN PERFORM set_config('work_mem', '7MB', false); END $$", SHOWN),
    "again and again": (*7 * ("SELECT 1 AS x",), "SET work_mem = '7MB'", *7 * (SHOWN,)),
}  # fmt: skip
"""What is run; of a client that came with OPTIONS."""


@pytest.fixture
def server(each_cluster: Cluster) -> Iterator[Cluster]:
    each_cluster.sql(MADE, dbname="app")
    yield each_cluster
    each_cluster.sql("DROP SEQUENCE drivers_draw", dbname="app")


Told = list[list[tuple[Any, ...]]]


def run(ask: Ask, kind: str, between: Callable[[], None], size: int) -> Told:
    """Whoever comes between two statements finds a server: of a pool of one if that is not kept."""
    found, opened = [], False
    for text in KINDS[kind]:
        found.append(ask(text))
        opened = text == "BEGIN" or (opened and text not in ("COMMIT", "ROLLBACK"))
        if size > 1 or not (opened or kind in STAY):
            between()
    return found


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("driver", DRIVERS)
def test_a_driver_is_told_what_it_is_told_directly(
    start_pooler: StartBouncer, server: Cluster, driver: str, size: int
) -> None:
    policy = {"session_state": "keep", "max_pinned": "100"}
    bouncer = start_pooler(
        server=server,
        default_pool_size=size,
        pool_mode="transaction",
        server_round_robin=1,
        sections={"pooler": policy},
    )
    other: dict[str, Any] = {"options": "-c my.var=other -c work_mem=9MB", "autocommit": True}
    with psycopg.connect(bouncer.dsn(), **other) as somebody:
        plain = somebody.execute(SHOWN).fetchone()

        def comes() -> None:
            """Somebody, with settings of its own, who sees nothing of anybody's."""
            assert somebody.execute(SHOWN).fetchone() == plain
            somebody.execute("SELECT nextval('drivers_draw')")

        direct: dict[str, Told] = {}
        through: dict[str, Told] = {}
        for kind in KINDS:
            with DRIVERS[driver](server.port) as ask:
                direct[kind] = run(ask, kind, lambda: None, size)
            with DRIVERS[driver](bouncer.port) as ask:
                through[kind] = run(ask, kind, comes, size)
            comes()
    assert through == direct
