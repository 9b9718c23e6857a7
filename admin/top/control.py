"""The screen's state and what each key does to it. No terminal: a key's name in, a changed View and an
Effect out.

Three screens lie on each other: the pools, one pool's connections, one connection; Escape goes back. The
rule: no key changes anything on the server by itself; verbs wait in `View.question` for a y.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from admin.top.model import Frame, Key, PoolRow, Record

DELAYS = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
MESSAGE_SECONDS = 6.0
TABS = ("clients", "servers", "waiting")


class Screen(Enum):
    """What is shown."""

    POOLS = "pools"
    POOL = "pool"
    CONNECTION = "connection"
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


@dataclass(frozen=True, slots=True)
class Verb:
    """A command to send once it is confirmed."""

    statement: str
    question: str


@dataclass(frozen=True, slots=True)
class Leave:
    """Effect: end the program."""


@dataclass(frozen=True, slots=True)
class Perform:
    """Effect: send this to the console."""

    verb: Verb


@dataclass(frozen=True, slots=True)
class Delay:
    """Effect: ask every so many seconds from now on."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Refresh:
    """Effect: ask for everything now."""


@dataclass(frozen=True, slots=True)
class Look:
    """Effect: the detail of this pool (None: of none) is on the screen."""

    key: Key | None


Effect = Leave | Perform | Delay | Refresh | Look


@dataclass(slots=True)
class View:
    """What the person has chosen: screen, selection, order, filter; and a question that waits for a y."""

    screen: Screen = Screen.POOLS
    selected: Key | None = None
    order: int = 0
    turned: bool = False
    filter: str = ""
    typing: bool = False
    tab: int = 0
    chosen: str = ""
    """The connection under the cursor on a pool's screen, by `identity`."""
    question: Verb | None = None
    message: str = ""
    message_until: float = 0.0
    frozen: Frame | None = None
    """The frame that is kept on the screen while it is held."""
    page: int = 20
    back: list[Screen] = field(default_factory=list)

    @property
    def sort(self) -> Sort:
        return SORTS[self.order]

    @property
    def rising(self) -> bool:
        return self.sort.up is not self.turned

    def tell(self, message: str, seconds: float = MESSAGE_SECONDS) -> None:
        """Show a message for a while."""
        self.message, self.message_until = message, time.monotonic() + seconds

    @property
    def told(self) -> str:
        return self.message if time.monotonic() < self.message_until else ""


def visible(frame: Frame, view: View) -> list[PoolRow]:
    """The pools that pass the filter, in order."""
    words = view.filter.lower().split()
    rows = [row for row in frame.rows if all(word in _text(row) for word in words)]
    return sorted(sorted(rows, key=lambda row: row.key), key=view.sort.key, reverse=not view.rising)


def _text(row: PoolRow) -> str:
    state = f"{'paused' if row.paused else ''} {'disabled' if row.disabled else ''}"
    return f"{row.database} {row.user} {row.mode} {state} {'waiting' if row.waiting else ''}".lower()


def selected(frame: Frame, view: View) -> PoolRow | None:
    """The pool under the cursor; the first one when the cursor's pool is gone."""
    rows = visible(frame, view)
    return next((row for row in rows if row.key == view.selected), rows[0] if rows else None)


def connections(frame: Frame, view: View) -> Sequence[Record]:
    """The rows of the pool screen's present tab."""
    if frame.detail is None or frame.detail.key != view.selected:
        return ()
    match TABS[view.tab]:
        case "servers":
            return frame.detail.servers
        case "waiting":
            return [row for row in frame.detail.clients if str(row["state"]).startswith("waiting")]
        case _:
            return frame.detail.clients


def identity(row: Record) -> str:
    """What a connection is known by: its id, before PgBouncer 1.24 its address in memory."""
    return f"{row['type']}{row.get('id', row['ptr'])}"


def connection(frame: Frame, view: View) -> Record | None:
    """The connection under the cursor, or the list's first; one that is opened may change its state and its list."""
    rows = connections(frame, view)
    if view.screen is Screen.CONNECTION and frame.detail is not None:
        rows = (*frame.detail.clients, *frame.detail.servers)
    return next((row for row in rows if identity(row) == view.chosen), rows[0] if rows else None)


def press(view: View, frame: Frame, key: str) -> Effect | None:
    """What a key does. Keys are single characters, or prompt-toolkit's names such as `up` and `escape`."""
    if key == "c-c":
        return Leave()
    if view.question is not None:
        return _answer(view, key)
    if view.typing:
        return _type(view, key)
    action = _SCREEN_KEYS[view.screen].get(key) or _KEYS.get(key)
    return action(view, frame) if action else None


def _answer(view: View, key: str) -> Effect | None:
    verb, view.question = view.question, None
    if key.lower() == "y" and verb is not None:
        view.tell(f"{verb.statement} …", 3600)
        return Perform(verb)
    view.tell("not done")
    return None


def _type(view: View, key: str) -> Effect | None:
    """Keys of the filter line; Enter keeps the filter, Escape drops it."""
    if key in ("enter", "escape"):
        view.typing = False
        if key == "escape":
            view.filter = ""
    elif key in ("backspace", "c-h"):
        view.filter = view.filter[:-1]
    elif key == "c-u":
        view.filter = ""
    elif len(key) == 1 and key.isprintable():
        view.filter += key
    return None


def _leave(view: View, frame: Frame) -> Effect | None:
    return Leave()


def _back(view: View, frame: Frame) -> Effect | None:
    if view.screen is Screen.POOLS:
        view.filter = ""
        return None
    view.screen = view.back.pop() if view.back else Screen.POOLS
    return Look(None) if view.screen is Screen.POOLS else None


