"""What the relay remembers of its connections beside what they have, over a real -R: each program gets the same answers
on a direct connection, and through a pool whose process is replaced in its middle.
"""

from __future__ import annotations

import time
from contextlib import ExitStack

import pytest

from tests.fixtures import stream
from tests.fixtures.cluster import Cluster
from tests.fixtures.process import Bouncer, StartBouncer
from tests.fixtures.stream import Message, Stream
from tests.fixtures.waiting import until
from tests.system.test_restart import restart
from tests.system.test_session_functions import known

RESTART = ""
"""In place of a step."""
BEFORE = """
DROP TABLE IF EXISTS drawn_from, remade; CREATE TABLE drawn_from (id serial, x int);
CREATE TABLE remade AS SELECT 1 AS x
"""
CHANGE = "ALTER TABLE remade ALTER x TYPE text"
OUTSIDE = "outside"
ASLEEP = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = 'app'"
Step = tuple[str, bytes | str]
"""Who sends what. A text is a Query."""


def parsed(text: str, name: str = "") -> bytes:
    return stream.parse(text, name) + stream.sync()


def carried_out(name: str = "") -> bytes:
    return stream.bind(name=name) + stream.execute() + stream.sync()


def fails_slowly(name: str) -> bytes:
    """And behind it, skipped, another statement without a name."""
    slow = stream.parse("SELECT 1 / (pg_sleep(1) IS NULL)::int", name)
    return slow + stream.bind(name=name) + stream.execute() + parsed("SELECT 2")


PROGRAMS: dict[str, list[Step]] = {
    "what was drawn in the transaction": [
        ("other", "INSERT INTO drawn_from (x) VALUES (1)"),
        ("one", "BEGIN"),
        ("one", "INSERT INTO drawn_from (x) VALUES (1)"),
        ("one", RESTART),
        ("one", "SELECT lastval()"),
        ("one", "COMMIT"),
    ],
    "what was drawn, kept for the next": [
        ("one", "BEGIN"),
        ("one", "INSERT INTO drawn_from (x) VALUES (1)"),
        ("one", "SELECT lastval()"),
        ("one", RESTART),
        ("one", "SELECT currval('drawn_from_id_seq')"),
        ("one", "COMMIT"),
    ],
    "what has only locked its sequence": [
        ("other", "INSERT INTO drawn_from (x) VALUES (1)"),
        ("one", "BEGIN"),
        ("one", "SELECT setval('drawn_from_id_seq', 7, false)"),
        ("one", RESTART),
        ("one", "SELECT currval('drawn_from_id_seq')"),
        ("one", "ROLLBACK"),
    ],
    "what was set": [
        ("other", "INSERT INTO drawn_from (x) VALUES (1)"),
        ("one", "BEGIN"),
        ("one", "SELECT setval('drawn_from_id_seq', 7)"),
        ("one", RESTART),
        ("one", "SELECT currval('drawn_from_id_seq')"),
        ("one", "SELECT lastval()"),
        ("one", "ROLLBACK"),
    ],
    "that nobody has used it yet": [
        ("other", parsed("SELECT x FROM remade", "n")),
        (OUTSIDE, CHANGE),
        ("one", parsed("SELECT x FROM remade", "n")),
        ("one", RESTART),
        ("one", carried_out("n")),
        ("one", carried_out("n")),
    ],
    "how the unnamed one was described": [
        ("one", stream.parse("SELECT x FROM remade") + stream.describe() + stream.sync()),
        ("one", RESTART),
        ("one", carried_out()),
        (OUTSIDE, CHANGE),
        ("one", carried_out()),
        ("one", carried_out()),
    ],
}
ONCE = {"that nobody has used it yet": (4, "0A000")}
"""By program, the step that differs, as README says."""


def shown(message: Message) -> tuple[str, ...]:
    if message.type == "E":
        return "E", message.error["C"]
    return message.type, str(message.values if message.type == "D" else message.tag if message.type == "C" else "")


def run(
    cluster: Cluster, port: int, program: list[Step], bouncer: Bouncer | None = None
) -> list[list[tuple[str, ...]]]:
    cluster.sql(BEFORE, dbname="app")
    found: list[list[tuple[str, ...]]] = []
    with ExitStack() as stack:
        come = {who: stack.enter_context(Stream(("127.0.0.1", port)).login()) for who in ("one", "other")}
        for who, said in program:
            found.append([])
            if said == RESTART:
                if bouncer is not None:
                    restart(bouncer)
            elif who == OUTSIDE:
                cluster.sql(str(said), dbname="app")
            else:
                come[who].send(said if isinstance(said, bytes) else stream.query(said))
                found[-1] = [shown(message) for message in come[who].until() if message.type not in "SNT"]
    return found


