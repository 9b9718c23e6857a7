"""Messages of PostgreSQL's protocol 3 outside the hot path: builders and readers. Bytes in, bytes out.

Builders return whole messages, ready to send. Readers take a message's body (without type and length) and
either return what it says or raise `ProtocolError`, nothing else, whatever the bytes. Layouts: PostgreSQL
documentation, "Message Formats". Text is UTF-8; bytes that are not travel as surrogate escapes, so names
survive unchanged. No I/O here.
The relay does the same work in C for everything between login and disconnect.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from struct import Struct

from pooler.values import dataclass

PROTOCOL_VIOLATION = "08P01"
TOO_MANY_CONNECTIONS = "53300"
CANNOT_CONNECT_NOW = "57P03"
"""PostgreSQL says so of CONNECTION LIMIT of a role or a database, and of max_connections."""
PROTOCOL_3_0 = 3 << 16
CANCEL_REQUEST = 1234 << 16 | 5678
SSL_REQUEST = 1234 << 16 | 5679
GSSENC_REQUEST = 1234 << 16 | 5680

MIN_CANCEL_KEY, MAX_CANCEL_KEY = 8, 260
"""Bytes of a cancel key as this project passes it about: process id (4) and secret (4..256)."""
MAX_ERROR_FIELDS = 64

_INT16 = Struct("!h")
_INT32 = Struct("!i")
_AUTHENTICATION = Struct("!cii")
_UINT32 = Struct("!I")
_COLUMN = Struct("!IhIhih")


class ProtocolError(Exception):
    """A peer broke the protocol. `message` is fit for the peer and for the log."""

    def __init__(self, message: str, sqlstate: str = PROTOCOL_VIOLATION) -> None:
        super().__init__(message)
        self.message = message
        self.sqlstate = sqlstate


class BadHeader(ProtocolError):
    """A packet whose length or code cannot be right; `seen` are its first bytes."""

    def __init__(self, seen: bytes) -> None:
        super().__init__(f"bad packet header: '{seen.hex()}'")


class TooLong(BadHeader):
    """A message says that it is longer than its reader allows."""


class BadCancelRequest(ProtocolError):
    """A cancel request whose key cannot be one: whoever sends that gets no answer."""

    def __init__(self) -> None:
        super().__init__("bad cancel request")


# ---- text and framing


def encode(text: str) -> bytes:
    """UTF-8, surrogate escapes turned back into the bytes they stand for; the unencodable becomes `?`."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")


