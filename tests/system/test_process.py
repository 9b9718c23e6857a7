"""The process as PgBouncer's: signals, the three forms of SHUTDOWN, pidfile, background, log and its lines."""

from __future__ import annotations

import os
import pwd
import re
import signal
import socket
import subprocess
import threading
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from tests.fixtures import account
from tests.fixtures.process import ADMIN, Bouncer, StartBouncer
from tests.fixtures.waiting import accepts, until

TERM = "got SIGTERM, shutting down, waiting for all clients disconnect"
INT = "got SIGINT, shutting down, waiting for all servers connections to be released"
PREFIX = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} \S+ \[(\d+)\] (LOG|WARNING|ERROR|FATAL|DEBUG|NOISE) \S.*")


def local(bouncer: Bouncer, user: str = "postgres", dbname: str = ADMIN) -> psycopg.Connection[tuple[object]]:
    """A connection over the Unix socket, which outlives the TCP listeners."""
    dsn = bouncer.dsn(dbname, user, host=bouncer.directory)
    return psycopg.connect(dsn, autocommit=True, cursor_factory=psycopg.ClientCursor)


# ---- the end


@pytest.mark.parametrize("how", ["SIGTERM", "SHUTDOWN WAIT_FOR_CLIENTS"])
def test_waiting_for_clients(pooler: Bouncer, how: str) -> None:
    with pooler.connect() as client:
        client.execute("SELECT 1")
        if how == "SIGTERM":
            pooler.signal(signal.SIGTERM)
            pooler.wait_log(TERM)
        else:
            pooler.admin(how)
            pooler.wait_log(f"{how} command issued")
        until(lambda: not accepts(pooler.port), "the TCP listener to close")
        client.execute("BEGIN")
        client.execute("COMMIT")
        with local(pooler) as console:
            assert console.execute("SHOW POOLS").fetchall()
            console.execute("SHUTDOWN WAIT_FOR_CLIENTS")
            with pytest.raises(psycopg.Error, match="pooler is shutting down"):
                console.execute("RESUME")
        with pytest.raises(psycopg.OperationalError, match="pooler is shutting down"):
            local(pooler, dbname="app")
    assert pooler.wait() == 0
    assert "client connections dropped, exiting" in pooler.log_text()


@pytest.mark.parametrize("how", ["SIGINT", "SHUTDOWN WAIT_FOR_SERVERS"])
def test_waiting_for_servers(pooler: Bouncer, how: str) -> None:
    with closing(pooler.connect()) as busy, closing(pooler.connect()) as idle:
        busy.execute("BEGIN")
        if how == "SIGINT":
            pooler.signal(signal.SIGINT)
            pooler.wait_log(INT)
        else:
            pooler.admin(how)
        until(lambda: not accepts(pooler.port), "the TCP listener to close")
        assert busy.execute("SELECT 1").fetchone() == (1,)
        outcome: list[Exception] = []

        def ask() -> None:
            try:
                idle.execute("SELECT 1")
            except psycopg.Error as error:
                outcome.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        pooler.signal(signal.SIGUSR2)
        pooler.wait_log("got SIGUSR2 while shutting down, ignoring")
        busy.execute("COMMIT")
        assert pooler.wait() == 0
        thread.join(20)
        assert outcome
        assert "server connections dropped, exiting" in pooler.log_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_is_immediate(pooler: Bouncer, first: signal.Signals, number: signal.Signals) -> None:
    with closing(pooler.connect()) as client:
        client.execute("BEGIN")
        pooler.signal(first)
        pooler.wait_log(f"got {first.name}, shutting down")
        pooler.signal(number)
        assert pooler.wait() == 0
        assert f"got {number.name} while shutting down, fast exit" in pooler.log_text()
        with pytest.raises(psycopg.OperationalError):
            client.execute("SELECT 1")
    assert not (pooler.directory / f".s.PGSQL.{pooler.port}").exists()
    assert not Path(str(pooler.settings["pidfile"])).exists()


@pytest.mark.parametrize("form", ["WAIT_FOR_SERVERS", "WAIT_FOR_CLIENTS"])
def test_a_signal_while_a_shutdown_waits_is_immediate(pooler: Bouncer, form: str) -> None:
    with closing(pooler.connect()) as client:
        client.execute("BEGIN")
        pooler.admin(f"SHUTDOWN {form}")
        pooler.signal(signal.SIGTERM)
        assert pooler.wait() == 0


@pytest.mark.slow
def test_at_once(start_pooler: StartBouncer) -> None:
    pooler = start_pooler()
    with closing(pooler.connect()) as client:
        client.execute("BEGIN")
        with pytest.raises(psycopg.OperationalError):
            pooler.admin("SHUTDOWN")
        assert pooler.wait() == 0
        assert "SHUTDOWN command issued" in pooler.log_text()
    pooler.start()
    with closing(pooler.connect()) as client:
        client.execute("BEGIN")
        pooler.signal(signal.SIGQUIT)
        assert pooler.wait() == 0
        assert "got SIGQUIT, fast exit" in pooler.log_text()


