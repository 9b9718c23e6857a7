"""A text that is prepared where the search_path is another for one transaction only is nobody else's statement: each
client is told what a direct connection would tell it. PostgreSQL 15 and 18 are real.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fixtures import stream
from tests.fixtures.cluster import Cluster
from tests.fixtures.process import StartBouncer
from tests.fixtures.stream import Message, Stream
from tests.system.test_session_functions import known

MADE = """
DROP SCHEMA IF EXISTS there CASCADE; DROP TABLE IF EXISTS public.local_held; CREATE SCHEMA there;
CREATE TABLE public.local_held (x float8); INSERT INTO public.local_held VALUES (1.5);
CREATE TABLE there.local_held (x int8); INSERT INTO there.local_held VALUES (7);
DROP ROLE IF EXISTS there; CREATE ROLE there SUPERUSER;
"""
GONE = "DROP SCHEMA there CASCADE; DROP TABLE public.local_held; DROP ROLE there"
ASKED = "SELECT x, x = $1 FROM local_held"
WAYS = {
    "locally": "SET LOCAL search_path = there",
    "as a schema": "SET LOCAL SCHEMA 'there'",
    "by the function": "SELECT set_config('search_path', 'there', true)",
    "by a name that is put together": "SELECT set_config('search' || '_path', 'there', true)",
    "by a role": "SET LOCAL ROLE there",
    "for the session, and back": "SET search_path = there",
    "by code": "DO $$ BEGIN PERFORM set_config('search' || '_path', 'there', true); END $$",
}


@pytest.fixture
def server(each_cluster: Cluster) -> Iterator[Cluster]:
    for statement in MADE.split(";")[:-1]:
        each_cluster.sql(statement, dbname="app")
    yield each_cluster
    for statement in GONE.split(";"):
        each_cluster.sql(statement, dbname="app")


def prepared(one: Stream, name: str, value: str) -> list[Message]:
    one.send(
        stream.parse(ASKED, name),
        stream.describe("S", name),
        stream.bind([value], name),
        stream.execute(),
        stream.sync(),
    )
    return [message for message in one.until("Z") if message.type in "tTDE"]


def come(port: int) -> Stream:
    return Stream(("127.0.0.1", port), timeout=10).login()


def away(one: Stream, way: str) -> list[Message]:
    """Prepared in a transaction whose path is another."""
    one.query("BEGIN")
    one.query(WAYS[way])
    found = prepared(one, "n", "7")
    one.query("RESET search_path")
    one.query("COMMIT")
    return found


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("first", ["away", "here"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("policy", ["keep", "leak"])
def test_each_has_its_own_tables(
    start_pooler: StartBouncer, server: Cluster, way: str, first: str, size: int, policy: str
) -> None:
    with come(server.port) as one, come(server.port) as two:
        wanted = away(one, way), prepared(two, "m", "1.5")
    assert [message.type for message in wanted[0] + wanted[1]] == list("tTDtTD")
    sections = {"pooler": {"session_state": policy}}
    bouncer = start_pooler(server=server, default_pool_size=size, pool_mode="transaction", sections=sections)
    with come(bouncer.port) as one, come(bouncer.port) as two:
        one.query("SELECT 1")
        if policy == "keep":
            known(bouncer)
        if first == "away":
            found = away(one, way), prepared(two, "m", "1.5")
        else:
            here = prepared(two, "m", "1.5")
            found = away(one, way), here
    assert [message.type for message in found[0] + found[1]] == list("tTDtTD"), found
    assert [m.body for m in found[0] + found[1]] == [m.body for m in wanted[0] + wanted[1]]
