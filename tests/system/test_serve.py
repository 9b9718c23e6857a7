"""`pooler serve` as a new user meets it: one command, what it prints is ready to copy, and what goes wrong is one
clear line. Ports are chosen by the test, since 5432 and 5433 may be somebody's.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from tests.fixtures import account
from tests.fixtures.cluster import PASSWORDS, Cluster, scratch
from tests.fixtures.process import StartBouncer, imports
from tests.fixtures.proxy import FaultProxy
from tests.fixtures.understudy import Understudy, refusal
from tests.fixtures.waiting import free_port, until

URL = re.compile(r"postgres://\S+")
PSQL = re.compile(r"^\s*(PGPASSFILE=\S+ )?(psql .+)$", re.MULTILINE)
METRICS = re.compile(
    r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00 app\[heroku-pgbouncer\]: source=pgbouncer addon=\S+"
    r" sample#client_active=\d+ sample#client_waiting=\d+ sample#server_active=\d+ sample#server_idle=\d+"
    r" sample#max_wait=\d+ sample#avg_query=\d+ sample#avg_recv=\d+ sample#avg_sent=\d+$",
    re.MULTILINE,
)


class Serve:
    """One run of `pooler serve` with its stdout and stderr in files."""

    def __init__(self, directory: Path, *arguments: str, **environment: str) -> None:
        self.given = [*arguments, *environment.values()]
        self.stdout, self.stderr = directory / "stdout", directory / "stderr"
        with self.stdout.open("wb") as out, self.stderr.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "pooler", "serve", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=directory,
                start_new_session=True,
                env=account.environment(XDG_STATE_HOME=str(directory / "xdg"), **imports(), **environment),
            )

    def text(self) -> str:
        return self.stdout.read_text() + self.stderr.read_text()

    def ready(self) -> Serve:
        until(lambda: "process up" in self.text() or self.process.poll() is not None, "pooler serve to be up")
        assert self.process.poll() is None, self.text()
        return self

    @property
    def url(self) -> str:
        """The application's URL, as printed, with the password in it, which is not printed into a file."""
        found = URL.search(self.text())
        assert found, self.text()
        return found[0].replace("****", self.password)

    @property
    def password(self) -> str:
        """Where the text says that it is: in the file with passwords, or in the URL that was given."""
        if file := re.search(r"\(the password is in (\S+);", self.text()):
            kept = [line.split(":") for line in Path(file[1]).read_text().splitlines()]
            return next(fields[4] for fields in kept if fields[3:4] == ["pooler"])
        (url,) = (text for text in self.given if text.startswith("postgres://"))
        return url.rpartition("@")[0].split(":")[-1]

    def psql(self, *arguments: str, password: str = "") -> str:
        """stdout of the printed psql command with more arguments; the password where psql would ask for it."""
        found = PSQL.search(self.text())
        assert found, self.text()
        passfile = found[1].partition("=")[2].strip() if found[1] else ""
        known = {"PGPASSFILE": passfile} if passfile else {"PGPASSWORD": password}
        env = account.environment(**known)
        return account.run([*shlex.split(found[2]), *arguments], env=env)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(30)


StartServe = Callable[..., Serve]


@pytest.fixture
def serve() -> Iterator[StartServe]:
    """serve(*arguments, **environment) -> a Serve, ended after the test; nothing else of it may live on."""
    directory, runs = scratch(), list[Serve]()

    def start(*arguments: str, **environment: str) -> Serve:
        place = directory / str(len(runs))
        place.mkdir()
        runs.append(Serve(place, *arguments, **environment))
        return runs[-1]

    yield start
    for run in runs:
        run.stop()
        assert "Traceback" not in run.text(), run.text()
    shutil.rmtree(directory)


def fetch(url: str, sql: str, **more: str) -> object:
    with psycopg.connect(url, **more) as connection:  # type: ignore[arg-type]
        row = connection.execute(sql.encode()).fetchone()
        assert row
        return row[0]


@pytest.fixture(scope="module")
def data() -> Iterator[Path]:
    """A data directory for all runs with an embedded PostgreSQL."""
    directory = scratch()
    yield directory / "data"
    shutil.rmtree(directory)


