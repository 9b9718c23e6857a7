"""The screens as lines of styled text: Frame and View in, fragments out, for any width and height.

Pure, so that a test draws what a person sees. Only the lines that fit are made. The foot is two or three lines: where
in the list the cursor is, or what there is to say, and below it the keys, always.
"""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Sequence

from admin.client import units
from admin.client.terminal import printable
from admin.top import connections, pools
from admin.top import view as seen
from admin.top.connections import Field, fitting
from admin.top.glyphs import sparkline
from admin.top.model import Event, Frame, Totals
from admin.top.pieces import (
    Canvas,
    Part,
    StyledLine,
    aimed,
    alarming,
    clipped,
    fitted,
    heading,
    joined,
    length,
    marked,
    optional,
    padded,
    seconds_of,
    short,
    spread,
    time_of,
)
from admin.top.view import CHOICES, SORTS, Screen, View
from pooler.stats import ADMIN_DATABASE

STYLES = {
    "title": "bold",
    "good": "ansigreen",
    "busy": "ansigreen",
    "full": "bold ansired",
    "idle": "ansicyan",
    "free": "dim",
    "dim": "dim",
    "head": "bold underline",
    "head.sort": "bold underline ansicyan",
    "alarm": "bold ansired",
    "warning": "bold ansiyellow",
    "paused": "bold ansimagenta",
    "spark": "ansicyan",
    "spark.wait": "ansiyellow",
    "selected": "reverse",
    "selected.loud": "reverse bold",
    "key": "bold",
    "question": "bold ansiyellow",
}

LOW, ROOMY = 16, 24
"""Lines of a terminal below which there is one line of keys and no blank one; and from which on there may be three."""


def draw(frame: Frame, view: View, canvas: Canvas) -> list[StyledLine]:
    """The whole screen: at most `height` lines of at most `width` columns."""
    top = _header(frame, view, canvas)
    foot = _footer(frame, view, canvas)
    room = max(canvas.height - len(top) - len(foot), 1)
    middle = _SCREENS[view.screen](frame, view, Canvas(canvas.width, room, canvas.glyphs))[:room]
    middle += [[] for _ in range(room - len(middle))]
    return [clipped(line, canvas.width) for line in (*top, *middle, *foot)][: canvas.height]


def _header(frame: Frame, view: View, canvas: Canvas) -> list[StyledLine]:
    lines = [*_beside(frame, canvas.width), _title(frame, view, canvas), *_totals(frame, canvas)]
    return lines if canvas.height < LOW else [*lines, []]


def _beside(frame: Frame, width: int) -> list[StyledLine]:
    """Where there are several poolers: the one on the screen, and how the others are."""
    parts = []
    for number, other in enumerate(frame.beside, 1):
        totals, here = other.totals, other.label == frame.label
        told = f"{optional(totals.tps, units.short)} tps" if other.connected else "not connected"
        queue = f" {totals.waiting:,} waiting" if other.connected and totals.waiting else ""
        style = "class:selected" if here else "" if other.connected else "class:alarm"
        piece = [(style, f"{number} {other.label.removesuffix(CONSOLE)} {told}"), ("class:warning", queue)]
        parts.append(Part(0 if here else number, aimed(piece, f"key:{number}")))
    return [fitted(parts, width)] if parts else []


CONSOLE = f"/{ADMIN_DATABASE}"
"""The end of most labels, which tells nothing where several stand side by side."""


def _title(frame: Frame, view: View, canvas: Canvas) -> StyledLine:
    left, version = _whom(frame, canvas.glyphs.bullet)
    state: StyledLine = [("class:paused", f"  {frame.state.upper()}")] if frame.state else []
    held: StyledLine = [("class:warning", "  held")] if view.frozen is not None else []
    every: StyledLine = [("class:dim", f"  every {frame.delay:g} s")]
    if frame.taken and not frame.connected:
        every = [("class:warning", f"  figures of {_clock(frame.taken)}")]
    clock: StyledLine = [("class:dim", f"  {_clock(frame.now)} ")]
    line: StyledLine = []
    for more, pace in ((version, every), ([], every), ([], [])):
        before, behind = [*left, *more, *state], [*held, *pace, *clock]
        line = spread(before, behind, canvas.width)
        if length(before) + length(behind) <= canvas.width or not frame.connected:
            break
    return line


