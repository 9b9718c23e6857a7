"""What each key and each click does to what is shown. No terminal: a key's name in, a changed View and an Effect out.

The screens lie on each other; Escape goes back. A click is said as a target of `pieces`: a key, a row, a heading or a
tab. The rule: nothing changes anything on the server by itself; verbs wait in `View.question` for a y.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from admin.top.model import Frame, Key
from admin.top.view import (
    CHOICES,
    SORTS,
    TABS,
    Screen,
    Verb,
    View,
    connection,
    identity,
    place,
    point,
    selected,
)

DELAYS = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
WHEEL_ROWS = 3


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


@dataclass(frozen=True, slots=True)
class Remember:
    """Effect: the columns were chosen anew."""


@dataclass(frozen=True, slots=True)
class Switch:
    """Effect: another of the poolers is on the screen."""

    number: int


Effect = Leave | Perform | Delay | Refresh | Look | Remember | Switch


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


def click(view: View, frame: Frame, target: str) -> Effect | None:
    """What a click on a target does. A click on the row under the cursor opens it."""
    kind, _, what = target.partition(":")
    if kind == "key":
        return press(view, frame, chr(int(what, 16)) if what.startswith("0x") else what)
    if view.question is not None or view.typing:
        return None
    match kind:
        case "row":
            again = int(what) == place(frame, view)
            point(frame, view, int(what))
            if again or view.screen is Screen.COLUMNS:
                return press(view, frame, "enter")
        case "sort" if int(what) == view.order:
            view.turned = not view.turned
        case "sort":
            view.order, view.turned = int(what), False
        case "tab":
            view.tab, view.chosen = int(what), ""
    return None


def wheel(view: View, frame: Frame, up: bool) -> None:
    """The mouse wheel moves the cursor, or the text where there is none."""
    if view.question is None:
        point(frame, view, place(frame, view) + (-WHEEL_ROWS if up else WHEEL_ROWS))


def _leave(view: View, frame: Frame) -> Effect | None:
    return Leave()


def _back(view: View, frame: Frame) -> Effect | None:
    """To the screen below; a filter goes first."""
    if view.filter:
        view.filter = ""
        return None
    if view.screen is Screen.POOLS:
        return None
    view.screen = view.back.pop() if view.back else Screen.POOLS
    return Look(None) if view.screen is Screen.POOLS else None


def _over(screen: Screen) -> Callable[[View, Frame], Effect | None]:
    """A key that lays a screen over the present one, and takes it away again."""

    def lay(view: View, frame: Frame) -> Effect | None:
        if view.screen is screen:
            return _back(view, frame)
        view.back.append(view.screen)
        view.screen = screen
        view.places[screen] = 0
        return None

    return lay


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
    """A cursor key: in a list, or over the lines of a text."""

    def move(view: View, frame: Frame) -> Effect | None:
        point(frame, view, place(frame, view) + by(view))
        return None

    return move


def _mouse(view: View, frame: Frame) -> Effect | None:
    view.mouse = not view.mouse
    view.tell("the mouse chooses and opens" if view.mouse else "the mouse is the terminal's, which selects text")
    return None


def _to(number: int) -> Callable[[View, Frame], Effect | None]:
    """A key that goes to another pooler, where nothing is open or held."""

    def go(view: View, frame: Frame) -> Effect | None:
        if number >= len(frame.beside):
            return None
        view.screen, view.frozen = Screen.POOLS, None
        view.back.clear()
        return Switch(number)

    return go


def _show_or_hide(view: View, frame: Frame) -> Effect | None:
    of = view.choosing
    number = place(frame, view)
    if not number:
        view.tell("the first column is always there")
        return None
    view.hidden[of] ^= {CHOICES[of][number]}
    return Remember()


def _enter_pool(view: View, frame: Frame) -> Effect | None:
    row = selected(frame, view)
    if row is None:
        return None
    view.selected, view.chosen, view.tab = row.key, "", 2 if row.waiting else 0
    view.filters.pop(Screen.POOL, None)
    view.back.append(Screen.POOLS)
    view.screen = Screen.POOL
    return Look(row.key)


def _enter_connection(view: View, frame: Frame) -> Effect | None:
    row = connection(frame, view)
    if row is not None:
        view.chosen = identity(row)
        view.back.append(Screen.POOL)
        view.screen = Screen.CONNECTION
        view.places[Screen.CONNECTION] = 0
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
    "?": _over(Screen.HELP),
    "h": _over(Screen.HELP),
    "e": _over(Screen.EVENTS),
    " ": _hold,
    "space": _hold,
    "m": _mouse,
    "u": _now,
    "+": _slower,
    "-": _faster,
    **{str(number): _to(number - 1) for number in range(1, 10)},
}
_SCREEN_KEYS: dict[Screen, Keys] = {
    Screen.POOLS: {
        **_MOVES, **_VERBS, "s": _next_sort, "S": _previous_sort, ">": _next_sort, "<": _previous_sort,
        "R": _turn, "/": _filter, "enter": _enter_pool, "right": _enter_pool, "c": _over(Screen.COLUMNS),
    },
    Screen.POOL: {
        **_MOVES, **_VERBS, "tab": _next_tab, "s-tab": _previous_tab, "x": _kill_client,
        "enter": _enter_connection, "right": _enter_connection, "/": _filter, "c": _over(Screen.COLUMNS),
    },
    Screen.CONNECTION: {**_MOVES, "x": _kill_client},
    Screen.EVENTS: {**_MOVES, "/": _filter},
    Screen.COLUMNS: {
        **_MOVES, " ": _show_or_hide, "space": _show_or_hide, "enter": _show_or_hide, "c": _over(Screen.COLUMNS),
    },
    Screen.HELP: _MOVES,
}  # fmt: skip