def decode(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def cstring(text: str) -> bytes:
    """A zero-terminated string. NUL inside the text is dropped: it would end it early."""
    return encode(text).replace(b"\0", b"") + b"\0"


def message(kind: bytes, body: bytes = b"") -> bytes:
    """A whole message: type byte (empty for a start-up packet), length, body."""
    return kind + _INT32.pack(len(body) + 4) + body


# ---- what a server says


def _report(
    kind: bytes, severity: str, sqlstate: str, text: str, detail: str | None, hint: str | None, position: int = 0
) -> bytes:
    fields = [("S", severity), ("V", severity), ("C", sqlstate), ("M", text)]
    if detail is not None:
        fields.append(("D", detail))
    if hint is not None:
        fields.append(("H", hint))
    if position:
        fields.append(("P", str(position)))
    return message(kind, b"".join(code.encode() + cstring(value) for code, value in fields) + b"\0")


def error_response(
    severity: str,
    sqlstate: str,
    text: str,
    *,
    detail: str | None = None,
    hint: str | None = None,
    position: int = 0,
) -> bytes:
    """`position` is where in the statement, in characters from 1; 0 tells of none."""
    return _report(b"E", severity, sqlstate, text, detail, hint, position)


def notice_response(
    severity: str, sqlstate: str, text: str, *, detail: str | None = None, hint: str | None = None
) -> bytes:
    return _report(b"N", severity, sqlstate, text, detail, hint)


def fields_response(kind: bytes, fields: Mapping[str, str]) -> bytes:
    """ErrorResponse (`E`) or NoticeResponse (`N`) from fields as `error_fields` returns them."""
    return message(kind, b"".join(code.encode() + cstring(value) for code, value in fields.items()) + b"\0")


def _authentication(code: int, data: bytes = b"") -> bytes:
    return _AUTHENTICATION.pack(b"R", len(data) + 8, code) + data


def authentication_ok() -> bytes:
    return _authentication(0)


def authentication_cleartext() -> bytes:
    return _authentication(3)


def authentication_md5(salt: bytes) -> bytes:
    """`salt` has four bytes."""
    return _authentication(5, salt)


def authentication_sasl(mechanisms: Iterable[str]) -> bytes:
    return _authentication(10, b"".join(map(cstring, mechanisms)) + b"\0")


def authentication_sasl_continue(data: bytes) -> bytes:
    return _authentication(11, data)


def authentication_sasl_final(data: bytes) -> bytes:
    return _authentication(12, data)


def negotiate_protocol_version(minor: int, unsupported: Sequence[str]) -> bytes:
    """The newest minor version of protocol 3 we speak, and the `_pq_.` options we do not know. PostgreSQL
    sends the whole version number here, and libpq reads it so."""
    names = b"".join(map(cstring, unsupported))
    return message(b"v", _INT32.pack(PROTOCOL_3_0 | minor) + _INT32.pack(len(unsupported)) + names)


def parameter_status(name: str, value: str) -> bytes:
    return message(b"S", cstring(name) + cstring(value))


def backend_key_data(key: bytes) -> bytes:
    """`key` is process id and secret in one, 8 bytes or more."""
    return message(b"K", key)


def ready_for_query(status: bytes = b"I") -> bytes:
    return message(b"Z", status)


TYPE_SIZES = {16: 1, 20: 8, 21: 2, 23: 4, 26: 4, 700: 4, 701: 8, 1114: 8, 1184: 8}
"""typlen by type oid; every other type has variable length (-1)."""


def row_description(columns: Sequence[tuple[str, int]], formats: Sequence[int] = ()) -> bytes:
    """`columns` are (name, type oid); `formats` as in Bind: none = text, one = for all, or one for each."""
    parts = [_INT16.pack(len(columns))]
    for place, (name, oid) in enumerate(columns):
        parts.append(cstring(name))
        parts.append(_COLUMN.pack(0, 0, oid, TYPE_SIZES.get(oid, -1), -1, format_at(formats, place)))
    return message(b"T", b"".join(parts))


def format_at(formats: Sequence[int], place: int) -> int:
    """The format code of one parameter or column, by Bind's rule: none = text, one = all, else one each."""
    if not formats:
        return 0
    if len(formats) == 1:
        return formats[0]
    return formats[place] if place < len(formats) else 0


def data_row(values: Sequence[str | bytes | None]) -> bytes:
    parts = [_INT16.pack(len(values))]
    for value in values:
        if value is None:
            parts.append(b"\xff\xff\xff\xff")
            continue
        data = encode(value) if isinstance(value, str) else value
        parts.append(_INT32.pack(len(data)))
        parts.append(data)
    return message(b"D", b"".join(parts))


def command_complete(tag: str) -> bytes:
    return message(b"C", cstring(tag))


def empty_query_response() -> bytes:
    return message(b"I")


def parse_complete() -> bytes:
    return message(b"1")


def bind_complete() -> bytes:
    return message(b"2")


def close_complete() -> bytes:
    return message(b"3")


def no_data() -> bytes:
    return message(b"n")


def portal_suspended() -> bytes:
    return message(b"s")


def parameter_description(oids: Sequence[int]) -> bytes:
    return message(b"t", _INT16.pack(len(oids)) + b"".join(map(_UINT32.pack, oids)))


# ---- what a client says


def startup_message(params: Mapping[str, str], minor: int = 0) -> bytes:
    pairs = b"".join(cstring(name) + cstring(value) for name, value in params.items())
    return message(b"", _INT32.pack(PROTOCOL_3_0 | minor) + pairs + b"\0")


def ssl_request() -> bytes:
    return message(b"", _INT32.pack(SSL_REQUEST))


def gssenc_request() -> bytes:
    return message(b"", _INT32.pack(GSSENC_REQUEST))


def cancel_request(key: bytes) -> bytes:
    """`key` as BackendKeyData carried it: process id and secret in one."""
    return message(b"", _INT32.pack(CANCEL_REQUEST) + key)


def password_message(password: bytes) -> bytes:
    """`password` is the clear password or the md5 answer, without the terminator."""
    return message(b"p", password + b"\0")


def sasl_initial_response(mechanism: str, data: bytes) -> bytes:
    return message(b"p", cstring(mechanism) + _INT32.pack(len(data)) + data)


def sasl_response(data: bytes) -> bytes:
    return message(b"p", data)


def query(sql: str) -> bytes:
    return message(b"Q", cstring(sql))


def parse(name: str, sql: str, oids: Sequence[int] = ()) -> bytes:
    types = _INT16.pack(len(oids)) + b"".join(map(_UINT32.pack, oids))
    return message(b"P", cstring(name) + cstring(sql) + types)


def bind(
    portal: str,
    statement: str,
    values: Sequence[str | bytes | None],
    formats: Sequence[int] = (),
    results: Sequence[int] = (),
) -> bytes:
    """`formats` are the parameters', `results` those of the answer: none = text, one = for all, or one for each."""
    row = data_row(values)[5:]
    return message(b"B", cstring(portal) + cstring(statement) + _codes(formats) + row + _codes(results))


def _codes(formats: Sequence[int]) -> bytes:
    return b"".join(map(_INT16.pack, (len(formats), *formats)))


def describe(kind: bytes, name: str) -> bytes:
    return message(b"D", kind + cstring(name))


def execute(portal: str, max_rows: int = 0) -> bytes:
    return message(b"E", cstring(portal) + _INT32.pack(max_rows))


def close(kind: bytes, name: str) -> bytes:
    return message(b"C", kind + cstring(name))


def sync() -> bytes:
    return message(b"S")


def flush() -> bytes:
    return message(b"H")


def terminate() -> bytes:
    return message(b"X")


# ---- readers


class Reader:
    """A cursor over one message body. Every step checks its bounds and raises `ProtocolError(complaint)`."""

    __slots__ = ("_at", "_body", "_complaint")

    def __init__(self, body: bytes, complaint: str = "bad packet") -> None:
        self._body = body
        self._at = 0
        self._complaint = complaint

    def fail(self) -> ProtocolError:
        return ProtocolError(self._complaint)

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        end = self._at + count
        if count < 0 or end > len(self._body):
            raise self.fail()
        data = self._body[self._at : end]
        self._at = end
        return data

    def rest(self) -> bytes:
        """All bytes that are left."""
        return self.take(len(self._body) - self._at)

    def byte(self) -> bytes:
        return self.take(1)

    def int16(self) -> int:
        value: int = _INT16.unpack(self.take(2))[0]
        return value

    def int32(self) -> int:
        value: int = _INT32.unpack(self.take(4))[0]
        return value

    def uint32(self) -> int:
        value: int = _UINT32.unpack(self.take(4))[0]
        return value

    def count(self) -> int:
        """An int16 that counts things: never negative. Its items are checked one by one as they are read."""
        value = self.int16()
        if value < 0:
            raise self.fail()
        return value

    def cstring_bytes(self) -> bytes:
        end = self._body.find(b"\0", self._at)
        if end < 0:
            raise self.fail()
        data = self._body[self._at : end]
        self._at = end + 1
        return data

    def cstring(self) -> str:
        return decode(self.cstring_bytes())

    def sized(self) -> bytes | None:
        """A value behind its int32 length; None for length -1."""
        length = self.int32()
        return None if length == -1 else self.take(length)

    @property
    def done(self) -> bool:
        return self._at == len(self._body)

    def end(self) -> None:
        """Nothing may be left."""
        if not self.done:
            raise self.fail()


@dataclass(frozen=True, slots=True)
class SSLRequest:
    """The client asks whether TLS is spoken here."""


@dataclass(frozen=True, slots=True)
class GSSENCRequest:
    """The client asks whether GSSAPI encryption is spoken here."""


@dataclass(frozen=True, slots=True)
class CancelRequest:
    """`key` is process id and secret in one, as BackendKeyData carried it."""

    key: bytes


@dataclass(frozen=True, slots=True)
class Startup:
    """StartupMessage of protocol 3. Of a parameter given twice the last value counts."""

    minor: int
    params: dict[str, str]
    protocol_options: tuple[str, ...] = ()
    """Those of the parameters that ask for extensions of the protocol."""
    major: int = 3


TERMINATOR_EXPECTED = "invalid startup packet layout: expected terminator as last byte"


def parse_startup(body: bytes) -> SSLRequest | GSSENCRequest | CancelRequest | Startup:
    """The first packet of a connection, without its length."""
    if len(body) < 4:
        raise bad_header(body)
    code = _INT32.unpack_from(body)[0]
    if code == CANCEL_REQUEST:
        return _parse_cancel(body[4:])
    if code in (SSL_REQUEST, GSSENC_REQUEST):
        if len(body) != 4:
            raise bad_header(body)
        return SSLRequest() if code == SSL_REQUEST else GSSENCRequest()
    if code >> 16 == 2:
        raise ProtocolError("old V2 protocol not supported")
    if code >> 16 != 3:
        raise bad_header(body)
    params = _startup_parameters(body[4:])
    return Startup(code & 0xFFFF, params, tuple(name for name in params if name.startswith("_pq_.")))


def bad_header(body: bytes) -> BadHeader:
    """For a start-up packet whose code or length is not of this protocol; shows the first eight bytes."""
    return BadHeader(message(b"", body)[:8])


def _parse_cancel(key: bytes) -> CancelRequest:
    if not MIN_CANCEL_KEY <= len(key) <= MAX_CANCEL_KEY:
        raise BadCancelRequest
    return CancelRequest(key)


def _startup_parameters(data: bytes) -> dict[str, str]:
    """Names and values in turn, each ended by NUL; an empty name, and only the last one, ends them all."""
    texts = decode(data).split("\0")
    names = texts[:-2:2]
    if len(texts) % 2 or texts[-2:] != ["", ""] or "" in names:
        raise ProtocolError(TERMINATOR_EXPECTED)
    return dict(zip(names, texts[1:-2:2], strict=True))


def error_fields(body: bytes) -> dict[str, str]:
    """Fields of ErrorResponse or NoticeResponse by letter: S severity, C SQLSTATE, M message, ..."""
    reader = Reader(body, "bad packet")
    fields: dict[str, str] = {}
    while (code := reader.byte()) != b"\0":
        if len(fields) >= MAX_ERROR_FIELDS:
            raise reader.fail()
        fields[code.decode("latin-1")] = reader.cstring()
    return fields


def read_authentication(body: bytes) -> tuple[int, bytes]:
    """(code, data behind it) of an Authentication message."""
    reader = Reader(body, "bad packet")
    return reader.int32(), reader.rest()


def read_mechanisms(data: bytes) -> list[str]:
    """Names in AuthenticationSASL."""
    reader = Reader(data, "bad packet")
    names = []
    while name := reader.cstring():
        names.append(name)
    reader.end()
    return names


def read_parameter_status(body: bytes) -> tuple[str, str]:
    reader = Reader(body, "broken ParameterStatus packet")
    pair = reader.cstring(), reader.cstring()
    reader.end()
    return pair


def read_backend_key_data(body: bytes) -> bytes:
    """Process id and secret in one."""
    if not MIN_CANCEL_KEY <= len(body) <= MAX_CANCEL_KEY:
        raise ProtocolError("bad cancel key")
    return body


def read_negotiate_protocol_version(body: bytes) -> tuple[int, list[str]]:
    """(minor version, unsupported options)."""
    reader = Reader(body, "bad packet")
    version = reader.int32()
    count = reader.int32()
    if count < 0:
        raise reader.fail()
    names = []
    for _ in range(count):
        names.append(reader.cstring())
    reader.end()
    return version & 0xFFFF, names


def read_ready_for_query(body: bytes) -> bytes:
    """Transaction status: I, T or E."""
    if body not in (b"I", b"T", b"E"):
        raise ProtocolError("bad packet")
    return body


def read_row_description(body: bytes) -> list[tuple[str, int]]:
    """(name, type oid) of each column."""
    reader = Reader(body, "bad packet")
    columns = []
    for _ in range(reader.count()):
        name = reader.cstring()
        columns.append((name, _COLUMN.unpack(reader.take(_COLUMN.size))[2]))
    reader.end()
    return columns


def read_parameter_description(body: bytes) -> tuple[int, ...]:
    reader = Reader(body, "bad packet")
    oids = tuple(reader.uint32() for _ in range(reader.count()))
    reader.end()
    return oids


def read_data_row(body: bytes) -> list[bytes | None]:
    reader = Reader(body, "bad packet")
    values = [reader.sized() for _ in range(reader.count())]
    reader.end()
    return values


def read_command_complete(body: bytes) -> str:
    reader = Reader(body, "bad packet")
    tag = reader.cstring()
    reader.end()
    return tag


def read_password(body: bytes) -> bytes:
    """PasswordMessage: the clear password or the md5 answer."""
    reader = Reader(body, "bad packet")
    password = reader.cstring_bytes()
    reader.end()
    return password


def read_sasl_initial_response(body: bytes) -> tuple[str, bytes]:
    """(mechanism, data); data is empty when the client sent none (length -1)."""
    name, end, rest = body.partition(b"\0")
    length = int.from_bytes(rest[:4], "big", signed=True)
    if not end or len(rest) < 4 or max(length, 0) != len(rest) - 4 or length < -1:
        raise ProtocolError("bad packet")
    return decode(name), rest[4:]


def read_query(body: bytes) -> str:
    reader = Reader(body, "incomplete query")
    sql = reader.cstring()
    reader.end()
    return sql


@dataclass(frozen=True, slots=True)
class Parse:
    """A statement to prepare; `name` is empty for the unnamed one."""

    name: str
    sql: str
    oids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Bind:
    """A prepared statement with its parameters, as a portal. Formats: 0 text, 1 binary."""

    portal: str
    statement: str
    parameter_formats: tuple[int, ...]
    parameters: tuple[bytes | None, ...]
    result_formats: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Named:
    """What Describe and Close speak of: `kind` is S for a statement, P for a portal."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Execute:
    """A portal to run."""

    portal: str
    max_rows: int
    """0 for all."""


def read_parse(body: bytes) -> Parse:
    reader = Reader(body, "broken Parse packet")
    name, sql = reader.cstring(), reader.cstring()
    oids = tuple(reader.uint32() for _ in range(reader.count()))
    reader.end()
    return Parse(name, sql, oids)


def read_bind(body: bytes) -> Bind:
    reader = Reader(body, "broken Bind packet")
    portal, statement = reader.cstring(), reader.cstring()
    formats = _read_formats(reader)
    values = tuple(reader.sized() for _ in range(reader.count()))
    if len(formats) > 1 and len(formats) != len(values):
        raise reader.fail()
    results = _read_formats(reader)
    reader.end()
    return Bind(portal, statement, formats, values, results)


def _read_formats(reader: Reader) -> tuple[int, ...]:
    formats = tuple(reader.int16() for _ in range(reader.count()))
    if any(code not in (0, 1) for code in formats):
        raise reader.fail()
    return formats


def read_describe(body: bytes) -> Named:
    return _read_named(body, "broken Describe packet")


def read_close(body: bytes) -> Named:
    return _read_named(body, "broken Close packet")


def _read_named(body: bytes, complaint: str) -> Named:
    reader = Reader(body, complaint)
    kind, name = reader.byte().decode("latin-1"), reader.cstring()
    if kind not in ("S", "P"):
        raise reader.fail()
    reader.end()
    return Named(kind, name)


def read_execute(body: bytes) -> Execute:
    reader = Reader(body, "bad packet")
    portal, max_rows = reader.cstring(), reader.int32()
    reader.end()
    return Execute(portal, max(max_rows, 0))
