"""What the person has chosen to see: screen, cursor, order, filters, columns; and the lists that follow from it.

No keys and no terminal here. The rule: a cursor is kept by what it is on, not by its place, so that it stays there when
the order changes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from admin.top.model import Event, Frame, Key, PoolRow
from pooler.readback import ShowRow

MESSAGE_SECONDS = 6.0
TABS = ("clients", "servers", "waiting")


class Screen(Enum):
    """What is shown."""

    POOLS = "pools"
    POOL = "pool"
    CONNECTION = "connection"
    EVENTS = "events"
    COLUMNS = "columns"
    HELP = "help"


@dataclass(frozen=True, slots=True)
class Sort:
    """A way to order the pools. `up` is the direction it starts with."""

    name: str
    key: Callable[[PoolRow], Any]
    up: bool = False


SORTS = (
    Sort("name", lambda row: row.key, up=True),
    Sort("waiting", lambda row: (row.waiting, row.maxwait)),
    Sort("max wait", lambda row: row.maxwait),
    Sort("tps", lambda row: row.tps or 0.0),
    Sort("clients", lambda row: row.active + row.waiting),
    Sort("servers", lambda row: row.busy),
    Sort("avg query", lambda row: row.avg_query),
    Sort("p99", lambda row: row.p99 or 0.0),
)
SORT_NAMES = tuple(sort.name for sort in SORTS)

POOL_COLUMNS = (
    "database", "user", "active", "wait", "servers", "tps", "tps trend", "waiting trend", "avg query", "p99",
    "xact p99", "wait p99", "max wait", "opening", "mode",
)  # fmt: skip
CONNECTION_COLUMNS = (
    "id", "state", "wait", "xact age", "address", "application", "connected", "session", "last request", "tls", "pid",
)  # fmt: skip
CHOICES = {Screen.POOLS: POOL_COLUMNS, Screen.POOL: CONNECTION_COLUMNS}
"""The columns of the lists that have some to choose; the first ones are always there."""
SELDOM = frozenset({"xact p99", "wait p99", "opening"})
"""Columns that only who chooses them sees."""


@dataclass(frozen=True, slots=True)
class Verb:
    """A command to send once it is confirmed."""

    statement: str
    question: str


@dataclass(slots=True)
class View:
    """What the person has chosen; and a question that waits for a y."""

    screen: Screen = Screen.POOLS
    selected: Key | None = None
    order: int = 0
    turned: bool = False
    filters: dict[Screen, str] = field(default_factory=dict)
    typing: bool = False
    tab: int = 0
    chosen: str = ""
    """The connection under the cursor on a pool's screen, by `identity`."""
    places: dict[Screen, int] = field(default_factory=dict)
    """The cursor of the other lists."""
    hidden: dict[Screen, frozenset[str]] = field(default_factory=lambda: dict.fromkeys(CHOICES, SELDOM))
    """The columns that are not wanted, by list."""
    question: Verb | None = None
    message: str = ""
    message_until: float = 0.0
    frozen: Frame | None = None
    """The frame that is kept on the screen while it is held."""
    mouse: bool = True
    page: int = 20
    tops: dict[tuple[Screen, int], int] = field(default_factory=dict)
    """The first row that is shown of each list; only what is drawn sets it."""
    back: list[Screen] = field(default_factory=list)

    @property
    def sort(self) -> Sort:
        return SORTS[self.order]

    @property
    def rising(self) -> bool:
        return self.sort.up is not self.turned

    @property
    def filter(self) -> str:
        """Of the list on the screen."""
        return self.filters.get(self.screen, "")

    @filter.setter
    def filter(self, text: str) -> None:
        self.filters[self.screen] = text

    @property
    def choosing(self) -> Screen:
        """The list whose columns are on the screen of columns."""
        return next((screen for screen in reversed(self.back) if screen in CHOICES), Screen.POOLS)

    def tell(self, message: str, seconds: float = MESSAGE_SECONDS) -> None:
        """Show a message for a while."""
        self.message, self.message_until = message, time.monotonic() + seconds

    @property
    def told(self) -> str:
        return self.message if time.monotonic() < self.message_until else ""

    def scroll(self, place: int, count: int, room: int) -> int:
        """The first row to show: where it was, unless the row at `place` would not be on the screen."""
        key = self.screen, self.tab
        top = min(self.tops.get(key, 0), max(count - room, 0))
        top = self.tops[key] = min(max(top, place - room + 1), place)
        return max(top, 0)