def test_one_command(serve: StartServe, data: Path) -> None:
    port = free_port()
    run = serve("--data-dir", str(data), "--port", str(port), "--http", "off").ready()
    assert f":{port}/" in run.url
    assert fetch(run.url, "SELECT current_database()") == "pooler"
    assert fetch(run.url, "SELECT 1", sslmode="require") == 1
    assert fetch(run.url, "SELECT 1", sslmode="disable") == 1
    assert run.psql("-X", "-A", "-t", "-c", "SHOW VERSION").strip() == "PgBouncer 1.26.1"
    assert "pool_mode|transaction" in run.psql("-X", "-A", "-t", "-c", "SHOW CONFIG")
    assert "\ncl_active " in run.psql("-X", "-x", "-c", "SHOW POOLS")
    until(lambda: METRICS.search(run.stdout.read_text()), "a metrics line")


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_the_embedded_database_stops_with_it_and_keeps_its_data(
    serve: StartServe, data: Path, how: signal.Signals
) -> None:
    run = serve("--data-dir", str(data), "--port", str(free_port()), "--http", "off").ready()
    with psycopg.connect(run.url, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept AS SELECT 42 AS answer")
    postmaster = int((data / "data" / "postmaster.pid").read_text().split()[0])
    assert run.stop(how) == 0
    assert not Path(f"/proc/{postmaster}").exists()
    again = serve("--data-dir", str(data), "--port", str(free_port()), "--http", "off").ready()
    assert fetch(again.url, "SELECT answer FROM kept") == 42


@pytest.mark.slow
def test_a_killed_pooler_can_be_started_again(serve: StartServe, data: Path) -> None:
    run = serve("--data-dir", str(data), "--port", str(free_port()), "--http", "off").ready()
    run.stop(signal.SIGKILL)
    again = serve("--data-dir", str(data), "--port", str(free_port()), "--http", "off").ready()
    assert fetch(again.url, "SELECT 1") == 1


@pytest.mark.slow
@pytest.mark.parametrize("by", ["argument", "variable"])
def test_a_database_by_its_url(serve: StartServe, cluster: Cluster, by: str) -> None:
    secret = PASSWORDS["scram_user"].replace(" ", "%20")
    url = f"postgres://scram_user:{secret}@127.0.0.1:{cluster.port}/app"
    where = {"DATABASE_URL": url} if by == "variable" else {}
    arguments = [] if by == "variable" else ["--database-url", url]
    run = serve(*arguments, "--http", "off", "--port", str(free_port()), **where).ready()
    assert fetch(run.url, "SELECT current_user") == "scram_user"
    shown = run.psql("-X", "-A", "-t", "-c", "SHOW CONFIG", password=PASSWORDS["scram_user"])
    assert f"\ndefault_pool_size|{200 * 75 // 100}|" in shown
    with pytest.raises(psycopg.OperationalError, match="authentication failed"):
        fetch(run.url.replace(secret, "wrong"), "SELECT 1")


@pytest.mark.slow
def test_the_port_is_the_databases_plus_one(serve: StartServe, cluster: Cluster) -> None:
    """That port may be somebody's by now; then the complaint names it."""
    run = serve("--database-url", f"postgres://trusty@127.0.0.1:{cluster.port}/app", "--http", "off")
    until(lambda: "process up" in run.text() or run.process.poll() is not None)
    assert re.search(rf"\b{cluster.port + 1}\b", run.text())


@pytest.mark.slow
def test_the_connection_limit_can_be_given(serve: StartServe, cluster: Cluster) -> None:
    url = f"postgres://trusty@127.0.0.1:{cluster.port}/app"
    run = serve("--database-url", url, "--connection-limit", "21", "--http", "off", "--port", str(free_port())).ready()
    assert "default_pool_size|15|" in run.psql("-X", "-A", "-t", "-c", "SHOW CONFIG")


def refused(run: Serve, status: int = 1) -> str:
    """The one line on stderr; usage and PgBouncer's own complaint about an ini have a second."""
    assert run.process.wait(30) == status, run.text()
    lines = run.stderr.read_text().splitlines()
    assert len(lines) == 1 or status == 2 or "cannot load config file" in lines[1], lines
    return lines[-1] if status == 2 else lines[0]


def test_a_busy_port(serve: StartServe, cluster: Cluster) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = str(busy.getsockname()[1])
        run = serve(
            "--database-url", f"postgres://trusty@127.0.0.1:{cluster.port}/app", "--port", port, "--http", "off"
        )
        assert run.process.wait(30) == 1
    assert port in run.stderr.read_text().splitlines()[-1]


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("mysql://user@host/db", "postgres://"),
        ("postgres://user:secret@host:notaport/db", "port"),
        ("postgres://127.0.0.1:1/db", "no user"),
        ("postgres://user:secret@x/y@127.0.0.1:1/db", "cannot be reached; a password's @"),
        ("postgres://user:sec/ret@127.0.0.1:1/db", "%2F"),
    ],
)
def test_a_bad_url_is_one_line(serve: StartServe, url: str, told: str) -> None:
    line = refused(serve("--database-url", url, "--port", str(free_port()), "--http", "off"))
    assert told in line
    assert "secret" not in line


