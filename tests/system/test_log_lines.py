"""The log of a typical run, side by side with the newest PgBouncer's: line by line, but for what is another each time
(time, process, pointers, ports, ages) and for the order of lines about different connections.

The rule: what the real one says is right. What we say beside it is named in `comparable`, and nothing else may differ.
"""

from __future__ import annotations

import re
import signal
import socket
from collections.abc import Callable
from contextlib import closing
from typing import Any

import psycopg
import pytest

from tests.fixtures import stream
from tests.fixtures.cluster import SUPERUSER, Cluster
from tests.fixtures.process import ADMIN, Bouncer, StartBouncer
from tests.fixtures.stream import Stream
from tests.fixtures.waiting import free_port, until

pytestmark = pytest.mark.usefixtures("cleared")

STAMP = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} \S+ \[\d+\] ")
CONNECT_FAILED = re.compile(r"WARNING S-\S+ \S+ connect failed: ")
"""Ours only: why."""
AS_ROOT = re.compile(r"WARNING running as root: ")
"""Ours only: PgBouncer does not run as root at all."""
STRANGER = re.compile(
    r"(C-0xP: )\S+@(?=.* (no such user|login attempt|login failed|closing because|pooler error|password auth|uns))"
)
"""A client's prefix: ours has its database and user from the first packet on, PgBouncer's when it has found them."""


def comparable(bouncer: Bouncer, cluster: Cluster) -> list[str]:
    """The lines of the log in order of the alphabet, without what cannot be the same."""
    lines = []
    for line in bouncer.log.read_text().splitlines():
        assert STAMP.match(line), line
        line = STAMP.sub("", line, count=1)
        line = line.replace(str(bouncer.directory), "DIR").replace(f"DIR/{bouncer.name}.", "DIR/NAME.")
        line = re.sub(r"0x[0-9a-f]+", "0xP", line)
        line = line.replace(str(bouncer.port), "PORT").replace(str(cluster.port), "PG")
        line = re.sub(r"(127\.0\.0\.1|\[::1\]):\d+", r"\1:N", line)
        line = re.sub(r"unix\(\d+\)", "unix(PID)", line)
        line = re.sub(r"\(age=\d+s\)", "(age)", line)
        line = re.sub(r"process up: .*", "process up", line)
        line = re.sub(r"when not linked: .*", "when not linked", line)
        line = STRANGER.sub(r"\1", line)
        if not (CONNECT_FAILED.match(line) or AS_ROOT.match(line)):
            lines.append(line)
    return sorted(lines)


Scenario = Callable[[Bouncer], None]


def both(
    start_pooler: StartBouncer,
    start_newest_pgbouncer: StartBouncer,
    cluster: Cluster,
    scenario: Scenario,
    **settings: Any,
) -> tuple[list[str], list[str]]:
    """What the two logs say of the same, each ended by SIGQUIT."""
    logs = []
    for start in (start_pooler, start_newest_pgbouncer):
        bouncer = start(**settings)
        scenario(bouncer)
        bouncer.signal(signal.SIGQUIT)
        bouncer.wait()
        logs.append(comparable(bouncer, cluster))
    return logs[0], logs[1]


def address(bouncer: Bouncer) -> tuple[str, int]:
    return ("127.0.0.1", bouncer.port)


def refused(bouncer: Bouncer, **parameters: str) -> None:
    """A login that fails, and is over."""
    with Stream(address(bouncer)) as client:
        client.send(stream.startup({"user": SUPERUSER, "database": "app"} | parameters))
        client.rest()


def wrong(bouncer: Bouncer, user: str, password: str) -> None:
    with pytest.raises(psycopg.OperationalError, match="failed"):
        bouncer.connect(user=user, password=password)


def unknown(bouncer: Bouncer) -> None:
    """Until the log knows that there is no `nobody`: ours hears it a moment later, lest the stranger should notice."""
    bouncer.wait_log("no such user: nobody")


def gone(bouncer: Bouncer, count: int = 0) -> None:
    """Until the pooler has noticed that clients have left: so many, beside this one, are there."""
    until(lambda: len(bouncer.admin("SHOW CLIENTS")) == count + 1, "the clients to go")


# ---- scenarios


