"""A running `pooler serve --state`: attach opens a pool and the last detach closes it, within a moment and
without a restart; who may come in, how many servers there are, what RELOAD and kill -9 leave, and that other
pools' clients notice nothing.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.fixtures.cluster import PASSWORDS, Cluster
from tests.fixtures.disk import Disk
from tests.fixtures.platform import Commands
from tests.fixtures.waiting import accepts, free_port, until

SECRET = PASSWORDS["scram_user"]


@dataclass
class Serving:
    """A pooler on a state, and the commands that work on it."""

    commands: Commands
    directory: Path
    cluster: Cluster
    process: subprocess.Popen[bytes] | None = None

    def start(self, *words: str) -> None:
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "pooler",
                    "serve",
                    "--state",
                    self.commands.environment["POOLER_STATE"],
                    *words,
                ],
                env=self.commands.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.says("process up", self.text().count("process up") + 1)

    def stop(self, number: int = signal.SIGQUIT) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(30)
            self.process = None

    def text(self) -> str:
        return (self.directory / "log").read_text()

    def says(self, words: str, times: int = 1) -> None:
        assert self.process is not None
        process = self.process
        until(
            lambda: self.text().count(words) >= times or process.poll() is not None,
            f"{words!r} in {self.directory}/log",
        )
        assert process.poll() is None, self.text()

    def run(self, *words: str) -> None:
        done = self.commands(*words, "-a", "example-app")
        assert done.status == 0, done.err

    def url(self, name: str) -> str:
        return self.commands("config:get", f"{name}_URL", "-a", "example-app").out.strip()

    def register(self, dbname: str, name: str, attachment: str, *words: str, user: str = "scram_user") -> int:
        """Register a database of the cluster with a pool port of its own, which is returned."""
        port = free_port()
        place = f"postgres://{user}:{SECRET.replace(' ', '%20')}@127.0.0.1:{self.cluster.port}/{dbname}"
        self.run("db:register", place, "--name", name, "--as", attachment, "--pool-port", str(port), *words)
        return port

    def connect(self, name: str, **more: Any) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(self.url(name), autocommit=True, connect_timeout=10, **more)

    def opened(self, port: int) -> None:
        until(lambda: accepts(port), f"port {port} to open")


INI = """
[databases]
app = host=127.0.0.1 port={port} dbname=app
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = {auth}
auth_file = {users}
admin_users = scram_user
"""


@pytest.fixture
def serving(cluster: Cluster, tmp_path: Path) -> Iterator[Serving]:
    """Not started yet; example-app with one database, `leader`."""
    made = Serving(Commands(str(tmp_path / "state.db")), tmp_path, cluster)
    (tmp_path / "log").touch()
    (tmp_path / "users.txt").write_text(f'"scram_user" "{SECRET}"\n')
    assert made.commands("apps:create", "example-app").status == 0
    yield made
    made.stop()
    assert "Traceback" not in made.text()


def write_ini(serving: Serving, auth: str = "scram-sha-256") -> tuple[str, int]:
    listen = free_port()
    ini = serving.directory / "base.ini"
    users = serving.directory / "users.txt"
    ini.write_text(INI.format(port=serving.cluster.port, listen=listen, auth=auth, users=users))
    return str(ini), listen


def started(serving: Serving, auth: str = "scram-sha-256") -> int:
    """The pooler with an ini of its own; its port."""
    ini, listen = write_ini(serving, auth)
    serving.start(ini, "--http", "off")
    return listen


def direct(listen: int, dbname: str = "app") -> psycopg.Connection[tuple[object, ...]]:
    place = f"host=127.0.0.1 port={listen} user=scram_user dbname={dbname} connect_timeout=10"
    return psycopg.connect(place, password=SECRET, autocommit=True)


@pytest.mark.slow
def test_attach_opens_and_the_last_detach_closes(serving: Serving) -> None:
    listen = started(serving)
    port = serving.register("other", "postgresql-octagonal-12345", "DATABASE")
    with direct(listen) as bystander, bystander.transaction():
        (before,) = bystander.execute("SELECT pg_backend_pid()").fetchone() or ()
        assert not accepts(port)
        serving.run("pg:connection-pooling:attach", "--as", "FIRST_POOL")
        serving.opened(port)
        serving.run("pg:connection-pooling:attach", "--as", "SECOND_POOL")
        assert serving.url("FIRST_POOL") == serving.url("SECOND_POOL")
        with serving.connect("FIRST_POOL") as client:
            assert client.execute("SELECT current_database(), current_user").fetchone() == ("other", "scram_user")
            serving.run("addons:detach", "FIRST_POOL")
            assert client.execute("SELECT 1").fetchone() == (1,)
            serving.run("addons:detach", "SECOND_POOL")
            until(lambda: not accepts(port), "the port to close")
            with pytest.raises(psycopg.OperationalError):
                client.execute("SELECT 1")
        until(lambda: not serving.cluster.backends("other", user="scram_user"), "its servers to end")
        assert bystander.execute("SELECT pg_backend_pid()").fetchone() == (before,)
    serving.says("pool postgresql-octagonal-12345/scram_user closes")


@pytest.mark.slow
def test_all_pools_of_a_database_stay_within_three_quarters(serving: Serving) -> None:
    started(serving)
    port = serving.register("other", "postgresql-octagonal-12345", "DATABASE", "--connection-limit", "5")
    serving.run("pg:connection-pooling:attach")
    serving.opened(port)
    clients = [serving.connect("DATABASE_CONNECTION_POOL") for _ in range(6)]
    workers = [
        subprocess.Popen(
            ["psql", "-Atqc", "SELECT pg_sleep(600)", serving.url("DATABASE_CONNECTION_POOL")],
            stderr=subprocess.DEVNULL,
        )
        for _ in range(6)
    ]
    until(lambda: len(serving.cluster.backends("other", user="scram_user")) == 3, "three servers")
    with direct_admin(serving) as console:
        waiting = "SELECT cl_waiting FROM pools WHERE database = 'postgresql-octagonal-12345'"
        until(lambda: console.execute(waiting).fetchone() == (3,), "three clients to wait")
    assert len(serving.cluster.backends("other", user="scram_user")) == 3
    for worker in workers:
        worker.kill()
        worker.wait()
    for client in clients:
        client.close()
    serving.cluster.clear("other")


@pytest.mark.slow
def test_a_pool_of_its_own(serving: Serving) -> None:
    """Sessions beside transactions, on one database; one that is full leaves the other its part."""
    started(serving)
    port = serving.register("other", "postgresql-octagonal-12345", "DATABASE", "--connection-limit", "8")
    serving.run("pg:connection-pooling:attach", "--pool", "sessions", "--pool-mode", "session", "--pool-size", "2")
    serving.run("pg:connection-pooling:attach")
    serving.opened(port)
    place = "SELECT pg_backend_pid(), current_database()"
    with serving.connect("DATABASE_SESSIONS_POOL") as first, serving.connect("DATABASE_SESSIONS_POOL") as second:
        first.execute("CREATE TEMPORARY TABLE mine (n int)")
        assert first.execute("SELECT count(*) FROM mine").fetchone() == (0,)
        found = first.execute(place).fetchone()
        assert found is not None
        assert found[1] == "other"
        assert second.execute(place).fetchone() != found
        assert first.execute(place).fetchone() == found
        with direct_admin(serving) as console:
            rows = "SELECT substr(name, 27), pool_mode, pool_size FROM databases WHERE name LIKE 'postgres%' ORDER BY 1"
            until(
                lambda: console.execute(rows).fetchall() == [("", "transaction", 4), (".sessions", "session", 2)],
                "both pools in SHOW DATABASES",
            )
        with serving.connect("DATABASE_CONNECTION_POOL") as client:
            assert client.execute("SELECT current_database()").fetchone() == ("other",)
        serving.run("pg:connection-pooling:attach", "--pool", "sessions", "--pool-size", "3")
        with serving.connect("DATABASE_SESSIONS_POOL") as third:
            until(lambda: third.execute(place).fetchone() is not None, "the third server")
            assert first.execute("SELECT count(*) FROM mine").fetchone() == (0,)
        attach = ("pg:connection-pooling:attach", "--pool", "more", "--pool-size", "3", "-a", "example-app")
        done = serving.commands(*attach)
        assert done.status == 2
        assert "2 are left for more" in done.err
        serving.run("addons:detach", "DATABASE_SESSIONS_POOL")
        serving.says("pool postgresql-octagonal-12345.sessions/scram_user closes")
        with pytest.raises(psycopg.OperationalError):
            first.execute("SELECT 1")
    with serving.connect("DATABASE_CONNECTION_POOL") as client:
        assert client.execute("SELECT 1").fetchone() == (1,)


def direct_admin(serving: Serving) -> psycopg.Connection[tuple[object, ...]]:
    """The console by the pooled address, as the app's own user."""
    place = serving.url("DATABASE_CONNECTION_POOL").rpartition("/")[0]
    return psycopg.connect(f"{place}/pgbouncer", autocommit=True)


