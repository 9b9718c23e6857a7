"""PostgreSQL's types as far as the console speaks them: oid, text form, binary form, and parameters read
back.

Values are plain Python: str, int, float, Decimal, bool, bytes, None; a timestamptz is Unix seconds. The
rule: one table, TYPES; a type that is not in it is text. Binary forms: PostgreSQL's `*_send` and `*_recv`
functions.
"""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from pooler import wire

BOOL, BYTEA, CHAR, NAME, INT8, INT2, INT4, TEXT, OID = 16, 17, 18, 19, 20, 21, 23, 25, 26
JSON, FLOAT4, FLOAT8, UNKNOWN, BPCHAR, VARCHAR, TIMESTAMP, TIMESTAMPTZ = (
    114,
    700,
    701,
    705,
    1042,
    1043,
    1114,
    1184,
)
NUMERIC, JSONB, REGCLASS, REGTYPE, DATE = 1700, 3802, 2205, 2206, 1082

EPOCH_2000 = 946_684_800
"""Unix time of PostgreSQL's epoch."""

Value = Any
"""str, int, float, Decimal, bool, bytes or None: whatever the type's column of TYPES takes."""
Row = Sequence[Value]
"""Of an answer: a value for each of its columns."""


class BadValue(ValueError):
    """Bytes that are no value of their type; `message` is fit for the client, its SQLSTATE is 22P02 or
    22P03."""

    def __init__(self, message: str, sqlstate: str) -> None:
        super().__init__(message)
        self.message = message
        self.sqlstate = sqlstate


@dataclass(frozen=True, slots=True)
class FieldType:
    """How values of one type travel. `binary` may return None: then the value has no binary form of its
    own."""

    oid: int
    name: str
    text: Callable[[Value], bytes]
    binary: Callable[[Value], bytes]
    from_text: Callable[[str], Value]
    from_binary: Callable[[bytes], Value]


# ---- text


def _text(value: Value) -> bytes:
    return wire.encode(value) if isinstance(value, str) else _plain(value)


def _plain(value: Value) -> bytes:
    """The text of a value whose Python type is not the one its column promises, too."""
    if isinstance(value, bool):
        return b"t" if value else b"f"
    if isinstance(value, int):
        return b"%d" % value
    if isinstance(value, float):
        return _float_text(value)
    if isinstance(value, bytes):
        return b"\\x" + value.hex().encode()
    return wire.encode(str(value))


def _float_text(value: float) -> bytes:
    if math.isnan(value):
        return b"NaN"
    if math.isinf(value):
        return b"Infinity" if value > 0 else b"-Infinity"
    return b"%d" % value if value.is_integer() and abs(value) < 1e15 else repr(value).encode()


def _integer_text(value: Value) -> bytes:
    return b"%d" % value if type(value) is int else b"%d" % _integer(value)


def _bool_text(value: Value) -> bytes:
    return b"t" if value else b"f"


def _timestamptz_text(value: Value) -> bytes:
    moment = datetime.fromtimestamp(float(value), UTC)
    text = moment.strftime("%Y-%m-%d %H:%M:%S")
    fraction = f".{moment.microsecond:06d}".rstrip("0") if moment.microsecond else ""
    return f"{text}{fraction}+00".encode()


def local_time(stamp: float) -> str:
    """`YYYY-MM-DD HH:MM:SS TZ` in the local zone, as PgBouncer's views show a time."""
    return time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(stamp))


# ---- binary


def _integer(value: Value) -> int:
    """An integer from whatever stands for one; rounds as PostgreSQL's casts do."""
    if isinstance(value, str):
        value = Decimal(value)
    rounded: int = round(value)
    return rounded


def _packed(form: str, convert: Callable[[Value], Value]) -> Callable[[Value], bytes]:
    packer = struct.Struct(form)
    return lambda value: packer.pack(convert(value))


def _unpacked(form: str) -> Callable[[bytes], Value]:
    unpacker = struct.Struct(form)
    return lambda data: unpacker.unpack(data)[0]