def plain(bouncer: Bouncer) -> None:
    bouncer.sql("SELECT 1")
    with Stream(address(bouncer)) as rude:
        rude.login().query("SELECT 1")
    gone(bouncer)
    path = f"{bouncer.directory}/.s.PGSQL.{bouncer.port}"
    with Stream(path) as local:
        local.login().query("SELECT 1")
    gone(bouncer)


def probes(bouncer: Bouncer) -> None:
    """Who leaves before it has logged in: PgBouncer has no word for it."""
    for said in (b"", b"\0\0", stream.request(stream.SSL_REQUEST), stream.startup({"user": "plain_user"})):
        with socket.create_connection(address(bouncer)) as probe:
            probe.sendall(said)
            if len(said) > 2:
                probe.recv(1)
    with socket.socket(socket.AF_UNIX) as probe:
        probe.connect(f"{bouncer.directory}/.s.PGSQL.{bouncer.port}")
    bouncer.sql("SELECT 1", user="plain_user")


def strangers(bouncer: Bouncer) -> None:
    refused(bouncer, database="nosuch")
    refused(bouncer, user="nobody")
    unknown(bouncer)
    refused(bouncer, geqo="off")
    refused(bouncer, options="-c geqo=off")
    refused(bouncer, options="x")
    refused(bouncer, user="")


def passwords(bouncer: Bouncer) -> None:
    bouncer.sql("SELECT 1", user="plain_user")
    wrong(bouncer, "plain_user", "wrong")
    wrong(bouncer, "scram_user", "wrong")
    wrong(bouncer, "nobody", "wrong")
    unknown(bouncer)


def console(bouncer: Bouncer) -> None:
    with Stream(address(bouncer)) as admin:
        admin.login(ADMIN)
        for command in (
            *("SHOW VERSION", "SHOW NOTHING", "SET nothing = 1", "SET log_stats = 0", "RELOAD", "PAUSE", "PAUSE"),
            *("RESUME", "RESUME", "PAUSE app", "RESUME app", "RECONNECT", "RECONNECT app", "WAIT_CLOSE", "DISABLE app"),
            *("ENABLE app", "KILL app", "RESUME app", "KILL_CLIENT 4711", "DISABLE nothing", "SET timezone = 'CET'"),
        ):
            admin.query(command)


def work(bouncer: Bouncer) -> None:
    """Connections that end in the middle."""
    with Stream(address(bouncer)) as client:
        client.login().query("BEGIN")
    gone(bouncer)
    with Stream(address(bouncer)) as client:
        client.login().send(stream.query("SELECT pg_terminate_backend(pg_backend_pid())"))
        client.rest()
    gone(bouncer)


SLEEP = stream.query("SELECT pg_sleep(60)")
LEAVING: tuple[tuple[int, tuple[bytes, ...]], ...] = (
    (0, (SLEEP,)),
    (1, (stream.query("SELECT 1"), SLEEP)),
    (1, (stream.query("SELECT 1"), SLEEP, stream.query("SELECT 2"))),
    (1, (stream.query("BEGIN"), SLEEP)),
    (1, (stream.query("BEGIN; SELECT 1"), stream.query("COMMIT"), SLEEP)),
    (1, (stream.query("BEGIN"), stream.query("SELECT 1"), stream.query("COMMIT"), SLEEP)),
)
"""(how often a server is heard to be ready, what it was sent) before its client goes."""


def asleep(bouncer: Bouncer) -> None:
    """Until PostgreSQL is at it."""
    query = "SELECT 1 FROM pg_stat_activity WHERE state = 'active' AND query = 'SELECT pg_sleep(60)'"
    until(lambda: bouncer.sql(query), "it to come on")


def leaving(bouncer: Bouncer) -> None:
    """Clients go while their server is at work."""
    for answers, said in LEAVING:
        with Stream(address(bouncer)) as client:
            client.login().send(b"".join(said))
            for _ in range(answers):
                client.until()
            asleep(bouncer)
        gone(bouncer)


def replicas(bouncer: Bouncer) -> None:
    """Clients of replication go: before they have said anything, between commands."""
    for said in ("", "IDENTIFY_SYSTEM"):
        with Stream(address(bouncer)) as client:
            client.login("app", "replicator", replication="database")
            if said:
                client.query(said)
        gone(bouncer)


