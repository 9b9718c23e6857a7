"""A PostgreSQL server for one owner, made when it is started and removed when it ends: a program.

Its standard input is a line to the owner: it writes the directory of its socket there when the server takes
connections, and reads until the owner closes it or dies. The server listens on nothing but that socket, in a directory
that only its account enters. The rules: it has nothing of its owner's, neither descriptors nor environment; its
memory, its files and its place in the queue for the processor are bounded; and however it ends, nothing stays behind.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from admin.sql import schema, spelling
from admin.views import VIEWS, View
from pooler import programs
from pooler.programs import Account, EmbeddedError
from pooler.stats import ADMIN_DATABASE

NICENESS = 15
"""Traffic comes first."""
MEMORY = 768 << 20
"""Bytes of address space of each process; it begins with some 200 MB, most of them libraries'."""
LARGEST_FILE = 128 << 20
"""In bytes: what a session writes beyond is an error, and so an end."""
START_SECONDS = 60.0
STOP_SECONDS = 2.0
LOOK_SECONDS = 0.005
PREFIX = "pooler-sql-"
LOCK = "lock"
PR_SET_PDEATHSIG = 1

CLUSTER = ("--username", spelling.SUPERUSER, "--encoding=UTF8", "--locale=C", "--locale-provider=builtin",
           "--builtin-locale=C.UTF-8", "--auth=reject", "--no-sync", "--no-instructions")  # fmt: skip
HBA = f"""\
local all {spelling.SUPERUSER} reject
local {ADMIN_DATABASE} all trust
"""
CONFIGURATION = """\
listen_addresses = ''
fsync = off
full_page_writes = off
synchronous_commit = off
wal_level = minimal
max_wal_senders = 0
max_connections = 20
reserved_connections = 0
superuser_reserved_connections = 0
max_worker_processes = 0
io_method = sync
shared_buffers = 4MB
dynamic_shared_memory_type = mmap
work_mem = 4MB
temp_buffers = 8MB
temp_file_limit = 64MB
max_prepared_transactions = 0
max_stack_depth = 1MB
jit = off
autovacuum_naptime = 60
autovacuum_max_workers = 1
track_activities = off
restart_after_crash = off
client_connection_check_interval = 200
timezone = 'GMT'
datestyle = 'ISO, MDY'
log_min_messages = fatal
log_min_error_statement = panic
"""


def main(what: str) -> int:
    """With `views` there are those of this project's console, with `none` there are none."""
    confine()
    try:
        _clear()
        place = Path(tempfile.mkdtemp(prefix=PREFIX))
        try:
            _lock(place)
            return Throwaway(place, VIEWS if what == "views" else ()).run()
        finally:
            _remove(place)
    except (EmbeddedError, OSError, subprocess.SubprocessError) as error:
        with suppress(OSError):
            os.write(0, f"! {error}\n".encode(errors="replace"))
        return 1


def _lock(place: Path) -> None:
    """Until this program ends, however it does; nobody sees the lock before it is held."""
    unheld = place / f"{LOCK}.new"
    fcntl.flock(os.open(unheld, os.O_RDWR | os.O_CREAT, 0o600), fcntl.LOCK_EX)
    unheld.rename(place / LOCK)


def _remove(place: Path) -> None:
    """What was ended in the middle may be writing still."""
    until = time.monotonic() + STOP_SECONDS
    while place.exists() and time.monotonic() < until:
        shutil.rmtree(place, ignore_errors=True)
        time.sleep(LOOK_SECONDS)


def _clear() -> None:
    """Remove what programs like this one left behind when they were killed: nobody holds the lock any more."""
    for place in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):
            lock = os.open(place / LOCK, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(lock).st_uid == os.geteuid():
                    shutil.rmtree(place, ignore_errors=True)
            finally:
                os.close(lock)


def confine() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    os.umask(0o077)
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write("1000")  # where memory is short, these processes are to go first
    for limit, most in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, LARGEST_FILE), (resource.RLIMIT_AS, MEMORY)):
        _, hard = resource.getrlimit(limit)
        bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(limit, (bound, bound))


class Throwaway:
    def __init__(self, place: Path, views: Sequence[View]) -> None:
        self.place = place
        self.views = views
        self.data = place / "data"
        self.who: Account = programs.account(self.data)
        self.who.give(place)
        self.bin = programs.directory(self.who, place)

    def run(self) -> int:
        self._program("initdb", "-D", str(self.data), *CLUSTER)
        (self.data / "pg_hba.conf").write_text(HBA)
        with (self.data / "postgresql.conf").open("a") as configuration:
            configuration.write(CONFIGURATION)
        self._single("postgres", schema.in_cluster())
        self._single(ADMIN_DATABASE, schema.in_database(self.views))
        os.nice(NICENESS)  # not before: who waits for the first answer waits for all of the above
        server = subprocess.Popen(
            [self.bin / "postgres", "-D", self.data, "-k", self.place],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            cwd=self.place, env=_environment(), preexec_fn=_die_with_us, **self.who.identity(),
        )  # fmt: skip
        try:
            self._await_ready(server)
            os.write(0, f"{self.place}\n".encode())
            return self._serve(server)
        finally:
            _stop(server)

    def _serve(self, server: subprocess.Popen[bytes]) -> int:
        """Until the owner has gone, or the server has ended by itself."""
        process = os.pidfd_open(server.pid)
        ready, _, _ = select.select([0, process], [], [])
        return 1 if process in ready else 0

    def _await_ready(self, server: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while server.poll() is None and time.monotonic() < deadline:
            with suppress(OSError):
                lines = (self.data / "postmaster.pid").read_text().splitlines()
                if len(lines) > 7 and lines[7].strip() == "ready":
                    return
            time.sleep(LOOK_SECONDS)
        raise EmbeddedError(f"PostgreSQL does not start (status {server.poll()})")

    def _single(self, database: str, script: str) -> None:
        told = self._program("postgres", "--single", "-j", "-O", "-F", "-D", str(self.data), database, text=script)
        for line in told.splitlines():
            if "ERROR:" in line or "FATAL:" in line:
                raise EmbeddedError(f"PostgreSQL refuses what belongs to the views: {line}")

    def _program(self, name: str, *arguments: str, text: str = "") -> str:
        """stderr of a finished program."""
        done: subprocess.CompletedProcess[str] = subprocess.run(
            [self.bin / name, *arguments], input=text, text=True, capture_output=True, check=False,
            cwd=self.place, env=_environment(), timeout=START_SECONDS, **self.who.identity(),
        )  # fmt: skip
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
            raise EmbeddedError(f"{name} failed: {said[-1]}")
        return done.stderr


def _die_with_us() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGQUIT, 0, 0, 0)


def _environment() -> dict[str, str]:
    return {"LC_ALL": "C", "PATH": os.defpath}


def _stop(server: subprocess.Popen[bytes]) -> None:
    """At once: there is nothing to keep."""
    if server.poll() is None:
        server.send_signal(signal.SIGQUIT)
        try:
            server.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:  # somebody does not listen
            children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
            for pid in (*map(int, children), server.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            server.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
