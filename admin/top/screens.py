"""The screens as lines of styled text: Frame and View in, fragments out, for any width and height.

Pure, so that a test draws what a person sees. Only the lines that fit are made; a narrow terminal loses
columns by their rank rather than wrapping.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from admin.repl import units
from admin.repl.formats import printable
from admin.repl.toolbar import Fragment
from admin.top import control
from admin.top.control import SORTS, TABS, Screen, View
from admin.top.glyphs import Glyphs, bar, sparkline
from admin.top.model import Frame, PoolRow, Record, Totals

Line = list[Fragment]

STYLES = {
    "title": "bold",
    "good": "ansigreen",
    "busy": "ansigreen",
    "full": "bold ansired",
    "idle": "ansicyan",
    "free": "ansibrightblack",
    "dim": "ansibrightblack",
    "head": "bold underline",
    "head.sort": "bold underline ansicyan",
    "alarm": "bold ansired",
    "warning": "bold ansiyellow",
    "paused": "bold ansimagenta",
    "spark": "ansicyan",
    "spark.wait": "ansiyellow",
    "selected": "reverse",
    "key": "bold",
    "question": "bold ansiyellow",
}


@dataclass(frozen=True, slots=True)
class Canvas:
    """The terminal."""

    width: int
    height: int
    glyphs: Glyphs


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the list of pools. Columns of the highest `rank` go first when there is no room; `sort` is
    the order it stands for. A width of 0 takes what is left."""

    title: str
    width: int
    rank: int
    draw: Callable[[PoolRow, int, Glyphs], Line]
    sort: str = ""
    right: bool = True
    most: int = 0
    trend: bool = False


def draw(frame: Frame, view: View, canvas: Canvas) -> list[Line]:
    """The whole screen: at most `height` lines of at most `width` columns."""
    body = _SCREENS[view.screen]
    top = _header(frame, view, canvas)
    foot = _footer(frame, view, canvas)
    room = max(canvas.height - len(top) - len(foot), 1)
    middle = body(frame, view, Canvas(canvas.width, room, canvas.glyphs))[:room]
    middle += [[] for _ in range(room - len(middle))]
    return [_clip(line, canvas.width) for line in (*top, *middle, *foot)][: canvas.height]


def _header(frame: Frame, view: View, canvas: Canvas) -> list[Line]:
    mark = canvas.glyphs.bullet
    clock = time.strftime("%H:%M:%S", time.localtime(frame.now)) if frame.now else ""
    held = " held" if view.frozen is not None else ""
    right: Line = [("class:warning", held), ("class:dim", f"  every {frame.delay:g} s  {clock} ")]
    if frame.connected:
        left: Line = [("class:good", f" {mark} "), ("class:title", frame.label)]
        left += [("class:dim", f"  PgBouncer {frame.version}")]
    elif frame.trouble:
        left = [("class:alarm", f" {mark} {frame.label} not connected, trying: {frame.trouble}")]
    else:
        left = [("class:dim", f" {mark} {frame.label} connecting…")]
    if frame.state:
        left += [("class:paused", f"  {frame.state.upper()}")]
    return [_spread(left, right, canvas.width), *_totals(frame.totals, canvas)]


def _totals(totals: Totals, canvas: Canvas) -> list[Line]:
    """Two lines of figures over all pools, sparklines to the right when there is room."""
    counts: Line = [
        ("", " clients "), ("class:title", f"{totals.active:,}"),
        ("", " active "), *_alarming(f"{totals.waiting:,}", totals.waiting, "class:warning"),
        ("", " waiting"),
        ("class:dim", " | "), ("", "servers "), ("class:title", f"{totals.busy:,}"), ("", " busy "),
        ("", f"{totals.idle:,} idle of {totals.limit:,}"),
    ]  # fmt: skip
    figures: Line = [
        ("", " "), ("class:title", _optional(totals.tps, units.short)), ("", " tps  "),
        ("", f"{_optional(totals.qps, units.short)} qps"), ("class:dim", " | "),
        ("", f"avg query {_time(totals.avg_query)}"), ("class:dim", " | "), ("", "max wait "),
        *_alarming(_seconds(totals.maxwait), totals.maxwait, "class:alarm"), ("class:dim", " | "),
        ("", f"in {_optional(totals.received, units.size)}/s"),
        ("", f" out {_optional(totals.sent, units.size)}/s"),
    ]  # fmt: skip
    room = min(canvas.width - max(_length(counts), _length(figures)) - 11, 60)
    if room >= 10:
        tps = sparkline(canvas.glyphs, totals.trend, room)
        waits = sparkline(canvas.glyphs, totals.waits, room, top=1)
        left = canvas.width - room - 10
        counts = [*_padded(counts, left), ("class:dim", "waiting "), ("class:spark.wait", waits)]
        figures = [*_padded(figures, left), ("class:dim", "    tps "), ("class:spark", tps)]
    return [counts, figures, []]


