"""What SET and RELOAD are answered with is in force. What is not is refused with its reason, or named in a notice
beside the tag, and in the log.

PgBouncer says of such things in its log at most; where it has the same effect, it is the oracle.
"""

from __future__ import annotations

import errno
import os
import resource
import socket
from pathlib import Path

import pytest

from tests.fixtures.process import Bouncer, StartBouncer
from tests.fixtures.said import say
from tests.fixtures.waiting import until

NOT_ALL = "not all of the configuration is in force as it is written"
RESTART = "is changed in the configuration; it takes a restart"


def config(bouncer: Bouncer, key: str) -> str:
    return str(next(row["value"] for row in bouncer.admin("SHOW CONFIG") if row["key"] == key))


def test_set_says_how_a_value_is_understood_and_what_has_no_effect(pooler: Bouncer) -> None:
    said = say(pooler, "SET stats_period = 0")
    assert (said.tag, said.details) == ("SET stats_period=0", [None])
    assert said.texts == ["stats_period = 0 is understood as 1"]
    said = say(pooler, "SET sbuf_loopcnt = 7")
    assert said.texts == ["sbuf_loopcnt has no effect: fairness between connections is built in here"]
    assert say(pooler, "SET query_timeout = 30").texts == []


def test_set_of_a_logfile_that_cannot_be_had_is_refused(pooler: Bouncer) -> None:
    """PgBouncer 1.26.1 takes it, and ends at the next line that it has to log."""
    there, path = config(pooler, "logfile"), pooler.directory / "none" / "pooler.log"
    said = say(pooler, f"SET logfile = '{path}'")
    assert said.tag is None
    assert said.error is not None
    reason = f"could not open logfile '{path}': {os.strerror(errno.ENOENT)}"
    assert (said.error.message_primary, said.error.message_detail) == ("SET failed", reason)
    assert config(pooler, "logfile") == there
    assert f"ERROR {reason}" in pooler.log_text()


def test_set_of_a_file_of_secrets_that_is_not_there_says_so(pooler: Bouncer) -> None:
    said = say(pooler, f"SET auth_file = '{pooler.directory / 'nobody.txt'}'")
    assert said.tag
    assert any("nobody.txt" in (text or "") for text in said.texts)


def test_reload_names_what_waits_for_a_restart(pooler: Bouncer) -> None:
    pooler.settings |= {"listen_backlog": 77, "query_timeout": 5}
    pooler.write()
    said = say(pooler, "RELOAD")
    assert (said.tag, said.texts, said.details) == ("RELOAD", [f"listen_backlog {RESTART}"], [None])
    assert (config(pooler, "listen_backlog"), config(pooler, "query_timeout")) == ("128", "5")
    pooler.settings |= {"listen_port": 1, "stats_period": "-1"}
    pooler.write()
    said = say(pooler, "RELOAD")
    assert (said.tag, said.texts) == ("RELOAD", [NOT_ALL])
    line = pooler.ini.read_text().splitlines().index("stats_period = -1") + 1
    assert said.details == [
        f"{pooler.ini}:{line}: stats_period = -1 is understood as 1\nlisten_backlog {RESTART}\nlisten_port {RESTART}"
    ]
    assert pooler.admin("SHOW VERSION")


def test_reload_keeps_the_log_where_it_is_when_the_new_one_cannot_be_had(pooler: Bouncer) -> None:
    there = config(pooler, "logfile")
    path = pooler.directory / "none" / "pooler.log"
    pooler.settings |= {"logfile": path, "query_timeout": 5}
    pooler.write()
    said = say(pooler, "RELOAD")
    assert (said.tag, said.texts) == (
        "RELOAD", [f"could not open logfile '{path}': {os.strerror(errno.ENOENT)}"]
    )  # fmt: skip
    assert (config(pooler, "logfile"), config(pooler, "query_timeout")) == (there, "5")
    pooler.admin("SHOW VERSION")
    say(pooler, "PAUSE")
    assert "PAUSE command issued" in Path(there).read_text()


def test_more_clients_than_there_are_descriptors_for(pooler: Bouncer) -> None:
    hard = resource.prlimit(pooler.pid, resource.RLIMIT_NOFILE)[1]
    soft = min(hard, 600)
    resource.prlimit(pooler.pid, resource.RLIMIT_NOFILE, (soft, hard))
    said = say(pooler, "SET max_client_conn = 1000")
    assert said.texts == []
    assert resource.prlimit(pooler.pid, resource.RLIMIT_NOFILE)[0] >= 1000
    resource.prlimit(pooler.pid, resource.RLIMIT_NOFILE, (soft, soft))
    (text,) = say(pooler, "SET max_client_conn = 2000").texts
    assert text is not None
    assert text.startswith(f"kernel file descriptor limit: {soft} (hard: {soft}); max_client_conn: 2000, max expected")
    assert f"WARNING {text}" in pooler.log_text()


@pytest.mark.slow
def test_a_period_that_becomes_shorter_ends(pooler: Bouncer) -> None:
    pooler.admin("SET stats_period = 1")
    pooler.wait_log(r"LOG stats: 0 xacts/s")


@pytest.mark.parametrize("start", ["start_pooler", pytest.param("start_pgbouncer", marks=pytest.mark.slow)])
def test_who_says_nothing_is_heard_of_at_once_without_tcp_defer_accept(
    request: pytest.FixtureRequest, start: str
) -> None:
    start_it: StartBouncer = request.getfixturevalue(start)
    bouncer = start_it(client_login_timeout=0)

    def logging_in() -> int:
        lists = {row["list"]: row["items"] for row in bouncer.admin("SHOW LISTS")}
        return int(lists["login_clients"])

    def deferred(sock: socket.socket) -> bool:
        """Whether it is not heard of, before and after others have come."""
        with sock:
            return logging_in() == 0 and logging_in() == 0

    address = ("127.0.0.1", bouncer.port)
    assert deferred(socket.create_connection(address))
    bouncer.admin("SET tcp_defer_accept = 0")
    with socket.create_connection(address):
        until(lambda: logging_in() == 1, "the silent client", deadline=0.9)
    until(lambda: logging_in() == 0, "its end")
    bouncer.admin("SET tcp_defer_accept = 45")
    assert deferred(socket.create_connection(address))
