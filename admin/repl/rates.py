"""Two answers to the same question become their difference: counters as rates per second, gauges with
their change.

Rows are matched by their text columns (database, user, name), so that a row that comes or goes upsets
nobody. Which numbers only ever grow is known by PgBouncer's column names, with the one exception below.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from admin.client import units
from admin.client.answers import Answer, Column
from admin.fieldtypes import TEXT
from pooler.stats import since

_COUNTED = (
    "server_assignment_count", "xact_count", "query_count", "bytes_received", "bytes_sent", "received",
    "sent", "xact_time", "query_time", "wait_time", "client_parse_count", "server_parse_count", "bind_count",
    "client_login_count", "client_bytes", "server_bytes", "ps_client_parse_count", "ps_server_parse_count",
    "ps_bind_count", "delivered", "dropped", "retries", "count",
)  # fmt: skip

COUNTERS = frozenset(f"{prefix}{name}" for prefix in ("", "total_") for name in _COUNTED)
"""Columns (and names in SHOW TOTALS) that only ever grow."""

AVERAGES_VIEW = "STATS_AVERAGES"
"""Its columns are named like counters and are none."""

IDENTIFIERS = frozenset({"id", "port", "local_port", "remote_pid", "pid", "ptr", "link", "peer_id", "fd"})


def rates(before: Answer, after: Answer, seconds: float, statement: str, *, human: bool = False) -> Answer:
    """`after` with each number told as change since `before`; the first answer compares with itself."""
    averages = AVERAGES_VIEW in statement.upper()
    keys = [place for place, column in enumerate(after.columns) if _is_key(column)]
    old = {_key(row, keys): row for row in before.rows} if before.names == after.names else {}
    columns = tuple(
        Column(_heading(column, averages), TEXT if place in keys else column.oid)
        for place, column in enumerate(after.columns)
    )
    rows = []
    for row in after.rows:
        names = [_name(column, row, averages) for column in after.columns]
        changes = _changes(names, row, old.get(_key(row, keys)))
        rows.append(tuple(
            value if place in keys else _told(names[place], value, changes[place] or 0, seconds, human)
            for place, value in enumerate(row)
        ))  # fmt: skip
    return Answer(columns, rows, after.tag, after.notices)


def changed(before: Answer, after: Answer) -> bool:
    """Whether anything differs."""
    return before.names != after.names or list(before.rows) != list(after.rows)


def _is_key(column: Column) -> bool:
    return not column.numeric or column.name in IDENTIFIERS


def _key(row: Sequence[Any], keys: list[int]) -> tuple[Any, ...]:
    return tuple(row[place] for place in keys)


def _changes(names: Sequence[str], row: Sequence[Any], old: Sequence[Any] | None) -> Sequence[Any]:
    """By how much each number has changed; None where that is not known. Where a counter has fallen the counters are
    not the same thing's any more, and what any of them gained is not known."""
    if old is None:
        return [None] * len(row)
    counted = [place for place, name in enumerate(names) if name in COUNTERS and _are_numbers(row[place], old[place])]
    gained = since([row[place] for place in counted], [old[place] for place in counted])
    known = dict(zip(counted, gained or (), strict=gained is not None))
    return [
        known.get(place) if name in COUNTERS else now - then if _are_numbers(now, then) else None
        for place, (name, now, then) in enumerate(zip(names, row, old, strict=True))
    ]


def _are_numbers(*values: Any) -> bool:
    return all(isinstance(value, (int, float)) for value in values)


def _heading(column: Column, averages: bool) -> str:
    return f"{column.name}/s" if _counts(column.name, averages) and column.numeric else column.name


def _name(column: Column, row: Sequence[Any], averages: bool) -> str:
    """What the number is called: SHOW TOTALS says it in the row's first column."""
    name = str(row[0]) if column.name == "value" else column.name
    return f"average of {name}" if averages else name


def _counts(name: str, averages: bool) -> bool:
    return name in COUNTERS and not averages


def _told(name: str, value: Any, gained: float, seconds: float, human: bool) -> Any:
    if not isinstance(value, (int, float)):
        return value
    if name in COUNTERS:
        return _rate(name, gained / seconds if seconds > 0 else 0.0, human)
    shown = units.readable(name, value) if human else str(value)
    if not gained:
        return shown
    return f"{shown} ({'+' if gained > 0 else '-'}{_plain(name, abs(gained), human)})"


def _plain(name: str, value: float, human: bool) -> str:
    return units.readable(name, value) if human else f"{value:g}"


def _rate(name: str, rate: float, human: bool) -> str:
    if human and units.unit_of(name) in ("B", "us"):
        return units.readable(name, rate)
    return f"{rate:,.1f}" if rate and rate < 100 else f"{rate:,.0f}"
