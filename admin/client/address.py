"""Where the console connects to: a URL, the PG* variables, or the pooler of this machine.

An `Address` is what libpq is told, without the password, which travels beside it and is in no repr. The
rule: a password never stays where others can read it, so it is also wiped from this process's argument
list.
"""

from __future__ import annotations

import ctypes
import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pooler.places import NoPlace, state_directory
from pooler.stats import ADMIN_DATABASE

LOCAL_HOST, LOCAL_PORT = "127.0.0.1", "5433"
SOCKET_DIRS = ("/tmp", "/var/run/postgresql", "/run/pooler")

_PLAIN_HOST = re.compile(r"^[\w.-]*:\d+(/\w+)?$")
_URL_SECRET = re.compile(r"(?P<before>[a-z]+://[^\s:/@]*:)(?P<secret>[^\s@]*)(?=@)", re.I)
_WORD_SECRET = re.compile(r"(?P<before>\bpassword\s*=\s*)(?P<secret>'[^']*'?|[^\s&'\"]+)", re.I)
MASK = "****"


class BadAddress(Exception):
    """A URL that libpq does not understand; the text is fit for a person."""


@dataclass(frozen=True, slots=True)
class Address:
    """Connection parameters by libpq's names, and the password apart."""

    parameters: Mapping[str, str]
    password: str | None = field(default=None, repr=False)

    @property
    def user(self) -> str:
        return self.parameters.get("user") or os.environ.get("PGUSER") or _system_user()

    @property
    def place(self) -> str:
        """Host and port, or the socket's directory, as a person would write it."""
        host = self.parameters.get("host") or os.environ.get("PGHOST") or LOCAL_HOST
        port = self.parameters.get("port") or os.environ.get("PGPORT") or "5432"
        return f"{host}:{port}"

    @property
    def label(self) -> str:
        return f"{self.place}/{self.parameters.get('dbname', ADMIN_DATABASE)}"

    @property
    def login(self) -> tuple[str | None, ...]:
        """What makes it another attempt than that of another address: where, who, and with which password."""
        password = self.password or os.environ.get("PGPASSWORD") or self.parameters.get("passfile")
        return self.label, self.user, password

    def with_password(self, password: str | None) -> Address:
        return replace(self, password=password)


def parse(url: str) -> Address:
    """An Address of a URL or a `key=value` string; the database is the console's unless it names one."""
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    text = f"postgresql://{url}" if _PLAIN_HOST.match(url) else url
    if "://" not in text and "=" not in text:
        raise BadAddress(f'"{redact(url)}" is no URL: write postgresql://user@host:port/pgbouncer')
    try:
        found = {name: str(value) for name, value in conninfo_to_dict(text).items() if value is not None}
    except ProgrammingError as error:
        raise BadAddress(redact(str(error).strip())) from None
    password = found.pop("password", None)
    found.setdefault("dbname", ADMIN_DATABASE)
    return Address(found, password)


def default_addresses(environment: Mapping[str, str] = os.environ) -> list[Address]:
    """What to try when no URL is given: PG* variables if set, else the ways to a pooler of this machine.

    Those are, in turn: the one that `pooler serve` makes of the same DATABASE_URL; a Unix socket that belongs to
    this very user, where the name `pgbouncer` needs no password; the one with an embedded PostgreSQL, whose
    passwords it keeps in a file of this user; and the port with whatever libpq finds.
    """
    if any(environment.get(name) for name in ("PGHOST", "PGPORT", "PGHOSTADDR", "PGSERVICE")):
        return [Address({"dbname": ADMIN_DATABASE})]
    port = {"port": LOCAL_PORT, "dbname": ADMIN_DATABASE}
    user = {"user": environment["PGUSER"]} if environment.get("PGUSER") else {}
    found = _beside_database(environment.get("DATABASE_URL", ""))
    found += [Address({"host": place, "user": ADMIN_DATABASE, **port, **user}) for place in _own_sockets()]
    found += [Address({"host": LOCAL_HOST, **port, **kept, **user}) for kept in _kept_passwords(environment)]
    return [*found, Address({"host": LOCAL_HOST, **port, **user})]


def _beside_database(url: str) -> list[Address]:
    """The console of the pooler for that database: the next port of this machine, the same user and password."""
    try:
        found = parse(url) if url else None
    except BadAddress:
        return []  # not ours to complain about: nobody told us to use it
    if found is None:
        return []
    port = found.parameters.get("port", "5432")
    if not port.isdecimal():
        return []  # several hosts: it is not beside one of them
    kept = {name: value for name, value in found.parameters.items() if name == "user"}
    return [Address({"host": LOCAL_HOST, "port": str(int(port) + 1), "dbname": ADMIN_DATABASE, **kept}, found.password)]


PORTS = (LOCAL_PORT, "*")


def _kept_passwords(environment: Mapping[str, str]) -> list[dict[str, str]]:
    """User and password file of the pooler that PGPASSFILE is about, else of the one whose state directory is ours."""
    try:
        file = Path(environment.get("PGPASSFILE") or state_directory(environment) / "pgpass")
        lines = [line.split(":") for line in file.read_text().splitlines() if not line.startswith("#")]
    except (OSError, NoPlace):
        return []
    users = [fields[3] for fields in lines if len(fields) >= 5 and fields[:1] == [LOCAL_HOST] and fields[1] in PORTS]
    return [{"user": users[0], "passfile": str(file)}] if users else []


def _own_sockets() -> list[str]:
    """Directories where a pooler of this user listens on the default port."""
    return [place for place in SOCKET_DIRS if _is_own_socket(Path(place, f".s.PGSQL.{LOCAL_PORT}"))]


def _is_own_socket(path: Path) -> bool:
    try:
        found = path.stat()
    except OSError:
        return False
    return stat.S_ISSOCK(found.st_mode) and found.st_uid == os.geteuid()


def redact(text: str) -> str:
    """The text with every password of a URL or of `password=` masked."""
    return _WORD_SECRET.sub(rf"\g<before>{MASK}", _URL_SECRET.sub(rf"\g<before>{MASK}", text))


def wipe_arguments(arguments: Sequence[str]) -> None:
    """Overwrite passwords in this process's argument list, where `ps` shows them to everybody.

    The kernel reads the list from the process's memory (proc(5): arg_start, arg_end of /proc/self/stat).
    """
    secrets = {found["secret"] for text in arguments for found in _secrets(text) if found["secret"]}
    area = _argument_area() if secrets else None
    if area is None:
        return
    start, end = area
    listing = ctypes.string_at(start, end - start)
    for secret in sorted((os.fsencode(secret) for secret in secrets), key=len, reverse=True):
        for found in re.finditer(re.escape(secret), listing):
            ctypes.memset(start + found.start(), ord("*"), len(secret))


def _secrets(text: str) -> list[re.Match[str]]:
    return [*_URL_SECRET.finditer(text), *_WORD_SECRET.finditer(text)]


def _argument_area() -> tuple[int, int] | None:
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        start, end = int(fields[45]), int(fields[46])
    except (OSError, ValueError, IndexError):
        return None  # not Linux: nothing to wipe with
    return (start, end) if 0 < start < end else None


def _system_user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""  # libpq says what it thinks of a user without a name