def _footer(frame: Frame, view: View, canvas: Canvas) -> list[Line]:
    if view.question is not None:
        return [[("class:question", f" {view.question.question} [y/N]")]]
    if view.typing:
        return [[("class:key", " filter: "), ("", view.filter), ("reverse", " "),
                 ("class:dim", "  Enter keeps, Esc drops")]]  # fmt: skip
    if view.told:
        return [[("class:question", f" {view.told}")]]
    line: Line = []
    for key, name in _HINTS[view.screen]:
        line += [("class:key", f" {key}"), ("class:dim", f" {name} ")]
    return [line]


_HINTS: dict[Screen, tuple[tuple[str, str], ...]] = {
    Screen.POOLS: (
        ("Enter", "open"), ("s", "sort"), ("R", "turn"), ("/", "filter"), ("p", "pause"), ("r", "resume"),
        ("K", "kill"), ("Space", "hold"), ("+-", "pace"), ("?", "help"), ("q", "quit"),
    ),
    Screen.POOL: (
        ("Esc", "back"), ("Tab", "next list"), ("Enter", "open"), ("x", "kill client"), ("p", "pause"),
        ("r", "resume"), ("K", "kill"), ("?", "help"), ("q", "quit"),
    ),
    Screen.CONNECTION: (("Esc", "back"), ("x", "kill client"), ("?", "help"), ("q", "quit")),
    Screen.HELP: (("Esc", "back"), ("q", "quit")),
}  # fmt: skip


# ---- the list of pools


def _name(row: PoolRow, width: int, glyphs: Glyphs) -> Line:
    style = "class:paused" if row.paused or row.disabled else ""
    mark = " paused" if row.paused else " disabled" if row.disabled else ""
    name = _short(row.database, width - len(mark), glyphs)
    return [(style, name), ("class:paused", mark)]


def _clients(row: PoolRow, width: int, glyphs: Glyphs) -> Line:
    return [("" if row.active else "class:dim", f"{row.active:,}")]


def _waiting(row: PoolRow, width: int, glyphs: Glyphs) -> Line:
    return [("class:warning" if row.waiting else "class:dim", f"{row.waiting:,}")]


def _servers(row: PoolRow, width: int, glyphs: Glyphs) -> Line:
    """The bar, and `busy+idle/limit` behind it."""
    text = f" {row.busy}+{row.idle}/{row.limit or '-'}"
    style = "class:full" if row.full else "class:busy"
    return [*bar(glyphs, row.busy, row.idle, row.limit, max(width - 10, 4), style), ("", text.ljust(10)[:10])]


def _tps(row: PoolRow, width: int, glyphs: Glyphs) -> Line:
    """A figure of the whole database is dim on the rows of its several pools."""
    return [("class:dim" if row.tps_shared or not row.tps else "", _optional(row.tps, units.short))]


def _trend(row: PoolRow, width: int, glyphs: Glyphs) -> Line:
    return [("class:spark", sparkline(glyphs, row.trend, width))]


def _wait_trend(row: PoolRow, width: int, glyphs: Glyphs) -> Line:
    return [("class:spark.wait", sparkline(glyphs, row.waits, width, top=1))]


def _avg(row: PoolRow, width: int, glyphs: Glyphs) -> Line:
    return [("class:dim" if row.shared or not row.avg_query else "", _time(row.avg_query))]


def _p99(row: PoolRow, width: int, glyphs: Glyphs) -> Line:
    return [("" if row.p99 else "class:dim", _optional(row.p99, _time))]


def _maxwait(row: PoolRow, width: int, glyphs: Glyphs) -> Line:
    style = "class:alarm" if row.maxwait >= 1 else "class:warning" if row.maxwait else "class:dim"
    return [(style, _seconds(row.maxwait))]


