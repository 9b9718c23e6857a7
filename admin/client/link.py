"""One connection to a console: a command goes out, answers come in.

An ordinary wire client over psycopg and the simple query protocol, so that it serves real PgBouncer as
well as ours. A Link belongs to one thread and runs one command at a time; every wait ends with the
answer, with the caller's deadline, with Ctrl-C or with the connection. Errors are the four below, with
text fit for a person.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from admin.client.address import Address, redact
from admin.client.answers import Answer, Column, Notice
from admin.fieldtypes import INTEGERS, NUMBERS

if TYPE_CHECKING:
    import psycopg
    from psycopg import pq

CONNECT_SECONDS = 10
CANCEL_SECONDS = 2.0
LONGEST_WAIT = 60.0
"""Of one wait in the operating system."""


class CannotConnect(Exception):
    """No connection could be made. `password`: the server wanted one, or another; `refused`: it got a wrong one."""

    def __init__(self, message: str, *, password: bool = False, refused: bool = False) -> None:
        super().__init__(message)
        self.password, self.refused = password, refused


class NotAConsole(CannotConnect):
    """The other end is a PostgreSQL, not a pooler's console."""


class Lost(Exception):
    """The connection went away, before or during a command."""


class CommandFailed(Exception):
    """The console answered with an error."""

    def __init__(self, message: str, sqlstate: str = "", detail: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message, self.sqlstate, self.detail, self.hint = message, sqlstate, detail, hint


class Link:
    """An open connection to a console."""

    def __init__(self, connection: psycopg.Connection[Any], address: Address) -> None:
        self.address = address
        self.version = _version(connection)
        self._connection = connection
        self._notices: list[Notice] = []
        connection.add_notice_handler(self._note)

    @classmethod
    def open(cls, address: Address, name: str = "pooler console") -> Link:
        """Connect and log in. Raises CannotConnect."""
        connection = _dialled_each(_parameters(address, name))
        if not _server_version(connection).endswith("/bouncer"):
            told = _not_a_console(connection)
            connection.close()
            raise NotAConsole(told)
        return cls(connection, address)

    @property
    def closed(self) -> bool:
        return bool(self._connection.closed)

    def close(self) -> None:
        self._connection.close()

    def abort(self) -> None:
        """For another thread: what this link is waiting for ends now, as Lost."""
        import psycopg

        with contextlib.suppress(OSError, psycopg.Error):  # it may be closed, or being closed, already
            descriptor = os.dup(self._connection.pgconn.socket)
            with socket.socket(fileno=descriptor) as twin:
                twin.shutdown(socket.SHUT_RDWR)

    def ask(
        self,
        statement: str,
        *,
        seconds: float | None = None,
        on_wait: Callable[[float], None] | None = None,
    ) -> Answer:
        """Run one command. `on_wait` is called about twice a second while there is no answer, with the time
        gone so far. After Ctrl-C the command is cancelled, and KeyboardInterrupt goes on."""
        self._notices.clear()
        try:
            self._send(statement)
            return self._receive(seconds, on_wait)
        except KeyboardInterrupt:
            self._cancel()
            raise

    def _send(self, statement: str) -> None:
        import psycopg

        if self.closed:
            raise Lost("not connected")
        try:
            self._connection.pgconn.send_query(statement.encode())
            while self._connection.pgconn.flush():
                _wait(self._connection.pgconn.socket, select.POLLOUT, 1.0)
        except psycopg.Error as error:
            raise self._lost(_reason(error)) from None

    def _receive(self, seconds: float | None, on_wait: Callable[[float], None] | None) -> Answer:
        """The last answer of the command; an error among them wins."""
        began = time.monotonic()
        answer = Answer()
        failed: CommandFailed | None = None
        while (result := self._next_result(began, seconds, on_wait)) is not None:
            problem = _failure(result)
            if problem is None:
                answer = _answer(result, self._notices)
            failed = failed or problem
        if failed is not None:
            if self._broken():
                raise self._lost(failed.message)
            raise failed
        return answer

    def _next_result(
        self, began: float, seconds: float | None, on_wait: Callable[[float], None] | None
    ) -> pq.abc.PGresult | None:
        import psycopg

        pgconn = self._connection.pgconn
        try:
            while pgconn.is_busy():
                ready = _wait(pgconn.socket, select.POLLIN, 0.5)
                gone = time.monotonic() - began
                if seconds is not None and gone > seconds:
                    raise self._lost(f"no answer within {seconds:g} s")
                if ready:
                    pgconn.consume_input()
                elif on_wait is not None:
                    on_wait(gone)
            return pgconn.get_result()
        except (psycopg.Error, OSError, ValueError) as error:
            raise self._lost(_reason(error)) from None

    def cancel(self) -> None:
        """For another thread: ask for the command under way to be cancelled, which then fails."""
        import psycopg

        with contextlib.suppress(psycopg.Error):  # it does not listen, or is closed: there is `abort`
            self._connection.cancel_safe(timeout=CANCEL_SECONDS)

    def _cancel(self) -> None:
        """Ask for the command to be cancelled; a console that does not obey loses its connection."""
        import psycopg

        if self.closed:
            return
        try:
            self._connection.cancel_safe(timeout=CANCEL_SECONDS)
            self._receive(CANCEL_SECONDS, None)
        except CommandFailed:
            return
        except (Lost, psycopg.Error):
            self.close()

    def _broken(self) -> bool:
        """Whether the error just received was the connection's last word."""
        from psycopg import pq

        return bool(self._connection.pgconn.status != pq.ConnStatus.OK)

    def _lost(self, reason: str) -> Lost:
        self.close()
        return Lost(reason)

    def _note(self, notice: psycopg.errors.Diagnostic) -> None:
        self._notices.append(
            Notice(notice.severity or "NOTICE", notice.message_primary or "", notice.message_detail or "")
        )


def _wait(descriptor: int, event: int, seconds: float) -> bool:
    """Whether the event came in time. Not select(), which knows no descriptor above 1023."""
    poll = select.poll()
    poll.register(descriptor, event)
    return bool(poll.poll(seconds * 1000))


def _parameters(address: Address, name: str) -> dict[str, Any]:
    """libpq's keywords. `options` is emptied: a PGOPTIONS meant for PostgreSQL is fatal on a console."""
    told: dict[str, Any] = {"options": "", "client_encoding": "UTF8", "connect_timeout": CONNECT_SECONDS}
    told |= address.parameters
    told.setdefault("application_name", name)
    if address.password is not None:
        told["password"] = address.password
    return told


def _dialled_each(parameters: dict[str, Any]) -> psycopg.Connection[Any]:
    """A connection to the first of several hosts that takes us, as libpq does it; each has the whole time to itself."""
    hosts, ports = str(parameters.get("host", "")).split(","), str(parameters.get("port", "")).split(",")
    if len(ports) != len(hosts) or len(hosts) == 1:
        return _dialled(parameters)
    for host, port in zip(hosts[:-1], ports, strict=False):
        with contextlib.suppress(CannotConnect):
            return _dialled({**parameters, "host": host, "port": port})
    return _dialled({**parameters, "host": hosts[-1], "port": ports[-1]})


def _dialled(parameters: dict[str, Any]) -> psycopg.Connection[Any]:
    """A connection, logged in. What psycopg.connect does, but for this: when a password was refused, libpq
    (sslmode=prefer) says it once more without TLS, which the server counts as another failure, and others can read."""
    import psycopg
    from psycopg import pq
    from psycopg.conninfo import make_conninfo

    try:
        pgconn = pq.PGconn.connect_start(make_conninfo("", **parameters).encode())
    except psycopg.Error as error:
        raise CannotConnect(redact(str(error).strip())) from None
    until = time.monotonic() + (float(parameters["connect_timeout"]) or math.inf)
    said = False
    while pgconn.status != pq.ConnStatus.BAD:
        step = pgconn.connect_poll()
        if step == pq.PollingStatus.OK:
            pgconn.nonblocking = 1
            return psycopg.Connection(pgconn)
        if step == pq.PollingStatus.FAILED or (said and not pgconn.used_password):
            break
        said = pgconn.used_password
        event = select.POLLIN if step == pq.PollingStatus.READING else select.POLLOUT
        left = min(until - time.monotonic(), LONGEST_WAIT)
        if left <= 0 or not (_wait(pgconn.socket, event, left) or time.monotonic() < until):
            pgconn.finish()
            raise CannotConnect("connection timeout expired")
    problem = _cannot(pgconn, said)
    pgconn.finish()
    raise problem


def _cannot(pgconn: pq.abc.PGconn, said: bool) -> CannotConnect:
    """Why there is no connection; `said`: a password was sent."""
    reason = _reason(pgconn.error_message.decode(errors="replace"))
    asked = said or bool(pgconn.used_password)
    return CannotConnect(reason, password=asked, refused=asked and not pgconn.needs_password)


def _reason(story: object) -> str:
    """The first line of libpq's story."""
    lines = [line.strip() for line in str(story).strip().splitlines() if line.strip()]
    text = redact(lines[0]) if lines else "connection lost"
    for prefix in ("connection failed: ", "connection is bad: ", "consuming input failed: "):
        text = text.removeprefix(prefix)
    return text


def _server_version(connection: psycopg.Connection[Any]) -> str:
    return (connection.pgconn.parameter_status(b"server_version") or b"").decode()


def _version(connection: psycopg.Connection[Any]) -> str:
    return _server_version(connection).removesuffix("/bouncer")


def _not_a_console(connection: psycopg.Connection[Any]) -> str:
    name = connection.info.dbname
    return (
        f'"{name}" is a database of PostgreSQL {_server_version(connection)}, not a console:'
        f" connect to the database pgbouncer of the pooler"
    )


def _failure(result: pq.abc.PGresult) -> CommandFailed | None:
    from psycopg import pq

    if result.status != pq.ExecStatus.FATAL_ERROR:
        return None

    def told(code: pq.DiagnosticField) -> str:
        return (result.error_field(code) or b"").decode(errors="replace")

    fields = pq.DiagnosticField
    message = told(fields.MESSAGE_PRIMARY) or result.error_message.decode(errors="replace").strip()
    return CommandFailed(message, told(fields.SQLSTATE), told(fields.MESSAGE_DETAIL), told(fields.MESSAGE_HINT))


def _answer(result: pq.abc.PGresult, notices: list[Notice]) -> Answer:
    tag = (result.command_status or b"").decode()
    columns = tuple(
        Column((result.fname(place) or b"").decode(errors="replace"), result.ftype(place))
        for place in range(result.nfields)
    )
    readers = [reader(column.oid) for column in columns]
    rows = [
        tuple(_value(result.get_value(row, place), reader) for place, reader in enumerate(readers))
        for row in range(result.ntuples)
    ]
    return Answer(columns, rows, tag, tuple(notices))


def _value(raw: bytes | None, read: Callable[[bytes], Any]) -> Any:
    return None if raw is None else read(raw)


def reader(oid: int) -> Callable[[bytes], Any]:
    if oid in INTEGERS:
        return int
    return _decimal if oid in NUMBERS else _text


def _decimal(raw: bytes) -> int | float:
    """Counters come as numeric and are whole; only what has a fraction becomes a float."""
    try:
        return int(raw)
    except ValueError:
        return float(raw)


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace")
