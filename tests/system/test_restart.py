"""The online restart: a second process with -R goes on where the first one was. Clients notice nothing, whatever they
are at; only TLS ends.
"""

from __future__ import annotations

import functools
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psycopg
import pytest

from pooler import wire
from pooler.clients.door import SUCCESSOR
from pooler.config.whole import load
from pooler.process.daemon import knock
from pooler.process.passing import Passage
from tests.fixtures import account
from tests.fixtures.cluster import SUPERUSER, Cluster
from tests.fixtures.process import Bouncer, StartBouncer
from tests.fixtures.waiting import until


@pytest.fixture
def start_plain(start_pooler: StartBouncer) -> StartBouncer:
    """Without TLS to the servers: what uses TLS cannot be handed over."""
    return functools.partial(start_pooler, server_tls_sslmode="disable")


def restart(bouncer: Bouncer) -> None:
    """A new process takes the place of the running one, which ends by itself."""
    old = bouncer.process
    assert old is not None
    bouncer.launch("-R")
    assert bouncer.process is not None
    try:
        assert old.wait(20) == 0
    except BaseException:
        old.kill()
        raise
    pidfile = Path(str(bouncer.settings["pidfile"]))
    until(lambda: pidfile.exists() and pidfile.read_text().strip() == str(bouncer.pid), "the new pidfile")


def backend(connection: psycopg.Connection[tuple[int]]) -> int:
    row = connection.execute("SELECT pg_backend_pid()").fetchone()
    assert row
    return row[0]


@pytest.mark.slow
def test_a_transaction_goes_on(start_plain: StartBouncer) -> None:
    pooler = start_plain()
    with pooler.connect() as busy, pooler.connect() as idle:
        idle.execute("SELECT 1")
        busy.execute("BEGIN")
        server = backend(busy)
        busy.execute("CREATE TEMP TABLE kept AS SELECT 7 AS n")
        for _ in range(3):
            restart(pooler)
            assert backend(busy) == server
        assert busy.execute("SELECT n FROM kept").fetchone() == (7,)
        busy.execute("ROLLBACK")
        assert idle.execute("SELECT 2").fetchone() == (2,)
        assert pooler.sql("SELECT 3") == [(3,)]
        assert pooler.pool()["cl_active"] == 2
    assert "got pooler socket: " in pooler.log_text()


@pytest.mark.slow
def test_a_session_keeps_its_server_and_its_settings(start_plain: StartBouncer) -> None:
    pooler = start_plain(pool_mode="session")
    with pooler.connect(prepare_threshold=0) as session:
        server = backend(session)
        session.execute("SET statement_timeout = '7s'")
        session.execute("SET TimeZone = 'Asia/Tokyo'")
        query = "SELECT %s::int + 1"
        assert session.execute(query, (1,)).fetchone() == (2,)
        restart(pooler)
        assert session.execute(query, (2,)).fetchone() == (3,)
        assert backend(session) == server
        assert session.execute("SHOW statement_timeout").fetchone() == ("7s",)
        assert session.execute("SHOW TimeZone").fetchone() == ("Asia/Tokyo",)


@pytest.mark.slow
def test_statements_and_parameters_of_clients_without_a_server(start_plain: StartBouncer) -> None:
    pooler = start_plain(default_pool_size=2, max_prepared_statements=3)
    with ExitStack() as stack:
        clients = [stack.enter_context(pooler.connect(prepare_threshold=0)) for _ in range(4)]
        for number, client in enumerate(clients):
            client.execute(f"SET TimeZone = 'Etc/GMT+{number}'")
            for other in range(5):
                assert client.execute(f"SELECT %s::int + {other}", (1,)).fetchone() == (1 + other,)
        for _ in range(2):
            restart(pooler)
            for number, client in enumerate(clients):
                assert client.execute("SHOW TimeZone").fetchone() == (f"Etc/GMT+{number}",)
                for other in range(7):
                    assert client.execute(f"SELECT %s::int + {other}", (1,)).fetchone() == (1 + other,)


@pytest.mark.slow
def test_in_the_middle_of_queries_and_of_the_queue(start_plain: StartBouncer, cluster: Cluster) -> None:
    pooler = start_plain(default_pool_size=1)
    with ExitStack() as stack:
        clients = [stack.enter_context(pooler.connect()) for _ in range(3)]
        answers: list[object] = []

        def ask(client: psycopg.Connection[tuple[int]]) -> None:
            answers.append(client.execute("SELECT 5 FROM pg_sleep(1)", prepare=True).fetchone())

        threads = [threading.Thread(target=ask, args=(client,)) for client in clients]
        for thread in threads:
            thread.start()
        until(lambda: pooler.pool()["cl_waiting"] == 2)
        restart(pooler)
        for thread in threads:
            thread.join(20)
        assert answers == [(5,)] * 3