@pytest.mark.slow
def test_promotion_serves_the_new_leader_under_the_same_name(serving: Serving) -> None:
    started(serving)
    leader = serving.register("app", "postgresql-octagonal-12345", "DATABASE")
    follower = serving.register("other", "postgresql-flat-54321", "SILVER")
    serving.run("pg:connection-pooling:attach")
    serving.opened(leader)
    with serving.connect("DATABASE_CONNECTION_POOL") as client:
        assert client.execute("SELECT current_database()").fetchone() == ("app",)
    serving.run("pg:promote", "SILVER")
    serving.opened(follower)
    until(lambda: not accepts(leader), "the old leader's pool to close")
    with serving.connect("DATABASE_CONNECTION_POOL") as client:
        assert client.execute("SELECT current_database()").fetchone() == ("other",)


@pytest.mark.slow
def test_who_may_come_in(serving: Serving) -> None:
    """A password opens its own database and no other, even where the pooler itself trusts everybody."""
    listen = started(serving, auth="trust")
    one = serving.register("app", "postgresql-octagonal-12345", "DATABASE")
    two = serving.register("other", "postgresql-flat-54321", "SILVER")
    serving.run("pg:connection-pooling:attach", "DATABASE", "--as", "ONE")
    serving.run("pg:connection-pooling:attach", "SILVER", "--as", "TWO")
    serving.opened(one)
    serving.opened(two)
    with direct(listen) as client:
        assert client.execute("SELECT 1").fetchone() == (1,)
    for url in (
        serving.url("ONE").replace("scram%20secret", "wrong"),
        serving.url("ONE").replace("scram_user", "scram_other"),
        serving.url("ONE").replace("scram_user", "postgres"),
        serving.url("ONE").replace("/app", "/other"),
        serving.url("ONE").replace("/app", "/template1"),
    ):
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(url)


