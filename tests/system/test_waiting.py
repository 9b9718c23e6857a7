"""A queue that tells the truth: whoever waits for a server is served, or is told why not as soon as that is known, in
the server's own words. PgBouncer 1.26.1 gives the same answers.

Nobody here is told by query_wait_timeout, whose default is longer than a test may last, unless the test is about it.
"""

from __future__ import annotations

import itertools
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.fixtures import stream
from tests.fixtures.cluster import Cluster
from tests.fixtures.liar import READY, Caller, StartLiar
from tests.fixtures.process import Bouncer, StartBouncer
from tests.fixtures.stream import Stream
from tests.fixtures.understudy import HANG, IN, Understudy, refusal
from tests.fixtures.waiting import free_port, until

StartUnderstudy = Callable[[], Understudy]
ROLES = (f"shut_out_{number}" for number in itertools.count())
STARTING = refusal("57P03", "the database system is starting up")
CACHED = "server login has been failing, cached error: {} (server_login_retry)"


def client(bouncer: Bouncer, user: str = "postgres") -> Stream:
    return Stream(("127.0.0.1", bouncer.port)).login(user=user)


def newcomer(bouncer: Bouncer, user: str = "postgres", database: str = "app") -> Stream:
    """One that has asked to come in."""
    one = Stream(("127.0.0.1", bouncer.port))
    one.send(stream.startup({"user": user, "database": database}))
    return one


def ask(*clients: Stream) -> None:
    for one in clients:
        one.send(stream.query("SELECT 1"))


def told(one: Stream) -> tuple[str, str]:
    """(SQLSTATE, message) of what it hears before the end."""
    *_, last = one.rest()
    return last.error["C"], last.error["M"]


def welcomed(one: Stream) -> bool:
    one.answer_login("postgres", "")
    return True


def served(one: Stream) -> bool:
    return one.until()[-1].type == "Z"


def behind(understudy: Understudy) -> dict[str, str]:
    """[databases] of whom `understudy` is the server."""
    return {"app": f"host=127.0.0.1 port={understudy.port} dbname=app"}


def waiting(bouncer: Bouncer, count: int, user: str = "postgres") -> None:
    until(lambda: bouncer.pool(user=user)["cl_waiting"] == count, f"{count} to wait")


def ask_together(bouncer: Bouncer, *clients: Stream) -> None:
    """Before any server is asked for: who asks after the first has failed is told at once, as PgBouncer has it."""
    bouncer.admin("PAUSE app")
    ask(*clients)
    waiting(bouncer, len(clients))
    bouncer.admin("RESUME app")


# ---- the server lets nobody in


@pytest.fixture
def role(cluster: Cluster) -> Iterator[str]:
    name = next(ROLES)
    cluster.sql(f"CREATE ROLE {name} LOGIN")
    yield name
    cluster.sql(f"DROP ROLE {name}")


@pytest.mark.one_process("each worker tries to log in by itself")
def test_all_who_wait_hear_that_the_role_may_not_log_in(start_same: StartBouncer, cluster: Cluster, role: str) -> None:
    bouncer = start_same(users={"postgres": "", role: ""}, server_login_retry=0.3)
    refused = "28000", f'role "{role}" is not permitted to log in'
    with ExitStack() as stack:
        clients = [stack.enter_context(client(bouncer, role)) for _ in range(3)]
        clients[0].query("SELECT 1")
        cluster.sql(f"ALTER ROLE {role} NOLOGIN")
        (server,) = cluster.backends("app", user=role)
        cluster.sql("SELECT pg_terminate_backend(%s)", (server,))
        until(lambda: bouncer.pool(user=role)["sv_idle"] == 0)
        ask(*clients)
        assert [told(one) for one in clients] == [refused] * 3
        with client(bouncer, role) as late:
            ask(late)
            assert told(late) in (refused, ("08P01", CACHED.format(refused[1])))


@pytest.mark.one_process("each worker knows its own servers")
def test_nobody_is_turned_away_while_there_is_a_server_that_is_not_condemned(
    start_same: StartBouncer, cluster: Cluster, role: str
) -> None:
    bouncer = start_same(users={"postgres": "", role: ""}, default_pool_size=2, server_login_retry=0.3)
    refused = "28000", f'role "{role}" is not permitted to log in'
    with client(bouncer, role) as holder, client(bouncer, role) as waits:
        holder.query("BEGIN")
        cluster.sql(f"ALTER ROLE {role} NOLOGIN")
        ask(waits)
        failures = r"(?s)login failed: FATAL:? role.*login failed: FATAL:? role"
        bouncer.wait_log(failures)
        waiting(bouncer, 1, role)
        bouncer.admin("RECONNECT app")
        assert told(waits) == refused
        assert holder.query("COMMIT")[-1].type == "Z"


