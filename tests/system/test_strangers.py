"""Connections that do not log in: however many there are and whatever they say, who is in goes on, who comes gets in,
and servers can be opened. PgBouncer has no such bound: with its descriptors gone it leaves newcomers waiting.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import psycopg
import pytest

from tests.fixtures import stream
from tests.fixtures.cluster import Cluster
from tests.fixtures.process import ADMIN, Bouncer, StartBouncer
from tests.fixtures.stream import Ended, Stream
from tests.fixtures.waiting import free_port, until

pytestmark = pytest.mark.one_process("each process has a table of descriptors; see test_workers_harm")
LIMIT = 256
MARK = LIMIT - 20 - 64
"""With one database, the first descriptor that strangers do not get."""
FEW, QUESTIONS = 16, 8
"""Strangers and questions of logins that may be above it."""
STARTUP = stream.startup({"user": "scram_user", "database": "app"})
CROWDED = "no more connections allowed (too many that have not logged in)"
FULL = "no more connections allowed (file descriptor limit)"


def limited(start: StartBouncer, cluster: Cluster, **settings: object) -> Bouncer:
    """A pooler that may have LIMIT descriptors, and asks for a password."""
    databases = {"app": f"host={cluster.host} port={cluster.port} dbname=app"}
    asking = {"auth_type": "scram-sha-256", "tcp_defer_accept": 0, "listen_backlog": 1024, "databases": databases}
    bouncer = start(run=False, **(asking | settings))
    under(bouncer, f"ulimit -n {LIMIT}")
    return bouncer.start()


def under(bouncer: Bouncer, limits: str) -> None:
    """To be started by a shell that has given these commands."""
    command = bouncer.command()
    bouncer.command = lambda: ["sh", "-c", f'{limits}; exec "$@"', "sh", *command]  # type: ignore[method-assign]


def in_use(bouncer: Bouncer) -> int:
    return len(os.listdir(f"/proc/{bouncer.pid}/fd"))


def crowd(stack: ExitStack, bouncer: Bouncer, count: int, said: bytes = b"", *, unix: bool = False) -> list[Stream]:
    """So many connections that say no more than this."""
    path = str(bouncer.directory / f".s.PGSQL.{bouncer.port}")
    streams = []
    for _ in range(count):
        one = stack.enter_context(until(lambda: connection(path if unix else ("127.0.0.1", bouncer.port))))
        with suppress(Ended):
            one.send(said)
        streams.append(one)
    return streams


def connection(address: tuple[str, int] | str) -> Stream | None:
    """None when more wait to be accepted than the kernel keeps."""
    try:
        return Stream(address)
    except BlockingIOError:
        return None


def sql(bouncer: Bouncer, query: str = "SELECT 1") -> list[tuple[object, ...]]:
    return bouncer.sql(query, user="scram_user")


@pytest.mark.slow
@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(STARTUP[:20], id="half a startup packet"),
        pytest.param(STARTUP, id="no password"),
        pytest.param(stream.request(stream.SSL_REQUEST), id="no handshake"),
    ],
)
def test_who_is_in_and_who_comes_notice_nothing(start_pooler: StartBouncer, cluster: Cluster, said: bytes) -> None:
    pair = cluster.server_pair
    tls = {"client_tls_sslmode": "allow", "client_tls_cert_file": pair.cert, "client_tls_key_file": pair.key}
    bouncer = limited(start_pooler, cluster, stats_period=1, **tls)
    with ExitStack() as stack:
        clients = [stack.enter_context(bouncer.connect(user="scram_user")) for _ in range(12)]
        for unix in (False, True):
            crowd(stack, bouncer, LIMIT, said, unix=unix)
            until(lambda: CROWDED in bouncer.log_text())
            until(lambda: in_use(bouncer) <= MARK + len(clients) + 1)
            # All twelve at once: eleven servers more than there were.
            for client in clients:
                client.execute("BEGIN")
            assert [client.execute("SELECT 1").fetchone() for client in clients] == [(1,)] * 12
            for client in clients:
                client.execute("COMMIT")
            assert sql(bouncer) == [(1,)]
            assert bouncer.sql("SHOW LISTS", dbname=ADMIN, user="pgbouncer", host=bouncer.directory)
        # The log and the statistics have theirs as well.
        bouncer.log.rename(bouncer.log.with_suffix(".old"))
        bouncer.signal(signal.SIGHUP)
        bouncer.wait_log("stats: ")
    until(lambda: in_use(bouncer) < 60, "the strangers to be gone")


def still_there(one: Stream) -> bool:
    """Nothing has come, no end either."""
    readable, _, _ = select.select([one.socket], [], [], 0)
    return not readable


def test_those_who_have_said_nothing_go_first_and_of_these_the_oldest(
    start_pooler: StartBouncer, cluster: Cluster
) -> None:
    bouncer = limited(start_pooler, cluster)
    with ExitStack() as stack:
        started = crowd(stack, bouncer, 20, STARTUP)
        for one in started:
            assert one.read().type == "R"
        silent = crowd(stack, bouncer, MARK)
        told = silent[0].read().error
        assert (told["S"], told["C"], told["M"]) == ("FATAL", "53300", CROWDED)
        assert silent[0].ended()
        silent[-1].send(STARTUP)
        assert silent[-1].read().type == "R"
        assert all(map(still_there, started))
        # Now there are none that have said nothing.
        crowd(stack, bouncer, MARK, STARTUP)
        assert started[0].read().error["M"] == CROWDED
        assert sql(bouncer) == [(1,)]


@pytest.mark.slow
def test_who_waits_for_us_goes_after_those_for_whom_we_wait(start_pooler: StartBouncer, cluster: Cluster) -> None:
    """The questions of auth_query wait for a server, which is no stranger's fault. They cost descriptors as well."""
    bouncer = limited(
        start_pooler,
        cluster,
        auth_user="postgres",
        auth_query="SELECT usename, passwd FROM pg_shadow WHERE usename = $1",
        users={"postgres": "asker"},
        default_pool_size=1,
        stats_users="postgres",
    )
    with ExitStack() as stack:
        holder = stack.enter_context(bouncer.connect(password="asker"))
        console = stack.enter_context(bouncer.connect(ADMIN, password="asker", cursor_factory=psycopg.ClientCursor))
        holder.execute("BEGIN")
        asking = crowd(stack, bouncer, 20, STARTUP)

        def waiting() -> int:
            rows = console.execute("SELECT cl_waiting FROM pools WHERE database = 'app'").fetchall()
            return int(rows[0][0])

        until(lambda: waiting() == 20)
        crowd(stack, bouncer, LIMIT)
        until(lambda: CROWDED in bouncer.log_text())
        assert all(map(still_there, asking))
        # However many ask, their questions leave the others' descriptors alone.
        crowd(stack, bouncer, LIMIT, STARTUP)
        until(lambda: in_use(bouncer) <= MARK + 2 * QUESTIONS + FEW)
        assert holder.execute("SELECT 1").fetchone() == (1,)
        holder.execute("COMMIT")
        until(lambda: waiting() == 0)
        assert sql(bouncer) == [(1,)]