@pytest.mark.slow
def test_a_cancel_key_stays_good(start_plain: StartBouncer) -> None:
    pooler = start_plain()
    with pooler.connect() as client:
        outcome: list[Exception] = []

        def ask() -> None:
            try:
                client.execute("SELECT pg_sleep(60)")
            except psycopg.Error as error:
                outcome.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        until(lambda: pooler.pool()["sv_active"] == 1)
        restart(pooler)
        client.cancel_safe()
        thread.join(20)
        assert isinstance(outcome[0], psycopg.errors.QueryCanceled)
        assert client.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.slow
def test_a_large_result_and_a_copy(start_plain: StartBouncer) -> None:
    pooler = start_plain()
    with pooler.connect() as reader, pooler.connect() as writer, pooler.connect() as rows:
        with writer.cursor() as cursor:
            writer.execute("CREATE TEMP TABLE taken (line text)")
            with cursor.copy("COPY taken FROM STDIN") as copy, rows.cursor() as streamed:
                copy.write("x" * 100_000 + "\n")
                stream = streamed.stream("SELECT n, repeat('y', 1000) FROM generate_series(1, 20000) n")
                assert next(stream)[0] == 1
                reader.pgconn.send_query(b"SELECT repeat('z', 20000000)")
                restart(pooler)
                copy.write("w\n")
                assert sum(1 for _ in stream) == 19_999
            assert cursor.rowcount == 2
        result = reader.pgconn.get_result()
        assert result is not None
        assert len(result.get_value(0, 0) or b"") == 20_000_000
        assert reader.pgconn.get_result() is None


def test_no_error_and_no_lost_row_under_load(start_plain: StartBouncer, cluster: Cluster) -> None:
    pooler = start_plain(default_pool_size=3)
    table = f"restart_{os.getpid()}"
    pooler.sql(f"CREATE TABLE {table} (worker int, n int)")
    done = threading.Event()
    written: dict[int, int] = {}
    failures: list[BaseException] = []

    def work(worker: int) -> None:
        number = 0
        try:
            with pooler.connect(prepare_threshold=1) as client:
                while not done.is_set():
                    with client.transaction():
                        client.execute(f"INSERT INTO {table} VALUES (%s, %s)", (worker, number))
                    number += 1
            # New ones come in all the time too.
            pooler.sql("SELECT 1")
        except psycopg.Error as error:
            failures.append(error)
        written[worker] = number

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    try:
        for count in range(3):
            until(lambda: int(str(pooler.sql(f"SELECT count(*) FROM {table}")[0][0])) > 200 * (count + 1))  # noqa: B023
            restart(pooler)
    finally:
        done.set()
        for thread in threads:
            thread.join(20)
    assert not failures
    assert dict(pooler.sql(f"SELECT worker, count(*) FROM {table} GROUP BY 1")) == written
    pooler.sql(f"DROP TABLE {table}")


@pytest.mark.slow
def test_tls_ends(start_plain: StartBouncer, cluster: Cluster) -> None:
    pair = cluster.server_pair
    pooler = start_plain(client_tls_sslmode="allow", client_tls_cert_file=pair.cert, client_tls_key_file=pair.key)
    with pooler.connect(sslmode="require") as secret, pooler.connect(sslmode="disable") as plain:
        secret.execute("BEGIN")
        server = backend(plain)
        restart(pooler)
        with pytest.raises(psycopg.OperationalError):
            secret.execute("SELECT 1")
        assert backend(plain) == server


# ---- a new process that dies or stalls, at each moment


def successor(bouncer: Bouncer) -> socket.socket:
    """Who asks to take over, and has read nothing yet."""
    sock = knock(load(str(bouncer.ini)).settings)
    assert sock is not None
    startup = {"user": "pgbouncer", "database": "pgbouncer", "application_name": SUCCESSOR}
    sock.sendall(wire.startup_message(startup))
    return sock


def greeted(sock: socket.socket) -> Passage:
    assert sock.recv(9) == wire.authentication_ok()
    return Passage(sock, 10)


def reads(count: int) -> Callable[[Passage], None]:
    """Takes so many frames, or all."""

    def act(line: Passage) -> None:
        for _ in range(count):
            fact, descriptor = line.take()
            if descriptor is not None:
                os.close(descriptor)
            if fact["kind"] == "end":
                break

    return act