def test_the_answer_to_a_shutdown_is_heard(pooler: Bouncer) -> None:
    with closing(pooler.connect(ADMIN)) as console:
        assert console.execute("SHUTDOWN WAIT_FOR_SERVERS").statusmessage == "SHUTDOWN"
        assert pooler.wait() == 0


# ---- the other signals


def test_pause_and_resume_by_signal(pooler: Bouncer) -> None:
    def state() -> dict[str, str]:
        return {row["key"]: row["value"] for row in pooler.admin("SHOW STATE")}

    pooler.signal(signal.SIGUSR2)
    pooler.wait_log("got SIGUSR2, but not paused")
    pooler.signal(signal.SIGUSR1)
    pooler.wait_log("got SIGUSR1, pausing all activity")
    assert state()["paused"] == "yes"
    pooler.signal(signal.SIGUSR1)
    pooler.wait_log("got SIGUSR1, but already paused")
    with pytest.raises(psycopg.Error, match="already paused"):
        pooler.admin("PAUSE")
    pooler.signal(signal.SIGUSR2)
    pooler.wait_log("got SIGUSR2, continuing from PAUSE")
    assert state()["active"] == "yes"
    with local(pooler) as console:
        console.execute("SUSPEND")
        pooler.signal(signal.SIGUSR2)
        pooler.wait_log("got SIGUSR2, continuing from SUSPEND")
    assert pooler.sql("SELECT 1") == [(1,)]


def test_hup_reads_the_ini_and_opens_the_log_anew(pooler: Bouncer) -> None:
    first = pooler.log
    moved = first.with_suffix(".1")
    first.rename(moved)
    pooler.settings["max_client_conn"] = 33
    pooler.write()
    pooler.signal(signal.SIGHUP)
    until(first.exists, "the new log file")
    assert "got SIGHUP, re-reading config" in moved.read_text()
    shown = {row["key"]: row["value"] for row in pooler.admin("SHOW CONFIG")}
    assert shown["max_client_conn"] == "33"
    pooler.sql("SELECT 1")
    assert "login attempt: db=app" in first.read_text()
    assert "login attempt: db=app" not in moved.read_text()


# ---- start


@pytest.mark.slow
def test_a_stale_pidfile_is_removed_and_a_live_one_respected(start_pooler: StartBouncer) -> None:
    pooler = start_pooler(run=False)
    pidfile = Path(str(pooler.settings["pidfile"]))
    ended = subprocess.Popen(["true"])
    ended.wait()
    pidfile.write_text(f"{ended.pid}\n")
    pooler.start()
    assert "stale pidfile, removing" in pooler.log_text()
    assert pidfile.read_text() == f"{pooler.pid}\n"
    pooler.stop()
    assert not pidfile.exists()
    pidfile.write_text(f"{os.getpid()}\n")
    assert pooler.launch().wait(20) == 1
    assert f"pidfile '{pidfile}' exists, another instance running?" in pooler.log.read_text()
    assert pidfile.read_text() == f"{os.getpid()}\n"


@pytest.mark.slow
def test_in_the_background(start_pooler: StartBouncer) -> None:
    pooler = start_pooler(run=False)
    pidfile = Path(str(pooler.settings["pidfile"]))
    pooler.write()
    assert pooler.launch("-d").wait(20) == 0
    until(lambda: accepts(pooler.port), "the daemon to listen")
    pid = int(pidfile.read_text())
    try:
        assert os.getsid(pid) != os.getsid(0)
        assert os.readlink(f"/proc/{pid}/fd/2") == os.devnull
        assert pooler.sql("SELECT 1") == [(1,)]
        assert pooler.launch("-d", "-R").wait(20) == 0
        until(lambda: pidfile.exists() and pidfile.read_text().strip() not in ("", str(pid)), "the next daemon")
        pid = int(pidfile.read_text())
        assert pooler.sql("SELECT 2") == [(2,)]
    finally:
        os.kill(pid, signal.SIGQUIT)
    until(lambda: not pidfile.exists(), "the daemon to end")


def test_the_background_needs_a_pidfile(start_pooler: StartBouncer) -> None:
    pooler = start_pooler(run=False, pidfile="")
    pooler.write()
    assert pooler.launch("-d").wait(20) == 1
    assert "daemon needs pidfile configured" in pooler.log_text()


