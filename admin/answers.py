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

from admin.fieldtypes import BadValue, Value, field_type

Columns = tuple[tuple[str, int], ...]
"""(name, type oid) of each column."""
Row = Sequence[Value]

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

    def complete(self, count: int) -> str:
        """The tag for CommandComplete after `count` rows."""
        return f"{self.tag} {count}" if self.counted else self.tag


async def paced(rows: Iterable[Row]) -> AsyncIterator[Sequence[Row]]:
    """`rows` in batches of at most SLICE seconds each, with a PAUSE after each."""
    batch: list[Row] = []
    deadline = perf_counter() + SLICE
    for row in rows:
        batch.append(row)
        if perf_counter() >= deadline:
            yield batch
            await asyncio.sleep(PAUSE)
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
