"""PREPARE, EXECUTE and DEALLOCATE in SQL under `session_state = keep`: the statements follow their client to every
server, as on a connection of its own, and nobody else sees them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.fixtures import stream
from tests.fixtures.cluster import Cluster
from tests.fixtures.process import StartBouncer
from tests.fixtures.stream import Stream
from tests.system.test_restart import restart
from tests.system.test_unnamed import said

KEEP = {"pooler": {"session_state": "keep"}}
TABLE = "DROP SCHEMA IF EXISTS apart CASCADE; DROP TABLE IF EXISTS follows; CREATE TABLE follows AS SELECT 1 AS x"
PROGRAMS: dict[str, list[str]] = {
    "plain": ["PREPARE p AS SELECT 1", "EXECUTE p", "EXECUTE p", "DEALLOCATE p", "EXECUTE p"],
    "values": ["PREPARE p (int, text) AS SELECT $1 + 1, $2", "EXECUTE p (1, 'a')", "EXECUTE p (2, 'it''s')"],
    "several in one": ["PREPARE p AS SELECT 1; PREPARE q AS SELECT 'a;b'; SELECT 3", "EXECUTE q", "EXECUTE p"],
    "twice the name": ["PREPARE p AS SELECT 1; DEALLOCATE p; PREPARE p AS SELECT 2", "EXECUTE p"],
    "comments": ["/* PREPARE p AS SELECT 0; */ PREPARE -- p\n p AS SELECT 1 /* ; */ -- end", "EXECUTE p"],
    "a quoted name": ['PREPARE "P q" AS SELECT 1', 'EXECUTE "P q"', 'DEALLOCATE "P q"', 'EXECUTE "P q"'],
    "beyond ASCII": ["PREPARE p AS SELECT 'é'", "EXECUTE p", "PREPARE q AS SELECT E'\\\\'", "EXECUTE q"],
    "all": [
        "PREPARE p AS SELECT 1",
        "PREPARE q AS SELECT 2",
        "DEALLOCATE ALL",
        "EXECUTE p",
        "PREPARE p AS SELECT 3",
        "EXECUTE p",
    ],
    "discard": ["PREPARE p AS SELECT 1", "DISCARD ALL", "EXECUTE p"],
    "again": ["PREPARE p AS SELECT 1", "PREPARE p AS SELECT 2", "EXECUTE p"],
    "rolled back": ["BEGIN", "PREPARE p AS SELECT 1", "ROLLBACK", "EXECUTE p"],
    "in a transaction": ["BEGIN", "PREPARE p AS SELECT x FROM follows", "EXECUTE p", "COMMIT", "EXECUTE p"],
    "explained": [
        "PREPARE p AS SELECT 1",
        "EXPLAIN (COSTS off) EXECUTE p",
        "CREATE TABLE made AS EXECUTE p",
        "TABLE made",
        "DROP TABLE made",
    ],
    "its table is gone": [
        "PREPARE p AS SELECT x FROM follows",
        "PREPARE q AS SELECT 2",
        "DROP TABLE follows",
        "EXECUTE p",
        "EXECUTE q",
        "BEGIN",
        "EXECUTE p",
        "SELECT 1",
        "ROLLBACK",
        "SELECT 2",
    ],
    "its table comes back": [
        "PREPARE p AS SELECT x FROM follows",
        "ALTER TABLE follows RENAME TO away",
        "EXECUTE p",
        "ALTER TABLE away RENAME TO follows",
        "EXECUTE p",
    ],
    "a search_path": [
        "CREATE SCHEMA apart; CREATE TABLE apart.lone (y int)",
        "SET search_path = apart",
        "PREPARE p AS SELECT y FROM lone",
        "EXECUTE p",
        "RESET search_path",
        "EXECUTE p",
    ],
    "a role": [
        "PREPARE p AS SELECT current_user",
        "SET ROLE plain_user",
        "EXECUTE p",
        "PREPARE q AS SELECT current_user, 1",
        "RESET ROLE",
        "EXECUTE q",
        "EXECUTE p",
    ],
    "a setting": ["PREPARE p AS SELECT set_config('work_mem', '7MB', false)", "EXECUTE p", "SHOW work_mem"],
    "many": [f"PREPARE p{number} AS SELECT {number}" for number in range(12)] + ["EXECUTE p0", "EXECUTE p11"],
    "by code": ["DO $$ BEGIN EXECUTE 'PREPARE p AS SELECT 5'; END $$", "EXECUTE p"],
}


@contextmanager
def clients(port: int, count: int) -> Iterator[list[Stream]]:
    with ExitStack() as stack:
        yield [stack.enter_context(Stream(("127.0.0.1", port), timeout=10).login()) for _ in range(count)]


def play(cluster: Cluster, port: int, program: list[str], others: int) -> list[list[tuple[str, ...]]]:
    """What is answered; between two transactions everybody else has every server, and finds nothing there."""
    cluster.sql(TABLE, dbname="app")
    found = []
    with clients(port, 1 + others) as (one, *rest):
        open_block = False
        for sql in program:
            if not open_block:
                for other in rest:
                    other.query("BEGIN")
                    assert other.rows("SELECT name FROM pg_prepared_statements WHERE from_sql") == []
                for other in rest:
                    other.query("COMMIT")
            answer = one.query(sql)
            open_block = answer[-1].body != b"I"
            found.append(said(answer))
    return found


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("which", ["cluster", "newest_cluster"])
def test_it_follows(
    request: pytest.FixtureRequest, start_pooler: StartBouncer, which: str, size: int, name: str
) -> None:
    server: Cluster = request.getfixturevalue(which)
    few = 10 if name == "many" else 200
    bouncer = start_pooler(server=server, default_pool_size=size, max_prepared_statements=few, sections=KEEP)
    direct = play(server, server.port, PROGRAMS[name], 0)
    # One whose statements cannot follow keeps its server.
    others = size - 1 if name in ("many", "beyond ASCII", "twice the name") else size
    assert play(server, bouncer.port, PROGRAMS[name], others) == direct


def test_it_pins_nobody(start_pooler: StartBouncer) -> None:
    bouncer = start_pooler(default_pool_size=1, sections=KEEP)
    with clients(bouncer.port, 2) as (one, other):
        one.query("PREPARE p AS SELECT 1")
        other.query("PREPARE p AS SELECT 2")
        for _ in range(3):
            assert one.rows("EXECUTE p") == [[b"1"]]
            assert other.rows("EXECUTE p") == [[b"2"]]


def test_those_of_the_protocol_stay_apart(start_pooler: StartBouncer) -> None:
    """PostgreSQL has one list for both: a Bind finds what PREPARE has made. Here it is told that there is none."""
    bouncer = start_pooler(default_pool_size=1, sections=KEEP)
    with clients(bouncer.port, 1) as (one,):
        one.query("PREPARE p AS SELECT 1")
        one.send(stream.bind((), "p"), stream.execute(), stream.sync())
        assert [message.error["C"] for message in one.until() if message.type == "E"] == ["26000"]
        one.send(stream.parse("SELECT 2", "p"), stream.bind((), "p"), stream.execute(), stream.sync())
        assert [message.values for message in one.until() if message.type == "D"] == [[b"2"]]
        assert one.rows("EXECUTE p") == [[b"1"]]


@pytest.mark.slow
def test_it_is_handed_over(start_pooler: StartBouncer) -> None:
    bouncer = start_pooler(default_pool_size=1, server_tls_sslmode="disable", sections=KEEP)
    with clients(bouncer.port, 2) as (one, other):
        one.query("PREPARE p AS SELECT 1")
        other.query("SELECT 1")
        restart(bouncer)
        assert other.rows("SELECT name FROM pg_prepared_statements WHERE from_sql") == []
        assert one.rows("EXECUTE p") == [[b"1"]]