def test_another_user(start_pooler: StartBouncer) -> None:
    pooler = start_pooler(run=False)
    pooler.write()
    assert pooler.launch("-u", "nobody_of_that_name").wait(20) == 1
    assert "could not find user 'nobody_of_that_name' to switch to" in pooler.log_text()


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("way", ["ini", "flag"])
def test_becoming_that_user(start_pooler: StartBouncer, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    python = account.python()
    if not python:
        pytest.skip("other users cannot run this Python, nor Debian's of the same version")
    pooler = start_pooler(run=False, **({"user": "nobody"} if way == "ini" else {}))
    monkeypatch.setattr(pooler, "command", lambda: [*python, "-m", "pooler", "serve", str(pooler.ini)])
    pooler.directory.chmod(0o777)
    pooler.write()
    pooler.start(*(["-u", "nobody"] if way == "flag" else []))
    status = Path(f"/proc/{pooler.pid}/status").read_text()
    nobody = pwd.getpwnam("nobody")
    facts = {name: value.split() for name, value in re.findall(r"^(\w+):\s+(.*)$", status, re.MULTILINE)}
    assert facts["Uid"] == [str(nobody.pw_uid)] * 4
    assert facts["Gid"] == [str(nobody.pw_gid)] * 4
    assert facts["Groups"] == [str(nobody.pw_gid)]
    assert int(facts["CapEff"][0], 16) == int(facts["CapPrm"][0], 16) == 0
    assert pooler.sql("SELECT 1") == [(1,)]
    assert pooler.admin("SHOW POOLS")
    assert Path(str(pooler.settings["pidfile"])).stat().st_uid == pooler.log.stat().st_uid == nobody.pw_uid


# ---- the log


@pytest.mark.one_process("a worker's line is written by the desk, a moment later")
def test_every_line_has_the_prefix_and_comes_before_its_effect(pooler: Bouncer) -> None:
    with pytest.raises(psycopg.OperationalError, match="no such database: nowhere"):
        pooler.sql("SELECT 1", dbname="nowhere")
    # Read once, without waiting: the client has seen the effect, so the line is there.
    lines = pooler.log.read_text().splitlines()
    assert any("pooler error: no such database: nowhere" in line for line in lines)
    with pooler.connect() as client:
        pid = client.execute("SELECT pg_backend_pid()").fetchone()
        assert pid
        text = pooler.log.read_text()
        assert re.search(r"C-0x[0-9a-f]+: app/postgres@127\.0\.0\.1:\d+ login attempt: db=app user=postgres tls", text)
        assert re.search(r"S-0x[0-9a-f]+: app/postgres@127\.0\.0\.1:\d+ new connection to server \(from 127", text)
    pooler.wait_log(r"C-0x[0-9a-f]+: app/postgres@127\.0\.0\.1:\d+ closing because: client close request \(age=\d+s\)")
    for line in pooler.log.read_text().splitlines():
        found = PREFIX.fullmatch(line)
        assert found, line
        assert found[1] == str(pooler.pid)


def test_control_characters_of_strangers_stay_out(pooler: Bouncer) -> None:
    with pytest.raises(psycopg.OperationalError):
        pooler.sql("SELECT 1", dbname="x\n2026-01-01 00:00:00.000 UTC [1] FATAL forged")
    assert all(PREFIX.fullmatch(line) for line in pooler.log.read_text().splitlines())
    assert not re.search(r"^\S+ \S+ UTC \[1\]", pooler.log.read_text(), re.M)


@pytest.mark.slow
def test_the_stats_line(start_pooler: StartBouncer) -> None:
    pooler = start_pooler(stats_period=1)
    pooler.wait_log(
        r"LOG stats: \d+ xacts/s, \d+ queries/s, \d+ client parses/s, \d+ server parses/s, \d+ binds/s, "
        r"\d+ client logins/s, in \d+ B/s, out \d+ B/s, xact \d+ us, query \d+ us, wait \d+ us"
    )
    pooler.admin("SET log_stats = 0")


@pytest.mark.slow
def test_quiet_and_verbose(start_pooler: StartBouncer) -> None:
    quiet = start_pooler(run=False)
    quiet.start("-q")
    quiet.sql("SELECT 1")
    assert quiet.output.read_text() == ""
    assert "login attempt" in quiet.log.read_text()
    loud = start_pooler(run=False)
    loud.start("-v", "-v")
    loud.sql("SELECT 1")
    assert "login attempt" in loud.output.read_text()


def test_no_disconnections_and_no_logins_when_told_so(start_pooler: StartBouncer) -> None:
    pooler = start_pooler(log_connections=0, log_disconnections=0, log_pooler_errors=0)
    pooler.sql("SELECT 1")
    with pytest.raises(psycopg.OperationalError):
        pooler.sql("SELECT 1", dbname="nowhere")
    text = pooler.log.read_text()
    assert not re.search("login attempt|closing because|pooler error", text)


def test_the_unix_socket_has_its_mode(start_pooler: StartBouncer) -> None:
    pooler = start_pooler(unix_socket_mode="0700")
    pooler.wait_log("process up")
    path = pooler.directory / f".s.PGSQL.{pooler.port}"
    assert path.stat().st_mode & 0o777 == 0o700
    # A socket file that nobody answers at is no obstacle.
    pooler.signal(signal.SIGKILL)
    pooler.wait()
    assert path.exists()
    pooler.start()
    with socket.socket(socket.AF_UNIX) as probe:
        until(lambda: probe.connect_ex(str(path)) == 0, "the unix socket to answer")