@pytest.mark.slow
@pytest.mark.one_process("each worker knows its own servers, and says how many it has")
def test_the_role_s_connection_limit_is_a_full_pool(start_same: StartBouncer, cluster: Cluster, role: str) -> None:
    """Whom PostgreSQL grants no more servers has those that are there; without one it hears why."""
    cluster.sql(f"ALTER ROLE {role} CONNECTION LIMIT 2")
    bouncer = start_same(users={"postgres": "", role: ""}, server_login_retry=0.3)
    refused = "53300", f'too many connections for role "{role}"'
    with ExitStack() as stack:
        clients = [stack.enter_context(client(bouncer, role)) for _ in range(5)]
        for one in clients[:2]:
            one.query("BEGIN")
        ask(*clients[2:])
        bouncer.wait_log(f"server login failed: FATAL:? {refused[1]}")
        waiting(bouncer, 3, role)
        if bouncer.name == "pooler":
            bouncer.wait_log(f"WARNING app/{role} has 2 servers and gets no more: clients wait as in a full pool")
            until(lambda: bouncer.log.read_text().count(f"closing because: {refused[1]}") >= 3, "more attempts")
            said = bouncer.log.read_text()
            assert said.count("gets no more") == said.count("server login failed") == 1
        assert clients[0].query("COMMIT")[-1].type == "Z"
        assert all(served(one) for one in clients[2:])
        clients[1].query("COMMIT")
        bouncer.admin("RECONNECT app")
        until(lambda: cluster.backends("app", user=role) == [], "the servers to end")
        with cluster.connect("app", role), cluster.connect("app", role), newcomer(bouncer, role) as late:
            assert told(late) == refused


@pytest.mark.slow
@pytest.mark.parametrize(("sqlstate", "text"), [("53300", "sorry, too many clients already"), ("3D000", "no such")])
def test_whatever_the_server_says_they_all_hear(
    start_same: StartBouncer, start_understudy: StartUnderstudy, sqlstate: str, text: str
) -> None:
    server = start_understudy()
    bouncer = start_same(databases=behind(server), server_login_retry=0.3)
    server.login = refusal(sqlstate, text)
    with newcomer(bouncer) as one:
        assert told(one) == (sqlstate, text)
    server.login = IN
    with ExitStack() as stack:
        with newcomer(bouncer) as one:
            assert welcomed(one)
        clients = [stack.enter_context(client(bouncer)) for _ in range(2)]
        server.login = refusal(sqlstate, text)
        ask_together(bouncer, *clients)
        assert [told(one) for one in clients] == [(sqlstate, text)] * 2


@pytest.mark.slow
def test_a_server_that_is_starting_up_is_a_reason_to_wait(
    start_same: StartBouncer, start_understudy: StartUnderstudy
) -> None:
    """At the first login too. Who asks while it is known to be down is told so, as PgBouncer has it."""
    server = start_understudy()
    server.login = STARTING
    bouncer = start_same(databases=behind(server), server_login_retry=0.3)
    with newcomer(bouncer) as one, newcomer(bouncer) as other:
        until(lambda: server.came >= 2, "a second attempt")
        waiting(bouncer, 2)
        server.login = IN
        assert welcomed(one)
        assert welcomed(other)
        server.login = STARTING
        before = server.came
        ask_together(bouncer, one, other)
        until(lambda: server.came >= before + 2, "more attempts")
        waiting(bouncer, 2)
        with client(bouncer) as late:
            ask(late)
            assert told(late) == ("08P01", CACHED.format("the database system is starting up"))
        server.login = IN
        assert served(one)
        assert served(other)


# ---- query_timeout


@pytest.mark.slow
def test_query_timeout_counts_for_who_waits_in_a_full_pool(start_same: StartBouncer) -> None:
    bouncer = start_same(default_pool_size=1, query_timeout=1)
    with client(bouncer) as holder, client(bouncer) as waits:
        holder.query("BEGIN")
        ask(waits)
        assert told(waits) == ("08P01", "query_timeout")
        assert holder.rows("SELECT 1") == [[b"1"]]


@pytest.mark.slow
def test_query_timeout_counts_for_who_waits_for_the_end_of_a_pause(start_same: StartBouncer) -> None:
    bouncer = start_same(query_timeout=1)
    with client(bouncer) as waits:
        bouncer.admin("PAUSE app")
        ask(waits)
        with newcomer(bouncer, "trusty") as first:
            assert told(waits) == ("08P01", "query_timeout")
            assert told(first) == ("08P01", "query_timeout")


