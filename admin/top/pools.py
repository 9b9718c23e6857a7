"""The list of pools: one row each, in the columns that are wanted and for which there is room.

A narrow terminal loses columns by their rank rather than wrapping, and charts before a name is cut. What is drawn is
what fits: nothing of the rows above and below is made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from admin.client import units
from admin.top import view as seen
from admin.top.glyphs import Glyphs, bar, sparkline
from admin.top.model import Frame, PoolRow
from admin.top.pieces import (
    Canvas,
    StyledLine,
    aimed,
    heading,
    length,
    marked,
    optional,
    seconds_of,
    short,
    time_of,
)
from admin.top.view import SORT_NAMES, Screen, View


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the list. Columns of the highest `rank` go first when there is no room; `sort` is the order it
    stands for. What has a `most` grows up to it when there is room to spare."""

    title: str
    width: int
    rank: int
    draw: Callable[[PoolRow, int, Glyphs], StyledLine]
    sort: str = ""
    right: bool = True
    most: int = 0
    trend: bool = False
    name: Callable[[PoolRow], str] | None = None
    """For a column of names: what it has to have room for."""

    @property
    def key(self) -> str:
        """What it is called where columns are chosen."""
        return f"{self.title} trend" if self.trend else self.title


def _mark(row: PoolRow) -> str:
    return " paused" if row.paused else " disabled" if row.disabled else ""


def _name(row: PoolRow, width: int, glyphs: Glyphs) -> StyledLine:
    style = "class:paused" if row.paused or row.disabled else ""
    name = short(row.database, width - len(_mark(row)), glyphs)
    return [(style, name), ("class:paused", _mark(row))]


def _clients(row: PoolRow, width: int, glyphs: Glyphs) -> StyledLine:
    return [("" if row.active else "class:dim", f"{row.active:,}")]


def _waiting(row: PoolRow, width: int, glyphs: Glyphs) -> StyledLine:
    return [("class:warning" if row.waiting else "class:dim", f"{row.waiting:,}")]


def servers(row: PoolRow, width: int, glyphs: Glyphs) -> StyledLine:
    """The bar, and `busy+idle/limit` behind it."""
    text = f" {row.busy}+{row.idle}/{row.limit or '-'}"
    style = "class:full" if row.full else "class:busy"
    room = max(len(text), 10)
    return [*bar(glyphs, row.busy, row.idle, row.limit, max(width - room, 0), style), ("", text.ljust(room))]


def _tps(row: PoolRow, width: int, glyphs: Glyphs) -> StyledLine:
    """A figure of the whole database is dim on the rows of its several pools."""
    return [("class:dim" if row.tps_shared or not row.tps else "", optional(row.tps, units.short))]


def _trend(row: PoolRow, width: int, glyphs: Glyphs) -> StyledLine:
    return [("class:spark", sparkline(glyphs, row.trend, width))]


def _wait_trend(row: PoolRow, width: int, glyphs: Glyphs) -> StyledLine:
    return [("class:spark.wait", sparkline(glyphs, row.waits, width, top=1))]


def _avg(row: PoolRow, width: int, glyphs: Glyphs) -> StyledLine:
    return [("class:dim" if row.shared or not row.avg_query else "", time_of(row.avg_query))]


def _time(read: Callable[[PoolRow], float | None]) -> Callable[[PoolRow, int, Glyphs], StyledLine]:
    def draw(row: PoolRow, width: int, glyphs: Glyphs) -> StyledLine:
        value = read(row)
        return [("" if value else "class:dim", optional(value, time_of))]

    return draw


def maxwait(row: PoolRow, width: int, glyphs: Glyphs) -> StyledLine:
    style = "class:alarm" if row.maxwait >= 1 else "class:warning" if row.maxwait else "class:dim"
    return [(style, seconds_of(row.maxwait))]


