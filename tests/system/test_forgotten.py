"""Code that says DEALLOCATE ALL where nobody sees it: what a server has forgotten its next clients are given again, and
none is told that a statement is not there. PostgreSQL 15 and 18 are real.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fixtures import stream
from tests.fixtures.cluster import Cluster
from tests.fixtures.process import StartBouncer
from tests.fixtures.stream import Stream
from tests.system.test_session_functions import known

MADE = (
    "CREATE FUNCTION forgets() RETURNS void LANGUAGE plpgsql AS 'BEGIN DEALLOCATE ALL; END'",
    "CREATE FUNCTION forgets_by_text() RETURNS void LANGUAGE plpgsql AS $$BEGIN EXECUTE 'deallocate ALL'; END$$",
    "CREATE FUNCTION forgets_in_sql() RETURNS void LANGUAGE sql AS 'DEALLOCATE ALL'",
    "CREATE FUNCTION forgets_on_insert() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN DEALLOCATE ALL; RETURN NEW; END'",
    "CREATE TABLE forgotten (x int)",
    "CREATE TRIGGER t BEFORE INSERT ON forgotten FOR EACH ROW EXECUTE FUNCTION forgets_on_insert()",
)
GONE = "DROP TABLE forgotten; DROP FUNCTION forgets, forgets_by_text, forgets_in_sql, forgets_on_insert"
DO = "DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$"
WAYS = {
    "a block": (DO,),
    "a block in a transaction": ("BEGIN", DO, "USE", "COMMIT"),
    "a block that is rolled back": ("BEGIN", DO, "ROLLBACK"),
    "a function": ("SELECT forgets()",),
    "a function that puts it together": ("SELECT forgets_by_text()",),
    "a function in SQL": ("SELECT forgets_in_sql()",),
    "a trigger": ("INSERT INTO forgotten VALUES (1)",),
    "a prepared one": ("PREPARED",),
}


@pytest.fixture
def server(each_cluster: Cluster) -> Iterator[Cluster]:
    for statement in MADE:
        each_cluster.sql(statement, dbname="app")
    yield each_cluster
    for statement in GONE.split(";"):
        each_cluster.sql(statement, dbname="app")


def use(one: Stream, name: str) -> list[str]:
    one.send(stream.bind([], name), stream.execute(), stream.sync())
    return [message.error["C"] for message in one.until("Z") if message.type == "E"]


def make(one: Stream, name: str, text: str) -> None:
    one.send(stream.parse(text, name), stream.sync())
    assert not [message for message in one.until("Z") if message.type == "E"]


def test_the_fact_on_a_direct_connection(server: Cluster) -> None:
    for way in WAYS:
        if way == "a block in a transaction":
            continue
        with Stream(("127.0.0.1", server.port)).login() as one:
            make(one, "n", "SELECT 1")
            make(one, "forgets", "SELECT forgets()")
            for text in WAYS[way]:
                assert not (use(one, "forgets") if text == "PREPARED" else one.query(text)[0].type == "E")
            assert use(one, "n") == ["26000"], way


@pytest.mark.parametrize("way", WAYS)
def test_what_was_forgotten_is_made_again(start_pooler: StartBouncer, server: Cluster, way: str) -> None:
    sections = {"pooler": {"session_state": "keep"}}
    bouncer = start_pooler(server=server, default_pool_size=1, pool_mode="transaction", sections=sections)
    with Stream(("127.0.0.1", bouncer.port)).login() as one, Stream(("127.0.0.1", bouncer.port)).login() as two:
        one.query("SELECT 1")
        known(bouncer)
        make(one, "n", "SELECT 1")
        make(one, "forgets", "SELECT forgets()")
        make(two, "m", "SELECT 1")
        for _ in range(3):
            assert not use(one, "n")
            for text in WAYS[way]:
                if text in ("USE", "PREPARED"):
                    assert not use(one, "n" if text == "USE" else "forgets")
                else:
                    assert one.query(text)[0].type != "E"
            assert not use(two, "m")
            assert not use(one, "n")