@pytest.mark.slow
def test_a_credential_has_its_own_pool(serving: Serving) -> None:
    serving.cluster.sql("ALTER ROLE scram_user CREATEROLE")
    try:
        started(serving)
        port = serving.register("app", "postgresql-octagonal-12345", "DATABASE")
        serving.cluster.sql("GRANT CONNECT ON DATABASE app TO scram_user WITH GRANT OPTION")
        serving.run("pg:credentials:create", "DATABASE", "--name", "reader")
        serving.run("addons:attach", "postgresql-octagonal-12345", "--credential", "reader", "--as", "RO")
        serving.run("pg:connection-pooling:attach")
        serving.opened(port)
        serving.says("opens for example-app::DATABASE_CONNECTION_POOL")
        with serving.connect("RO_CONNECTION_POOL") as reader, serving.connect("DATABASE_CONNECTION_POOL") as owner:
            assert reader.execute("SELECT current_user").fetchone() == ("reader",)
            assert owner.execute("SELECT current_user").fetchone() == ("scram_user",)
            serving.run("addons:detach", "RO")
            serving.says("pool postgresql-octagonal-12345/reader closes")
            until(lambda: not serving.cluster.backends("app", user="reader"), "the reader's servers to end")
            with pytest.raises(psycopg.OperationalError):
                reader.execute("SELECT 1")
            assert owner.execute("SELECT 1").fetchone() == (1,)
        serving.run("pg:credentials:destroy", "DATABASE", "--name", "reader", "--confirm", "example-app")
    finally:
        serving.cluster.sql(
            "ALTER ROLE scram_user NOCREATEROLE; REVOKE CONNECT ON DATABASE app FROM scram_user CASCADE"
        )