def waits(bouncer: Bouncer) -> None:
    with Stream(address(bouncer)) as one, Stream(address(bouncer)) as two, Stream(address(bouncer)) as three:
        one.login().query("BEGIN")
        two.login().query("BEGIN")
        three.login().send(stream.query("SELECT 1"))
        three.rest()


def timeouts(bouncer: Bouncer) -> None:
    with Stream(address(bouncer)) as client:
        client.login().send(stream.query("SELECT pg_sleep(9)"))
        client.rest()
    with Stream(address(bouncer)) as client:
        client.login().query("BEGIN")
        client.rest()


def signals(bouncer: Bouncer) -> None:
    with Stream(address(bouncer)) as client:
        client.login().query("SELECT 1")
        for number, said in (
            (signal.SIGHUP, "got SIGHUP"),
            (signal.SIGUSR2, "got SIGUSR2, but not paused"),
            (signal.SIGUSR1, "got SIGUSR1, pausing"),
            (signal.SIGUSR1, "got SIGUSR1, but already paused"),
            (signal.SIGUSR2, "got SIGUSR2, continuing"),
        ):
            bouncer.signal(number)
            bouncer.wait_log(said)


def nothing_reached(bouncer: Bouncer) -> None:
    """A server that is not there, until the client is told."""
    refused(bouncer)


def replication(bouncer: Bouncer) -> None:
    refused(bouncer, user="trusty", replication="database")


QUIET = {"log_connections": 0, "log_disconnections": 0}
SILENT = QUIET | {"log_pooler_errors": 0}
RUNS: list[tuple[Scenario, dict[str, Any]]] = [
    (plain, {"server_tls_sslmode": "disable"}),
    (plain, {"log_connections": 0}),
    (plain, {"log_disconnections": 0}),
    (probes, {"auth_type": "md5"}),
    (strangers, {}),
    (strangers, SILENT),
    (passwords, {"auth_type": "md5"}),
    (passwords, {"auth_type": "scram-sha-256"}),
    (passwords, {"auth_type": "plain"}),
    (console, {}),
    (console, QUIET),
    (work, {}),
    (work, QUIET),
    (waits, {"default_pool_size": 1, "reserve_pool_size": 1, "reserve_pool_timeout": 0.2, "query_wait_timeout": 1}),
    (timeouts, {"query_timeout": 0.5, "idle_transaction_timeout": 0.5}),
    (signals, {}),
    (replication, {}),
    (replication, QUIET),
]


def name(run: tuple[Scenario, dict[str, Any]]) -> str:
    return " ".join([run[0].__name__, *(f"{key}={value}" for key, value in run[1].items())])


LASTING = (waits, timeouts)
"""Runs of some seconds."""
ALONE = pytest.mark.one_process("each worker has servers of its own, of which each is told")
BEHIND = pytest.mark.one_process("what a signal asks for may be on its way to the workers when the next one ends them")


def marks(scenario: Scenario) -> list[pytest.MarkDecorator]:
    alone = [ALONE] * (scenario is plain) + [BEHIND] * (scenario is signals)
    return [pytest.mark.slow] * (scenario in LASTING) + alone


@pytest.mark.parametrize(
    ("scenario", "settings"),
    [pytest.param(*run, id=name(run), marks=marks(run[0])) for run in RUNS],
)
def test_a_run_has_the_same_log(
    start_pooler: StartBouncer,
    start_newest_pgbouncer: StartBouncer,
    cluster: Cluster,
    scenario: Scenario,
    settings: dict[str, Any],
) -> None:
    ours, theirs = both(start_pooler, start_newest_pgbouncer, cluster, scenario, **settings)
    assert ours == theirs


@pytest.mark.parametrize("more", ["user=plain_user password=wrong", "dbname=nosuch"])
@pytest.mark.parametrize("settings", [{}, SILENT], ids=["", "silent"])
def test_a_server_that_refuses(
    start_pooler: StartBouncer,
    start_newest_pgbouncer: StartBouncer,
    cluster: Cluster,
    more: str,
    settings: dict[str, Any],
) -> None:
    more = more if "dbname=" in more else f"dbname=app {more}"
    databases = {"app": f"host={cluster.host} port={cluster.port} {more}"}
    ours, theirs = both(start_pooler, start_newest_pgbouncer, cluster, nothing_reached, databases=databases, **settings)
    assert ours == theirs


