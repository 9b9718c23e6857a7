"""Whoever prepares a text is given what it means now, also behind changes whose tags do not say so, or that are undone
in part: as on a direct connection, within the second in which a statement that a server has is taken for what it was.
"""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from tests.fixtures import stream
from tests.fixtures.cluster import Cluster
from tests.fixtures.process import StartBouncer
from tests.fixtures.stream import Message, Stream

BEFORE = """
DROP SCHEMA IF EXISTS ahead, behind, beyond CASCADE; CREATE SCHEMA ahead; CREATE SCHEMA behind; CREATE SCHEMA beyond;
CREATE TABLE behind.t AS SELECT 'behind'::text AS x; CREATE TABLE beyond.t AS SELECT 'beyond'::text AS x;
CREATE EXTENSION IF NOT EXISTS postgres_fdw; DROP SERVER IF EXISTS itself CASCADE;
CREATE SERVER itself FOREIGN DATA WRAPPER postgres_fdw OPTIONS (dbname 'app', host '127.0.0.1', port '%d');
CREATE USER MAPPING FOR postgres SERVER itself OPTIONS (user 'postgres')
"""
TEXT = "SELECT x FROM t"
MADE = "CREATE TABLE ahead.t (x text)"
PROGRAMS: dict[str, tuple[str, ...]] = {
    "dropped, and not": (MADE, "BEGIN", "SAVEPOINT a", "DROP TABLE ahead.t", "USE", "ROLLBACK TO a"),
    "made": (MADE,),
    "made as a SELECT": ("CREATE TABLE ahead.t AS SELECT 'ahead'::text AS x",),
    "selected into": ("SELECT 'ahead'::text AS x INTO ahead.t",),
    "selected into, by a CTE": ("/* 'x */ WITH a AS (SELECT 'ahead'::text AS x) SELECT x INTO ahead.t FROM a",),
    "made among others": ("BEGIN; CREATE TABLE ahead.t AS SELECT 'ahead'::text AS x; COMMIT",),
    "selected into, behind an INSERT": ("INSERT INTO beyond.t VALUES (';'); (SELECT 'ahead'::text AS x INTO ahead.t)",),
    "behind comments": ("/* a /* b */ */ -- c\r; SELECT 'ahead'::text AS x INTO ahead.t",),
    "a materialized view": ("CREATE MATERIALIZED VIEW ahead.t AS SELECT 'ahead'::text AS x",),
    "imported": ("IMPORT FOREIGN SCHEMA beyond FROM SERVER itself INTO ahead",),
    "made, and not": ("BEGIN", "SAVEPOINT a", MADE, "USE", "ROLLBACK TO a"),
    "dropped, failed, and not": (
        MADE,
        "BEGIN",
        "SAVEPOINT a",
        "DROP TABLE ahead.t",
        "USE",
        "SELECT 1/0",
        "ROLLBACK TO a",
    ),
    "changed, and not": ("BEGIN", "SAVEPOINT a", "ALTER TABLE behind.t ALTER x TYPE char(9)", "USE", "ROLLBACK TO a"),
}
OWN = pytest.mark.one_process("another worker, with a server of its own, hears of what has changed a moment later")


def shown(message: Message) -> tuple[str, str]:
    return message.type, str(
        message.error["C"] if message.type == "E" else message.values if message.type == "D" else ""
    )


def use(one: Stream, name: str) -> list[tuple[str, str]]:
    one.send(stream.parse(TEXT, name), stream.sync())
    heard = one.until()
    one.send(stream.bind(name=name), stream.execute(), stream.sync())
    return [shown(message) for message in [*heard, *one.until()] if message.type not in "SN"]


@pytest.mark.parametrize("policy", ["leak", "keep"])
@pytest.mark.parametrize("size", [1, pytest.param(2, marks=OWN)])
@pytest.mark.parametrize("what", PROGRAMS)
def test_it_is_what_it_is_now(cluster: Cluster, start_pooler: StartBouncer, size: int, what: str, policy: str) -> None:
    sections = {"pooler": {"session_state": policy}}
    bouncer = start_pooler(default_pool_size=size, sections=sections)
    cluster.sql("ALTER DATABASE app SET search_path = ahead, behind", dbname="app")
    found = []
    try:
        for port in (cluster.port, bouncer.port):
            cluster.sql(BEFORE % cluster.port, dbname="app")
            with ExitStack() as stack:
                one, other = (stack.enter_context(Stream(("127.0.0.1", port)).login()) for _ in range(2))
                heard = use(other, "before")
                for number, text in enumerate(PROGRAMS[what]):
                    heard += use(one, f"n{number}") if text == "USE" else map(shown, one.query(text))
                heard += use(one, "last")
                one.query("COMMIT")
                found.append([*heard, *use(other, "last")])
    finally:
        cluster.sql("ALTER DATABASE app RESET search_path", dbname="app")
    assert found[0] == found[1]
