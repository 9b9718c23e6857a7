"""It always stops: after a second TERM or INT, or a QUIT, the process is gone within a second, whatever its threads do;
and in no end does anybody wait for a thread that never comes back.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pooler import wire
from pooler.clients.door import SUCCESSOR
from pooler.commands.embedded import _serves
from tests.fixtures import account
from tests.fixtures.cluster import scratch
from tests.fixtures.process import ADMIN, Bouncer, StartBouncer, imports
from tests.fixtures.waiting import DEADLINE, free_port, until

SECOND = 1.0
LATE = 1.0
"""What a busy machine may add."""
NOWHERE = "hangs.invalid"
"""A name whose look-up never ends."""

HANGING = f"""
import os, signal, socket, sys, threading

def hang(*given, **named):
    print("hanging", file=sys.stderr, flush=True)
    threading.Event().wait()

real = socket.getaddrinfo
socket.getaddrinfo = lambda host, *more, **named: hang() if host == {NOWHERE!r} else real(host, *more, **named)

def stall(number, frame):
    print("hanging", file=sys.stderr, flush=True)
    os.read(os.pipe()[0], 1)

signal.signal(signal.SIGWINCH, stall)
"""
PAM = """
import threading, sys
class pam:
    def authenticate(self, *given, **named):
        print("hanging", file=sys.stderr, flush=True)
        threading.Event().wait()
"""
NEVER = b"select printf('%.*c', 2000000000, 'x')"


@pytest.fixture
def hanging(tmp_path: Path) -> Path:
    """A directory of modules that come before others: name servers and PAM that never answer."""
    (tmp_path / "sitecustomize.py").write_text(HANGING)
    (tmp_path / "pam.py").write_text(PAM)
    return tmp_path


@pytest.fixture
def silence() -> Iterator[int]:
    """The port of a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def with_modules(bouncer: Bouncer, place: Path) -> Bouncer:
    known = bouncer.environment()
    path = os.pathsep.join(filter(None, (str(place), known.get("PYTHONPATH"))))
    bouncer.environment = lambda: {**known, "PYTHONPATH": path}  # type: ignore[method-assign]
    return bouncer.start()


def attempt(work: Callable[[], Any]) -> threading.Thread:
    """Something that will not succeed, meanwhile."""

    def run() -> None:
        with suppress(psycopg.Error):
            work()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


# ---- what may hang


def hang_pam(start: StartBouncer, hanging: Path, silence: int) -> Bouncer:
    pooler = with_modules(start(auth_type="pam", run=False), hanging)
    attempt(lambda: pooler.connect(password="x"))
    pooler.wait_log("hanging")
    return pooler


def hang_ldap(start: StartBouncer, hanging: Path, silence: int) -> Bouncer:
    options = f"ldapserver=127.0.0.1 ldapport={silence} ldapprefix=cn="
    pooler = start(auth_type="ldap", auth_ldap_options=options)
    attempt(lambda: pooler.connect(password="x"))
    until(lambda: threads(pooler) > 1, "a thread for LDAP")
    return pooler


def hang_dns(start: StartBouncer, hanging: Path, silence: int) -> Bouncer:
    pooler = start(databases={"app": f"host={NOWHERE}"}, server_connect_timeout=1, run=False)
    with_modules(pooler, hanging)
    attempt(pooler.connect)
    pooler.wait_log("hanging")
    return pooler


def hang_drain(start: StartBouncer, hanging: Path, silence: int) -> Bouncer:
    pooler = start(run=False)
    pooler.sections = {"pooler": {"metrics": f"syslog://{NOWHERE}:514"}}
    with_modules(pooler, hanging)
    pooler.wait_log("hanging")
    return pooler


def hang_otlp(start: StartBouncer, hanging: Path, silence: int) -> Bouncer:
    pooler = start(run=False)
    pooler.sections = {"pooler": {"metrics": f"otlp+http://127.0.0.1:{silence}"}}
    pooler.start()
    until(lambda: threads(pooler) > 1, "the exporter's thread")
    return pooler


def hang_statement(start: StartBouncer, hanging: Path, silence: int) -> Bouncer:
    pooler = start()
    attempt(lambda: pooler.connect(ADMIN, cursor_factory=psycopg.ClientCursor).execute(NEVER))
    until(lambda: Path(f"/proc/{pooler.pid}/task/{pooler.pid}/children").read_text(), "the statement's process")
    return pooler


def threads(pooler: Bouncer) -> int:
    return max(len(os.listdir(f"/proc/{pid}/task")) for pid in pooler.pids)


HANGS = {
    "PAM": hang_pam,
    "LDAP": hang_ldap,
    "DNS": hang_dns,
    "a drain": hang_drain,
    "OpenTelemetry": hang_otlp,
    "a statement": hang_statement,
}


