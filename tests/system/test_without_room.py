"""A running pooler without room: no disk for its log, no descriptors, nobody who reads what it says. Clients are served
all the while, what could not be done is counted and told, and goes on when there is room again.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.fixtures.cluster import Cluster
from tests.fixtures.disk import Disk
from tests.fixtures.process import ADMIN, Bouncer, StartBouncer
from tests.fixtures.waiting import DEADLINE, accepts, free_port, until

SmallDisk = Callable[[int], Disk]
STATS = re.compile(r" LOG stats: ")


def served(bouncer: Bouncer, times: int) -> int:
    """How many of so many clients come in and get their answer."""
    good = 0
    for number in range(times):
        with bouncer.connect() as client:
            good += client.execute(f"SELECT {number}").fetchone() == (number,)
    return good


def events(bouncer: Bouncer, kind: str = "round") -> dict[str, int]:
    return {row["reason"]: row["count"] for row in bouncer.admin("SHOW EVENTS") if row["kind"] == kind}


def noisy(bouncer: Bouncer, times: int) -> None:
    """Clients that leave long lines in the log."""
    for _ in range(times):
        with pytest.raises(psycopg.OperationalError):
            bouncer.connect(dbname="nowhere" + "x" * 1500)


# ---- the log


def test_a_full_log_disk(start_either: StartBouncer, small_disk: SmallDisk, cluster: Cluster) -> None:
    """From the first line that found no room every login ended, then the process. PgBouncer: 600 of 600."""
    disk = small_disk(128)
    bouncer = start_either(logfile=disk.path / "log", stats_period=1, default_pool_size=2)
    bouncer.log = disk.path / "log"
    with bouncer.connect() as there:
        assert served(bouncer, 5) == 5
        disk.fill()
        assert served(bouncer, 600) == 600
        there.execute("BEGIN")
        there.execute("SELECT 1")
        cluster.terminate("app")
        with pytest.raises(psycopg.Error, match=r"terminating connection|server conn crashed|server closed"):
            there.execute("SELECT 1")
    assert served(bouncer, 5) == 5
    assert bouncer.process is not None
    assert bouncer.process.poll() is None
    disk.room()
    assert served(bouncer, 5) == 5
    bouncer.wait_log(" LOG stats: ")


@pytest.mark.slow
def test_what_a_full_log_disk_cost_is_told(start_pooler: StartBouncer, small_disk: SmallDisk) -> None:
    disk = small_disk(1024)
    pooler = start_pooler(logfile=disk.path / "log", stats_period=1)
    pooler.log = disk.path / "log"
    disk.fill()
    noisy(pooler, 100)
    assert "cannot write to logfile" in pooler.output.read_text()
    lost = until(lambda: events(pooler).get("log line", 0), "lines to be lost")
    disk.room()
    found = pooler.wait_log(r"WARNING (\d+) lines could not be written here: No space left on device\n")
    assert int(found[1]) >= lost
    whole = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} \S+ \[\d+\] [A-Z]+ .*")
    assert [line[:200] for line in pooler.log.read_text().splitlines() if not whole.fullmatch(line)] == []


@pytest.mark.slow
def test_a_log_that_may_not_grow(start_pooler: StartBouncer) -> None:
    """RLIMIT_FSIZE: a signal besides, by which PgBouncer 1.26.1 ends."""
    pooler = start_pooler(stats_period=1)
    served(pooler, 2)
    most = pooler.log.stat().st_size + 100
    with limited(pooler, resource.RLIMIT_FSIZE, lambda _: most):
        assert served(pooler, 100) == 100
    served(pooler, 1)
    until(lambda: pooler.log.read_text().count("login attempt") == 103, "all that was kept")


@pytest.mark.slow
def test_a_device_that_takes_nothing_as_a_log(start_pooler: StartBouncer) -> None:
    """Where only root can mount a small disk."""
    pooler = start_pooler(logfile="/dev/full", stats_period=1)
    assert served(pooler, 100) == 100
    until(lambda: len(STATS.findall(pooler.output.read_text())) >= 2, "two periods")


@pytest.mark.slow
def test_nobody_reads_what_is_said(start_pooler: StartBouncer, tmp_path: Path) -> None:
    """The log and the metrics lines in pipes: PgBouncer stands still after some 230 logins."""
    pooler = start_pooler(run=False, logfile="", stats_period=1, sections={"pooler": {"metrics": "-"}})
    pooler.write()
    process = subprocess.Popen(
        pooler.command(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=pooler.environment(), cwd=pooler.directory,
    )  # fmt: skip
    pooler.process = process
    try:
        until(lambda: accepts(pooler.port), "it to listen")
        assert served(pooler, 700) == 700
        assert process.stderr
        os.set_blocking(process.stderr.fileno(), False)
        text = b""

        def told() -> int:
            nonlocal text
            assert process.stderr
            text += process.stderr.read() or b""
            return text.count(b"login attempt: db=app") >= 700

        until(told, "the lines that were kept")
        assert all(re.match(rb"\d{4}-", line) for line in text.splitlines())
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_who_read_it_is_gone(start_pooler: StartBouncer) -> None:
    pooler = start_pooler(run=False, stats_period=1, sections={"pooler": {"metrics": "-", "metrics_period": 1}})
    pooler.write()
    process = subprocess.Popen(
        pooler.command(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=pooler.environment(), cwd=pooler.directory,
    )  # fmt: skip
    pooler.process = process
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    process.stderr.close()
    try:
        until(lambda: accepts(pooler.port), "it to listen")
        assert served(pooler, 50) == 50
        until(lambda: len(STATS.findall(pooler.log.read_text())) >= 2, "two periods")
        pooler.signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0
    finally:
        process.kill()
        process.wait()


def test_a_logfile_that_cannot_be_opened_anew(start_pooler: StartBouncer) -> None:
    """PgBouncer ends by it."""
    pooler = start_pooler()
    for wrong in (pooler.directory, pooler.directory / "nowhere" / "log"):
        pooler.settings["logfile"] = wrong
        pooler.write()
        pooler.signal(signal.SIGHUP)
        pooler.wait_log(f"ERROR could not open logfile '{wrong}': ")
        assert served(pooler, 5) == 5
    pooler.settings["logfile"] = pooler.directory / "another.log"
    pooler.write()
    pooler.signal(signal.SIGHUP)
    until((pooler.directory / "another.log").exists, "the log to be made")
    assert served(pooler, 1) == 1
    assert "login attempt" in (pooler.directory / "another.log").read_text()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_log_directory_without_rights(start_pooler: StartBouncer) -> None:
    pooler = start_pooler()
    pooler.log.rename(pooler.log.with_suffix(".1"))
    pooler.directory.chmod(0o500)
    try:
        pooler.signal(signal.SIGHUP)
        moved = pooler.log.with_suffix(".1")
        until(lambda: "could not open logfile" in moved.read_text(), "the error")
        assert served(pooler, 5) == 5
    finally:
        pooler.directory.chmod(0o700)


# ---- descriptors


@contextmanager
def limited(bouncer: Bouncer, limit: int, most: Callable[[int], int]) -> Iterator[None]:
    """A lower limit for the running process and its workers, each its own, and then what they had before."""
    workers = map(int, Path(f"/proc/{bouncer.pid}/task/{bouncer.pid}/children").read_text().split())
    before = {pid: resource.prlimit(pid, limit) for pid in (bouncer.pid, *workers)}
    for pid, (_, hard) in before.items():
        resource.prlimit(pid, limit, (most(pid), hard))
    try:
        yield
    finally:
        for pid, limits in before.items():
            resource.prlimit(pid, limit, limits)


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def address_space(pid: int) -> int:
    (size,) = re.findall(r"^VmSize:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(size) * 1024


def strangers(bouncer: Bouncer, stack: ExitStack, times: int) -> None:
    """They come, and say nothing."""
    for _ in range(times):
        one = stack.enter_context(socket.socket())
        one.settimeout(DEADLINE)
        one.connect(("127.0.0.1", bouncer.port))


def scraped(url: str) -> str:
    with urllib.request.urlopen(f"{url}/metrics", timeout=DEADLINE) as answer:
        text: str = answer.read().decode()
        return text


@pytest.mark.slow
@pytest.mark.one_process("each process has a table of descriptors; see test_workers_harm")
def test_no_descriptors_left(start_pooler: StartBouncer, tmp_path: Path) -> None:
    """A thousand silent strangers ended the process with the next period: /proc could not be read."""
    url, lines = f"http://127.0.0.1:{free_port()}", tmp_path / "lines"
    own = {"http": url.removeprefix("http://"), "metrics": str(lines), "metrics_period": 0.3}
    pooler = start_pooler(stats_period=1, max_client_conn=1000, default_pool_size=2, sections={"pooler": own})
    until(lambda: lines.exists() and lines.read_text(), "lines")
    assert "pooler_process_resident_memory_bytes " in scraped(url)
    with ExitStack() as stack:
        client = stack.enter_context(pooler.connect())
        console = stack.enter_context(pooler.connect(ADMIN, cursor_factory=psycopg.ClientCursor))
        assert client.execute("SELECT 1").fetchone() == (1,)
        assert "resident bytes" in about(console)
        with limited(pooler, resource.RLIMIT_NOFILE, lambda pid: descriptors(pid) + 10):
            strangers(pooler, stack, 40)
            pooler.wait_log("ERROR accept.. failed: Too many open files")
            before, written = len(STATS.findall(pooler.log.read_text())), lines.read_text().count("\n")
            until(lambda: len(STATS.findall(pooler.log.read_text())) >= before + 2, "two periods")
            until(lambda: lines.read_text().count("\n") >= written + 2, "two metrics lines")
            assert [client.execute(f"SELECT {n}").fetchone() for n in range(100)] == [(n,) for n in range(100)]
            assert about(console)["name"] == "pooler"
            assert "resident bytes" not in about(console)
            assert len(pooler.log.read_text().split("accept() failed")) < 4
        assert "resident bytes" in about(console)
    assert served(pooler, 5) == 5
    assert "pooler_process_resident_memory_bytes " in scraped(url)
    assert events(pooler)["accept"] >= 1


def about(console: psycopg.Connection[Any]) -> dict[str, str]:
    return dict(console.execute("SHOW ABOUT").fetchall())


@pytest.mark.slow
def test_no_descriptor_for_a_server_is_no_end(start_pooler: StartBouncer, cluster: Cluster) -> None:
    """Who waits gets one soon after there is one: what is missing is ours, whatever server_login_retry is."""
    pooler = start_pooler(server_login_retry=600, default_pool_size=1)
    with pooler.connect() as client:
        client.execute("SELECT 1")
        with limited(pooler, resource.RLIMIT_NOFILE, lambda _: 0):
            cluster.terminate("app")
            pooler.wait_log("closing because: server conn crashed|closing because: terminating connection")
            client.pgconn.send_query(b"SELECT 'waited'")
            pooler.wait_log("Too many open files")
        until(lambda: answered(client.pgconn), "the answer")
    assert served(pooler, 5) == 5


def answered(connection: psycopg.pq.abc.PGconn) -> bool:
    """Whether the query that was sent has its one row."""
    connection.consume_input()
    if connection.is_busy():
        return False
    result = connection.get_result()
    assert result is not None
    assert result.get_value(0, 0) == b"waited", result.error_message
    assert connection.get_result() is None
    return True


def works(bouncer: Bouncer) -> bool:
    try:
        return served(bouncer, 1) == 1
    except psycopg.OperationalError:
        return False


# ---- memory


@pytest.mark.slow
def test_no_memory_left(start_pooler: StartBouncer) -> None:
    """What needs more is refused or fails, and the next round comes."""
    pooler = start_pooler(stats_period=1)
    pooler.expects_faults = True
    served(pooler, 10)
    with pooler.connect() as client, limited(pooler, resource.RLIMIT_AS, address_space):
        before = len(STATS.findall(pooler.log_text()))
        for number in range(200):
            assert client.execute(f"SELECT {number}").fetchone() == (number,)
        assert client.execute("SELECT length(repeat('x', 1000000))").fetchone() == (1_000_000,)
        for _ in range(20):
            works(pooler)
        until(lambda: len(STATS.findall(pooler.log_text())) >= before + 4, "two periods")
        assert client.execute("SELECT 'here'").fetchone() == ("here",)
    assert served(pooler, 20) == 20
    assert pooler.admin("SHOW CLIENTS")


# ---- what goes and comes back


def figures(bouncer: Bouncer) -> list[dict[str, Any]]:
    return [*bouncer.admin("SHOW STATS"), *({row["name"]: row["value"]} for row in bouncer.admin("SHOW TOTALS"))]


@pytest.mark.slow
def test_a_database_that_goes_and_comes_back_within_a_period(start_either: StartBouncer) -> None:
    """RELOAD without it, RELOAD with it, a few queries: OverflowError, and the end."""
    bouncer = start_either(stats_period=1)
    databases = dict(bouncer.databases)
    for turn in range(3):
        with bouncer.connect() as client:
            for number in range(3 if turn else 200):
                client.execute(f"SELECT {number}")
        if turn == 1:
            until(lambda: quiet(bouncer), "two periods")
        for present in ({"other": databases["other"]}, databases):
            bouncer.databases = present
            bouncer.write()
            bouncer.admin("RELOAD")
        until(lambda: works(bouncer), "the database to be back")
        for row in figures(bouncer):
            assert all(value >= 0 for value in row.values() if not isinstance(value, str)), row
    before = len(STATS.findall(bouncer.log_text()))
    until(lambda: len(STATS.findall(bouncer.log_text())) >= before + 3, "three periods")
    for line in re.findall(r" LOG stats: .*", bouncer.log_text()):
        assert "-" not in line.partition(" stats: ")[2]


def quiet(bouncer: Bouncer) -> bool:
    return all(row["avg_query_count"] == 0 for row in bouncer.admin("SHOW STATS") if row["database"] == "app")


@pytest.mark.slow
def test_pools_that_are_forgotten_and_made_again(start_pooler: StartBouncer, tmp_path: Path) -> None:
    """pool_idle_timeout with ordinary traffic ended the process in 41 seconds."""
    lines = tmp_path / "lines"
    own = {"metrics": str(lines), "metrics_period": 0.2, "metrics_extra": "yes"}
    pooler = start_pooler(
        stats_period=1, pool_idle_timeout=0.1, server_idle_timeout=0.1, sections={"pooler": own}
    )
    totals = 0
    for turn in range(1, 4):
        for user in ("postgres", "plain_user"):
            pooler.sql("SELECT 1", user=user)

        def forgotten(turn: int = turn) -> bool:
            return pooler.log.read_text().count("cleaning up idle pool") >= turn

        until(forgotten, "a pool to be forgotten")
        (row,) = (row for row in pooler.admin("SHOW STATS") if row["database"] == "app")
        assert row["total_query_count"] > totals, "what forgotten pools have counted is not forgotten"
        totals = row["total_query_count"]
        for shown in (*figures(pooler), *pooler.admin("SHOW LATENCY"), *pooler.admin("SHOW HISTORY")):
            numbers = [value for value in shown.values() if isinstance(value, int | float)]
            assert all(0 <= value < 10**9 for value in numbers), shown
    until(lambda: lines.read_text().count("sample#") > 5, "metrics lines")
    samples = [int(value) for value in re.findall(r"sample#\w+=(-?\d+)", lines.read_text())]
    assert min(samples) >= 0
    assert max(samples) < 10**9


# ---- the pidfile


def alone(bouncer: Bouncer) -> list[str]:
    """The command in a namespace of its own, where it is process 1, as in a container."""
    options = ["--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc"]
    return ["unshare", *(options if os.geteuid() == 0 else ["--user", "--map-root-user", *options]), *bouncer.command()]


@pytest.mark.slow
def test_a_killed_container_starts_again(start_pooler: StartBouncer) -> None:
    pooler = start_pooler(run=False)
    probe = subprocess.run([*alone(pooler)[:-len(pooler.command())], "true"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("no process namespace can be made here")
    command = alone(pooler)
    pooler.command = lambda: command  # type: ignore[method-assign]
    pidfile = Path(str(pooler.settings["pidfile"]))
    for _ in range(3):
        pooler.start()
        until(lambda: pidfile.exists() and pidfile.read_text() == "1\n", "the pidfile")
        assert served(pooler, 1) == 1
        pooler.signal(signal.SIGKILL)
        pooler.wait()
        until(lambda: not accepts(pooler.port), "the end")
    assert pooler.log.read_text().count("stale pidfile, removing") == 2


@pytest.mark.slow
def test_a_takeover_with_a_full_disk_costs_nobody_a_connection(
    start_pooler: StartBouncer, small_disk: SmallDisk
) -> None:
    disk = small_disk(64)
    pooler = start_pooler(pidfile=disk.path / "pid", server_tls_sslmode="disable")
    with pooler.connect() as client:
        client.execute("SELECT 1")
        disk.fill()
        old = pooler.process
        assert old is not None
        pooler.launch("-R")
        assert old.wait(DEADLINE) == 0
        assert client.execute("SELECT 2").fetchone() == (2,)
        assert served(pooler, 3) == 3
    assert re.search(r"ERROR could not write pidfile '.*': No space left on device", pooler.log_text())