@pytest.mark.slow
def test_query_timeout_counts_for_who_waits_for_a_server_that_is_down(start_same: StartBouncer) -> None:
    bouncer = start_same(databases={"app": f"host=127.0.0.1 port={free_port()}"}, query_timeout=1)
    with newcomer(bouncer) as first:
        assert told(first) == ("08P01", "query_timeout")


@pytest.mark.slow
def test_a_users_query_timeout_counts_for_who_waits(start_pooler: StartBouncer) -> None:
    bouncer = start_pooler(default_pool_size=1, user_settings={"trusty": "query_timeout=1"})
    with client(bouncer, "trusty") as holder, client(bouncer, "trusty") as waits:
        holder.query("BEGIN")
        ask(waits)
        assert told(waits) == ("08P01", "query_timeout")
        assert holder.rows("SELECT 1") == [[b"1"]]


# ---- what the log calls it


@pytest.fixture
def unanswered() -> Iterator[int]:
    """A port whose backlog is full: who connects there hears nothing."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            one = stack.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def closing(bouncer: Bouncer) -> str:
    return bouncer.wait_log(r"S-\w+: app/postgres@\S+ closing because: (connect \w+)")[1]


@pytest.mark.slow
def test_a_connection_that_is_not_taken_has_failed(start_same: StartBouncer, unanswered: int) -> None:
    bouncer = start_same(databases={"app": f"host=127.0.0.1 port={unanswered}"}, server_connect_timeout=1)
    with newcomer(bouncer):
        said = closing(bouncer)
    # PgBouncer has two clocks for it, of which the janitor's is sometimes the first.
    assert said == "connect failed" or (bouncer.name == "pgbouncer" and said == "connect timeout")


@pytest.mark.slow
def test_a_login_that_is_not_answered_has_taken_too_long(
    start_same: StartBouncer, start_understudy: StartUnderstudy
) -> None:
    server = start_understudy()
    server.login = HANG
    bouncer = start_same(databases=behind(server), server_connect_timeout=1)
    with newcomer(bouncer):
        assert closing(bouncer) == "connect timeout"


# ---- tested servers


@pytest.mark.slow
def test_a_full_pool_whose_only_server_does_not_answer_gets_another(
    start_pooler: StartBouncer, start_understudy: StartUnderstudy
) -> None:
    """PgBouncer waits for it: query_wait_timeout."""
    server = start_understudy()
    bouncer = start_pooler(
        databases=behind(server), pool_mode="session", default_pool_size=1, server_connect_timeout=1
    )
    with client(bouncer) as first:
        first.query("SELECT 1")
        server.mute.update(server.open)
    with client(bouncer) as second:
        ask(second)
        assert served(second)
    assert "closing because: reset query failed" in bouncer.log_text()


@pytest.mark.slow
def test_a_reset_that_hangs_keeps_nobody_from_another_server(
    start_pooler: StartBouncer, start_understudy: StartUnderstudy
) -> None:
    server = start_understudy()
    bouncer = start_pooler(
        databases=behind(server), pool_mode="session", default_pool_size=2, server_connect_timeout=60
    )
    with client(bouncer) as first:
        first.query("SELECT 1")
        server.mute.update(server.open)
    with client(bouncer) as second:
        ask(second)
        assert served(second)
        pool: dict[str, Any] = bouncer.pool()
        assert (pool["sv_tested"], pool["sv_active"]) == (1, 1)


@pytest.mark.slow
@pytest.mark.parametrize("cut", [2, 12])
def test_a_server_that_stops_in_the_middle_of_a_message_to_nobody_makes_room(
    start_pooler: StartBouncer, start_liar: StartLiar, cut: int
) -> None:
    """Behind its answer. Nobody can have it, and it was never ended: all waited for query_wait_timeout, one after the
    other."""

    def play(caller: Caller) -> None:
        caller.say(READY)
        caller.hear()
        answer = stream.message("C", b"SELECT 0\0") + stream.message("Z", b"I")
        caller.say(answer + stream.message("A", b"\0\0\0\1channel\0payload\0")[: cut if liar.calls == 1 else 0])
        caller.stay()

    liar = start_liar(play)
    pooler = start_pooler(databases={"app": liar.dsn}, server_connect_timeout=1, default_pool_size=1)
    for _ in range(2):
        with Stream(("127.0.0.1", pooler.port)) as client:
            client.login()
            assert [message.type for message in client.query("SELECT")] == ["C", "Z"]
    assert liar.calls == 2
    assert "closing because: incomplete packet from server" in pooler.log_text()
