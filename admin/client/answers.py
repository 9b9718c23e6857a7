"""What a console answers to one command, as a plain value: columns, rows, tag and notices.

No wire and no terminal here. Values are Python's (int, float, str, bytes or None), so that formats can
align and sort them; `Column.numeric` says what is right-aligned and what is a number in json.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from admin.fieldtypes import NUMBERS


@dataclass(frozen=True, slots=True)
class Column:
    """A column's name and PostgreSQL type."""

    name: str
    oid: int

    @property
    def numeric(self) -> bool:
        return self.oid in NUMBERS


@dataclass(frozen=True, slots=True)
class Notice:
    """A NOTICE that came with the answer (SHOW HELP has its whole text in `detail`)."""

    severity: str
    message: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """One of several poolers that has no part in the answer."""

    pooler: str
    message: str
    unreachable: bool
    """Or late; else it answered with an error."""

    def __str__(self) -> str:
        return f"{self.pooler}: {self.message}"


@dataclass(frozen=True, slots=True)
class Answer:
    """One command's answer. `columns` is empty for a verb, which has a tag only."""

    columns: tuple[Column, ...] = ()
    rows: Sequence[Sequence[Any]] = ()
    tag: str = ""
    notices: tuple[Notice, ...] = ()
    failures: tuple[Failure, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    def records(self) -> list[dict[str, Any]]:
        """Rows as dictionaries, for readers that go by name."""
        names = self.names
        return [dict(zip(names, row, strict=True)) for row in self.rows]
