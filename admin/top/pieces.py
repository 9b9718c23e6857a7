"""Pieces of lines: styled text that is fitted, padded, cut and marked. Pure, and knows nothing of pools.

A fragment's style may carry a target in square brackets, such as `[row:3]`: what a click on it means (see
`control.click`); prompt-toolkit passes over what stands in brackets. The rule: what does not fit is left out whole,
from the least important on; only names are ever cut, and that shows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from admin.client import units
from admin.client.terminal import Fragment, printable
from admin.top.glyphs import Glyphs

StyledLine = list[Fragment]

_TARGET = re.compile(r"\[(\w+:[\w-]+)\]")

GRAPHIC = frozenset({"class:busy", "class:full", "class:idle", "class:free", "class:spark", "class:spark.wait"})
"""What is drawn rather than written. Reversed, a full bar would look empty and an empty line full."""
LOUD = frozenset({"class:alarm", "class:warning", "class:paused", "class:full"})


@dataclass(frozen=True, slots=True)
class Canvas:
    """The terminal, or the part of it that is left."""

    width: int
    height: int
    glyphs: Glyphs


@dataclass(frozen=True, slots=True)
class Part:
    """Something that is shown whole or not at all; those of the highest `rank` go first. `glue` stands before it unless
    it is the first."""

    rank: int
    line: StyledLine
    glue: str = " | "


def fitted(parts: Sequence[Part], width: int) -> StyledLine:
    """As many of the parts as fit, in their order."""
    kept = list(parts)
    while len(kept) > 1 and length(joined(kept)) > width:
        kept.remove(max(kept, key=lambda part: part.rank))
    return joined(kept)


def joined(parts: Sequence[Part]) -> StyledLine:
    line: StyledLine = [("", " ")]
    for place, part in enumerate(parts):
        line += [("class:dim", part.glue), *part.line] if place else part.line
    return line


def target(line: StyledLine, column: int) -> str:
    """What a click in that column of the line means; empty for nothing."""
    for style, text in line:
        if column < len(text):
            found = _TARGET.search(style)
            return found[1] if found else ""
        column -= len(text)
    return ""


def aimed(line: StyledLine, target: str) -> StyledLine:
    """The line with that target everywhere."""
    return [(f"{style} [{target}]", text) for style, text in line]


def marked(line: StyledLine, width: int) -> StyledLine:
    """The chosen line, to its end: plain reverse video, which every terminal and theme shows with its own contrast, so
    no cell keeps its colour but what is drawn, which is not reversed."""
    return [(_chosen(style), text) for style, text in padded(line, width)]


def _chosen(style: str) -> str:
    words = style.split()
    names, rest = [word for word in words if word.startswith("class:")], [word for word in words if word[0] == "["]
    if GRAPHIC.intersection(names):
        return style
    return " ".join(["class:selected.loud" if LOUD.intersection(names) else "class:selected", *rest])


def optional(value: float | None, write: Callable[[float], str]) -> str:
    return "-" if value is None else write(value)


def time_of(microseconds: float) -> str:
    return units.duration(microseconds) if microseconds else "-"


def seconds_of(seconds: float) -> str:
    return units.duration(seconds * 1_000_000) if seconds else "0"


def alarming(text: str, value: float, style: str) -> StyledLine:
    return [(style if value else "class:title", text)]


def short(text: str, width: int, glyphs: Glyphs) -> str:
    plain = printable(text)
    return plain if len(plain) <= width else plain[: max(width - 1, 0)] + glyphs.ellipsis


def length(line: StyledLine) -> int:
    return sum(len(text) for _, text in line)


def padded(line: StyledLine, width: int) -> StyledLine:
    return [*line, ("", " " * max(width - length(line), 0))]


def spread(left: StyledLine, right: StyledLine, width: int) -> StyledLine:
    """Left and right on one line; what does not fit beside the right is cut from the left."""
    room = max(width - length(right), 0)
    return [*padded(clipped(left, room), room), *right]


def clipped(line: StyledLine, width: int) -> StyledLine:
    """The line's first `width` columns."""
    kept: StyledLine = []
    for style, text in line:
        if width <= 0:
            break
        kept.append((style, text[:width]))
        width -= len(text)
    return kept


def heading(title: str, width: int, arrow: str, *, right: bool) -> str:
    """A column's title and the blank behind it, which is where the arrow goes when the title fills its column."""
    text = title[:width]
    if right:
        return text.rjust(width) + (arrow or " ")
    return f"{text}{arrow}".ljust(width + 1)