COLUMNS = (
    Column("database", 14, -4, _name, "name", right=False, most=63, name=lambda row: row.database + _mark(row)),
    Column("user", 8, 2, lambda row, w, g: [("", short(row.user, w, g))], right=False, most=63,
           name=lambda row: row.user),
    Column("active", 6, -2, _clients, "clients"),
    Column("wait", 6, -3, _waiting, "waiting"),
    Column("servers", 16, 1, servers, "servers", right=False, most=34),
    Column("tps", 6, -1, _tps, "tps"),
    Column("tps", 12, 8, _trend, right=False, most=40, trend=True),
    Column("waiting", 14, 9, _wait_trend, right=False, most=24, trend=True),
    Column("avg query", 9, 3, _avg, "avg query"),
    Column("p99", 8, 5, _time(lambda row: row.p99), "p99"),
    Column("xact p99", 8, 5, _time(lambda row: row.xact_p99)),
    Column("wait p99", 8, 5, _time(lambda row: row.wait_p99)),
    Column("max wait", 8, 0, maxwait, "max wait"),
    Column("opening", 7, 6, lambda row, w, g: [("" if row.opening else "class:dim", f"{row.opening}")]),
    Column("mode", 11, 7, lambda row, w, g: [("class:dim", row.mode)], right=False),
)  # fmt: skip
YIELDING = 7
"""Columns from this rank on go before a name is cut."""
PERCENTILES = frozenset({"p99", "xact p99", "wait p99"})


def draw(frame: Frame, view: View, canvas: Canvas) -> list[StyledLine]:
    rows = seen.visible(frame, view)
    room = max(canvas.height - 1, 1)
    view.page = max(room - 1, 1)
    here = seen.selected(frame, view)
    top = view.scroll(rows.index(here) if here else 0, len(rows), room)
    shown = rows[top : top + room]
    columns = laid_out(_wanted(frame, view), shown, canvas.width - 1)
    lines = [_heading(columns, frame, view, canvas)]
    for place, row in enumerate(shown, top):
        lines.append(aimed(_row(row, columns, canvas, chosen=row is here), f"row:{place}"))
    if not rows and frame.connected:
        told = f'no pool matches "{view.filter}"' if view.filter else "no pools yet: no client has connected"
        lines.append([("class:dim", f" {told}")])
    return lines


def _wanted(frame: Frame, view: View) -> list[Column]:
    hidden = view.hidden[Screen.POOLS]
    return [c for c in COLUMNS if c.key not in hidden and (c.key not in PERCENTILES or frame.percentiles)]


def laid_out(wanted: list[Column], rows: Sequence[PoolRow], width: int) -> list[tuple[Column, int]]:
    """The columns there is room for, with their widths. Names get what they need before charts have anything; what is
    left over goes to whatever can grow."""
    kept = list(wanted)
    needs = {
        column: min(max((len(column.name(row)) for row in rows), default=0), column.most)
        for column in kept
        if column.name is not None
    }

    def least(column: Column) -> int:
        yields = any(other.rank >= YIELDING for other in kept)
        return max(column.width, needs.get(column, 0)) if yields else column.width

    while sum(least(column) + 1 for column in kept) > width and len(kept) > 1:
        kept.remove(max(kept, key=lambda column: column.rank))
    widths = {column: column.width for column in kept}
    spare = width - sum(column.width + 1 for column in kept)
    spare = _grown(widths, {column: need for column, need in needs.items() if column in widths}, spare)
    _grown(widths, {column: column.most for column in kept if column.most and column.name is None}, spare)
    return [(column, widths[column]) for column in kept]


def _grown(widths: dict[Column, int], most: dict[Column, int], spare: int) -> int:
    """Hand out the spare room, one column of the terminal after another; what is left."""
    growing = [column for column in most if widths[column] < most[column]]
    while spare > 0 and growing:
        for column in growing[:spare]:
            widths[column] += 1
            spare -= 1
        growing = [column for column in growing if widths[column] < most[column]]
    return spare


def _heading(columns: list[tuple[Column, int]], frame: Frame, view: View, canvas: Canvas) -> StyledLine:
    minutes = f"{max(round(frame.span / 60), 1)} min"
    arrow = canvas.glyphs.up if view.rising else canvas.glyphs.down
    line: StyledLine = [("", " ")]
    for column, width in columns:
        sorting = column.sort == view.sort.name
        title = f"{column.title}, {minutes}" if column.trend else column.title
        text = heading(title, width, arrow if sorting else "", right=column.right)
        style = "class:head.sort" if sorting else "class:head"
        if column.sort:
            style += f" [sort:{SORT_NAMES.index(column.sort)}]"
        gap = text[-1] == " "
        line += [(style, text[:-1]), ("", " ")] if gap else [(style, text)]
    return line


def _row(row: PoolRow, columns: list[tuple[Column, int]], canvas: Canvas, *, chosen: bool) -> StyledLine:
    line: StyledLine = [("", ">" if chosen else " ")]
    for column, width in columns:
        cell = column.draw(row, width, canvas.glyphs)
        blank = " " * max(width - length(cell), 0)
        line += [("", blank), *cell] if column.right else [*cell, ("", blank)]
        line.append(("", " "))
    return marked(line, canvas.width) if chosen else line