@pytest.fixture(params=[1, 2])
def bouncer(request: pytest.FixtureRequest, start_pooler: StartBouncer) -> Bouncer:
    sections = {"pooler": {"session_state": "keep", "sequence_timeout": "20"}}
    made = start_pooler(default_pool_size=request.param, server_tls_sslmode="disable", sections=sections)
    with Stream(("127.0.0.1", made.port)).login() as first:
        first.query("SELECT 1")
        known(made)
    return made


@pytest.mark.parametrize("what", PROGRAMS)
def test_it_goes_over(cluster: Cluster, bouncer: Bouncer, what: str) -> None:
    wanted = run(cluster, cluster.port, PROGRAMS[what])
    found = run(cluster, bouncer.port, PROGRAMS[what], bouncer)
    place, code = ONCE.get(what, (0, ""))
    if ("E", code) in found[place]:
        found[place] = wanted[place]
    assert found == wanted


@pytest.mark.slow
def test_what_a_skipped_parse_would_have_ended(cluster: Cluster, bouncer: Bouncer) -> None:
    """The statement without a name that was there before is there again."""
    found = []
    for port in (cluster.port, bouncer.port):
        with Stream(("127.0.0.1", port)).login() as one:
            one.send(parsed("SELECT 1"))
            one.until()
            one.send(fails_slowly("n"))
            until(lambda: cluster.sql(ASLEEP, dbname="app"), "it to sleep")
            if port == bouncer.port:
                restart(bouncer)
            heard = one.until()
            one.send(carried_out())
            found.append([shown(message) for message in [*heard, *one.until()]])
    assert found[0] == found[1]
    assert ("D", "[b'1']") in found[0]


@pytest.mark.slow
def test_a_transaction_is_as_old_as_it_is(start_pooler: StartBouncer) -> None:
    """idle_transaction_timeout begins with what the server said last, not with the clock. Who waits for the server in
    vain shows that limits were looked after."""
    limits = {"idle_transaction_timeout": 60, "query_wait_timeout": 1}
    bouncer = start_pooler(default_pool_size=1, server_tls_sslmode="disable", **limits)
    with Stream(("127.0.0.1", bouncer.port)).login() as one, Stream(("127.0.0.1", bouncer.port)).login() as other:
        one.query("BEGIN")
        restart(bouncer)
        other.send(stream.query("SELECT 1"))
        assert [message.error["M"] for message in other.rest()] == ["query_wait_timeout"]
        assert one.rows("SELECT 1") == [[b"1"]]


@pytest.mark.slow
def test_what_was_looked_at_long_ago_is_not_taken_for_new(cluster: Cluster, start_pooler: StartBouncer) -> None:
    """Who prepares a text anew, more than a second after a server was told it, gets it as it is now."""
    bouncer = start_pooler(
        default_pool_size=1, server_tls_sslmode="disable", sections={"pooler": {"session_state": "leak"}}
    )
    cluster.sql(BEFORE, dbname="app")
    with Stream(("127.0.0.1", bouncer.port)).login() as one, Stream(("127.0.0.1", bouncer.port)).login() as other:
        one.send(parsed("SELECT x FROM remade", "n"))
        one.until()
        cluster.sql(CHANGE, dbname="app")
        time.sleep(1.1)
        restart(bouncer)
        for _ in range(2):
            other.send(parsed("SELECT x FROM remade", "n"), carried_out("n"), stream.close("S", "n"))
            assert "E" not in [message.type for message in [*other.until(), *other.until()]]


DOCUMENT = "Don''t execute; set; do or declare a temporary thing: /* -- \"; create temp x; select set_config(" * 1_000
"""Of more than the relay collects."""


@pytest.mark.slow
@pytest.mark.parametrize("behind", ["", "; SET work_mem = '7MB'"])
def test_the_rest_of_a_long_text(bouncer: Bouncer, behind: str) -> None:
    """In the middle of a constant, of which nothing is to be thought; behind it is what its server is kept for."""
    message = stream.query(f"SELECT length('{DOCUMENT}'){behind}")
    with Stream(("127.0.0.1", bouncer.port)).login() as one:
        one.send(message[:70_000])
        until(lambda: bouncer.pool()["cl_active"] == 1, "its text to be under way")
        restart(bouncer)
        one.send(message[70_000:])
        answers = [shown(each) for each in one.until()]
        assert ("D", f"[b'{len(DOCUMENT) - 1000}']") in answers
        assert [row["kind"] for row in bouncer.admin("SHOW SESSION_STATE")] == (["code"] if behind else [])