def gone(pooler: Bouncer, *numbers: signal.Signals) -> None:
    """Send these, one after the other; after the last it is gone within a second, and has left nothing."""
    for number in numbers[:-1]:
        pooler.signal(number)
        pooler.wait_log(f"got {number.name}")
    began = time.monotonic()
    pooler.signal(numbers[-1])
    assert pooler.wait() == 0
    assert time.monotonic() - began < SECOND + LATE
    assert not (pooler.directory / f".s.PGSQL.{pooler.port}").exists()
    assert not Path(str(pooler.settings["pidfile"])).exists()


@pytest.mark.parametrize("what", HANGS)
def test_the_process_is_gone_within_a_second(
    start_pooler: StartBouncer, hanging: Path, silence: int, what: str
) -> None:
    pooler = HANGS[what](start_pooler, hanging, silence)
    if what in ("PAM", "a statement"):
        return gone(pooler, signal.SIGTERM, signal.SIGTERM)
    gone(pooler, signal.SIGQUIT)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["DNS", "a drain", "OpenTelemetry"])
def test_an_orderly_end_waits_for_no_thread(
    start_pooler: StartBouncer, hanging: Path, silence: int, what: str
) -> None:
    pooler = HANGS[what](start_pooler, hanging, silence)
    began = time.monotonic()
    pooler.signal(signal.SIGINT)
    assert pooler.wait() == 0
    assert time.monotonic() - began < 8


@pytest.mark.slow
def test_a_login_that_hangs_holds_up_an_orderly_end_no_longer_than_it_may_last(
    start_pooler: StartBouncer, hanging: Path
) -> None:
    pooler = with_modules(start_pooler(auth_type="pam", client_login_timeout=1, run=False), hanging)
    attempt(lambda: pooler.connect(password="x"))
    pooler.wait_log("hanging")
    pooler.signal(signal.SIGTERM)
    assert pooler.wait() == 0


def test_the_front_of_another_pgbouncer_ends_as_well(hanging: Path) -> None:
    command = [sys.executable, "-P", "-m", "pooler", "metrics", "--from", f"postgres://x@{NOWHERE}/pgbouncer"]
    path = os.pathsep.join(filter(None, (str(hanging), imports().get("PYTHONPATH"))))
    environment = account.environment(PYTHONPATH=path)
    process = subprocess.Popen([*command, "--http", "off"], stderr=subprocess.PIPE, env=environment, text=True)
    assert process.stderr is not None
    try:
        assert process.stderr.readline() == "hanging\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


# ---- the loop itself held up


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGTERM, signal.SIGINT])
def test_a_loop_that_is_stuck_ends(start_pooler: StartBouncer, hanging: Path, number: signal.Signals) -> None:
    """In a call that blocks, as a disk or a library may have it: it does not even hear of the signal by itself."""
    pooler = with_modules(start_pooler(run=False), hanging)
    process = pooler.process
    assert process is not None
    pooler.wait_log("process up")  # the port is there before the socket is, which may be half there
    pooler.signal(signal.SIGWINCH)
    pooler.wait_log("hanging")
    with pytest.raises(psycopg.OperationalError):
        pooler.connect(connect_timeout=2)

    def insisted() -> bool:
        if process.poll() is not None:
            return True
        process.send_signal(number)
        return False

    until(insisted, "it to end", deadline=SECOND + LATE)
    assert process.returncode == 0
    assert not (pooler.directory / f".s.PGSQL.{pooler.port}").exists()
    assert not Path(str(pooler.settings["pidfile"])).exists()


def test_a_successor_that_stalls_does_not_keep_it(start_pooler: StartBouncer) -> None:
    pooler = start_pooler()
    pooler.wait_log("process up")  # the socket is there a moment after the port
    with closing(socket.socket(socket.AF_UNIX)) as successor:
        successor.connect(str(pooler.directory / f".s.PGSQL.{pooler.port}"))
        parameters = {"user": ADMIN, "database": ADMIN, "application_name": SUCCESSOR}
        successor.sendall(wire.startup_message(parameters))
        pooler.wait_log("a new process wants to take over")
        gone(pooler, signal.SIGQUIT)


# ---- with an embedded PostgreSQL


@contextmanager
def embedded(place: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    command = [*Bouncer(place, databases={}).command()[:-1], "--port", str(free_port()), "--http", "off"]
    environment = account.environment(**{**Bouncer(place, databases={}).environment(), "XDG_STATE_HOME": str(place)})
    with (place / "out").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment, cwd=place)
    try:
        until(lambda: b"process up" in (place / "out").read_bytes(), "the pooler", deadline=60)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        yield process, int(children[0])
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_an_embedded_postgresql_that_takes_its_time_is_told_and_left(tmp_path_factory: pytest.TempPathFactory) -> None:
    place = scratch()
    with embedded(place) as (process, postmaster):
        os.kill(postmaster, signal.SIGSTOP)
        try:
            began = time.monotonic()
            process.send_signal(signal.SIGQUIT)
            assert process.wait(20) == 0
            assert time.monotonic() - began < SECOND + LATE
        finally:
            os.kill(postmaster, signal.SIGCONT)
        until(lambda: not _serves(postmaster, place / "pooler" / "data"), "PostgreSQL to end by itself")


