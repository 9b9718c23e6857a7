"""A session of the throw-away server: PostgreSQL's protocol, as far as a statement over views needs it.

Rows go in by COPY in binary, an answer comes out as the messages it is sent on in: nobody here looks into a value.
A statement has a transaction of its own, which is read only before a word of it is run. The rule: each step is one
exchange that ends with ReadyForQuery, so whatever failed, the next begins at the same place.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from admin.fieldtypes import NUMBERS, BadValue, Row, Value, field_type
from admin.sql.spelling import OWN, declared, literal, quoted
from pooler import wire

Columns = tuple[tuple[str, int], ...]
"""(name, type oid) of each column."""
Parameter = tuple[int, int, bytes | None]
"""(type oid, format, value) as Bind brought it; nothing of it was read yet."""

PORT = 5432
"""Of which only the socket's name tells."""
BATCH_ROWS, BATCH_BYTES = 64, 256 << 10
"""Of an answer, from one look at it to the next."""
LONGEST_MESSAGE = 8 << 20
"""In bytes: no row of an answer is longer."""
CHUNK = 64 << 10
PORTAL = "answer"

COPY_HEAD = b"PGCOPY\n\xff\r\n\0" + bytes(8)
COPY_TAIL = b"\xff\xff"
MICROSECONDS = 1_000_000


class Gone(Exception):
    """The session has ended by itself."""


class Refused(Exception):
    """PostgreSQL's error: its fields by their letters."""

    def __init__(self, fields: dict[str, str]) -> None:
        super().__init__(fields.get("M", ""))
        self.fields = fields

    @property
    def sqlstate(self) -> str:
        return self.fields.get("C", "XX000")

    @property
    def position(self) -> int:
        """In characters from 1; 0 when it is nowhere in the statement."""
        return int(self.fields.get("P", "0"))


class Shape(NamedTuple):
    """A statement that was read: types of its parameters, and columns of its answer, None when it has none."""

    parameters: tuple[int, ...]
    columns: Columns | None


@dataclass(frozen=True, slots=True)
class Told:
    """What functions tell about the session and the process; times are Unix seconds."""

    version: str
    now: float
    started: float
    pid: int
    parameters: dict[str, str]

    def settings(self) -> dict[str, str]:
        return {
            "version": self.version,
            "now": datetime.fromtimestamp(self.now, UTC).isoformat(),
            "started": datetime.fromtimestamp(self.started, UTC).isoformat(),
            "pid": str(self.pid),
            "parameters": json.dumps(self.parameters),
        }