COLUMNS = (
    Column("database", 14, -4, _name, "name", right=False, most=32),
    Column("user", 8, 2, lambda row, w, g: [("", _short(row.user, w, g))], right=False, most=20),
    Column("active", 6, -2, _clients, "clients"),
    Column("wait", 6, -3, _waiting, "waiting"),
    Column("servers", 16, 1, _servers, "servers", right=False, most=34),
    Column("tps", 6, -1, _tps, "tps"),
    Column("tps", 12, 4, _trend, right=False, most=40, trend=True),
    Column("waiting", 14, 7, _wait_trend, right=False, most=24, trend=True),
    Column("avg query", 9, 3, _avg, "avg query"),
    Column("p99", 8, 5, _p99, "p99"),
    Column("max wait", 8, 0, _maxwait, "max wait"),
    Column("mode", 11, 6, lambda row, w, g: [("class:dim", row.mode)], right=False),
)


def _pools(frame: Frame, view: View, canvas: Canvas) -> list[Line]:
    rows = control.visible(frame, view)
    columns = _laid_out(frame, canvas.width - 1)
    lines = [_heading(columns, frame, view, canvas)]
    room = max(canvas.height - 1, 1)
    view.page = max(room - 1, 1)
    here = control.selected(frame, view)
    first = _first_shown(rows.index(here) if here else 0, len(rows), room)
    for row in rows[first : first + room]:
        lines.append(_row(row, columns, canvas, chosen=row is here))
    if not rows and frame.connected:
        told = f"no pool matches “{view.filter}”" if view.filter else "no pools yet: no client has connected"
        lines.append([("class:dim", f" {told}")])
    return lines


def _laid_out(frame: Frame, width: int) -> list[tuple[Column, int]]:
    """The columns there is room for, with their widths; what is left over goes to those that can grow."""
    kept = [column for column in COLUMNS if column.title != "p99" or frame.percentiles]
    while sum(column.width + 1 for column in kept) > width and len(kept) > 1:
        kept.remove(max(kept, key=lambda column: column.rank))
    widths = {column: column.width for column in kept}
    spare = width - sum(column.width + 1 for column in kept)
    growing = [column for column in kept if column.most]
    while spare > 0 and growing:
        for column in list(growing):
            if widths[column] >= column.most or spare <= 0:
                growing.remove(column)
            else:
                widths[column] += 1
                spare -= 1
    return [(column, widths[column]) for column in kept]


def _heading(columns: list[tuple[Column, int]], frame: Frame, view: View, canvas: Canvas) -> Line:
    minutes = f"{max(round(frame.span / 60), 1)} min"
    arrow = canvas.glyphs.up if view.rising else canvas.glyphs.down
    line: Line = [("", " ")]
    for column, width in columns:
        sorting = column.sort == view.sort.name
        title = f"{column.title}, {minutes}" if column.trend else column.title
        title = f"{title}{arrow}" if sorting else title
        text = title[:width].rjust(width) if column.right else title[:width].ljust(width)
        line += [("class:head.sort" if sorting else "class:head", text), ("", " ")]
    return line


def _row(row: PoolRow, columns: list[tuple[Column, int]], canvas: Canvas, *, chosen: bool) -> Line:
    line: Line = [("", ">" if chosen and canvas.glyphs.bullet == "*" else " ")]
    for column, width in columns:
        cell = column.draw(row, width, canvas.glyphs)
        blank = " " * max(width - _length(cell), 0)
        line += [("", blank), *cell] if column.right else [*cell, ("", blank)]
        line.append(("", " "))
    return _marked(line, canvas.width) if chosen else line


# ---- one pool


def _pool(frame: Frame, view: View, canvas: Canvas) -> list[Line]:
    row = frame.row(view.selected)
    if row is None or view.selected is None:
        gone = " / ".join(view.selected or ())
        return [[("class:dim", f" the pool {gone} is gone; Esc goes back")]]
    lines = [*_pool_head(row, canvas), [], _tabs(frame, view)]
    rest = Canvas(canvas.width, canvas.height - len(lines), canvas.glyphs)
    return [*lines, *_connection_list(frame, view, rest)]


def _pool_head(row: PoolRow, canvas: Canvas) -> list[Line]:
    state = " PAUSED" if row.paused else " DISABLED" if row.disabled else ""
    room = max(min(canvas.width - 14, 60), 10)
    whole = " (whole database)" if row.tps_shared else ""
    return [
        [("class:title", f" {printable(row.database)} / {printable(row.user)}"),
         ("class:dim", f"  {row.mode}"), ("class:paused", state)],
        [("", " servers  "), *_servers(row, min(room, 44), canvas.glyphs),
         ("class:dim", f" {row.opening} opening" if row.opening else "")],
        [("", " tps      "), ("class:spark", sparkline(canvas.glyphs, row.trend, room)),
         ("", f" {_optional(row.tps, units.short)}{whole}")],
        [("", " waiting  "), ("class:spark.wait", sparkline(canvas.glyphs, row.waits, room, top=1)),
         *_alarming(f" {row.waiting}", row.waiting, "class:warning")],
        [("", f" avg query {_time(row.avg_query)}"), ("class:dim", " | "),
         ("", f"p99 {_optional(row.p99, _time)}"), ("class:dim", " | "), ("", "max wait "),
         *_maxwait(row, 8, canvas.glyphs)],
    ]  # fmt: skip


