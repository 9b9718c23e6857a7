"""Answers: columns, rows that come in batches, a tag; and the bytes of both.

An Answer is made by the interpreter and written by the console. The rule: no batch takes longer than SLICE
to build, so that ten thousand rows never hold the loop; whoever sends a batch awaits between two of them.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from time import perf_counter

from admin.fieldtypes import TYPES, BadValue, Row, Value, decode, encode, field_type
from pooler.verbs import CommandError
from pooler.wire import data_row, format_at, read_data_row

Columns = tuple[tuple[str, int], ...]
"""(name, type oid) of each column."""

SLICE = 0.0005
"""Seconds of work on rows before the loop gets a turn."""
PAUSE = 0.001
"""Seconds between two slices. The core is really let go: who waits for it, PostgreSQL perhaps, need not wait for the
scheduler to take it from us, which takes longer than all our work between two looks at the connections."""
REMEMBERED = 2000
"""Values of a column kept encoded, within one answer."""

_NULL = b"\xff\xff\xff\xff"
_HEAD = struct.Struct("!cih")
_length = struct.Struct("!i").pack


async def no_rows() -> AsyncIterator[Sequence[Row]]:
    return
    yield ()


@dataclass(frozen=True, slots=True)
class Copy:
    """COPY ... TO STDOUT: the message it begins with, and its tag, which is known at the end."""

    head: bytes
    tag: list[str]


@dataclass(frozen=True, slots=True)
class Answer:
    """`columns` is None for a command without rows. With `counted` the tag is followed by the number of
    rows; an empty `tag` is the answer to an empty query."""

    tag: str
    columns: Columns | None
    batches: AsyncIterator[Sequence[Row]]
    notice: str = ""
    detail: str | None = None
    counted: bool = False
    release: Callable[[], None] = lambda: None
    """For whoever stops before the last row: lets go of what the rows come from."""
    wired: tuple[int, ...] | None = None
    """The rows are DataRows already, in these formats."""
    copy: Copy | None = None
    """The batches are CopyData."""

    def complete(self, count: int) -> str:
        """The tag for CommandComplete after `count` rows."""
        if self.copy is not None:
            return self.copy.tag[-1]
        return f"{self.tag} {count}" if self.counted else self.tag


async def paced(rows: Iterable[Row], pace: Callable[[], None]) -> AsyncIterator[Sequence[Row]]:
    """`rows` in batches of at most SLICE seconds each, with a PAUSE after each. `pace` is called before each: there may
    be other consoles, whose slices come one upon the other."""
    batch: list[Row] = []
    pace()
    deadline = perf_counter() + SLICE
    for row in rows:
        batch.append(row)
        if perf_counter() >= deadline:
            yield batch
            await asyncio.sleep(PAUSE)
            pace()
            batch, deadline = [], perf_counter() + SLICE
    if batch:
        yield batch


Encoder = Callable[[Row], bytes]


def row_encoder(oids: Sequence[int], formats: Sequence[int]) -> Encoder:
    """A function that makes a DataRow of a row whose columns have these types, `formats` one per column."""
    columns = tuple(
        _Fields(field_type(oid).binary if format else field_type(oid).text)
        for oid, format in zip(oids, formats, strict=True)
    )
    width = len(columns)

    def encode(row: Row) -> bytes:
        body = b"".join([fields[value] for fields, value in zip(columns, row, strict=True)])
        return _HEAD.pack(b"D", len(body) + 6, width) + body

    return encode


def answer_encoder(answer: Answer, columns: Columns, formats: Sequence[int]) -> Encoder:
    """The one for rows of this answer, `formats` as Bind has them."""
    wanted = [format_at(formats, place) for place in range(len(columns))]
    if answer.wired is None:
        return row_encoder([oid for _, oid in columns], wanted)
    there = [format_at(answer.wired, place) for place in range(len(columns))]
    return bytes if wanted == there else _recoder([oid for _, oid in columns], there, wanted)


def _recoder(oids: Sequence[int], there: Sequence[int], wanted: Sequence[int]) -> Encoder:
    """For DataRows of a cursor that was declared in text and is fetched in binary. Raises CommandError."""
    strange = [oid for oid, have, want in zip(oids, there, wanted, strict=True) if have != want and oid not in TYPES]
    if strange:
        raise CommandError(f"a cursor's column of type {strange[0]} has no other format than text", "0A000")

    def recode(row: Row) -> bytes:
        values = []
        for oid, have, want, data in zip(oids, there, wanted, read_data_row(bytes(row)[5:]), strict=True):
            values.append(data if have == want else encode(oid, decode(oid, data, have, 0), want))
        return data_row(values)

    return recode


class _Fields(dict[Value, bytes]):
    """Values of one column as they stand in a DataRow, length first. Views repeat themselves: names, addresses,
    states and small numbers are encoded once."""

    def __init__(self, encode: Callable[[Value], bytes]) -> None:
        super().__init__({None: _NULL})
        self._encode = encode

    def __missing__(self, value: Value) -> bytes:
        data = self._encode(value)
        field = _length(len(data)) + data
        if len(self) < REMEMBERED and len(field) < 100:
            self[value] = field
        return field


def encode_rows(encode: Encoder, rows: Iterable[Row]) -> bytes:
    """DataRows. Raises BadValue when a value does not fit its column."""
    try:
        return b"".join(map(encode, rows))
    except (ValueError, ArithmeticError, TypeError, OSError, struct.error):
        raise BadValue("a value is out of range for the type of its column", "22003") from None