class Backend:
    """One session. Every method raises Gone when it has ended, and Refused for an error of PostgreSQL's."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._held = bytearray()
        self._status = b"I"
        self._tables: dict[str, str] = {}
        """Temporary tables there are, and how they were declared."""
        self._filled: list[str] = []
        self._within = False
        """An exchange was begun and has not ended."""
        self.finished = True
        """The answer has no more rows."""
        self.tag = ""
        self.pid = 0
        self.idle_since = 0.0
        self.user = ""

    @property
    def clean(self) -> bool:
        """Whether nothing of a statement is left."""
        return self._status == b"I"

    @classmethod
    async def open(cls, place: str, user: str, database: str) -> Backend:
        """Raises OSError as well."""
        line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            line.setblocking(False)
            await asyncio.get_running_loop().sock_connect(line, f"{place}/.s.PGSQL.{PORT}")
            backend = cls(line)
            found = await backend._exchange(wire.startup_message({"user": user, "database": database}))
            backend.pid = next(int.from_bytes(body[:4], "big") for kind, body in found if kind == b"K")
        except BaseException:
            line.close()
            raise
        return backend

    @property
    def busy(self) -> bool:
        """Whether it is amid an exchange: who takes it now would hear the rest of that."""
        return self._within

    def lives(self) -> bool:
        """Whether nothing has come: of an idle session that can only be the end, or the word of it."""
        try:
            self._line.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def end(self) -> None:
        """Whatever it does. Its process notices at its next look; who must be sure looks whether that is gone."""
        self._line.close()
        if self.pid:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)

    def gone(self) -> bool:
        """Whether its process is no more."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        return False

    # ---- a statement

    async def do(self, sql: str) -> None:
        """What has no rows, in PostgreSQL's own simple protocol."""
        await self._exchange(wire.query(sql))

    async def read(self, sql: str, oids: Sequence[int]) -> Shape:
        """Nothing of it is run."""
        found = await self._exchange(wire.parse("", sql, oids), wire.describe(b"S", ""), wire.sync())
        parameters: tuple[int, ...] = ()
        columns: Columns | None = None
        for kind, body in found:
            if kind == b"t":
                parameters = wire.read_parameter_description(body)
            elif kind == b"T":
                columns = tuple(wire.read_row_description(body))
        return Shape(parameters, columns)

    async def begin(self, told: Told, seconds: float) -> None:
        """A transaction for a statement that may take so long."""
        settings = "; ".join(f"SET LOCAL {OWN}.{name} = {literal(value)}" for name, value in told.settings().items())
        await self.do(f"BEGIN; SET LOCAL statement_timeout = {max(int(seconds * 1000), 1)}; {settings}")

    async def make(self, tables: dict[str, Columns]) -> None:
        """See to it that there are these tables; outside of a transaction, so they stay, and are empty after each."""
        for name, columns in tables.items():
            table, columns_declared = quoted(name), declared(columns)
            if self._tables.get(name) != columns_declared:
                await self.do(
                    f"DROP TABLE IF EXISTS pg_temp.{table}; "
                    f"CREATE TEMPORARY TABLE {table} ({columns_declared}) ON COMMIT DELETE ROWS"
                )
                self._tables[name] = columns_declared

    async def open_table(self, name: str, schema: str = "pg_temp") -> None:
        """From now on `fill` is for its rows."""
        if schema == "pg_temp":
            self._filled.append(name)
        self._within = True
        await self._send(wire.query(f"COPY {schema}.{quoted(name)} FROM STDIN (FORMAT binary)"))
        await self._send(wire.message(b"d", COPY_HEAD))

    async def fill(self, rows: bytes) -> None:
        """Some rows, as a `packer` made them."""
        await self._send(wire.message(b"d", rows))

    async def close_table(self) -> None:
        await self._exchange(wire.message(b"d", COPY_TAIL), wire.message(b"c"))

    async def run(self, sql: str, values: Sequence[Parameter], results: Sequence[int]) -> Columns | None:
        """Columns of its answer; `more` has the rows."""
        await self.do("SET TRANSACTION READ ONLY")
        found = await self._exchange(
            wire.parse("", sql, [oid for oid, _, _ in values]),
            wire.bind(PORTAL, "", [value for _, _, value in values], [code for _, code, _ in values], results),
            wire.describe(b"P", PORTAL),
            wire.sync(),
        )
        self.finished = False
        return next((tuple(wire.read_row_description(body)) for kind, body in found if kind == b"T"), None)

    async def more(self) -> list[bytes]:
        """DataRows, whole messages: some more of the answer, until `finished`."""
        if not self._within:
            self._within = True
            await self._send(wire.execute(PORTAL, BATCH_ROWS) + wire.sync())
        return await self._gathered(b"D")

    async def copy_out(self, sql: str) -> bytes:
        """COPY ... TO STDOUT, begun: the CopyOutResponse. `copied` has the data."""
        await self.do("SET TRANSACTION READ ONLY")
        self._within, self.finished = True, False
        await self._send(wire.query(sql))
        kind, body = await self._next()
        while kind == b"N":
            kind, body = await self._next()
        if kind == b"E":
            await self._to_the_end()
            raise Refused(wire.error_fields(body))
        return wire.message(kind, body)

    async def copied(self) -> list[bytes]:
        """CopyData, whole messages: some more of them, until `finished`."""
        return await self._gathered(b"d")

    async def _gathered(self, wanted: bytes) -> list[bytes]:
        found: list[bytes] = []
        size = 0
        while size < BATCH_BYTES:
            kind, body = await self._next()
            if kind == wanted:
                found.append(wire.message(kind, body))
                size += len(body)
            elif kind == b"C":
                self.finished, self.tag = True, wire.read_command_complete(body)
            elif kind == b"E":
                self.finished = True
                await self._to_the_end()
                raise Refused(wire.error_fields(body))
            elif kind == b"Z":
                self._ready(body)
                break
        return found

    async def put_away(self) -> None:
        """The statement is over, and its rows are gone."""
        filled, self._filled = self._filled, []
        if self._status == b"T":
            await self.do("COMMIT")
        elif self._status == b"E":
            await self.do("ROLLBACK")
            if filled:  # a transaction that failed empties nothing
                await self.do(f"TRUNCATE {', '.join(f'pg_temp.{quoted(name)}' for name in filled)}")

    # ---- messages

    async def _exchange(self, *messages: bytes) -> list[tuple[bytes, bytes]]:
        self._within = True
        await self._send(b"".join(messages))
        return await self._to_the_end()

    async def _to_the_end(self) -> list[tuple[bytes, bytes]]:
        found: list[tuple[bytes, bytes]] = []
        failure: Refused | None = None
        while True:
            kind, body = await self._next()
            if kind == b"E":
                failure = failure or Refused(wire.error_fields(body))
                if failure.fields.get("V") == "FATAL":
                    raise failure
            elif kind == b"Z":
                self._ready(body)
                if failure is not None:
                    raise failure
                return found
            else:
                found.append((kind, body))

    def _ready(self, body: bytes) -> None:
        self._status, self._within = body, False

    async def _send(self, data: bytes) -> None:
        try:
            await asyncio.get_running_loop().sock_sendall(self._line, data)
        except OSError:
            raise Gone from None

    async def _next(self) -> tuple[bytes, bytes]:
        await self._until(5)
        length = int.from_bytes(self._held[1:5], "big") + 1
        if length > LONGEST_MESSAGE:
            raise Refused({"C": "54000", "M": "row is too large"})
        await self._until(length)
        kind, body = bytes(self._held[:1]), bytes(self._held[5:length])
        del self._held[:length]
        return kind, body

    async def _until(self, count: int) -> None:
        loop = asyncio.get_running_loop()
        while len(self._held) < count:
            try:
                piece = await loop.sock_recv(self._line, CHUNK)
            except OSError:
                raise Gone from None
            if not piece:
                raise Gone
            self._held += piece