def _help(view: View, frame: Frame) -> Effect | None:
    if view.screen is Screen.HELP:
        return _back(view, frame)
    view.back.append(view.screen)
    view.screen = Screen.HELP
    return None


def _hold(view: View, frame: Frame) -> Effect | None:
    view.frozen = None if view.frozen is not None else frame
    return None


def _slower(view: View, frame: Frame) -> Effect | None:
    return Delay(next((delay for delay in DELAYS if delay > frame.delay), DELAYS[-1]))


def _faster(view: View, frame: Frame) -> Effect | None:
    return Delay(next((delay for delay in reversed(DELAYS) if delay < frame.delay), DELAYS[0]))


def _now(view: View, frame: Frame) -> Effect | None:
    return Refresh()


def _next_sort(view: View, frame: Frame) -> Effect | None:
    view.order, view.turned = (view.order + 1) % len(SORTS), False
    return None


def _previous_sort(view: View, frame: Frame) -> Effect | None:
    view.order, view.turned = (view.order - 1) % len(SORTS), False
    return None


def _turn(view: View, frame: Frame) -> Effect | None:
    view.turned = not view.turned
    return None


def _filter(view: View, frame: Frame) -> Effect | None:
    view.typing = True
    return None


def _move(by: Callable[[View], int]) -> Callable[[View, Frame], Effect | None]:
    """A cursor key on the list of pools or of connections."""

    def move(view: View, frame: Frame) -> Effect | None:
        if view.screen is Screen.POOLS:
            rows = visible(frame, view)
            now = selected(frame, view)
            if now is not None:
                view.selected = rows[_within(rows.index(now) + by(view), len(rows))].key
        elif view.screen is Screen.POOL:
            found = connections(frame, view)
            here = connection(frame, view)
            if here is not None:
                place = next(p for p, row in enumerate(found) if row is here)
                view.chosen = identity(found[_within(place + by(view), len(found))])
        return None

    return move


def _within(place: int, count: int) -> int:
    return max(0, min(place, count - 1))


def _enter_pool(view: View, frame: Frame) -> Effect | None:
    row = selected(frame, view)
    if row is None:
        return None
    view.selected, view.chosen, view.tab = row.key, "", 2 if row.waiting else 0
    view.back.append(Screen.POOLS)
    view.screen = Screen.POOL
    return Look(row.key)


def _enter_connection(view: View, frame: Frame) -> Effect | None:
    row = connection(frame, view)
    if row is not None:
        view.chosen = identity(row)
        view.back.append(Screen.POOL)
        view.screen = Screen.CONNECTION
    return None


def _next_tab(view: View, frame: Frame) -> Effect | None:
    view.tab, view.chosen = (view.tab + 1) % len(TABS), ""
    return None


def _previous_tab(view: View, frame: Frame) -> Effect | None:
    view.tab, view.chosen = (view.tab - 1) % len(TABS), ""
    return None


def _ask(verb: str, consequence: str) -> Callable[[View, Frame], Effect | None]:
    """A key that asks whether to send a verb for the selected pool's database."""

    def ask(view: View, frame: Frame) -> Effect | None:
        row = selected(frame, view) if view.screen is Screen.POOLS else frame.row(view.selected)
        if row is not None:
            statement = f"{verb} {_quoted(row.database)}"
            told = consequence.format(clients=row.active + row.waiting, servers=row.busy + row.idle)
            view.question = Verb(statement, f"{statement}: {told}. Sure?")
        return None

    return ask


def _kill_client(view: View, frame: Frame) -> Effect | None:
    row = connection(frame, view)
    if row is None or row["type"] != "C":
        view.tell("only a client can be killed")
    elif "id" not in row:
        view.tell("this PgBouncer has no KILL_CLIENT (1.24 and later have)")
    else:
        who = f"{row['user']}@{row['database']} {row['addr']}:{row['port']}"
        statement = f"KILL_CLIENT {row['id']}"
        view.question = Verb(statement, f"{statement}: drops {who} in whatever it does. Sure?")
    return None


def _quoted(name: str) -> str:
    plain = name.replace("_", "").isalnum() and name.isascii() and name == name.lower()
    return name if plain else '"' + name.replace('"', '""') + '"'


Keys = dict[str, Callable[[View, Frame], Effect | None]]

_MOVES: Keys = {
    "up": _move(lambda view: -1),
    "down": _move(lambda view: 1),
    "k": _move(lambda view: -1),
    "j": _move(lambda view: 1),
    "pageup": _move(lambda view: -view.page),
    "pagedown": _move(lambda view: view.page),
    "home": _move(lambda view: -1_000_000),
    "end": _move(lambda view: 1_000_000),
}
_VERBS: Keys = {
    "p": _ask("PAUSE", "lets running work end, then holds new work back"),
    "r": _ask("RESUME", "lets clients work again"),
    "K": _ask("KILL", "drops its {clients} clients and {servers} servers at once, holds new work back"),
}
_KEYS: Keys = {
    "q": _leave,
    "escape": _back,
    "left": _back,
    "?": _help,
    "h": _help,
    " ": _hold,
    "u": _now,
    "+": _slower,
    "-": _faster,
}
_SCREEN_KEYS: dict[Screen, Keys] = {
    Screen.POOLS: {
        **_MOVES, **_VERBS, "s": _next_sort, "S": _previous_sort, ">": _next_sort, "<": _previous_sort,
        "R": _turn, "/": _filter, "enter": _enter_pool, "right": _enter_pool,
    },
    Screen.POOL: {
        **_MOVES, **_VERBS, "tab": _next_tab, "s-tab": _previous_tab, "x": _kill_client,
        "enter": _enter_connection, "right": _enter_connection,
    },
    Screen.CONNECTION: {"x": _kill_client},
    Screen.HELP: {},
}  # fmt: skip
