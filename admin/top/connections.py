"""One pool with the list of its connections, and one connection with all that is known of it.

On a low terminal the lines above the list go, from the least important on, before the list does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from admin.client import units
from admin.client.terminal import printable
from admin.top import view as seen
from admin.top.glyphs import sparkline
from admin.top.model import Detail, Frame, PoolRow
from admin.top.pieces import (
    Canvas,
    Part,
    StyledLine,
    aimed,
    alarming,
    clipped,
    fitted,
    heading,
    marked,
    optional,
    padded,
    short,
    time_of,
)
from admin.top.pools import maxwait, servers
from admin.top.view import TABS, Screen, View
from pooler.readback import ShowRow, number, waited_us

Row = TypeVar("Row")
LEAST_ROWS = 4
"""Rows of the list for which lines above it go."""
UNUSUAL_SECONDS = 2.5
"""A list that is asked for more seldom than this says why."""


def draw_pool(frame: Frame, view: View, canvas: Canvas) -> list[StyledLine]:
    row = frame.row(view.selected)
    if row is None or view.selected is None:
        gone = " / ".join(view.selected or ())
        return [[("class:dim", f" the pool {gone} is gone; Esc goes back")]]
    lines = [*_head(row, canvas), (0, _tabs(frame, view, canvas.width))]
    while len(lines) > canvas.height - 1 - LEAST_ROWS and len(lines) > 1:
        lines.remove(max(lines, key=lambda line: line[0]))
    rest = Canvas(canvas.width, canvas.height - len(lines), canvas.glyphs)
    return [*(line for _, line in lines), *_list(frame, view, rest)]


def _head(row: PoolRow, canvas: Canvas) -> list[tuple[int, StyledLine]]:
    """Lines with their ranks: the highest go first."""
    glyphs = canvas.glyphs
    state = " PAUSED" if row.paused else " DISABLED" if row.disabled else ""
    room = max(min(canvas.width - 14, 60), 10)
    whole = " (whole database)" if row.tps_shared else ""
    tps = f" {optional(row.tps, units.short)}{whole}"
    names = f" {printable(row.database)} / {printable(row.user)}"
    about = f"  {row.mode}{state}"
    chart = max(min(canvas.width - 11 - len(tps), 60), 4)
    of = " (whole database)" if row.shared else ""
    figures = [
        Part(1, [("", f"avg query {time_of(row.avg_query)}{of}")]),
        Part(0, [("", "max wait "), *maxwait(row, 8, glyphs)]),
    ]
    if row.p99 is not None:
        figures.insert(1, Part(2, [("", f"p99 {time_of(row.p99)}")]))
        figures.append(Part(3, [("", f"transactions p99 {optional(row.xact_p99, time_of)}")]))
    opening = f" {row.opening} opening" if row.opening else ""
    return [
        (1, [("class:title", short(names, max(canvas.width - len(about), 10), glyphs)),
             ("class:paused" if state else "class:dim", about)]),
        (2, [("", " servers  "), *servers(row, min(room, 44), glyphs), ("class:dim", opening)]),
        (5, [("", " tps      "), ("class:spark", sparkline(glyphs, row.trend, chart)), ("", tps)]),
        (4, [("", " waiting  "), ("class:spark.wait", sparkline(glyphs, row.waits, chart, top=1)),
             *alarming(f" {row.waiting}", row.waiting, "class:warning")]),
        (3, fitted(figures, canvas.width)),
        (6, []),
    ]  # fmt: skip


def _tabs(frame: Frame, view: View, width: int) -> StyledLine:
    line: StyledLine = [("", " ")]
    for place, tab in enumerate(TABS):
        count = f" {len(seen.tab_rows(frame, view, place)):,}" if frame.detail else ""
        chosen = "class:selected" if place == view.tab else "class:dim"
        line += [(f"{chosen} [tab:{place}]", f" {tab}{count} "), ("", " ")]
    if frame.detail is not None and frame.detail.every > UNUSUAL_SECONDS:
        line.append(("class:dim", _seldom(frame.detail, frame.delay)))
    return line


def _seldom(detail: Detail, delay: float) -> str:
    why = "" if delay >= detail.every else f", since an answer takes {units.duration(detail.taken * 1e6)}"
    return f" every {detail.every:.0f} s{why}; u asks now"


@dataclass(frozen=True, slots=True)
class Field(Generic[Row]):
    """A column of a list. The highest ranks go first when there is no room."""

    title: str
    width: int
    rank: int
    text: Callable[[Row], str]
    right: bool = False


def fitting(fields: Iterable[Field[Row]], width: int) -> list[Field[Row]]:
    """Those there is room for, the last one in any case."""
    kept = list(fields)
    while sum(field.width + 1 for field in kept) > width - 1 and len(kept) > 1:
        kept.remove(max(kept, key=lambda field: field.rank))
    return kept


def _waited(row: ShowRow) -> str:
    microseconds = waited_us(row, "wait")
    return units.duration(microseconds) if microseconds else "0"


def _age(row: ShowRow) -> str:
    return units.duration(row["xact_us"]) if row.get("xact_us") else ""


FIELDS: tuple[Field[ShowRow], ...] = (
    Field("id", 8, 0, lambda row: str(row.get("id", row["ptr"]))[-8:], right=True),
    Field("state", 11, 0, lambda row: row["state"]),
    Field("wait", 9, 1, _waited, right=True),
    Field("xact age", 9, 2, _age, right=True),
    Field("address", 21, 4, lambda row: f"{row['addr']}:{row['port']}"),
    Field("application", 22, 3, lambda row: row.get("application_name", "")),
    Field("session", 18, 4, lambda row: row.get("session_state", "")),
    Field("connected", 19, 6, lambda row: row["connect_time"][:19]),
    Field("last request", 19, 5, lambda row: row["request_time"][:19]),
    Field("tls", 12, 8, lambda row: row["tls"].partition("/")[0]),
    Field("pid", 7, 7, lambda row: str(row["remote_pid"] or ""), right=True),
)
SOURCES = {"xact age": "TRANSACTIONS", "session": "SESSION_STATE"}
"""Columns that only a console with this view can fill."""
OLD_SECONDS = 10.0
"""A transaction from this age on stands out."""


def _list(frame: Frame, view: View, canvas: Canvas) -> list[StyledLine]:
    if frame.detail is None or frame.detail.key != view.selected:
        return [[("class:dim", " asking")]]
    rows = seen.connections(frame, view)
    if not rows:
        passing = f' with "{view.filter}"' if view.filter else ""
        return [[("class:dim", f" no {TABS[view.tab]}{passing}")]]
    chosen = (
        field
        for field in FIELDS
        if field.title not in view.hidden[Screen.POOL] and SOURCES.get(field.title, "") in ("", *frame.detail.told)
    )
    fields = fitting(chosen, canvas.width)
    head: StyledLine = [("", " ")]
    for field in fields:
        head += [("class:head", heading(field.title, field.width, "", right=field.right)[:-1]), ("", " ")]
    room = max(canvas.height - 1, 1)
    view.page = max(room - 1, 1)
    here = seen.connection(frame, view)
    place = next((place for place, row in enumerate(rows) if row is here), 0)
    top = view.scroll(place, len(rows), room)
    shown = enumerate(rows[top : top + room], top)
    return [head, *(aimed(_row(row, fields, canvas, row is here), f"row:{place}") for place, row in shown)]


def _row(row: ShowRow, fields: Sequence[Field[ShowRow]], canvas: Canvas, chosen: bool) -> StyledLine:
    state = str(row["state"])
    styles = {
        "state": "class:warning" if state.startswith("waiting") else "class:good" if state == "active" else "",
        "xact age": "class:warning" if number(row, "xact_us") >= OLD_SECONDS * 1e6 else "",
    }
    styles["wait"] = styles["state"]
    styles["session"] = "class:warning" if row.get("pinned_us") else ""
    line: StyledLine = [("", ">" if chosen else " ")]
    for field in fields:
        text = short(printable(field.text(row)), field.width, canvas.glyphs)
        text = text.rjust(field.width) if field.right else text.ljust(field.width)
        line += [(styles.get(field.title, ""), text), ("", " ")]
    return marked(line, canvas.width) if chosen else line


# ---- one connection


def draw_connection(frame: Frame, view: View, canvas: Canvas) -> list[StyledLine]:
    row = seen.connection(frame, view)
    if row is None or seen.identity(row) != view.chosen:
        return [[("class:dim", " this connection is gone; Esc goes back")]]
    kind = "client" if row["type"] == "C" else "server"
    linked = _linked(frame, row)
    whom: StyledLine = [("class:dim", " not linked")]
    if linked:
        whom = [("class:title", " linked to "), ("", _told(linked))]
    age: StyledLine = [("", f", in a transaction for {_age(row)}")] if row.get("xact_us") else []
    head = [[("class:title", f" {kind} {row.get('id', row['ptr'])}"), *age], whom]
    head += [[]] if canvas.height > LEAST_ROWS + len(head) else []
    facts = [_fact(name, value) for name, value in row.items() if name != "type"]
    room = max(canvas.height - len(head), 1)
    side_by_side = max(min(-(-len(facts) // room), canvas.width // FACT_WIDTH), 1)
    lines = _columns_of(facts, side_by_side, canvas.width // side_by_side)
    top = max(min(view.places.get(Screen.CONNECTION, 0), len(lines) - room), 0)
    view.places[Screen.CONNECTION], view.page = top, max(room - 1, 1)
    return [*head, *lines[top:]]


FACT_WIDTH = 50
"""The least width for which facts stand side by side when they are too many for the height."""


def _columns_of(lines: list[StyledLine], count: int, width: int) -> list[StyledLine]:
    """The lines in that many columns, each read from top to bottom."""
    height = -(-len(lines) // count)
    columns = [lines[start : start + height] for start in range(0, len(lines), height)]
    return [
        [
            piece
            for column in columns
            if place < len(column)
            for piece in padded(clipped(column[place], width - 1), width)
        ]
        for place in range(height)
    ]


def _fact(name: str, value: object) -> StyledLine:
    text = printable(value)
    return [("class:dim", f" {name:>20}  "), ("" if text not in ("", "0") else "class:dim", text or "-")]


def _linked(frame: Frame, row: ShowRow) -> ShowRow | None:
    if frame.detail is None or not row["link"]:
        return None
    others = frame.detail.servers if row["type"] == "C" else frame.detail.clients
    return next((other for other in others if other["ptr"] == row["link"]), None)


def _told(row: ShowRow) -> str:
    kind = "client" if row["type"] == "C" else "server"
    name = printable(row.get("application_name", ""))
    pid = f" pid {row['remote_pid']}" if row["remote_pid"] else ""
    who = f"{row.get('id', row['ptr'])} {row['addr']}:{row['port']}{pid}"
    return f"{kind} {who} {row['state']} {name}".rstrip()