def says(fact: dict[str, str]) -> Callable[[Passage], None]:
    def act(line: Passage) -> None:
        reads(1000)(line)
        line.put(fact)

    return act


def dribbles(line: Passage) -> None:
    """Always something moves, but never enough."""
    reads(1000)(line)
    text = b'{"kind":"taken"}'
    with suppress(OSError):
        for byte in b"-" + len(text).to_bytes(4, "big") + text:
            line.sock.sendall(bytes([byte]))
            threading.Event().wait(0.3)


def jabbers(line: Passage) -> None:
    with suppress(OSError):
        line.sock.sendall(b"GET / HTTP/1.1\r\n\r\n")


@contextmanager
def traffic(bouncer: Bouncer) -> Iterator[list[float]]:
    """Seconds that each query of a client took meanwhile, and that a newcomer had to wait for its answer."""
    done = threading.Event()
    gaps: list[float] = []

    def work() -> None:
        with bouncer.connect() as client:
            while not done.is_set():
                began = time.monotonic()
                client.execute("SELECT 1")
                gaps.append(time.monotonic() - began)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        until(lambda: gaps)
        yield gaps
        began = time.monotonic()
        assert bouncer.sql("SELECT 2") == [(2,)]
        gaps.append(time.monotonic() - began)
    finally:
        done.set()
        thread.join(20)


