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

from admin.repl import colours, units
from admin.repl.answers import Answer

NAMES = ("table", "expanded", "csv", "json", "markdown")

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


@dataclass(frozen=True, slots=True)
class Look:
    """How answers are shown. With `vertical` None, a table wider than `width` (the terminal's) turns."""

    format: str = "table"
    vertical: bool | None = False
    human: bool = False
    colour: bool = False
    footer: bool = True
    width: int = 80
    paused: Collection[str] = frozenset()


def render(answer: Answer, look: Look) -> str:
    """The answer's text, with its final newline; empty for a verb in a format that has no place for a tag."""
    return _FORMATS[look.format](answer, look)


def printable(value: Any) -> str:
    """A value on one line, control characters spelled out."""
    if value is None:
        return ""
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    return _CONTROL.sub(_spelled, str(value))


def _spelled(found: re.Match[str]) -> str:
    code = ord(found[0])
    return _SHORT.get(found[0]) or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")


def _table(answer: Answer, look: Look) -> str:
    if not answer.columns:
        return _tag(answer)
    if look.vertical:
        return _expanded(answer, look)
    cells = [_cells(answer, row, look) for row in answer.rows]
    folded = False
    if look.vertical is None and cells:
        widths = [max(map(_width, column)) for column in zip(*cells, strict=True)]
        folded = _needed(answer, widths, folded=False) > look.width
        if folded and _needed(answer, widths, folded=True) > look.width:
            return _expanded(answer, look)
    return _grid(answer, cells, look, folded=folded) + _footer(answer, look)


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
