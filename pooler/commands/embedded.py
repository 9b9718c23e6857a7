"""The embedded PostgreSQL of `pooler serve` without a database: initialised once, started and stopped with
us.

All of it is blocking and runs before the loop starts, or in a thread. The directory `place` holds
everything: `data` (survives restarts), `pgpass` (the passwords, mode 0600, in libpq's format),
`postgresql.log`, `run` (the unix socket), and `lock`, held while a pooler uses it. A pooler that was killed
leaves its PostgreSQL running and the lock free: the next start ends that server first. Passwords are never
in an argument, an environment or a log.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import select
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Container
from contextlib import suppress
from dataclasses import field
from pathlib import Path
from typing import NamedTuple

from pooler import places, programs
from pooler.programs import Account, EmbeddedError
from pooler.values import dataclass

__all__ = ["Embedded", "EmbeddedError", "start"]

HOST = "127.0.0.1"
USER = DBNAME = "pooler"
SUPERUSER = "postgres"
PORT = 5432
POOLER_PORT = PORT + 1
ALTERNATIVES = (*range(5434, 5440), 0)
"""Ports tried when PORT is taken, which another PostgreSQL often has; 0 is any free one."""

START_SECONDS = 120.0
"""Crash recovery of a large database takes its time; an ordinary start takes a fifth of a second."""
STOP_SECONDS = 60.0
LOG_KEPT = 8_000_000
LONGEST_SOCKET_PATH = 107
CLUSTER = ("--username", SUPERUSER, "--encoding=UTF8", "--locale=C", "--locale-provider=builtin",
           "--builtin-locale=C.UTF-8", "--auth=reject")  # fmt: skip
HBA = f"""\
# Written by pooler when it made this cluster. The passwords are in pgpass, beside the data directory.
local all all              scram-sha-256
host  all all {HOST}/32 scram-sha-256
"""


@dataclass(frozen=True, slots=True)
class Embedded:
    """A running server. `socket_dir` is None where the path would be too long for a unix socket."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    dbname: str
    socket_dir: Path | None
    pgpass: Path
    pid: int
    _process: subprocess.Popen[bytes] = field(repr=False)
    _lock: int = field(repr=False)

    @property
    def url(self) -> str:
        """The application's URL past the pooler. Holds the password."""
        return f"postgres://{self.user}:{self.password}@{self.host}:{self.port}/{self.dbname}"

    def running(self) -> bool:
        return not _ended(self.pid, 0)

    def tell(self) -> None:
        """Have it shut down as `stop` does, without waiting for it."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGINT)

    def stop(self) -> None:
        """Fast shutdown: sessions end, everything is on disk. Harmless when it has ended already."""
        try:
            _shut_down(self.pid)
            self._process.poll()
        finally:
            os.close(self._lock)


class Postmaster(NamedTuple):
    """What PostgreSQL writes into postmaster.pid."""

    pid: int
    port: int
    ready: bool


def start(place: Path | None = None, *, port: int = PORT, avoid: Container[int] = (POOLER_PORT,)) -> Embedded:
    """Start the server of `place` (default: the state directory), created if there is none yet.

    It listens on `port`, or if that is taken on another that is not in `avoid` (the pooler's own).
    """
    try:
        place = place or places.state_directory()
    except places.NoPlace as error:
        raise EmbeddedError(str(error)) from None
    data = place / "data"
    try:
        _make_place(place)
        lock = _lock(place / "lock")
        try:
            return _Start(place, data, programs.account(data), lock).run(port, avoid)
        except BaseException:
            os.close(lock)
            raise
    except (OSError, subprocess.TimeoutExpired) as error:
        why = (isinstance(error, OSError) and error.strerror) or error
        raise EmbeddedError(f"the embedded PostgreSQL in {place} cannot be started: {why}") from error


def _make_place(place: Path) -> None:
    """As root it must be open, whatever the umask, to the account that runs PostgreSQL."""
    if not place.exists():
        place.mkdir(mode=0o700, parents=True)
        if os.geteuid() == 0:
            place.chmod(0o755)


def _lock(path: Path) -> int:
    """The descriptor that holds the lock; the kernel lets go of it when the process ends, however it ends."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 20).decode().strip() or "unknown"
        os.close(descriptor)
        raise EmbeddedError(
            f"the embedded PostgreSQL in {path.parent} is in use by another pooler (process {holder}):"
            " stop that one, or name a database with --database-url"
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


class _Start:
    """One start: the steps from a directory, perhaps empty, to a running server."""

    def __init__(self, place: Path, data: Path, who: Account, lock: int) -> None:
        self.place, self.data, self.who, self.lock = place, data, who, lock
        self.log, self.pgpass = place / "postgresql.log", place / "pgpass"
        programs.check_reach(who, place)
        self.bin = programs.directory(who, place)

    def run(self, port: int, avoid: Container[int]) -> Embedded:
        _end_orphan(self.data)
        password = self._ensure_cluster()
        self._rotate_log()
        for candidate in (port, *(p for p in ALTERNATIVES if p not in avoid and p != port)):
            chosen = _free(candidate)
            if chosen is None or chosen in avoid:
                continue
            process = self._launch(chosen)
            if process is not None:
                return Embedded(HOST, chosen, USER, password, DBNAME, self._socket_dir(chosen), self.pgpass,
                                process.pid, process, self.lock)  # fmt: skip
        raise EmbeddedError(f"no free port on {HOST} for the embedded PostgreSQL; its log is {self.log}")

    # -- the cluster

    def _ensure_cluster(self) -> str:
        """The application's password; makes the cluster, or new passwords for one whose pgpass was lost."""
        if not self.data.exists():
            unfinished = self.data.with_name("data.new")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(mode=0o700)
            self.who.give(unfinished)
            self._program("initdb", "-D", str(unfinished), *CLUSTER)
            (unfinished / "pg_hba.conf").write_text(HBA)
            password = self._set_passwords(unfinished, create=True)
            unfinished.rename(self.data)
            return password
        known = _passwords(self.pgpass)
        return known[USER] if USER in known else self._set_passwords(self.data, create=False)

    def _set_passwords(self, data: Path, *, create: bool) -> str:
        """New random passwords for both roles, set in single-user mode, which reads them from a pipe."""
        ours, superuser = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
        script = [f"ALTER ROLE {SUPERUSER} PASSWORD '{superuser}'"]
        if create:
            script += [
                f"CREATE ROLE {USER} LOGIN CREATEDB PASSWORD '{ours}'",
                f"CREATE DATABASE {DBNAME} OWNER {USER}",
            ]
        else:
            script += [f"ALTER ROLE {USER} PASSWORD '{ours}'"]
        told = self._program("postgres", "--single", "-D", str(data), "-c", "log_min_error_statement=panic",
                             SUPERUSER, text="".join(f"{line}\n" for line in script))  # fmt: skip
        failure = re.search(r"(?:ERROR|FATAL|PANIC): *(.*)", told)
        if failure:
            raise EmbeddedError(f"the embedded PostgreSQL refused to set its passwords: {failure[1]}")
        _write_passwords(self.pgpass, {USER: ours, SUPERUSER: superuser})
        return ours

    def _program(self, name: str, *arguments: str, text: str = "") -> str:
        """stderr of a finished program."""
        done: subprocess.CompletedProcess[str] = subprocess.run(
            [self.bin / name, *arguments], input=text, text=True, capture_output=True, check=False,
            cwd=self.place, env=_environment(), umask=0o077, timeout=START_SECONDS, **self.who.identity(),
        )  # fmt: skip
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
            why = next((line for line in said if "error:" in line or "FATAL" in line), said[-1])
            raise EmbeddedError(f"{name} of the embedded PostgreSQL failed: {why}")
        return done.stderr

    # -- the server

    def _launch(self, port: int) -> subprocess.Popen[bytes] | None:
        """A server that takes connections on `port`; None if somebody else took the port first."""
        directory = self._socket_dir(port)
        if directory:
            directory.mkdir(exist_ok=True)
            directory.chmod(0o755)
            self.who.give(directory)
        written = self.log.stat().st_size if self.log.exists() else 0
        with open(self.log, "ab", opener=_private) as log:
            process = subprocess.Popen(
                [self.bin / "postgres", "-D", self.data, "-p", str(port), "-h", HOST, "-k", directory or ""],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.place, env=_environment(),
                umask=0o077, start_new_session=True, **self.who.identity(),
            )  # fmt: skip
        try:
            if self._ready(process):
                return process
        except BaseException:
            process.send_signal(signal.SIGQUIT)
            raise
        self._raise_unless_port_taken(written)
        return None

    def _ready(self, process: subprocess.Popen[bytes]) -> bool:
        """True once it takes connections, False if it ended instead."""
        deadline = time.monotonic() + START_SECONDS
        while process.poll() is None:
            state = _postmaster(self.data)
            if state and state.ready and state.pid == process.pid:
                return True
            if time.monotonic() > deadline:
                raise EmbeddedError(f"the embedded PostgreSQL is not ready in time; its log is {self.log}")
            time.sleep(0.01)
        return False

    def _raise_unless_port_taken(self, written: int) -> None:
        """After a failed start: what PostgreSQL said of it, in its log from byte `written` on."""
        with self.log.open("rb") as log:
            log.seek(written)
            said = log.read().decode(errors="replace")
        if "Address already in use" in said:
            return
        reasons = re.findall(r"(?:FATAL|PANIC|DETAIL): *(.*)", said) or said.splitlines()[-1:]
        why = ". ".join(reasons[:2]) or "it said nothing"
        raise EmbeddedError(f"the embedded PostgreSQL did not start: {why}; its log is {self.log}")

    def _socket_dir(self, port: int) -> Path | None:
        directory = self.place.absolute() / "run"
        return directory if len(os.fsencode(directory / f".s.PGSQL.{port}")) <= LONGEST_SOCKET_PATH else None

    def _rotate_log(self) -> None:
        if self.log.exists() and self.log.stat().st_size > LOG_KEPT:
            self.log.replace(self.log.with_suffix(".log.1"))


# -- processes


def _postmaster(data: Path) -> Postmaster | None:
    """What postmaster.pid says; None if there is none or it is only half written."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
        return Postmaster(int(lines[0]), int(lines[3]), len(lines) > 7 and lines[7].strip() == "ready")
    except (FileNotFoundError, IndexError, ValueError):
        return None


def _end_orphan(data: Path) -> None:
    """End the server a killed pooler left behind, and a pid file that names somebody else's process.

    We hold the lock, so no pooler uses it. PostgreSQL would take any live process of its account under that
    pid for a postmaster, as happens where pids are few (containers).
    """
    left = _postmaster(data)
    if left is None:
        return
    if _serves(left.pid, data):
        _shut_down(left.pid)
    else:
        (data / "postmaster.pid").unlink(missing_ok=True)


def _serves(pid: int, data: Path) -> bool:
    """Whether that process is a postmaster of this data directory: PostgreSQL works from within it."""
    try:
        return os.path.samefile(f"/proc/{pid}/cwd", data) and Path(f"/proc/{pid}/comm").read_text() == "postgres\n"
    except OSError:
        return False


def _shut_down(pid: int) -> None:
    """PostgreSQL's fast shutdown, and its immediate one if that takes too long."""
    for how, patience in ((signal.SIGINT, STOP_SECONDS), (signal.SIGQUIT, 10.0)):
        try:
            os.kill(pid, how)
        except ProcessLookupError:
            return
        if _ended(pid, patience):
            return
    raise EmbeddedError(f"the embedded PostgreSQL (process {pid}) does not stop")


def _ended(pid: int, patience: float) -> bool:
    """Whether the process, perhaps no child of ours, ends within `patience` seconds. A zombie has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        return bool(poller.poll(patience * 1000))
    finally:
        os.close(descriptor)


def _free(port: int) -> int | None:
    """`port` if nobody listens on it, for 0 any free one; None if it is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return None
        return int(probe.getsockname()[1])


def _environment() -> dict[str, str]:
    """Ours, without what would lead PostgreSQL elsewhere."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}
    return {**kept, "LC_ALL": "C"}


def _private(path: str, flags: int) -> int:
    """Opener for a file of our own: what is logged may quote data."""
    return os.open(path, flags, 0o600)


# -- passwords


def _passwords(path: Path) -> dict[str, str]:
    """Role -> password, from a file in libpq's format host:port:database:user:password."""
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return {}
    fields = [line.split(":", 4) for line in lines if not line.startswith("#")]
    return {parts[3]: parts[4] for parts in fields if len(parts) == 5}


def _write_passwords(path: Path, passwords: dict[str, str]) -> None:
    unfinished = path.with_name("pgpass.new")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as out:
        out.write("# Passwords of the embedded PostgreSQL, also through the pooler: for use as PGPASSFILE.\n")
        for host in (HOST, "localhost"):
            out.writelines(f"{host}:*:*:{role}:{password}\n" for role, password in passwords.items())
        out.flush()
        os.fsync(descriptor)
    unfinished.replace(path)