@pytest.mark.slow
def test_when_those_who_are_in_have_all_descriptors(start_pooler: StartBouncer, cluster: Cluster) -> None:
    """Newcomers are told so; an administrator comes in; servers can be opened; who leaves makes room."""
    bouncer = limited(start_pooler, cluster, max_client_conn=1000)
    with ExitStack() as stack:
        clients: list[psycopg.Connection[tuple[int]]] = []
        while (client := client_or_none(bouncer)) is not None:
            clients.append(stack.enter_context(client))
        assert MARK - 40 < len(clients) <= MARK
        with Stream(("127.0.0.1", bouncer.port)) as late:
            late.send(STARTUP)
            told = late.read().error
            assert (told["S"], told["C"], told["M"]) == ("FATAL", "53300", FULL)
        for client in clients[:15]:
            client.execute("BEGIN")
        assert bouncer.sql("SHOW LISTS", dbname=ADMIN, user="pgbouncer", host=bouncer.directory)
        for client in clients[:15]:
            client.execute("COMMIT")
        # As many as there can be at a time, and none of them in the others' way.
        crowd(stack, bouncer, LIMIT)
        assert clients[0].execute("SELECT 1").fetchone() == (1,)
        assert bouncer.sql("SHOW LISTS", dbname=ADMIN, user="pgbouncer", host=bouncer.directory)
        until(lambda: in_use(bouncer) <= MARK + FEW + 20)
        clients[-1].close()
        stack.enter_context(until(lambda: client_or_none(bouncer), "room for another"))