@pytest.mark.slow
def test_reload_and_kill_leave_the_pools_as_the_state_has_them(serving: Serving) -> None:
    ini, _ = write_ini(serving)
    serving.start(ini, "--http", "off")
    port = serving.register("other", "postgresql-octagonal-12345", "DATABASE")
    serving.run("pg:connection-pooling:attach")
    serving.opened(port)
    with serving.connect("DATABASE_CONNECTION_POOL") as client:
        assert serving.process is not None
        serving.process.send_signal(signal.SIGHUP)
        serving.says("got SIGHUP")
        assert client.execute("SELECT 1").fetchone() == (1,)
    serving.stop(signal.SIGKILL)
    serving.start(ini, "--http", "off")
    serving.opened(port)
    with serving.connect("DATABASE_CONNECTION_POOL") as client:
        assert client.execute("SELECT current_database()").fetchone() == ("other",)


@pytest.mark.slow
def test_beside_a_database_of_its_own_with_tls(serving: Serving) -> None:
    """Without an ini: Heroku's numbers, TLS for the asking, and the lines that point a Heroku CLI here."""
    place = f"postgres://scram_user:{SECRET.replace(' ', '%20')}@127.0.0.1:{serving.cluster.port}/app"
    own, http = free_port(), free_port()
    serving.start(
        "--database-url", place, "--port", str(own), "--data-dir", str(serving.directory), "--http", f"127.0.0.1:{http}"
    )
    serving.says(f"export HEROKU_HOST=http://127.0.0.1:{http}")
    serving.says("export HEROKU_API_KEY='<shown at first start on a terminal;")
    assert "HRKU-" not in serving.text()
    port = serving.register("other", "postgresql-octagonal-12345", "DATABASE")
    serving.run("pg:connection-pooling:attach")
    serving.opened(port)
    with serving.connect("DATABASE_CONNECTION_POOL", sslmode="require") as client:
        assert client.execute("SELECT current_database()").fetchone() == ("other",)
        assert client.pgconn.ssl_in_use
    done = subprocess.run(
        ["psql", "-Atc", "SELECT current_database()", serving.url("DATABASE_CONNECTION_POOL")],
        env=serving.commands.environment | {"PGSSLMODE": "require"},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stdout == "other\n", done.stderr
    with direct(own) as client:
        assert client.execute("SELECT current_database()").fetchone() == ("app",)
    assert "scram secret" not in serving.text()
    info = serving.commands("pg:info", "-a", "example-app").out
    assert "Connection Pooling:    Available" in info


@pytest.mark.slow
def test_a_new_process_goes_on_with_the_pools_of_the_state(serving: Serving) -> None:
    ini, _ = write_ini(serving)
    text = Path(ini).read_text().replace("unix_socket_dir =\n", f"unix_socket_dir = {serving.directory}\n")
    Path(ini).write_text(text + "server_tls_sslmode = disable\n")
    port = serving.register("app?sslmode=disable", "postgresql-octagonal-12345", "DATABASE")
    serving.run("pg:connection-pooling:attach")
    serving.start(ini)
    serving.opened(port)
    name = "DATABASE_CONNECTION_POOL"
    with serving.connect(name, sslmode="disable") as session:
        session.execute("SET application_name = 'stays'")
        old = serving.process
        assert old is not None
        serving.start("-R", ini)
        assert old.wait(20) == 0
        assert session.execute("SHOW application_name").fetchone() == ("stays",)
    serving.opened(port)
    with serving.connect(name, sslmode="disable") as session:
        assert session.execute("SELECT current_database()").fetchone() == ("app",)


@pytest.mark.slow
def test_a_state_that_cannot_be_is_one_line(serving: Serving) -> None:
    ini, _ = write_ini(serving)
    (serving.directory / "none").touch()
    done = subprocess.run(
        [sys.executable, "-P", "-m", "pooler", "serve", "--state", str(serving.directory / "none" / "state.db"), ini],
        env=serving.commands.environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "cannot be used" in done.stderr
    assert "Traceback" not in done.stderr


# ---- without room


@pytest.fixture
def cramped(cluster: Cluster, tmp_path: Path, small_disk: Callable[[int], Disk]) -> Iterator[tuple[Serving, Disk]]:
    """With the state on a disk that can be filled."""
    disk = small_disk(2048)
    made = Serving(Commands(str(disk.path / "state.db")), tmp_path, cluster)
    (tmp_path / "log").touch()
    (tmp_path / "users.txt").write_text(f'"scram_user" "{SECRET}"\n')
    assert made.commands("apps:create", "example-app").status == 0
    yield made, disk
    made.stop()
    assert "Traceback" not in made.text()
    assert "fault in" not in made.text()


@pytest.mark.slow
def test_on_a_full_disk_an_attach_fails_with_its_reason_and_the_pools_go_on(cramped: tuple[Serving, Disk]) -> None:
    serving, disk = cramped
    started(serving)
    port = serving.register("other", "postgresql-octagonal-12345", "DATABASE")
    serving.run("pg:connection-pooling:attach", "--as", "FIRST")
    serving.opened(port)
    with serving.connect("FIRST") as client:
        disk.fill()
        for _ in range(2):
            done = serving.commands("pg:connection-pooling:attach", "--as", "SECOND", "-a", "example-app")
            assert done.status != 0
            assert "The state cannot be used: database or disk is full." in done.err
        assert client.execute("SELECT 1").fetchone() == (1,)
        with serving.connect("FIRST") as another:
            assert another.execute("SELECT current_database()").fetchone() == ("other",)
        assert serving.commands("addons:detach", "FIRST", "-a", "example-app").status != 0
        disk.room()
        serving.run("pg:connection-pooling:attach", "--as", "SECOND")
        assert serving.url("SECOND") == serving.url("FIRST")
        serving.run("addons:detach", "FIRST")
        serving.run("addons:detach", "SECOND")
        until(lambda: not accepts(port), "the port to close")


@pytest.mark.slow
def test_without_descriptors_a_port_of_the_state_rests(serving: Serving) -> None:
    """47,577 lines in half a second."""
    started(serving)
    port = serving.register("other", "postgresql-octagonal-12345", "DATABASE")
    serving.run("pg:connection-pooling:attach", "--as", "FIRST")
    serving.opened(port)
    assert serving.process is not None
    pid = serving.process.pid
    with serving.connect("FIRST") as client, ExitStack() as stack:
        assert client.execute("SELECT 1").fetchone() == (1,)
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        most = len(os.listdir(f"/proc/{pid}/fd")) + 5
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (most, before[1]))
        for _ in range(20):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
        serving.says("accept() failed: Too many open files")
        for number in range(200):
            assert client.execute(f"SELECT {number}").fetchone() == (number,)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    assert serving.text().count("accept() failed") == 1
    with serving.connect("FIRST") as client:
        assert client.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.slow
def test_figures_of_what_is_detached_and_attached_again(serving: Serving) -> None:
    """avg_query_count was -86."""
    ini, _ = write_ini(serving)
    Path(ini).write_text(Path(ini).read_text() + "stats_period = 2\n")
    serving.start(ini, "--http", "off")
    port = serving.register("other", "postgresql-octagonal-12345", "DATABASE")
    for queries in (300, 5, 2):
        serving.run("pg:connection-pooling:attach")
        serving.opened(port)
        with serving.connect("DATABASE_CONNECTION_POOL") as client:
            for number in range(queries):
                client.execute(f"SELECT {number}")
        with direct_admin(serving) as console:
            for view in ("STATS", "POOLS", "LATENCY", "HISTORY"):
                for row in console.execute(f"SHOW {view}"):
                    assert all(value >= 0 for value in row if isinstance(value, int | float | Decimal)), (view, row)
        serving.run("addons:detach", "DATABASE_CONNECTION_POOL")
        until(lambda: not accepts(port), "the port to close")
    lines = re.findall(r" LOG stats: (.*)", serving.text())
    assert lines
    assert not [line for line in lines if "-" in line]


@pytest.mark.slow
def test_a_drain_of_an_app_gets_the_lines_about_its_databases(serving: Serving) -> None:
    """From the moment it is added to the moment it is removed, beside what the pooler writes anyway."""
    ini, _ = write_ini(serving)
    serving.start(ini, "--http", "off", "--metrics-period", "1")
    port = serving.register("other", "postgresql-octagonal-12345", "DATABASE")
    serving.run("pg:connection-pooling:attach")
    serving.opened(port)
    with socket.create_server(("127.0.0.1", 0)) as collector:
        collector.settimeout(20)
        url = f"syslog://127.0.0.1:{collector.getsockname()[1]}"
        serving.run("drains:add", url)
        there, _ = collector.accept()
        with there:
            there.settimeout(20)
            received = b""
            while received.count(b"source=pgbouncer") < 2:
                received += there.recv(65536)
            serving.run("drains:remove", url)
            while data := there.recv(65536):
                received += data
    assert received.count(b"source=pgbouncer") == received.count(b"addon=postgresql-octagonal-12345 ")
    assert "addon=app " in serving.text()