def _tabs(frame: Frame, view: View) -> Line:
    line: Line = [("", " ")]
    for place, tab in enumerate(TABS):
        probe = View(selected=view.selected, tab=place)
        count = f" {len(control.connections(frame, probe)):,}" if frame.detail else ""
        line += [("class:selected" if place == view.tab else "class:dim", f" {tab}{count} "), ("", " ")]
    if frame.detail is not None and frame.detail.every > 2.5:
        line.append(("class:dim", f" every {frame.detail.every:.0f} s, since there are many; u asks now"))
    return line


@dataclass(frozen=True, slots=True)
class Field:
    """A column of the list of connections."""

    title: str
    width: int
    rank: int
    text: Callable[[Record], str]
    right: bool = False


def _waited(row: Record) -> str:
    microseconds = row.get("wait", 0) * 1_000_000 + row.get("wait_us", 0)
    return units.duration(microseconds) if microseconds else "0"


FIELDS = (
    Field("id", 8, 0, lambda row: str(row.get("id", row["ptr"]))[-8:], right=True),
    Field("state", 11, 0, lambda row: row["state"]),
    Field("wait", 9, 0, _waited, right=True),
    Field("address", 21, 1, lambda row: f"{row['addr']}:{row['port']}"),
    Field("application", 22, 2, lambda row: row.get("application_name", "")),
    Field("connected", 19, 4, lambda row: row["connect_time"][:19]),
    Field("last request", 19, 3, lambda row: row["request_time"][:19]),
    Field("tls", 12, 6, lambda row: row["tls"].partition("/")[0]),
    Field("pid", 7, 5, lambda row: str(row["remote_pid"] or ""), right=True),
)


def _connection_list(frame: Frame, view: View, canvas: Canvas) -> list[Line]:
    if frame.detail is None or frame.detail.key != view.selected:
        return [[("class:dim", " asking…")]]
    rows = control.connections(frame, view)
    if not rows:
        return [[("class:dim", f" no {TABS[view.tab]}")]]
    fields = list(FIELDS)
    while sum(field.width + 1 for field in fields) > canvas.width - 1:
        fields.remove(max(fields, key=lambda field: field.rank))
    head: Line = [("", " ")]
    for field in fields:
        text = field.title.rjust(field.width) if field.right else field.title.ljust(field.width)
        head += [("class:head", text), ("", " ")]
    room = max(canvas.height - 1, 1)
    view.page = max(room - 1, 1)
    here = control.connection(frame, view)
    place = next(place for place, row in enumerate(rows) if row is here)
    first = _first_shown(place, len(rows), room)
    return [head, *(_connection_row(row, fields, canvas, row is here) for row in rows[first : first + room])]


def _connection_row(row: Record, fields: Sequence[Field], canvas: Canvas, chosen: bool) -> Line:
    state = str(row["state"])
    style = "class:warning" if state.startswith("waiting") else "class:good" if state == "active" else ""
    line: Line = [("", " ")]
    for field in fields:
        text = _short(printable(field.text(row)), field.width, canvas.glyphs)
        text = text.rjust(field.width) if field.right else text.ljust(field.width)
        line += [(style if field.title in ("state", "wait") else "", text), ("", " ")]
    return _marked(line, canvas.width) if chosen else line


# ---- one connection