def client_or_none(bouncer: Bouncer) -> psycopg.Connection[tuple[int]] | None:
    """None when there is no room."""
    try:
        return bouncer.connect(user="scram_user")
    except psycopg.OperationalError as error:
        if FULL not in str(error):
            raise
        return None


def test_it_takes_all_the_descriptors_it_may_have(start_pooler: StartBouncer) -> None:
    """The usual soft limit of 1,024 is for programs that use select()."""
    bouncer = start_pooler(run=False)
    under(bouncer, f"ulimit -n {2 * LIMIT}; ulimit -Sn {LIMIT}")
    bouncer.start()
    assert resource.prlimit(bouncer.pid, resource.RLIMIT_NOFILE) == (2 * LIMIT, 2 * LIMIT)
    bouncer.wait_log(rf"kernel file descriptor limit: {2 * LIMIT} \(hard: {2 * LIMIT}\); max_client_conn: 100")


# ---- when the system gives none at all


def lower_limit(bouncer: Bouncer, most: int) -> None:
    """Behind its back, as when others have used up what the whole system has."""
    resource.prlimit(bouncer.pid, resource.RLIMIT_NOFILE, (most, LIMIT))


def highest(bouncer: Bouncer) -> int:
    return max(int(name) for name in os.listdir(f"/proc/{bouncer.pid}/fd"))


def test_no_descriptor_at_all(start_pooler: StartBouncer, cluster: Cluster) -> None:
    bouncer = limited(start_pooler, cluster)
    with ExitStack() as stack:
        client = stack.enter_context(bouncer.connect(user="scram_user"))
        client.execute("BEGIN")
        before = in_use(bouncer)
        strangers = crowd(stack, bouncer, 20)
        until(lambda: in_use(bouncer) == before + 20)
        # A stranger makes way for a newcomer.
        lower_limit(bouncer, in_use(bouncer))
        late = stack.enter_context(Stream(("127.0.0.1", bouncer.port)))
        late.send(STARTUP)
        assert late.read().type == "R"
        assert strangers[0].read().error["M"] == CROWDED
        # And no more of them than have to: accept() says that there is no descriptor before it looks who waits.
        assert all(map(still_there, strangers[1:]))
        # With no stranger there the newcomer is told, by the descriptor that is kept for that.
        for one in (*strangers, late):
            one.socket.close()
        until(lambda: in_use(bouncer) == before)
        lower_limit(bouncer, in_use(bouncer))
        for _ in range(3):
            with Stream(("127.0.0.1", bouncer.port)) as late:
                assert late.read().error["M"] == FULL
        assert client.execute("SELECT 1").fetchone() == (1,)
        assert bouncer.log.read_text().count("accept() failed: Too many open files") == 1
        lower_limit(bouncer, LIMIT)
        assert sql(bouncer) == [(1,)]