def _whom(frame: Frame, mark: str) -> tuple[StyledLine, StyledLine]:
    """Which console, and its version."""
    if frame.connected:
        name: StyledLine = [("class:good", f" {mark} "), ("class:title", frame.label)]
        return name, [("class:dim", f"  PgBouncer {frame.version}")]
    if frame.trouble:
        return [("class:alarm", f" {mark} {frame.label} not connected, trying: {frame.trouble}")], []
    return [("class:dim", f" {mark} {frame.label} connecting")], []


def _clock(moment: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(moment)) if moment else ""


def _totals(frame: Frame, canvas: Canvas) -> list[StyledLine]:
    """Two lines of figures over all pools, sparklines to the right when there is room."""
    totals, width = frame.totals, canvas.width
    counts = fitted(_counts(frame), width)
    if length(joined(_counts(frame))) > width:
        counts = fitted(_few_counts(totals), width)
    figures = fitted(_figures(totals), width)
    room = min(width - max(length(counts), length(figures)) - 11, 60)
    if room >= 10:
        tps = sparkline(canvas.glyphs, totals.trend, room)
        waits = sparkline(canvas.glyphs, totals.waits, room, top=1)
        left = width - room - 10
        counts = [*padded(counts, left), ("class:dim", "waiting "), ("class:spark.wait", waits)]
        figures = [*padded(figures, left), ("class:dim", "    tps "), ("class:spark", tps)]
    return [counts, figures]


def _counts(frame: Frame) -> tuple[Part, ...]:
    totals = frame.totals
    clients: StyledLine = [
        ("", "clients "), ("class:title", f"{totals.active:,}"), ("", " active "),
        *alarming(f"{totals.waiting:,}", totals.waiting, "class:warning"), ("", " waiting"),
    ]  # fmt: skip
    if not frame.rows:
        return Part(0, clients), Part(1, [("class:dim", "no pool has servers yet")])
    of = f" of {totals.limit:,}" if totals.limit else ""
    busy = [("", "servers "), ("class:title", f"{totals.busy:,}"), ("", f" busy {totals.idle:,} idle{of}")]
    return Part(0, clients), Part(1, busy)


def _few_counts(totals: Totals) -> tuple[Part, ...]:
    """The same for a narrow terminal: `active+waiting`, `busy+idle/limit`."""
    waiting = [("class:warning", f"+{totals.waiting:,}")] if totals.waiting else []
    used = f"{totals.busy:,}+{totals.idle:,}/{totals.limit:,} servers"
    return Part(0, [("class:title", f"{totals.active:,}"), *waiting, ("", " clients")]), Part(1, [("", used)])


def _figures(totals: Totals) -> tuple[Part, ...]:
    return (
        Part(0, [("class:title", optional(totals.tps, units.short)), ("", " tps")]),
        Part(2, [("", f"{optional(totals.qps, units.short)} qps")], "  "),
        Part(3, [("", f"avg query {time_of(totals.avg_query)}")]),
        Part(1, [("", "max wait "), *alarming(seconds_of(totals.maxwait), totals.maxwait, "class:alarm")]),
        Part(4, [("", f"in {optional(totals.received, units.size)}/s out {optional(totals.sent, units.size)}/s")]),
    )


# ---- the foot


def _footer(frame: Frame, view: View, canvas: Canvas) -> list[StyledLine]:
    keys = _key_lines(
        _hints(frame, view), canvas.width, 1 if canvas.height < LOW else 2 if canvas.height < ROOMY else 3
    )
    return [_status(frame, view), *keys]


def _status(frame: Frame, view: View) -> StyledLine:
    """A question, what is being typed, a message; else where the cursor is."""
    if view.question is not None:
        return [("class:question", f" {view.question.question} [y/N]")]
    if view.typing:
        return [("class:key", " filter: "), ("", view.filter), ("reverse", " ")]
    if view.told:
        return [("class:question", f" {view.told}")]
    count = len(seen.listed(frame, view))
    parts = []
    if count:
        here = seen.place(frame, view) + 1
        parts.append(f"{here:,} of {count:,} {_NOUNS.get(view.screen) or seen.TABS[view.tab]}")
    if view.screen is Screen.POOLS and count:
        parts.append(f"by {view.sort.name}{' turned' if view.turned else ''}")
    if view.filter:
        parts.append(f"filter: {printable(view.filter)}")
    return [("class:dim", f" {', '.join(parts)}")] if parts else []


_NOUNS = {Screen.POOLS: "pools", Screen.EVENTS: "events", Screen.COLUMNS: "columns"}

