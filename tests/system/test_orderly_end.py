"""Orderly stops end: of a pool (PAUSE, KILL, DISABLE) and of the pooler, whoever waits and whatever hangs. Nothing here
ends by a timeout: server_connect_timeout is longer than a test may last. PgBouncer 1.26.1 gives the same answers.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable

import pytest

from tests.fixtures.process import Bouncer, StartBouncer
from tests.fixtures.stream import Stream, query
from tests.fixtures.understudy import HANG, IN, Understudy
from tests.fixtures.waiting import until
from tests.system.test_waiting import ask, behind, client, newcomer, told, waiting, welcomed

StartUnderstudy = Callable[[], Understudy]
SERVERS, CLIENTS = "SHUTDOWN WAIT_FOR_SERVERS", "SHUTDOWN WAIT_FOR_CLIENTS"
GONE = "08P01", "server shutting down"
SIGNALS = {"SIGINT": signal.SIGINT, "SIGTERM": signal.SIGTERM}


def console(bouncer: Bouncer) -> Stream:
    """On the Unix socket, which stays to the end."""
    return Stream(f"{bouncer.directory}/.s.PGSQL.{bouncer.port}").login("pgbouncer")


def say(bouncer: Bouncer, command: str) -> None:
    """A command, or a signal by its name."""
    if command in SIGNALS:
        bouncer.signal(SIGNALS[command])
        bouncer.wait_log(f"got {command}")
        return
    with console(bouncer) as one:
        answer = one.query(command)
        assert [m.tag for m in answer if m.type == "C"] == [command.split()[0]], answer


@pytest.mark.slow
@pytest.mark.parametrize("how", [SERVERS, "SIGINT"])
def test_who_waits_for_a_server_at_the_end_hears_that_there_will_be_none(start_same: StartBouncer, how: str) -> None:
    bouncer = start_same(default_pool_size=1)
    with client(bouncer) as holder, client(bouncer) as queued, client(bouncer) as idle:
        holder.query("BEGIN")
        ask(queued)
        waiting(bouncer, 1)
        say(bouncer, how)
        assert told(queued) == GONE
        assert holder.rows("SELECT 'at work'") == [[b"at work"]]
        ask(idle)
        assert told(idle) == GONE
        assert holder.query("COMMIT")[-1].type == "Z"
        assert bouncer.wait() == 0


@pytest.mark.parametrize("how", [SERVERS, "SIGINT"])
def test_who_is_idle_at_the_end_hears_what_drivers_know(start_same: StartBouncer, how: str) -> None:
    """PgBouncer says nothing, and neither log has a line about it."""
    bouncer = start_same()
    with client(bouncer) as idle:
        idle.query("SELECT 1")
        say(bouncer, how)
        errors = [(m.error["C"], m.error["M"]) for m in idle.rest() if m.type == "E"]
    assert bouncer.wait() == 0
    told_at_the_end = [("57P01", "server closed the connection unexpectedly: the pooler is shutting down")]
    assert errors == ([] if bouncer.name == "pgbouncer" else told_at_the_end)
    assert not re.search(r"C-\S+: app/postgres@\S+ closing", bouncer.log_text())


def test_the_last_client_may_go_without_a_line_in_the_log(start_same: StartBouncer) -> None:
    bouncer = start_same(log_disconnections=0)
    with client(bouncer) as first:
        first.query("SELECT 1")
    with client(bouncer) as last:
        last.query("SELECT 1")
        say(bouncer, CLIENTS)
        assert last.rows("SELECT 'here'") == [[b"here"]]
    assert bouncer.wait() == 0


def test_who_waits_for_a_first_server_at_the_end_hears_it_too(
    start_same: StartBouncer, start_understudy: StartUnderstudy
) -> None:
    server = start_understudy()
    server.login = HANG
    bouncer = start_same(databases=behind(server), server_connect_timeout=60)
    with newcomer(bouncer) as one:
        until(lambda: server.kept)
        say(bouncer, "SIGINT")
        assert told(one) == GONE
        assert bouncer.wait() == 0


# ---- a login that hangs


@pytest.mark.parametrize("command", ["PAUSE", "PAUSE app", "KILL app"])
def test_a_command_does_not_wait_for_a_login_that_hangs(
    start_same: StartBouncer, start_understudy: StartUnderstudy, command: str
) -> None:
    server = start_understudy()
    server.login = HANG
    bouncer = start_same(databases=behind(server), server_connect_timeout=60, server_login_retry=0.3)
    with newcomer(bouncer) as one:
        until(lambda: server.kept)
        say(bouncer, command)
        until(lambda: not server.open, "the login to be ended")
        reason = "database removed" if command == "KILL app" else "pause mode"
        bouncer.wait_log(f"S-.* closing because: {reason} ")
        server.login = IN
        say(bouncer, command.replace("PAUSE", "RESUME").replace("KILL", "RESUME"))
        if command == "KILL app":
            assert told(one) == ("08P01", reason)
        else:
            assert welcomed(one)


# ---- who is not in yet


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("DISABLE app", 'database "app" is disabled'),
        (CLIENTS, "pooler is shutting down"),
        ("SIGTERM", "pooler is shutting down"),
    ],
)
def test_who_waits_for_a_first_server_is_not_let_in_any_more(
    start_same: StartBouncer, start_understudy: StartUnderstudy, command: str, words: str
) -> None:
    server = start_understudy()
    server.login = HANG
    bouncer = start_same(databases=behind(server), server_connect_timeout=60, server_login_retry=0.3)
    with newcomer(bouncer) as one:
        until(lambda: server.kept)
        say(bouncer, command)
        # PgBouncer tells it when it has a server.
        server.login = IN
        server.leave()
        assert told(one) == ("08P01", words)
    if command != "DISABLE app":
        assert bouncer.wait() == 0


@pytest.mark.parametrize("how", ["SIGTERM", CLIENTS])
def test_who_leaves_before_there_is_a_server_is_not_waited_for(
    start_pooler: StartBouncer, start_understudy: StartUnderstudy, how: str
) -> None:
    """Nothing else happens by which the end could notice; PgBouncer does not, until server_connect_timeout."""
    server = start_understudy()
    server.login = HANG
    bouncer = start_pooler(databases=behind(server), server_connect_timeout=60)
    with newcomer(bouncer):
        until(lambda: server.kept)
        say(bouncer, how)
    assert bouncer.wait() == 0


# ---- other words


@pytest.mark.slow
@pytest.mark.parametrize("first", [SERVERS, CLIENTS, "SIGINT", "SIGTERM"])
@pytest.mark.parametrize("second", [SERVERS, CLIENTS])
def test_a_second_shutdown_with_other_words_is_taken(start_same: StartBouncer, first: str, second: str) -> None:
    bouncer = start_same(default_pool_size=1)
    with client(bouncer) as holder, client(bouncer) as idle:
        holder.query("BEGIN")
        say(bouncer, first)
        say(bouncer, second)
        assert holder.rows("SELECT 1") == [[b"1"]]
        if second == SERVERS:
            ask(idle)
            assert told(idle) == GONE
        assert holder.query("COMMIT")[-1].type == "Z"
        if second == CLIENTS:
            assert bouncer.process
            assert bouncer.process.poll() is None
            holder.socket.close()
            idle.socket.close()
        assert bouncer.wait() == 0


def test_who_is_there_goes_on_when_the_clients_are_waited_for_after_all(start_pooler: StartBouncer) -> None:
    """PgBouncer gives nobody a server any more, and waits for query_wait_timeout."""
    bouncer = start_pooler()
    with client(bouncer) as holder, client(bouncer) as idle:
        holder.query("BEGIN")
        say(bouncer, SERVERS)
        say(bouncer, CLIENTS)
        assert idle.rows("SELECT 1") == [[b"1"]]
        holder.query("COMMIT")
        assert holder.rows("SELECT 1") == [[b"1"]]


@pytest.mark.parametrize("first", [SERVERS, CLIENTS])
def test_shutdown_without_more_words_is_at_once(start_same: StartBouncer, first: str) -> None:
    bouncer = start_same()
    with client(bouncer) as holder, console(bouncer) as admin:
        holder.query("BEGIN")
        admin.query(first)
        admin.send(query("SHUTDOWN"))
        assert admin.ended()
        assert bouncer.wait() == 0


def test_a_second_word_counts_although_nothing_else_happens(start_same: StartBouncer) -> None:
    """The servers that are to be waited for now are gone already; client and console stay."""
    bouncer = start_same()
    with client(bouncer), console(bouncer) as admin:
        admin.query("RECONNECT")
        until(lambda: bouncer.pool()["sv_idle"] == 0)
        admin.query(CLIENTS)
        admin.query(SERVERS)
        assert bouncer.wait() == 0