@pytest.mark.slow
@pytest.mark.parametrize("scenario", [leaving, replicas])
def test_why_a_server_goes_with_its_client(
    start_pooler: StartBouncer, start_newest_pgbouncer: StartBouncer, cluster: Cluster, scenario: Scenario
) -> None:
    users = {"replicator": "", SUPERUSER: ""}
    ours, theirs = (
        [line for line in log if line.startswith("LOG S-") and "closing because" in line]
        for log in both(start_pooler, start_newest_pgbouncer, cluster, scenario, users=users)
    )
    assert len(ours) == (len(LEAVING) if scenario is leaving else 2)
    assert ours == theirs


def test_a_connect_query_that_fails(
    start_pooler: StartBouncer, start_newest_pgbouncer: StartBouncer, cluster: Cluster
) -> None:
    def scenario(bouncer: Bouncer) -> None:
        assert bouncer.sql("SELECT 1") == [(1,)]

    databases = {"app": f"host={cluster.host} port={cluster.port} connect_query='SELECT nothing'"}
    ours, theirs = both(start_pooler, start_newest_pgbouncer, cluster, scenario, databases=databases)
    assert ours == theirs


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, SILENT], ids=["", "silent"])
def test_a_server_that_is_not_there(
    start_pooler: StartBouncer, start_newest_pgbouncer: StartBouncer, cluster: Cluster, settings: dict[str, Any]
) -> None:
    ours, theirs = both(
        start_pooler,
        start_newest_pgbouncer,
        cluster,
        nothing_reached,
        databases={"app": f"host=127.0.0.1 port={free_port()}"},
        query_wait_timeout=1,
        **settings,
    )
    assert ours == theirs


def test_an_address_of_ipv6_has_brackets(
    start_pooler: StartBouncer, start_newest_pgbouncer: StartBouncer, cluster: Cluster
) -> None:
    def scenario(bouncer: Bouncer) -> None:
        with Stream(("::1", bouncer.port)) as client:
            client.login().query("SELECT 1")
        gone(bouncer)

    ours, theirs = both(
        start_pooler,
        start_newest_pgbouncer,
        cluster,
        scenario,
        listen_addr="127.0.0.1,::1",
        # Itself, by the other family: where the pooler connects from has brackets as well.
        databases={"app": f"host={cluster.host} port={cluster.port}"},
    )
    assert ours == theirs
    assert any(re.search(r"postgres@\[::1\]:N new connection|C-0xP: \[::1\]:N login attempt", line) for line in ours)


@pytest.mark.slow
def test_where_a_server_is_reached_from_has_brackets(start_same: StartBouncer) -> None:
    behind = start_same(listen_addr="127.0.0.1,::1")
    bouncer = start_same(databases={"app": f"host=::1 port={behind.port}"}, server_tls_sslmode="disable")
    assert bouncer.sql("SELECT 1") == [(1,)]
    bouncer.wait_log(rf"S-\S+: app/postgres@\[::1\]:{behind.port} new connection to server \(from \[::1\]:\d+\)")


@pytest.mark.slow
def test_a_server_that_could_not_be_opened_has_an_age(start_same: StartBouncer) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as deaf:
        bouncer = start_same(
            databases={"app": f"host=127.0.0.1 port={deaf.getsockname()[1]}"},
            server_connect_timeout=2,
            query_wait_timeout=4,
        )
        refused(bouncer)
        bouncer.wait_log(r"S-\S+ \S+ closing because: connect timeout \(age=[23]s\)")