def processor(bouncer: Bouncer) -> int:
    """Its processor time, in hundredths of a second."""
    fields = Path(f"/proc/{bouncer.pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


@pytest.mark.slow
def test_not_even_the_last_descriptor(start_pooler: StartBouncer, cluster: Cluster) -> None:
    """Then they wait, and cost nothing."""
    bouncer = limited(start_pooler, cluster)
    with bouncer.connect(user="scram_user") as client, ExitStack() as stack:
        client.execute("BEGIN")
        lower_limit(bouncer, 3)
        before = processor(bouncer)
        late = crowd(stack, bouncer, 5, STARTUP)
        bouncer.wait_log(r"accept\(\) failed: Too many open files")
        began = time.monotonic()
        until(lambda: time.monotonic() > began + 1)
        assert processor(bouncer) - before < 30
        assert client.execute("SELECT 1").fetchone() == (1,)
        lower_limit(bouncer, LIMIT)
        assert [one.read().type for one in late] == ["R"] * 5


# ---- other strangers


def test_max_client_conn_is_of_those_who_are_in(start_pooler: StartBouncer) -> None:
    """PgBouncer counts the others too: as many silent connections keep everybody out for client_login_timeout."""
    bouncer = start_pooler(max_client_conn=3, tcp_defer_accept=0)
    with ExitStack() as stack:
        crowd(stack, bouncer, 10)
        for _ in range(3):
            stack.enter_context(Stream(("127.0.0.1", bouncer.port)).login())
        with pytest.raises(psycopg.OperationalError, match=r"no more connections allowed \(max_client_conn\)"):
            bouncer.connect()


@pytest.mark.slow
def test_one_byte_at_a_time_is_no_way_to_stay(start_pooler: StartBouncer) -> None:
    bouncer = start_pooler(client_login_timeout=1, tcp_defer_accept=0, auth_type="scram-sha-256")
    with Stream(("127.0.0.1", bouncer.port)) as slow:
        slow.socket.settimeout(0.05)
        sent, told = 0, b""
        while not told and sent < len(STARTUP) - 1:
            slow.send(STARTUP[sent : sent + 1])
            sent += 1
            try:
                told = slow.socket.recv(1000)
            except TimeoutError:
                continue
        assert b"client_login_timeout" in told


def test_cancel_requests_are_strangers_too(start_pooler: StartBouncer, cluster: Cluster) -> None:
    """Their turn may be long in coming: a peer takes so many at a time, and anybody can name a peer."""
    with socket.create_server(("127.0.0.1", 0)) as peer:
        bouncer = limited(
            start_pooler,
            cluster,
            peer_id=1,
            sections={"peers": {"2": f"host=127.0.0.1 port={peer.getsockname()[1]} pool_size=2"}},
            cancel_wait_timeout=60,
        )
        key = (2).to_bytes(2, "little") + b"\0\0\0\0\0\3"
        with ExitStack() as stack:
            crowd(stack, bouncer, LIMIT, stream.request(stream.CANCEL_REQUEST, key))
            until(lambda: CROWDED in bouncer.log_text())
            assert in_use(bouncer) <= MARK + 20
            assert sql(bouncer) == [(1,)]
        until(lambda: in_use(bouncer) < 40)


@pytest.mark.slow
def test_names_leave_nothing_behind(start_pooler: StartBouncer, cluster: Cluster) -> None:
    """With auth_type any everybody is let in, by whatever name: neither names nor what they ask for is kept."""
    databases = {"app": f"host={cluster.host} port={cluster.port} dbname=app user=postgres"}
    bouncer = start_pooler(auth_type="any", databases=databases, stats_users="any")

    def log_in(number: int) -> None:
        with Stream(("127.0.0.1", bouncer.port)) as one:
            one.login(user=f"name {number}", application_name=f"{number:09500d}")

    for number in range(100):
        log_in(number)
    before = bouncer.resident()
    for number in range(100, 1100):
        log_in(number)
    assert bouncer.resident() < before + (4 << 20)
    until(lambda: bouncer.pool("app", "postgres")["cl_active"] == 0)
    assert len(bouncer.admin("SHOW USERS", user="any")) < 20


@pytest.mark.slow
def test_strangers_of_the_http_server_have_an_eighth_of_the_descriptors(
    start_pooler: StartBouncer, cluster: Cluster
) -> None:
    """They say half a request, and go when others come."""
    port = free_port()
    bouncer = limited(start_pooler, cluster, sections={"pooler": {"http": f"127.0.0.1:{port}"}})
    bouncer.wait_log("serving metrics and the live page")
    before = in_use(bouncer)
    with ExitStack() as stack:
        strangers = [stack.enter_context(Stream(("127.0.0.1", port))) for _ in range(LIMIT)]
        for stranger in strangers:
            with suppress(Ended):
                stranger.send(b"GET / HTTP/1.1\r\nX: ")
        early = strangers[-1 - LIMIT // 8 - 8].socket
        until(lambda: select.select([early], [], [], 0)[0], "it to go before its ten seconds are over", deadline=8)
        assert in_use(bouncer) <= before + LIMIT // 8 + 8
        assert sql(bouncer) == [(1,)]