STANDSTILL = 1.5
"""Seconds. Half a second is given to one that stalls, a second to one that dribbles; it was twenty."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "act",
    [
        pytest.param(reads(0), id="at once"),
        pytest.param(reads(1), id="after one frame"),
        pytest.param(reads(3), id="after some"),
        pytest.param(reads(1000), id="after all"),
        pytest.param(says({"kind": "no, thank you"}), id="with another answer"),
        pytest.param(says({}), id="with no answer"),
        pytest.param(jabbers, id="with no frame"),
        pytest.param(dribbles, id="dribbling"),
    ],
)
@pytest.mark.parametrize("dies", [False, True], ids=["stalls", "dies"])
def test_a_new_process_that_stalls_or_dies_takes_nothing(
    start_plain: StartBouncer, act: Callable[[Passage], None], dies: bool
) -> None:
    pooler = start_plain()
    with pooler.connect() as client, traffic(pooler) as gaps:
        client.execute("BEGIN")
        with successor(pooler) as sock:
            act(greeted(sock))
            if dies:
                sock.close()
            pooler.wait_log("the new process did not take over")
            assert client.execute("SELECT 1").fetchone() == (1,)
    assert max(gaps) < STANDSTILL
    with pooler.connect() as client:
        restart(pooler)
        assert client.execute("SELECT 3").fetchone() == (3,)


@pytest.mark.slow
def test_a_new_process_that_does_not_even_come_in_is_awaited_beside_the_traffic(start_plain: StartBouncer) -> None:
    pooler = start_plain()
    with traffic(pooler) as gaps, successor(pooler) as sock:
        pooler.wait_log("a new process wants to take over")
        before = len(gaps)
        until(lambda: len(gaps) > before + 500)
        # Nor can another one in its stead.
        with successor(pooler) as second:
            pooler.wait_log("the new process did not take over: another one is about to")
            assert second.recv(100) == b""
        assert pooler.sql("SELECT 2") == [(2,)]
        sock.close()
        until(lambda: pooler.log.read_text().count("the new process did not take over") == 2)
    assert max(gaps) < STANDSTILL
    restart(pooler)
    assert pooler.sql("SELECT 3") == [(3,)]


@pytest.mark.slow
def test_a_new_process_that_never_comes_in_is_given_up(start_plain: StartBouncer) -> None:
    pooler = start_plain()
    with traffic(pooler) as gaps, successor(pooler):
        pooler.wait_log("the new process did not take over: no answer in time", deadline=30)
    assert max(gaps) < STANDSTILL


@pytest.mark.parametrize("frames", [0, 1, 2])
@pytest.mark.parametrize("ends", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["dies", "stalls"])
def test_an_old_process_that_dies_or_stalls_leaves_the_new_one_with_nothing(
    start_pooler: StartBouncer, frames: int, ends: bool
) -> None:
    """It says so and ends: somebody else may be at work there."""
    new = start_pooler(run=False)
    new.write()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(new.directory / f".s.PGSQL.{new.port}"))
        listener.listen()
        process = new.launch("-R")
        sock, _ = listener.accept()
        with sock:
            assert SUCCESSOR.encode() in sock.recv(1000)
            line = Passage(sock, 10)
            if frames:
                sock.sendall(wire.authentication_ok())
                line.put({"kind": "house"})
            if frames == 2:
                line.put({"kind": "end"})
                assert line.take() == ({"kind": "taken"}, None)
            if ends:
                sock.close()
            assert process.wait(30) == 1
    assert "cannot take over from the old process: " in new.log_text()
    assert not Path(str(new.settings["pidfile"])).exists()


@pytest.mark.slow
def test_pauses_stay(start_plain: StartBouncer) -> None:
    pooler = start_plain()
    pooler.sql("SELECT 1")
    pooler.admin("PAUSE app")
    pooler.admin("DISABLE other")
    restart(pooler)
    shown = {row["name"]: (row["paused"], row["disabled"]) for row in pooler.admin("SHOW DATABASES")}
    assert (shown["app"], shown["other"]) == ((1, 0), (0, 1))
    pooler.admin("RESUME app")
    assert pooler.sql("SELECT 1") == [(1,)]


@pytest.mark.slow
def test_tls_to_the_servers_ends_them_when_they_are_free(start_pooler: StartBouncer, cluster: Cluster) -> None:
    """A client on such a server ends with it; one without a server goes on, on a new server."""
    pooler = start_pooler(server_tls_sslmode="require")
    with pooler.connect() as busy, pooler.connect() as idle:
        busy.execute("BEGIN")
        server = backend(idle)
        restart(pooler)
        with pytest.raises(psycopg.OperationalError):
            busy.execute("SELECT 1")
        assert backend(idle) != server
        assert idle.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetchone() == (True,)
    cluster_side = "SELECT count(*) FROM pg_stat_activity WHERE pid = %d"
    until(lambda: pooler.sql(cluster_side % server) == [(0,)], "the old server to end")


# ---- when there is nothing to take over


@pytest.mark.slow
@pytest.mark.parametrize("same_user", [True, False])
def test_a_pgbouncer_does_not_hand_over_and_goes_on(
    start_pgbouncer: StartBouncer, start_pooler: StartBouncer, monkeypatch: pytest.MonkeyPatch, same_user: bool
) -> None:
    python = account.python()
    if (same_user and not python) or (not same_user and account.unprivileged() is None):
        pytest.skip("the new process cannot be made to run as that user here")
    old = start_pgbouncer()
    new = start_pooler(run=False, unix_socket_dir=old.directory, listen_port=old.port)
    told = "we must run as the same system user"
    if same_user:
        monkeypatch.setattr(new, "command", lambda: [*python, "-m", "pooler", "serve", str(new.ini)])
        new.as_account = True
        told = "it is another program (a PgBouncer?): stop it first, then start without -R"
    with old.connect() as client:
        client.execute("BEGIN")
        new.write()
        assert new.launch("-R").wait(20) == 1
        assert "cannot take over from the old process: " in new.log_text()
        assert told in new.log_text()
        assert client.execute("SELECT 1").fetchone() == (1,)
        assert old.sql("SELECT 2") == [(2,)]


def test_without_an_old_process_it_starts_as_ever(start_pooler: StartBouncer) -> None:
    pooler = start_pooler(run=False)
    pooler.start("-R")
    assert "old process not found, try to continue normally" in pooler.log_text()
    assert pooler.sql("SELECT 1") == [(1,)]


@pytest.mark.parametrize(
    ("directory", "told"),
    [
        ("", "cannot reboot if unix dir not configured"),
        ("@pooler", "cannot reboot with abstract Unix socket"),
    ],
)
def test_where_it_cannot_be(start_pooler: StartBouncer, directory: str, told: str) -> None:
    pooler = start_pooler(run=False, unix_socket_dir=directory)
    pooler.write()
    assert pooler.launch("-R").wait(20) == 1
    assert told in pooler.log_text()


def test_not_under_a_service_manager(start_pooler: StartBouncer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_FDS", "1")
    pooler = start_pooler(run=False)
    pooler.write()
    assert pooler.launch("-R").wait(20) == 1
    assert "cannot reboot under service manager" in pooler.log_text()


@pytest.mark.slow
def test_a_second_process_without_it_is_refused(pooler: Bouncer) -> None:
    first = pooler.process
    assert first is not None
    try:
        assert pooler.launch().wait(20) == 1
    finally:
        pooler.process = first
    assert "unix socket is in use, cannot continue" in pooler.log_text()
    assert pooler.sql("SELECT 1", user=SUPERUSER) == [(1,)]
