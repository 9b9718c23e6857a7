"""PostgreSQL's query phase as a small exact model: frontend bytes in, backend bytes out, no socket.

It is strict where the relay could go wrong: a statement prepared twice, used without being there, or parsed in a failed
transaction is an error as PostgreSQL has it; after an error in the extended protocol everything is skipped up to Sync,
Queries too; a Sync during COPY is swallowed, and any other message there ends the connection. (That this is so is
shown by tests/system/test_differential.py, which holds the relay to PostgreSQL itself by the same messages.) It plays
the server behind the relay, and, fed with a client's own bytes, the oracle of what that client has to see. SQL is what
`Backend.statement` knows; any other text is a query that returns itself.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from pooler import wire

PARAMETERS = {
    "client_encoding": "UTF8",
    "DateStyle": "ISO, MDY",
    "TimeZone": "UTC",
    "standard_conforming_strings": "on",
    "application_name": "",
}
CANONICAL = {"utc": "UTC", "german": "German, DMY", "iso": "ISO, MDY", "latin1": "LATIN1", "utf8": "UTF8"}
ASSIGNMENT = re.compile(r"SET (\w+) ?= ?E?'((?:[^']|'')*)'")
COLUMN = re.compile(r'AS "(\w+)"')
SAFE_WHEN_FAILED = ("COMMIT", "ROLLBACK")


class Failure(Exception):
    """An ERROR: (SQLSTATE, message), and what was said before it."""

    before = b""


class Backend:
    """One server's session, from startup to the end. `log` has every statement that was run."""

    def __init__(self) -> None:
        self.statements: dict[str, str] = {}
        self.portals: dict[str, str] = {}
        self.parameters = dict(PARAMETERS)
        self.status = "I"
        self.skipping = False
        self.copying: list[bytes] | None = None
        self.rest: Iterator[bytes] | None = None
        self.ended = False
        self.log: list[str] = []
        self._input = bytearray()

    def feed(self, data: bytes) -> bytes:
        """The answers to all messages that are whole now."""
        self._input += data
        out = bytearray()
        while len(self._input) >= 5 and not self.ended:
            (length,) = struct.unpack_from("!I", self._input, 1)
            if len(self._input) <= length:
                break
            kind, body = chr(self._input[0]), bytes(self._input[5 : length + 1])
            del self._input[: length + 1]
            out += self.message(kind, body)
        return bytes(out)

    @property
    def at_rest(self) -> bool:
        """Idle, with nothing half sent, skipped or under way."""
        return not (self._input or self.skipping or self.copying is not None) and self.status == "I"

    def message(self, kind: str, body: bytes) -> bytes:
        if self.copying is not None:
            return self.copy_message(kind, body)
        if kind == "X":
            self.ended = True
            return b""
        if kind == "S":
            self.skipping = False
            if self.status == "I":
                self.portals.clear()
            return self.ready()
        if self.skipping or kind in "dcfH":
            return b""
        if kind == "Q":
            return self.simple(body[:-1].decode())
        if kind == "F":
            if self.status == "E":
                return self.failed(Failure("25P02", "current transaction is aborted")) + self.ready()
            return wire.message(b"V", b"\xff\xff\xff\xff") + self.ready()
        try:
            return EXTENDED[kind](self, body)
        except Failure as error:
            self.skipping = True
            return self.failed(error)

    def ready(self) -> bytes:
        return wire.ready_for_query(self.status.encode())

    def failed(self, error: Failure) -> bytes:
        if self.status == "I":
            self.portals.clear()
        self.status = "I" if self.status == "I" else "E"
        return error.before + wire.error_response("ERROR", *error.args)

    # ---- the simple protocol

    def simple(self, sql: str) -> bytes:
        self.statements.pop("", None)
        self.rest = self.run_all(sql)
        return self.go_on()

    def run_all(self, sql: str) -> Iterator[bytes]:
        parts = [part.strip() for part in sql.split(";") if part.strip()]
        if not parts:
            yield wire.empty_query_response()
        for part in parts:
            self.check(part)
            yield self.statement(part, described=False)

    def go_on(self) -> bytes:
        """Run a simple query to its end, or to its next COPY FROM."""
        out = bytearray()
        assert self.rest is not None
        try:
            for answer in self.rest:
                out += answer
                if self.copying is not None:
                    return bytes(out)
        except Failure as error:
            out += self.failed(error)
        self.rest = None
        if self.status == "I":
            self.portals.clear()
        return bytes(out) + self.ready()

    # ---- the extended protocol

    def parse(self, body: bytes) -> bytes:
        name, sql, _ = (part.decode() for part in body.split(b"\0", 2))
        if not name:
            self.statements.pop("", None)
        if sql.startswith("BROKEN"):
            raise Failure("42601", f"syntax error: {sql}")
        self.check(sql)
        if name and name in self.statements:
            raise Failure("42P05", f'prepared statement "{name}" already exists')
        self.statements[name] = sql
        return wire.parse_complete()

    def bind(self, body: bytes) -> bytes:
        message = wire.read_bind(body)
        sql = self.known(self.statements, message.statement)
        self.check(sql)
        values = [value for value in message.parameters if value is not None]
        if b"bad" in values:
            raise Failure("22P02", f"bad value for {sql}")
        self.portals[message.portal] = sql + "".join(f"|{value[:50].decode()}{len(value)}" for value in values)
        return wire.bind_complete()

    def describe(self, body: bytes) -> bytes:
        kind, name = body[:1], body[1:-1].decode()
        sql = self.known(self.statements if kind == b"S" else self.portals, name)
        self.check(sql)
        types = wire.parameter_description([]) if kind == b"S" else b""
        return types + (wire.no_data() if sql.startswith(QUIET) else wire.row_description([(sql[:20], 25)]))

    def execute(self, body: bytes) -> bytes:
        sql = self.known(self.portals, body.split(b"\0")[0].decode())
        self.check(sql)
        return self.statement(sql, described=True)

    def close(self, body: bytes) -> bytes:
        (self.statements if body[:1] == b"S" else self.portals).pop(body[1:-1].decode(), None)
        return wire.close_complete()

    def known(self, names: dict[str, str], name: str) -> str:
        if name not in names:
            if names is self.statements:
                raise Failure("26000", f'prepared statement "{name}" does not exist')
            raise Failure("34000", f'portal "{name}" does not exist')
        return names[name]

    def check(self, sql: str) -> None:
        if self.status == "E" and not sql.startswith(SAFE_WHEN_FAILED):
            raise Failure("25P02", "current transaction is aborted")

    # ---- statements

    def statement(self, sql: str, *, described: bool) -> bytes:
        self.log.append(sql)
        word = sql.partition(" ")[0]
        if word in ("BEGIN", "COMMIT", "ROLLBACK"):
            self.status = "T" if word == "BEGIN" else "I"
            return wire.command_complete(word)
        if word == "SET":
            return self.set_parameter(sql)
        if word == "ERROR":
            raise Failure("22012", sql)
        if word == "NOTICE":
            return wire.notice_response("NOTICE", "00000", sql) + wire.command_complete("DO")
        if sql.split() in (["DISCARD", "ALL"], ["DEALLOCATE", "ALL"]):
            sql = " ".join(sql.split())
            self.statements = {name: text for name, text in self.statements.items() if not name}
            return wire.command_complete(sql) + (self.reset_parameters() if sql == "DISCARD ALL" else b"")
        if sql.startswith("COPY IN"):
            if sql.startswith("COPY IN NONE"):
                # A trigger refuses it before anything is read.
                refused = Failure("P0001", "refused")
                refused.before = wire.message(b"G", b"\0\0\0")
                raise refused
            self.copying = []
            return wire.message(b"G", b"\0\0\0")
        if sql.startswith("COPY OUT"):
            rows = wire.message(b"d", sql.encode()) * 3
            return wire.message(b"H", b"\0\0\0") + rows + wire.message(b"c") + wire.command_complete("COPY 3")
        return self.select(sql, described=described)

    def select(self, sql: str, *, described: bool) -> bytes:
        word, _, rest = sql.partition(" ")
        text = self.parameters[rest] if word == "SHOW" else sql
        if word == "BIG":
            text = sql + "." * int(rest.split()[0])
        named = COLUMN.search(sql)
        head = b"" if described else wire.row_description([(named[1] if named else "text", 25)])
        return head + wire.data_row([text]) + wire.command_complete("SELECT 1")

    def set_parameter(self, sql: str) -> bytes:
        found = ASSIGNMENT.fullmatch(sql)
        if found is None:
            raise Failure("42601", sql)
        name = next((n for n in self.parameters if n.lower() == found[1].lower()), "")
        value = found[2].replace("''", "'").replace("\\\\", "\\")
        if not name or value == "nonsense":
            raise Failure("22023", f"invalid value: {sql}")
        value = CANONICAL.get(value.lower(), value) if name != "application_name" else value
        changed = value != self.parameters[name]
        self.parameters[name] = value
        status = wire.parameter_status(name, value) if changed else b""
        return wire.command_complete("SET") + status

    def reset_parameters(self) -> bytes:
        changed = [name for name, value in self.parameters.items() if value != PARAMETERS[name]]
        self.parameters = dict(PARAMETERS)
        return b"".join(wire.parameter_status(name, PARAMETERS[name]) for name in changed)

    # ---- COPY FROM STDIN

    def copy_message(self, kind: str, body: bytes) -> bytes:
        assert self.copying is not None
        if kind in "SH":
            return b""
        if kind not in "dcf":
            self.ended = True
            error = wire.error_response("ERROR", "08P01", "unexpected message type during COPY from stdin")
            return error + wire.error_response("FATAL", "08P01", "protocol synchronization was lost")
        if kind == "d" and body != b"bad":
            self.copying.append(body)
            return b""
        rows, self.copying = self.copying, None
        if kind == "c":
            self.log.append(f"copied {b''.join(rows)!r}")
            done = wire.command_complete(f"COPY {len(rows)}")
            return done + (self.go_on() if self.rest is not None else b"")
        out = self.failed(Failure("22P04" if kind == "d" else "57014", f"COPY ended by {kind} {body!r}"))
        if self.rest is not None:
            self.rest = None
            return out + self.ready()
        self.skipping = True
        return out


QUIET = ("BEGIN", "COMMIT", "ROLLBACK", "SET", "COPY", "NOTICE", "DISCARD", "DEALLOCATE")
EXTENDED = {
    "P": Backend.parse,
    "B": Backend.bind,
    "D": Backend.describe,
    "E": Backend.execute,
    "C": Backend.close,
}


def plain(data: bytes) -> bytes:
    """Answers of the relay as the server has given them: without the DETAIL that it adds about a client's statement."""
    out = bytearray()
    at = 0
    while at < len(data):
        (length,) = struct.unpack_from("!I", data, at + 1)
        kind, body = data[at : at + 1], data[at + 5 : at + 1 + length]
        fields = body.split(b"\0")
        if kind == b"E":
            body = b"\0".join(field for field in fields if not field.startswith(b"DThe prepared statement "))
        out += wire.message(kind, body)
        at += 1 + length
    return bytes(out)