Hint = tuple[str, str, int]
"""A key, what it does, and its rank: the highest go first when there is no room."""

_LAST: tuple[Hint, ...] = (("?", "help", 0), ("q", "quit", 0))
_PACE: tuple[Hint, ...] = (("Space", "hold", 6), ("+-", "pace", 7), ("u", "now", 8), ("m", "mouse", 9))
_VERBS: tuple[Hint, ...] = (("p", "pause", 3), ("r", "resume", 3), ("K", "kill", 4))
_SEVERAL: Hint = ("1-9", "pooler", 1)
_BACK: Hint = ("Esc", "back", 0)
_KILL: Hint = ("x", "kill client", 2)


def _hints(frame: Frame, view: View) -> tuple[Hint, ...]:
    """The keys that do something now."""
    several = (_SEVERAL,) if frame.beside and view.question is None and not view.typing else ()
    return (*several, *_keys(frame, view))


def _keys(frame: Frame, view: View) -> tuple[Hint, ...]:
    if view.question is not None:
        return (("y", "yes", 0), ("n", "no", 0))
    if view.typing:
        return (("Enter", "keep the filter", 0), ("Esc", "drop it", 0))
    row = seen.connection(frame, view)
    kill = (_KILL,) if row is not None and row["type"] == "C" else ()
    match view.screen:
        case Screen.POOLS:
            return (("Enter", "open", 1), ("s", "sort", 2), ("R", "turn", 5), ("/", "filter", 2), ("c", "columns", 5),
                    ("e", "events", 3), *_VERBS, *_PACE, *_LAST)  # fmt: skip
        case Screen.POOL:
            return (_BACK, ("Tab", "next list", 1), ("Enter", "open", 1), *kill, ("/", "filter", 2),
                    ("c", "columns", 5), ("e", "events", 5), *_VERBS, *_PACE, *_LAST)  # fmt: skip
        case Screen.CONNECTION:
            return (_BACK, *kill, ("up", "down", 3), *_PACE, *_LAST)
        case Screen.EVENTS:
            return (_BACK, ("/", "filter", 1), *_PACE, *_LAST)
        case Screen.COLUMNS:
            return (_BACK, ("Space", "show or hide", 1), *_LAST)
        case Screen.HELP:
            return (_BACK, ("q", "quit", 0))


_KEY_NAMES = {"Enter": "enter", "Esc": "escape", "Tab": "tab", "Space": "space"}


def _key_lines(hints: tuple[Hint, ...], width: int, most: int) -> list[StyledLine]:
    """The keys on as many lines as there may be; those of the highest ranks are left out if that is too few."""
    kept = list(hints)
    while len(lines := _wrapped(kept, width)) > most and len(kept) > 1:
        kept.remove(max(kept, key=lambda hint: hint[2]))
    return lines


def _wrapped(hints: list[Hint], width: int) -> list[StyledLine]:
    lines: list[StyledLine] = [[]]
    for key, name, _ in hints:
        piece: StyledLine = [("class:key", f" {key}"), ("class:dim", f" {name} ")]
        if len(key) == 1 or key in _KEY_NAMES:
            piece = aimed(piece, f"key:{_KEY_NAMES.get(key, hex(ord(key[0])))}")
        if lines[-1] and length(lines[-1]) + length(piece) - 1 > width:
            lines.append([])
        lines[-1] += piece
    return lines


# ---- events


def _events(frame: Frame, view: View, canvas: Canvas) -> list[StyledLine]:
    rows = seen.events(frame, view)
    if not rows:
        none = "nothing has happened yet" if frame.counted else "this console does not count events"
        return [[("class:dim", f' no event matches "{view.filter}"' if view.filter else f" {none}")]]
    columns = _event_columns(rows, canvas.width)
    head: StyledLine = [("", " ")]
    for column, width in columns:
        head += [("class:head", heading(column.title, width, "", right=column.right)[:-1]), ("", " ")]
    room = max(canvas.height - 1, 1)
    view.page = max(room - 1, 1)
    place = seen.place(frame, view)
    top = view.scroll(place, len(rows), room)
    shown = enumerate(rows[top : top + room], top)
    return [head, *(aimed(_event(row, columns, canvas, number == place), f"row:{number}") for number, row in shown)]