def _connection(frame: Frame, view: View, canvas: Canvas) -> list[Line]:
    row = control.connection(frame, view)
    if row is None or control.identity(row) != view.chosen:
        return [[("class:dim", " this connection is gone; Esc goes back")]]
    kind = "client" if row["type"] == "C" else "server"
    linked = _linked(frame, row)
    whom: Line = [("class:title", " linked to "), ("", _told(linked))] if linked else [("class:dim", " not linked")]
    head: list[Line] = [[("class:title", f" {kind} {row.get('id', row['ptr'])}")], whom, []]
    facts = [_fact(name, value) for name, value in row.items() if name != "type"]
    room = max(canvas.height - len(head), 1)
    side_by_side = max(min(-(-len(facts) // room), canvas.width // FACT_WIDTH), 1)
    return [*head, *_columns_of(facts, side_by_side, canvas.width // side_by_side)]


FACT_WIDTH = 50
"""The least width for which facts stand side by side when they are too many for the height."""


def _columns_of(lines: list[Line], count: int, width: int) -> list[Line]:
    """The lines in that many columns, each read from top to bottom."""
    height = -(-len(lines) // count)
    columns = [lines[start : start + height] for start in range(0, len(lines), height)]
    return [
        [
            piece
            for column in columns
            if place < len(column)
            for piece in _padded(_clip(column[place], width - 1), width)
        ]
        for place in range(height)
    ]


def _fact(name: str, value: object) -> Line:
    text = printable(value)
    return [("class:dim", f" {name:>20}  "), ("" if text not in ("", "0") else "class:dim", text or "-")]


def _linked(frame: Frame, row: Record) -> Record | None:
    if frame.detail is None or not row["link"]:
        return None
    others = frame.detail.servers if row["type"] == "C" else frame.detail.clients
    return next((other for other in others if other["ptr"] == row["link"]), None)


def _told(row: Record) -> str:
    kind = "client" if row["type"] == "C" else "server"
    name = printable(row.get("application_name", ""))
    pid = f" pid {row['remote_pid']}" if row["remote_pid"] else ""
    who = f"{row.get('id', row['ptr'])} {row['addr']}:{row['port']}{pid}"
    return f"{kind} {who} {row['state']} {name}".rstrip()


# ---- help


HELP = f"""
 Each row is a pool: a database and a user. The list shows

   active, wait     clients with or without a server, and those in the queue
   servers          busy, idle and free of the pool's limit: busy+idle/limit
   tps              transactions a second
   avg query, p99   over the last interval, and the percentile if the server has it;
                    dim is what counts for a whole database with several pools
   max wait         how long the first in the queue waits by now

 up down PgUp PgDn  choose             Enter    a pool's clients, servers, queue
 s S                sort by: {", ".join(sort.name for sort in SORTS[:4])},
                    {", ".join(sort.name for sort in SORTS[4:])}
 R                  turn the order     /        filter: words of the name, paused, waiting
 p r K              PAUSE, RESUME, KILL the database (asks first)
 x                  KILL_CLIENT the client under the cursor (asks first)
 Space              hold the screen    + - u    slower, faster, ask now
 Esc                back               q        quit"""


def _help(frame: Frame, view: View, canvas: Canvas) -> list[Line]:
    return [[("", line)] for line in HELP.splitlines()[1:]]


_SCREENS: dict[Screen, Callable[[Frame, View, Canvas], list[Line]]] = {
    Screen.POOLS: _pools,
    Screen.POOL: _pool,
    Screen.CONNECTION: _connection,
    Screen.HELP: _help,
}


# ---- pieces of lines


def _optional(value: float | None, write: Callable[[float], str]) -> str:
    return "-" if value is None else write(value)


def _time(microseconds: float) -> str:
    return units.duration(microseconds) if microseconds else "-"


def _seconds(seconds: float) -> str:
    return units.duration(seconds * 1_000_000) if seconds else "0"


def _alarming(text: str, value: float, style: str) -> Line:
    return [(style if value else "class:title", text)]


def _short(text: str, width: int, glyphs: Glyphs) -> str:
    plain = printable(text)
    return plain if len(plain) <= width else plain[: max(width - 1, 0)] + glyphs.ellipsis


def _length(line: Line) -> int:
    return sum(len(text) for _, text in line)


def _padded(line: Line, width: int) -> Line:
    return [*line, ("", " " * max(width - _length(line), 0))]


def _spread(left: Line, right: Line, width: int) -> Line:
    return [*_padded(left, width - _length(right)), *right]


def _marked(line: Line, width: int) -> Line:
    """The whole line reversed, to its end."""
    return [(f"{style} class:selected", text) for style, text in _padded(line, width)]


def _clip(line: Line, width: int) -> Line:
    """The line's first `width` columns."""
    kept: Line = []
    for style, text in line:
        if width <= 0:
            break
        kept.append((style, text[:width]))
        width -= len(text)
    return kept


def _first_shown(place: int, count: int, room: int) -> int:
    """The first row to show so that the chosen one is on the screen."""
    return max(0, min(place - room // 2, count - room)) if count > room else 0