def test_verbose_says_more(start_same: StartBouncer) -> None:
    bouncer = start_same(default_pool_size=1, server_tls_sslmode="disable")
    bouncer.sql("SELECT 1")
    assert " DEBUG " not in bouncer.log.read_text()
    bouncer.admin("SET verbose = 2")
    bouncer.admin("RECONNECT")
    with bouncer.connect() as client, socket.create_connection(address(bouncer)):
        client.execute("SELECT 1")
    bouncer.sql("SELECT 1", application_name="another", options="-c DateStyle=ISO")
    known = r"DEBUG C-\S+: app/postgres@127\.0\.0\.1:\d+"
    stranger = r"DEBUG C-\S+: \(nodb\)/\(nouser\)@127\.0\.0\.1:\d+"
    for line in (
        rf"{stranger} got var: user=postgres",
        rf"{stranger} got var: database=app",
        rf"{stranger} using application_name: another",
        rf"{stranger} received options: -c DateStyle=ISO",
        r"DEBUG C-\S+: \S+@127\.0\.0\.1:\d+ P: got connection: 127\.0\.0\.1:\d+ -> 127\.0\.0\.1:\d+",
        rf"{known} pause_client",
        rf"{known} activate_client",
        rf"{known} varcache_set_canonical: setting DateStyle to its canonical version ISO -> ISO, MDY",
        r"DEBUG S-\S+: app/postgres@127\.0\.0\.1:\d+ S: auth ok",
        r"DEBUG C-\S+: pgbouncer/postgres@127\.0\.0\.1:\d+ logged in",
        r"DEBUG S-\S+: app/postgres@127\.0\.0\.1:\d+ varcache_apply: .*SET application_name='another';",
        r"DEBUG S-\S+: app/postgres@127\.0\.0\.1:\d+ launching new connection to server",
        r"DEBUG S-\S+: app/postgres@127\.0\.0\.1:\d+ S: connect ok",
        r"DEBUG S-\S+: app/postgres@127\.0\.0\.1:\d+ S: param: client_encoding = UTF8",
        r"DEBUG S-\S+: app/postgres@127\.0\.0\.1:\d+ server login ok, start accepting queries",
        r"NOISE C-\S+: app/postgres@127\.0\.0\.1:\d+ P: welcome_client",
        r"DEBUG C-\S+: app/postgres@127\.0\.0\.1:\d+ logged in",
        r"DEBUG C-\S+: \(nodb\)/\(nouser\)@127\.0\.0\.1:\d+ failed connection attempt",
        r"DEBUG got admin query: RECONNECT",
    ):
        bouncer.wait_log(line)
    bouncer.admin("SET verbose = 0")
    said = bouncer.log.read_text().count("DEBUG")
    bouncer.sql("SELECT 1")
    assert bouncer.log.read_text().count("DEBUG") == said


def test_an_abrupt_end_is_told_so_that_drivers_know_it(start_pooler: StartBouncer) -> None:
    """PgBouncer says nothing, and libpq then what the words of ours begin with."""
    bouncer = start_pooler()
    with closing(bouncer.connect()) as idle, closing(bouncer.connect()) as busy:
        busy.execute("BEGIN")
        bouncer.signal(signal.SIGQUIT)
        bouncer.wait()
        for client in (idle, busy):
            with pytest.raises(psycopg.errors.AdminShutdown, match="server closed the connection unexpectedly"):
                client.execute("SELECT 1")


def test_the_end_of_pgbouncer_is_silent(start_newest_pgbouncer: StartBouncer) -> None:
    bouncer = start_newest_pgbouncer()
    with closing(bouncer.connect()) as idle:
        bouncer.signal(signal.SIGQUIT)
        bouncer.wait()
        with pytest.raises(psycopg.OperationalError, match="server closed the connection unexpectedly"):
            idle.execute("SELECT 1")


def test_who_was_refused_replication_is_told_why(start_pooler: StartBouncer) -> None:
    bouncer = start_pooler()
    with Stream(address(bouncer)) as client:
        client.send(stream.startup({"user": "trusty", "database": "app", "replication": "database"}))
        (told,) = [message.error for message in client.rest() if message.type == "E"]
    assert (told["M"], told["D"]) == ("login failed", "must be superuser or replication role to start walsender")
    for line in ("closing because: login failed", "pooler error: login failed"):
        bouncer.wait_log(rf"C-\S+ app/trusty@\S+ {line}")


def test_probes_are_no_refused_logins(start_pooler: StartBouncer) -> None:
    """Who has named itself and then left is one that left."""
    bouncer = start_pooler(auth_type="md5", admin_users="plain_user")
    probes(bouncer)
    wrong(bouncer, "plain_user", "wrong")

    def counted() -> dict[str, int]:
        rows = bouncer.admin("SHOW EVENTS", user="plain_user")
        return {row["reason"]: row["count"] for row in rows if row["kind"] == "login"}

    until(lambda: counted() == {"left": 1, "refused": 1}, "the count")