EVENT_FIELDS: tuple[Field[Event], ...] = (
    Field("last seen", 9, 1, lambda event: _clock(event.last) or "-", right=True),
    Field("last min", 8, 3, lambda event: f"{event.recent:,}" if event.recent else "-", right=True),
    Field("count", 9, 2, lambda event: f"{event.count:,}", right=True),
    Field("kind", 12, 4, lambda event: event.kind),
    Field("database", 8, 0, lambda event: event.database),
    Field("reason", 12, -1, lambda event: event.reason),
)


def _event_columns(rows: Sequence[Event], width: int) -> list[tuple[Field[Event], int]]:
    """Those there is room for; the last two get what they need, as far as there is."""
    kept = fitting(EVENT_FIELDS, width)
    spare = max(width - 1 - sum(column.width + 1 for column in kept), 0)
    widths = []
    for column in kept:
        needed = 0 if column.rank > 0 else max(len(printable(column.text(row))) for row in rows) - column.width
        extra = max(min(needed, spare), 0)
        spare -= extra
        widths.append((column, column.width + extra))
    return widths


def _event(event: Event, columns: list[tuple[Field[Event], int]], canvas: Canvas, chosen: bool) -> StyledLine:
    style = "class:dim" if not event.recent else "" if event.kind == "connect" else "class:warning"
    line: StyledLine = [("", ">" if chosen else " ")]
    for column, width in columns:
        text = short(column.text(event), width, canvas.glyphs)
        line.append((style, (text.rjust(width) if column.right else text.ljust(width)) + " "))
    return marked(line, canvas.width) if chosen else line


# ---- columns


def _columns(frame: Frame, view: View, canvas: Canvas) -> list[StyledLine]:
    of = view.choosing
    names, here = CHOICES[of], seen.place(frame, view)
    what = "pools" if of is Screen.POOLS else "connections"
    room = max(canvas.height - 1, 1)
    top = view.scroll(here, len(names), room)
    lines: list[StyledLine] = [
        [("class:title", f" columns of the list of {what}"), ("class:dim", ", where there is room")]
    ]
    for place, name in enumerate(names[top : top + room], top):
        box = "[ ]" if name in view.hidden[of] else "[x]"
        line: StyledLine = [("", f"{'>' if place == here else ' '} {box} {name}")]
        lines.append(aimed(marked(line, min(canvas.width, 30)) if place == here else padded(line, 30), f"row:{place}"))
    return lines


# ---- help


HELP = f"""
 Each row is a pool: a database and a user. The list shows

   active, wait     clients with or without a server; those in the queue
   servers          busy, idle and free of the pool's limit: busy+idle/limit
   tps              transactions a second; dim: of all the database's pools
   avg query, p99   over the server's last one to two periods; dim: of all the
                    database's pools; without p99, over the last interval
   max wait         how long the first in the queue waits by now
   xact age         how long the transaction of a connection is open by now
   session          what a client has left in its session, and what becomes of it

 up down PgUp PgDn  choose           Enter   a pool's clients, servers, queue
 s S                sort by {", ".join(sort.name for sort in SORTS[:5])},
                    {", ".join(sort.name for sort in SORTS[5:])}
 R                  turn the order   /       filter this list: words of a name,
                                             a state, an address
 c                  choose columns   e       what happened: errors, timeouts
 p r K              PAUSE, RESUME, KILL the database (asks first)
 x                  KILL_CLIENT the client under the cursor (asks first)
 Space              hold the screen  + - u   slower, faster, ask now
 m                  mouse on or off: off lets the terminal select text
 mouse              click a row, again to open it; a heading to sort; a key
 Esc                back             q       quit"""


def _help(frame: Frame, view: View, canvas: Canvas) -> list[StyledLine]:
    lines = [piece for line in HELP.splitlines()[1:] for piece in _folded(line, max(canvas.width, 20))]
    top = max(min(view.places.get(Screen.HELP, 0), len(lines) - canvas.height), 0)
    view.places[Screen.HELP], view.page = top, max(canvas.height - 1, 1)
    return [[("", line)] for line in lines[top:]]


def _folded(line: str, width: int) -> list[str]:
    return textwrap.wrap(line, width, subsequent_indent="     ", replace_whitespace=False) or [""]


_SCREENS: dict[Screen, Callable[[Frame, View, Canvas], list[StyledLine]]] = {
    Screen.POOLS: pools.draw,
    Screen.POOL: connections.draw_pool,
    Screen.CONNECTION: connections.draw_connection,
    Screen.EVENTS: _events,
    Screen.COLUMNS: _columns,
    Screen.HELP: _help,
}
