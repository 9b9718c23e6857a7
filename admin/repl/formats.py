"""Answers as text: table, expanded, csv, json and markdown.

Pure: an Answer and a `Look` in, text out; the terminal's size is a number of the Look. What clients sent
(application_name, user names) is shown with its control characters spelled out, so that nobody's name can
move a cursor. Tables are set by tabulate.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from admin.client import colours, units
from admin.client.answers import Answer
from admin.client.terminal import printable

FILE_WIDTH = 80
"""That a file is thought to have, for rules across records."""
NAMES = ("table", "expanded", "csv", "json", "markdown")


@dataclass(frozen=True, slots=True)
class Look:
    """How answers are shown. With `vertical` None, a table wider than `width` (the terminal's) turns; if it is to be
    `compact` it does not, but leaves out the columns in which nothing is to be seen."""

    format: str = "table"
    vertical: bool | None = False
    human: bool = False
    colour: bool = False
    footer: bool = True
    width: int = 80
    compact: bool = False
    paused: Collection[str] = frozenset()


def render(answer: Answer, look: Look) -> str:
    """The answer's text, with its final newline; empty for a verb in a format that has no place for a tag."""
    return _FORMATS[look.format](answer, look)


def _table(answer: Answer, look: Look) -> str:
    if not answer.columns:
        return _tag(answer)
    if look.vertical:
        return _expanded(answer, look)
    cells = [_cells(answer, row, look) for row in answer.rows]
    if look.vertical is not None or not cells:
        return _grid(answer, cells, look) + _footer(answer, look)
    for folded in (False, True):
        if _fits(answer, cells, look, folded=folded):
            return _grid(answer, cells, look, folded=folded) + _footer(answer, look)
    return _compact(answer, look) if look.compact else _expanded(answer, look)


def _compact(answer: Answer, look: Look) -> str:
    """The columns with something in them; names are cut if that is not enough."""
    places = [place for place in range(len(answer.columns)) if any(row[place] for row in answer.rows)]
    left_out = len(answer.columns) - len(places)
    kept = Answer(
        tuple(answer.columns[place] for place in places),
        [tuple(row[place] for place in places) for row in answer.rows],
    )
    cells = [_cells(kept, row, look) for row in kept.rows]
    folded = not _fits(kept, cells, look, folded=False)
    if folded:
        kept = _shortened(kept, [max(map(_width, column)) for column in zip(*cells, strict=True)], look)
        cells = [_cells(kept, row, look) for row in kept.rows]
    told = f"; {left_out} column{' is' if left_out == 1 else 's are'} empty or 0)\n" if left_out else ")\n"
    return _grid(kept, cells, look, folded=folded) + _footer(answer, look).replace(")\n", told)


LEAST_NAME = 10
"""Of a name that is cut this much is kept."""


def _shortened(answer: Answer, widths: list[int], look: Look) -> Answer:
    """With the longest texts cut, so that the table fits if that is possible."""
    room = list(widths)
    while _needed(answer, room, folded=True) > look.width:
        longest = max(range(len(room)), key=lambda place: (not answer.columns[place].numeric, room[place]))
        if answer.columns[longest].numeric or room[longest] <= LEAST_NAME:
            break
        room[longest] -= 1
    rows = [tuple(_cut(value, width) for value, width in zip(row, room, strict=True)) for row in answer.rows]
    return Answer(answer.columns, rows)


def _cut(value: Any, width: int) -> Any:
    return value[: width - 1] + "…" if isinstance(value, str) and len(value) > width else value


def _fits(answer: Answer, cells: list[list[str]], look: Look, *, folded: bool) -> bool:
    widths = [max(map(_width, column)) for column in zip(*cells, strict=True)]
    return _needed(answer, widths, folded=folded) <= look.width


def _needed(answer: Answer, widths: list[int], *, folded: bool) -> int:
    """Columns of the terminal that the table takes: each column as wide as its widest line, 3 in between."""
    heads = (max(len(line) for line in _lines(name, folded)) for name in map(printable, answer.names))
    return sum(max(pair) + 3 for pair in zip(widths, heads, strict=True)) - 1


def _tag(answer: Answer) -> str:
    return f"{answer.tag}\n" if answer.tag and not answer.notices else ""


def _grid(answer: Answer, cells: list[list[str]], look: Look, *, folded: bool = False) -> str:
    """The table's lines; `folded` breaks headings at their underscores, which halves a wide view's width."""
    import tabulate

    tabulate.MIN_PADDING = 0  # else each heading is two columns wider than it needs to be
    text = tabulate.tabulate(
        cells or [[""] * len(answer.columns)],
        [_heading(name, look, folded) for name in map(printable, answer.names)],
        tablefmt="presto",
        colalign=["right" if column.numeric else "left" for column in answer.columns],
        disable_numparse=True,
        preserve_whitespace=True,
    )
    lines = [line.rstrip() for line in text.splitlines()]
    return "\n".join(lines if cells else lines[:-1]) + "\n"


def _heading(name: str, look: Look, folded: bool) -> str:
    return "\n".join(_painted(line, colours.BOLD, look) for line in _lines(name, folded))


def _lines(name: str, folded: bool) -> list[str]:
    """A heading's lines: `cl_active_cancel_req` may become four."""
    return re.sub(r"(?<=[a-z0-9])_(?=[a-z])", "_\n", name).split("\n") if folded else [name]


def _width(text: str) -> int:
    """Columns of the terminal that a cell takes."""
    plain = colours.stripped(text)
    if plain.isascii():
        return len(plain)
    from wcwidth import wcswidth

    return wcswidth(plain)


def _cells(answer: Answer, row: Sequence[Any], look: Look) -> list[str]:
    whole = colours.row_style(answer.names, tuple(row)) if look.colour else ""
    return [
        _painted(_shown(name, value, row, look), _style(name, value, whole, look), look)
        for name, value in zip(answer.names, row, strict=True)
    ]


def _shown(name: str, value: Any, row: Sequence[Any], look: Look) -> str:
    """A cell's text. SHOW TOTALS and its like name in the first column what the second counts."""
    if not look.human or not isinstance(value, (int, float)):
        return printable(value)
    return units.readable(str(row[0]) if name == "value" else name, value)


def _style(name: str, value: Any, whole: str, look: Look) -> str:
    if not look.colour:
        return ""
    return whole or colours.cell_style(name, value, look.paused)


def _painted(text: str, style: str, look: Look) -> str:
    return colours.paint(text, style) if look.colour else text


def _footer(answer: Answer, look: Look) -> str:
    if not look.footer:
        return ""
    count = len(answer.rows)
    return f"({count} row{'' if count == 1 else 's'})\n"


def _expanded(answer: Answer, look: Look) -> str:
    if not answer.columns:
        return _tag(answer)
    if not answer.rows:
        return _footer(answer, look)
    names = [printable(name) for name in answer.names]
    left = max(len(name) for name in names)
    records = [_cells(answer, row, look) for row in answer.rows]
    wide = max(len(colours.stripped(cell)) for cells in records for cell in cells)
    lines: list[str] = []
    right = min(wide, max(look.width - left - 3, 10))
    for number, cells in enumerate(records, 1):
        lines.append(_painted(_rule(number, left, right), colours.BOLD, look))
        lines += [f"{name:<{left}} | {cell}".rstrip() for name, cell in zip(names, cells, strict=True)]
    return "\n".join(lines) + "\n"


def _rule(number: int, left: int, right: int) -> str:
    """psql's line above a record: `-[ RECORD 1 ]-+-----`."""
    head = f"-[ RECORD {number} ]".ljust(left + 1, "-")
    if len(head) > left + 1:
        return head.ljust(left + 3 + right, "-")
    return f"{head}+{'-' * (right + 1)}"


def _csv(answer: Answer, look: Look) -> str:
    if not answer.columns:
        return ""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(answer.names)
    writer.writerows([_exact(value) for value in row] for row in answer.rows)
    return out.getvalue()


def _exact(value: Any) -> Any:
    return printable(value) if isinstance(value, bytes) else value


def _json(answer: Answer, look: Look) -> str:
    """One document: an array of objects, or for a verb an object with its tag."""
    if not answer.columns:
        return json.dumps({"command": answer.tag, **_noticed(answer)}, ensure_ascii=False) + "\n"
    names = _distinct(answer.names)
    rows = (json.dumps(dict(zip(names, map(_exact, row), strict=True)), ensure_ascii=False) for row in answer.rows)
    return "[" + ",\n ".join(rows) + "]\n"


def _noticed(answer: Answer) -> dict[str, Any]:
    told = [{"message": notice.message, "detail": notice.detail} for notice in answer.notices]
    return {"notices": told} if told else {}


def _distinct(names: Sequence[str]) -> list[str]:
    """Names made distinct, since a join can have two columns of one name: id, id_2."""
    seen: dict[str, int] = {}
    distinct = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        distinct.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return distinct


def _markdown(answer: Answer, look: Look) -> str:
    from tabulate import tabulate

    if not answer.columns:
        return ""
    plain = replace(look, colour=False)
    cells = [[cell.replace("|", r"\|") for cell in _cells(answer, row, plain)] for row in answer.rows]
    return (
        tabulate(
            cells,
            [printable(name).replace("|", r"\|") for name in answer.names],
            tablefmt="pipe",
            colalign=["right" if column.numeric else "left" for column in answer.columns] if cells else None,
            disable_numparse=True,
        )
        + "\n"
    )


_FORMATS: dict[str, Callable[[Answer, Look], str]] = {
    "table": _table,
    "expanded": _expanded,
    "csv": _csv,
    "json": _json,
    "markdown": _markdown,
}
