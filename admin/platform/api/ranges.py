"""Heroku's paging of lists: the Range request header, and the Next-Range, Content-Range and Accept-Ranges of
the answer.

    Range: version ]1180..; max=15, order=desc

names a sort field, the first and last value (`]` before, `[` after: not included) and how many at most, in
which order. An answer that ends before the list does is 206 and carries the Range to ask for next. Source:
the Platform API reference, "Ranges".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from admin.platform.errors import PlatformError

DEFAULT_MAX = 200
MOST = 1000

LONGEST = 1000
"""Characters of a header: names, ids and times are all that a bound can be."""

SHAPE = re.compile(
    r"\s*+(?P<field>[a-z_]++)\s*+(?P<open>\])?+(?>(?P<first>[^\]\[;,\s]*?)\.\.)"
    r"(?P<last>[^\]\[;,\s]*+)(?P<close>\[)?+\s*+(?:;(?P<rest>.*+))?+\Z"
)
"""Nothing is tried twice: each part ends where the next cannot be but at one place."""

Key = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Range:
    """A parsed Range. Empty `first` and `last` are the list's own ends."""

    field: str
    first: str = ""
    first_excluded: bool = False
    last: str = ""
    last_excluded: bool = False
    max: int = DEFAULT_MAX
    descending: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list, with the status and headers that say which."""

    items: Sequence[Any]
    status: int
    headers: Mapping[str, str]


def _unsatisfiable() -> PlatformError:
    return PlatformError("requested_range_not_satisfiable", "The Range header cannot be satisfied.", 416)


def parse_range(header: str | None, fields: Sequence[str]) -> Range:
    """The Range that a header asks for; the first of `fields` in ascending order without one."""
    if not header:
        return Range(fields[0])
    match = SHAPE.match(header) if len(header) <= LONGEST else None
    if match is None or match["field"] not in fields:
        raise _unsatisfiable()
    most, descending = DEFAULT_MAX, False
    for option in re.split(r"[;,]", match["rest"] or ""):
        name, _, value = option.strip().partition("=")
        if name == "max" and re.fullmatch(r"[0-9]{1,9}", value):
            most = min(int(value), MOST)
        elif name == "order" and value in ("asc", "desc"):
            descending = value == "desc"
        elif name:
            raise _unsatisfiable()
    if most < 1:
        raise _unsatisfiable()
    return Range(
        match["field"],
        match["first"],
        bool(match["open"]),
        match["last"],
        bool(match["close"]),
        most,
        descending,
    )


def page(items: Sequence[Any], header: str | None, keys: Mapping[str, Key]) -> Page:
    """The part of `items` that the header asks for; `keys` are the fields one may sort by, the first being
    the default."""
    wanted = parse_range(header, list(keys))
    key = keys[wanted.field]
    found = sorted(items, key=key, reverse=wanted.descending)
    found = [item for item in found if _inside(wanted, key(item))]
    shown, more = found[: wanted.max], len(found) > wanted.max
    headers = {"Accept-Ranges": ", ".join(keys)}
    if shown:
        headers["Content-Range"] = f"{wanted.field} {key(shown[0])}..{key(shown[-1])}"
    if more:
        order = ", order=desc" if wanted.descending else ""
        close = "[" if wanted.last_excluded else ""
        headers["Next-Range"] = f"{wanted.field} ]{key(shown[-1])}..{wanted.last}{close}; max={wanted.max}{order}"
    return Page(shown, 206 if more else 200, headers)


def _inside(wanted: Range, value: Any) -> bool:
    """Whether a value lies between first and last, which are in the order of the list."""
    low, low_excluded, high, high_excluded = (
        wanted.first,
        wanted.first_excluded,
        wanted.last,
        wanted.last_excluded,
    )
    if wanted.descending:
        low, low_excluded, high, high_excluded = high, high_excluded, low, low_excluded
    try:
        below = bool(low) and (value < _as(value, low) or (low_excluded and value == _as(value, low)))
        above = bool(high) and (value > _as(value, high) or (high_excluded and value == _as(value, high)))
    except ValueError:
        raise _unsatisfiable() from None
    return not below and not above


def _as(value: Any, text: str) -> Any:
    """The bound in the type of what it bounds."""
    return int(text[:18]) if isinstance(value, int) else text
