"""Aggregates with an order of their own: `string_agg(x, ',' ORDER BY y)`, which SQLite learnt late (3.44).

One aggregate gathers values with their sort keys and puts them together at the end. The rule: what is gathered is
bounded.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from admin.sql.functions import FunctionError, array_text, as_text

NAME = "pg_gather"
MOST = 100_000

KINDS = {"array_agg": "array", "json_agg": "json", "jsonb_agg": "json", "string_agg": "text"}
"""PostgreSQL's aggregates whose result depends on the order, and how it is put together."""


class Gather:
    """`pg_gather(kind, form, orders, value, separator, key, ...)`. `form` is `json` when the value is JSON text;
    `orders` has a letter for each key: a or d, followed by f or l where NULLs come first or last."""

    def __init__(self) -> None:
        self._rows: list[tuple[Any, ...]] = []
        self._how: tuple[str, str, str, Any] = ("json", "", "", None)

    def step(self, *given: Any) -> None:
        kind, form, orders, value, separator, *keys = given
        if len(self._rows) >= MOST:
            raise FunctionError("too many values to aggregate in order", "54000")
        self._how = (kind, form, orders, separator)
        self._rows.append((value, *keys))

    def finalize(self) -> str | None:
        kind, form, orders, separator = self._how
        for place in range(len(orders) // 2, 0, -1):
            direction, nulls = orders[2 * place - 2], orders[2 * place - 1]
            self._rows.sort(key=lambda row: sort_key(row[place]), reverse=direction == "d")
            self._rows.sort(key=lambda row: (row[place] is None) is (nulls == "l"))
        values = [row[0] for row in self._rows]
        if kind == "text":
            texts = [as_text(value) for value in values if value is not None]
            return as_text(separator).join(texts) if texts else None
        if not values:
            return None
        if form == "json":
            values = [None if value is None else json.loads(value) for value in values]
        return array_text(values) if kind == "array" else json.dumps(values, separators=(",", ":"))


def sort_key(value: Any) -> tuple[int, Any]:
    """SQLite's order of types: NULL, numbers, text, blobs."""
    if value is None:
        return (0, 0)
    if isinstance(value, int | float):
        return (1, value)
    return (2, value.encode("utf-8", "replace")) if isinstance(value, str) else (3, value)


def orders_of(directions: Sequence[tuple[bool, bool | None]]) -> str:
    """The letters for (descending, nulls first) of each key; PostgreSQL puts NULLs last, first when descending."""
    letters = []
    for descending, first in directions:
        nulls_first = descending if first is None else first
        letters.append(("d" if descending else "a") + ("f" if nulls_first else "l"))
    return "".join(letters)