def visible(frame: Frame, view: View) -> list[PoolRow]:
    """The pools that pass the filter, in order."""
    words = view.filters.get(Screen.POOLS, "").lower().split()
    rows = [row for row in frame.rows if all(word in _pool_text(row) for word in words)]
    return sorted(sorted(rows, key=lambda row: row.key), key=view.sort.key, reverse=not view.rising)


def _pool_text(row: PoolRow) -> str:
    state = f"{'paused' if row.paused else ''} {'disabled' if row.disabled else ''}"
    return f"{row.database} {row.user} {row.mode} {state} {'waiting' if row.waiting else ''}".lower()


def selected(frame: Frame, view: View) -> PoolRow | None:
    """The pool under the cursor; the first one when the cursor's pool is gone."""
    rows = visible(frame, view)
    return next((row for row in rows if row.key == view.selected), rows[0] if rows else None)


def tab_rows(frame: Frame, view: View, tab: int) -> Sequence[ShowRow]:
    """All connections of one of the pool screen's tabs."""
    if frame.detail is None or frame.detail.key != view.selected:
        return ()
    match TABS[tab]:
        case "servers":
            return frame.detail.servers
        case "waiting":
            return [row for row in frame.detail.clients if str(row["state"]).startswith("waiting")]
        case _:
            return frame.detail.clients


def connections(frame: Frame, view: View) -> Sequence[ShowRow]:
    """The rows of the pool screen's present tab that pass its filter."""
    rows, words = tab_rows(frame, view, view.tab), view.filters.get(Screen.POOL, "").lower().split()
    if not words:
        return rows
    return [row for row in rows if all(word in _connection_text(row) for word in words)]


def _connection_text(row: ShowRow) -> str:
    address = f"{row['addr']}:{row['port']}"
    words = (
        row.get("id"), row["user"], row["state"], address, row.get("application_name"), row["remote_pid"],
        row.get("session_state"),
    )  # fmt: skip
    return " ".join(map(str, words)).lower()


def identity(row: ShowRow) -> str:
    """What a connection is known by: its id, before PgBouncer 1.24 its address in memory."""
    return f"{row['type']}{row.get('id', row['ptr'])}"


def connection(frame: Frame, view: View) -> ShowRow | None:
    """The connection under the cursor, or the list's first; one that is opened may change its state and its list."""
    rows = connections(frame, view)
    if view.screen is Screen.CONNECTION and frame.detail is not None:
        rows = (*frame.detail.clients, *frame.detail.servers)
    return next((row for row in rows if identity(row) == view.chosen), rows[0] if rows else None)


def events(frame: Frame, view: View) -> list[Event]:
    """What happened that passes the filter, the latest first."""
    words = view.filters.get(Screen.EVENTS, "").lower().split()
    return [one for one in frame.events if all(word in one.text for word in words)]


def listed(frame: Frame, view: View) -> Sequence[object]:
    """The rows of the list on the screen."""
    match view.screen:
        case Screen.POOLS:
            return visible(frame, view)
        case Screen.POOL:
            return connections(frame, view)
        case Screen.EVENTS:
            return events(frame, view)
        case Screen.COLUMNS:
            return CHOICES[view.choosing]
        case _:
            return ()


def place(frame: Frame, view: View) -> int:
    """Where the cursor is in the list on the screen; on the other screens, the first line that is shown."""
    rows = listed(frame, view)
    here: object = None
    if view.screen is Screen.POOLS:
        here = selected(frame, view)
    elif view.screen is Screen.POOL:
        here = connection(frame, view)
    else:
        last = len(rows) - 1 if rows else 1_000_000
        return min(view.places.get(view.screen, 0), last)
    return next((number for number, row in enumerate(rows) if row is here), 0)


def point(frame: Frame, view: View, wanted: int) -> None:
    """Put the cursor there, or as near as the list goes."""
    rows = listed(frame, view)
    if view.screen in (Screen.CONNECTION, Screen.HELP):
        view.places[view.screen] = max(wanted, 0)
    if not rows:
        return
    number = max(0, min(wanted, len(rows) - 1))
    row = rows[number]
    if isinstance(row, PoolRow):
        view.selected = row.key
    elif view.screen is Screen.POOL:
        view.chosen = identity(row)  # type: ignore[arg-type]
    else:
        view.places[view.screen] = number