def test_a_wrong_password_for_the_database_is_one_line(serve: StartServe, cluster: Cluster) -> None:
    url = f"postgres://scram_user:wrong@127.0.0.1:{cluster.port}/app"
    line = refused(serve("--database-url", url, "--port", str(free_port()), "--http", "off"))
    assert "password authentication failed" in line


@pytest.mark.slow
def test_a_database_that_comes_later(serve: StartServe, cluster: Cluster) -> None:
    """As at boot: it is there a while after the pooler, and the pool is then as large as its limit says."""
    with FaultProxy(("127.0.0.1", cluster.port)) as proxy:
        proxy.refuse()
        url = f"postgres://trusty@127.0.0.1:{proxy.port}/app"
        run = serve("--database-url", url, "--port", str(free_port()), "--http", "off").ready()
        assert f"WARNING the database at 127.0.0.1:{proxy.port} cannot be reached: " in run.text()
        assert "Pooling the database" in run.text()
        proxy.accept()
        until(lambda: "is there: the pool takes 150 of its 200 connections" in run.text(), "the limit to be asked for")
        assert fetch(run.url, "SELECT current_user") == "trusty"
        shown = run.psql("-X", "-A", "-t", "-c", "SHOW CONFIG")
        assert "default_pool_size|150|" in shown
        assert "max_db_connections|150|" in shown


def test_a_database_that_is_not_ready_is_waited_for(serve: StartServe) -> None:
    with Understudy() as server:
        server.login = refusal("57P03", "the database system is starting up")
        url = f"postgres://u@127.0.0.1:{server.port}/app"
        run = serve("--database-url", url, "--port", str(free_port()), "--http", "off").ready()
        assert "is not ready: the database system is starting up" in run.text()


def test_a_database_without_tls_is_told_of_the_sslmode(serve: StartServe) -> None:
    with Understudy() as server:
        url = f"postgres://u@127.0.0.1:{server.port}/app?sslmode=require"
        line = refused(serve("--database-url", url, "--port", str(free_port()), "--http", "off"))
        assert "server refused SSL, and the URL asks for sslmode=require" in line


@pytest.mark.slow
def test_a_busy_port_is_told_before_a_database_is_made(serve: StartServe, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = str(busy.getsockname()[1])
        for words in (("--port", port, "--http", "off"), ("--port", str(free_port()), "--http", f"127.0.0.1:{port}")):
            data = tmp_path / words[1]
            line = refused(serve("--data-dir", str(data), *words))
            assert f"cannot listen on 127.0.0.1:{port}: Address already in use; choose another port" in line
            assert not data.exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("x.ini", "--port", "7009"), "--port is for a start without an ini file; there it is listen_port"),
        (("x.ini", "--listen", "*"), "listen_addr"),
        (("x.ini", "--plain"), "client_tls_sslmode"),
        (("x.ini", "--data-dir", "d"), "--data-dir is for"),
        (("x.ini", "--embedded"), "[databases]"),
        (("x.ini", "--database-url", "postgres://u@h/d"), "[databases]"),
        (("x.ini", "--connection-limit", "5"), "default_pool_size"),
        (("-d",), "-d needs an ini file"),
        (("-R",), "-R needs an ini file"),
        (("--http-key", "k"), "--http-key needs --http-cert"),
        (("--embedded", "--database-url", "postgres://u@h/d"), "either"),
    ],
)
def test_what_cannot_be_meant_is_wrong_usage(serve: StartServe, words: tuple[str, ...], told: str) -> None:
    assert told in refused(serve(*words), status=2)


@pytest.mark.slow
def test_a_hangup_without_an_ini_is_no_error(serve: StartServe, cluster: Cluster) -> None:
    url = f"postgres://trusty@127.0.0.1:{cluster.port}/app"
    run = serve("--database-url", url, "--port", str(free_port()), "--http", "off").ready()
    run.process.send_signal(signal.SIGHUP)
    until(lambda: "LOG got SIGHUP, reopening logs" in run.text(), "the signal to be heard")
    assert fetch(run.url, "SELECT 1") == 1
    assert "ERROR" not in run.text()