def _numeric_binary(value: Value) -> bytes:
    """numeric_send: digits in base 10000, weight of the first, sign, digits behind the point."""
    number = Decimal(str(value)) if isinstance(value, float) else Decimal(value)
    if not number.is_finite():
        return struct.pack("!hhHh", 0, 0, 0xC000 if number.is_nan() else 0xD000 if number > 0 else 0xF000, 0)
    sign, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)
    text = "".join(map(str, digits)) + "0" * max(exponent, 0)
    scale = max(-exponent, 0)
    whole, fraction = (text[:-scale], text[-scale:].rjust(scale, "0")) if scale else (text, "")
    whole = whole.rjust(-(-len(whole) // 4) * 4, "0")
    groups = [
        int((whole + fraction.ljust(-(-scale // 4) * 4, "0"))[at : at + 4])
        for at in range(0, len(whole) + -(-scale // 4) * 4, 4)
    ]
    weight = len(whole) // 4 - 1
    while groups and groups[0] == 0:
        groups, weight = groups[1:], weight - 1
    while groups and groups[-1] == 0:
        groups.pop()
    head = struct.pack("!hhHh", len(groups), weight if groups else 0, 0x4000 if sign and groups else 0, scale)
    return head + struct.pack(f"!{len(groups)}H", *groups)


def _numeric_from_binary(data: bytes) -> Decimal:
    count, weight, sign, scale = struct.unpack_from("!hhHH", data)
    if sign & 0xC000 == 0xC000:
        return Decimal({0xC000: "NaN", 0xD000: "Infinity"}.get(sign, "-Infinity"))
    if abs(weight) > MOST_GROUPS or scale > 4 * MOST_GROUPS:
        raise ValueError("numeric is too long")
    groups = struct.unpack_from(f"!{count}H", data, 8)
    whole = "".join(f"{group:04d}" for group in groups[: max(weight + 1, 0)]).ljust(4 * (weight + 1), "0")
    fraction = "0000" * (-weight - 1) + "".join(f"{group:04d}" for group in groups[max(weight + 1, 0) :])
    text = f"{whole or '0'}.{fraction[:scale].ljust(scale, '0')}"
    return Decimal("-" + text if sign == 0x4000 else text)


MOST_GROUPS = 500
"""Of four digits, on either side of the point: longer numbers are not read."""


def _timestamptz_binary(value: Value) -> bytes:
    return struct.pack("!q", round((float(value) - EPOCH_2000) * 1_000_000))


def _timestamptz_from_binary(data: bytes) -> float:
    micros: int = struct.unpack("!q", data)[0]
    return micros / 1_000_000 + EPOCH_2000


def _raw(value: Value) -> bytes:
    return value if isinstance(value, bytes) else _text(value)


# ---- parameters


def _utf8(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _jsonb(data: bytes) -> str:
    return _utf8(data[1:])


def _boolean(text: str) -> bool:
    word = text.strip().lower()
    if word and any(full.startswith(word) for full in ("true", "yes", "on", "1")) and word != "o":
        return True
    if word and any(full.startswith(word) for full in ("false", "no", "off", "0")) and word != "o":
        return False
    raise ValueError(text)


def _bytea(text: str) -> bytes:
    return bytes.fromhex(text[2:]) if text.startswith("\\x") else text.encode("utf-8", "surrogateescape")


def timestamp(text: str) -> float:
    """Unix seconds of an ISO time; without a zone it is UTC, the zone the console reports."""
    moment = datetime.fromisoformat(text.strip().replace(" UTC", "+00:00"))
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _date_from_binary(data: bytes) -> float:
    days: int = struct.unpack("!i", data)[0]
    return float(EPOCH_2000 + 86_400 * days)


def _date_binary(value: Value) -> bytes:
    return struct.pack("!i", (int(value) - EPOCH_2000) // 86_400)


def _date_text(value: Value) -> bytes:
    return _timestamptz_text(value)[:10]


def _integer_type(oid: int, name: str, form: str) -> FieldType:
    return FieldType(oid, name, _integer_text, _packed(form, _integer), int, _unpacked(form))


def _text_type(oid: int, name: str) -> FieldType:
    return FieldType(oid, name, _text, _text, str, _utf8)


def _time_type(oid: int, name: str) -> FieldType:
    return FieldType(oid, name, _timestamptz_text, _timestamptz_binary, timestamp, _timestamptz_from_binary)


TYPES: dict[int, FieldType] = {
    row.oid: row
    for row in (
        FieldType(BOOL, "bool", _bool_text, _packed("!?", bool), _boolean, _unpacked("!?")),
        FieldType(BYTEA, "bytea", _plain, _raw, _bytea, bytes),
        _integer_type(INT8, "int8", "!q"),
        _integer_type(INT2, "int2", "!h"),
        _integer_type(INT4, "int4", "!i"),
        _integer_type(OID, "oid", "!I"),
        _integer_type(REGCLASS, "regclass", "!I"),
        _integer_type(REGTYPE, "regtype", "!I"),
        _text_type(TEXT, "text"),
        _text_type(NAME, "name"),
        _text_type(CHAR, "char"),
        _text_type(VARCHAR, "varchar"),
        _text_type(BPCHAR, "bpchar"),
        _text_type(UNKNOWN, "unknown"),
        _text_type(JSON, "json"),
        FieldType(JSONB, "jsonb", _text, lambda value: b"\x01" + _text(value), str, _jsonb),
        FieldType(FLOAT4, "float4", _plain, _packed("!f", float), float, _unpacked("!f")),
        FieldType(FLOAT8, "float8", _plain, _packed("!d", float), float, _unpacked("!d")),
        FieldType(NUMERIC, "numeric", _plain, _numeric_binary, Decimal, _numeric_from_binary),
        _time_type(TIMESTAMPTZ, "timestamptz"),
        _time_type(TIMESTAMP, "timestamp"),
        FieldType(DATE, "date", _date_text, _date_binary, timestamp, _date_from_binary),
    )
}  # fmt: skip

INTEGERS = frozenset({INT2, INT4, INT8, OID})
NUMBERS = INTEGERS | {FLOAT4, FLOAT8, NUMERIC}


def field_type(oid: int) -> FieldType:
    return TYPES.get(oid, TYPES[TEXT])


def encode(oid: int, value: Value, format: int) -> bytes | None:
    """A value as it travels: `format` 0 is text, 1 binary."""
    if value is None:
        return None
    kind = field_type(oid)
    try:
        return kind.binary(value) if format else kind.text(value)
    except (ValueError, ArithmeticError, struct.error, OSError, TypeError):
        raise BadValue(f"value is out of range for type {kind.name}", "22003") from None


def decode(oid: int, data: bytes | None, format: int, place: int) -> Value:
    """A parameter's value; `place` counts from 1, for the complaint."""
    if data is None:
        return None
    kind = field_type(oid)
    try:
        return kind.from_binary(data) if format else kind.from_text(_utf8(data))
    except (ValueError, KeyError, ArithmeticError, InvalidOperation, struct.error):
        if format:
            raise BadValue(f"incorrect binary data format in bind parameter {place}", "22P03") from None
        shown = _utf8(data[:80])
        raise BadValue(f'invalid input syntax for type {kind.name}: "{shown}"', "22P02") from None
