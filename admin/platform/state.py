"""Where the control plane's state is kept, and how it is changed: one transaction per operation, one writer
at a time.

SQLite by default (one 0600 file, WAL, BEGIN IMMEDIATE, a busy timeout), PostgreSQL when the state's URL is
postgres:// (an advisory lock held to the end of the transaction takes the place of IMMEDIATE). A process
killed in the middle leaves nothing behind: either its transaction was committed or it never was. Nothing in
here knows what an app is; `store.Store` does.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from admin.platform.errors import PlatformError, unavailable
from admin.platform.store import Store
from pooler import places

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

BUSY_TIMEOUT = 15.0
"""Seconds that a writer waits for another before it gives up with a clear error."""

WAL_PAUSE = 0.01
"""Seconds between two attempts to make a new file's journal a WAL."""

LOCK_KEY = 0x706F6F6C6572
"""The advisory lock of PostgreSQL states ("pooler" in ASCII)."""

VARIABLE = "POOLER_STATE"
"""The environment variable that names the state when --state does not."""


def default_location() -> str:
    """The SQLite file in the state directory, as a path. Raises PlatformError."""
    try:
        return str(places.state_directory() / "platform.db")
    except places.NoPlace as error:
        raise unavailable(f"There is no place for the state: {error}.") from None


def location(given: str | None = None) -> str:
    """The state's place: what --state says, else POOLER_STATE, else the default file."""
    return given or os.environ.get(VARIABLE) or default_location()


def is_postgres(place: str) -> bool:
    return place.startswith(("postgres://", "postgresql://"))


def file_path(place: str) -> Path:
    """The file of an SQLite place: a path, `file:PATH` or `sqlite:///PATH`."""
    for prefix in ("sqlite:///", "sqlite:", "file:"):
        if place.startswith(prefix):
            return Path(place.removeprefix(prefix))
    if "://" in place:
        scheme = place.partition(":")[0]
        raise PlatformError("invalid_state", f"A state is a file or a postgres:// URL; {scheme}:// is neither.", 422)
    return Path(place)


class State:
    """An open state. `read()` and `write()` give a Store for the length of one transaction; threads may share
    a State."""

    def __init__(self, engine: Engine, *, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._clock = clock
        self._postgres = engine.dialect.name == "postgresql"

    @classmethod
    def open(cls, place: str | None = None, *, clock: Callable[[], float] = time.time) -> State:
        """Open the state, making or migrating it first where needed. Raises PlatformError with a line fit for
        the user."""
        place = location(place)
        state = cls(_postgres_engine(place) if is_postgres(place) else _sqlite_engine(file_path(place)), clock=clock)
        try:
            state._bring_up_to_date()
        except BaseException:
            state.close()
            raise
        return state

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Store]:
        """A Store that sees one moment of the state."""
        with self._transaction(writing=False) as connection:
            yield Store(connection, self._now())

    @contextmanager
    def write(self) -> Iterator[Store]:
        """A Store whose changes are all kept when the block ends, or none when it raises."""
        with self._transaction(writing=True) as connection:
            store = Store(connection, self._now())
            yield store
            if store.changed:
                store.count_change()

    def counter(self) -> int:
        """How many writes there have been; it moves whenever anything has."""
        with self.read() as store:
            return store.counter()

    def _now(self) -> int:
        return int(self._clock())

    @contextmanager
    def _transaction(self, *, writing: bool) -> Iterator[Connection]:
        with _errors_in_words(), self._engine.connect() as connection:
            connection = connection.execution_options(writing=writing)
            with connection.begin():
                if writing and self._postgres:
                    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK_KEY})")
                yield connection

    def _bring_up_to_date(self) -> None:
        from admin.platform.schema import HEAD

        with self._transaction(writing=False) as connection:
            if _revision(connection) == HEAD:
                return
        with self._transaction(writing=True) as connection:
            found = _revision(connection)
            if found is not None and found > HEAD:
                raise PlatformError(
                    "invalid_state",
                    f"This state was written by a newer pooler (its revision is {found}, ours is {HEAD}). "
                    "Upgrade pooler.",
                    422,
                )
            if found != HEAD:
                from admin.platform.migrations import upgrade

                upgrade(connection)


def _revision(connection: Connection) -> str | None:
    """The state's schema revision; None when it has no tables yet."""
    from sqlalchemy import inspect, text

    from admin.platform.schema import VERSION_TABLE

    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    found: str | None = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()
    return found


@contextmanager
def _errors_in_words() -> Iterator[None]:
    """The library's errors as one clear line without SQL, parameters or URLs."""
    from sqlalchemy.exc import DBAPIError, SQLAlchemyError

    try:
        yield
    except DBAPIError as error:
        reason = str(error.orig).strip().partition("\n")[0]
        raise unavailable(f"The state cannot be used: {reason}.") from None
    except SQLAlchemyError as error:
        raise unavailable(f"The state cannot be used ({type(error).__name__}).") from None


def _sqlite_engine(path: Path) -> Engine:
    """An engine on one file. It never makes the file anew: one that was removed under us is an error, one that was
    replaced is opened again."""
    from sqlalchemy import create_engine, event
    from sqlalchemy.exc import DisconnectionError
    from sqlalchemy.pool import QueuePool

    _make_private(path)
    place = f"file:{quote(str(path.absolute()))}?mode=rw"

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(
            place, uri=True, timeout=BUSY_TIMEOUT, check_same_thread=False, isolation_level=None
        )
        try:
            _use_wal(connection)
            for pragma in ("synchronous=FULL", "foreign_keys=ON"):
                connection.execute(f"PRAGMA {pragma}")
        except BaseException:
            connection.close()
            raise
        return connection

    engine = create_engine("sqlite+pysqlite://", creator=connect, poolclass=QueuePool, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def remember(_connection: Any, record: Any) -> None:
        record.info["file"] = _identity(path)

    @event.listens_for(engine, "checkout")
    def compare(_connection: Any, record: Any, _proxy: Any) -> None:
        if record.info["file"] != _identity(path):
            raise DisconnectionError

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writing = connection.get_execution_options().get("writing", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")

    return engine


def _use_wal(connection: sqlite3.Connection) -> None:
    """Journal in a WAL. While several open a new file at once, SQLite refuses the change at once instead of waiting
    as it does elsewhere: waiting within BUSY_TIMEOUT is done here. Raises OperationalError once that has passed."""
    end = time.monotonic() + BUSY_TIMEOUT
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() >= end:
                raise
            time.sleep(WAL_PAUSE)
        else:
            return


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file it is, whatever its name; None for none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _make_private(path: Path) -> None:
    """See to it that the state is a file that only its owner reads; SQLite gives its WAL the same mode."""
    try:
        places.make(path.parent)
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        found = path.stat()
        if found.st_mode & 0o077 and found.st_uid == os.geteuid():
            path.chmod(0o600)
    except OSError as error:
        raise unavailable(f"The state {path} cannot be used: {error.strerror}.") from None


def _postgres_engine(place: str) -> Engine:
    from sqlalchemy import create_engine
    from sqlalchemy.engine import URL

    from admin.platform.urls import parse_url

    url = parse_url(place)
    return create_engine(
        URL.create(
            "postgresql+psycopg",
            url.user,
            url.password or None,
            url.host,
            url.port,
            url.dbname,
            dict(url.options),
        ),
        connect_args={
            "connect_timeout": 10,
            "prepare_threshold": None,
            "application_name": "pooler platform",
        },
        isolation_level="READ COMMITTED",
        pool_pre_ping=True,
        hide_parameters=True,
    )