@pytest.mark.slow
def test_a_state_alone_starts_no_database(serve: StartServe, tmp_path: Path) -> None:
    """The console is there for who started it."""
    port = free_port()
    run = serve("--state", str(tmp_path / "state.db"), "--port", str(port), "--http", "off").ready()
    assert not (tmp_path / "xdg" / "pooler" / "data").exists()
    assert not (run.stdout.parent / "xdg" / "pooler" / "data").exists()
    assert "no database beside it" in run.text()
    assert run.psql("-X", "-A", "-t", "-c", "SHOW VERSION").strip() == "PgBouncer 1.26.1"


@pytest.mark.slow
def test_the_log_as_objects(serve: StartServe, cluster: Cluster) -> None:
    url = f"postgres://trusty@127.0.0.1:{cluster.port}/app"
    run = serve("--database-url", url, "--port", str(free_port()), "--http", "off", "--log-format", "json").ready()
    assert fetch(run.url, "SELECT 1") == 1
    until(lambda: "login attempt" in run.stderr.read_text(), "the login to be logged")
    lines = [json.loads(line) for line in run.stderr.read_text().splitlines()]
    assert {"time", "level", "pid", "message"} <= set(lines[0])
    (login,) = (line for line in lines if line["message"].startswith("login attempt"))
    assert (login["database"], login["user"], login["level"]) == ("app", "trusty", "LOG")


def test_an_ini_that_is_not_there_is_one_line(serve: StartServe) -> None:
    assert "nowhere.ini" in refused(serve("nowhere.ini"))


def test_wrong_usage_is_status_2(serve: StartServe) -> None:
    assert "--nonsense" in refused(serve("--nonsense"), status=2)


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:http", "127.0.0.1:70000", ""])
def test_an_address_for_http_that_is_none_is_wrong_usage(serve: StartServe, address: str) -> None:
    assert "HOST:PORT is wanted" in refused(serve("--http", address), status=2)


def test_version_and_help(serve: StartServe) -> None:
    version = serve("--version")
    assert version.process.wait(30) == 0
    assert version.stdout.read_text().splitlines()[0] == "PgBouncer 1.26.1"
    help_ = serve("--help")
    assert help_.process.wait(30) == 0
    assert "--database-url" in help_.stdout.read_text()


# ---- an ini that cannot be, or not wholly


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"nowhere": 1}, r"ERROR unknown parameter: pgbouncer/nowhere \(.*\.ini:\d+\)\n"),
        ({"verbose": "many"}, r'ERROR invalid value "many" for parameter verbose in configuration \(.*\.ini:\d+\)'),
        ({"auth_type": "cert"}, r"auth_type=cert requires client_tls_sslmode=SSLMODE_VERIFY_FULL"),
        ({"listen_addr": "192.0.2.1"}, r"FATAL failed to listen on any address in listen_addr list: 192\.0\.2\.1"),
    ],
)
@pytest.mark.parametrize("quiet", [(), ("-q",)])
def test_a_start_that_is_refused(
    start_pooler: StartBouncer, settings: dict[str, object], said: str, quiet: tuple[str, ...]
) -> None:
    pooler = start_pooler(run=False, **settings)
    pooler.write()
    assert pooler.launch(*quiet).wait(20) == 1
    assert re.search(said, pooler.log_text())


def test_one_address_that_is_missing_is_no_reason_to_stay_away(start_either: StartBouncer) -> None:
    bouncer = start_either(listen_addr="192.0.2.1,127.0.0.1")
    assert bouncer.sql("SELECT 1") == [(1,)]
    assert re.search(r"WARNING cannot listen on 192\.0\.2\.1:\d+: ", bouncer.log_text())


NOT_NEEDED = {
    "argparse", "datetime", "metrics.drains.files", "metrics.drains.urls", "random", "secrets", "urllib.parse",
    "admin.console.session", "metrics.web.http", "pooler.process.takeover", "pooler.workers.desk",
}  # fmt: skip
"""What a start with an ini and the first answer have no use for."""


@pytest.mark.slow
@pytest.mark.one_process("workers have a desk")
def test_the_first_answer_waits_for_nothing_that_it_does_not_need(
    start_pooler: StartBouncer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    pooler = start_pooler()
    assert pooler.sql("SELECT 1") == [(1,)]
    loaded = set(re.findall(r"^import time:.*\| *(\S+)$", pooler.output.read_text(), re.MULTILINE))
    assert {"asyncio", "pooler.relay.engine", "pooler.clients.door"} <= loaded
    assert not loaded & NOT_NEEDED