Packer = Callable[[Iterable[Row]], bytes]


def packer(oids: Sequence[int]) -> Packer:
    """A function that makes of rows what COPY in binary takes. It raises BadValue when a value does not fit."""
    fields = [_field(oid) for oid in oids]
    count = len(oids).to_bytes(2, "big")

    def pack(rows: Iterable[Row]) -> bytes:
        try:
            return b"".join(
                [count + b"".join([one(value) for one, value in zip(fields, row, strict=True)]) for row in rows]
            )
        except (ValueError, ArithmeticError, TypeError, OSError) as error:
            raise BadValue("a value is out of range for the type of its column", "22003") from error

    return pack


def _field(oid: int) -> Callable[[Value], bytes]:
    kind = field_type(oid)
    encode = kind.binary if oid in NUMBERS or oid not in TEXTS else _text
    known: dict[Value, bytes] = {None: b"\xff\xff\xff\xff"}

    def field(value: Value) -> bytes:
        found = known.get(value)
        if found is None:
            data = encode(value)
            found = len(data).to_bytes(4, "big") + data
            if len(known) < REMEMBERED and len(data) < 100:
                known[value] = found
        return found

    return field


TEXTS = frozenset({18, 19, 25, 705, 1042, 1043})
"""Types whose values are texts."""
REMEMBERED = 2000
"""Values of a column kept encoded: views repeat themselves."""


def _text(value: Value) -> bytes:
    """A text PostgreSQL takes: what is no UTF-8 (a name of a client's may be anything) is a question mark."""
    return str(value).encode("utf-8", "replace").replace(b"\0", b"")
