"""Which cells stand out, and in which colour: waiting clients, paused pools, what is about to close.

A table of columns and conditions; the terminal's escape sequences are here and nowhere else. Colour is off
when the output is no terminal, when NO_COLOR is set (no-color.org) or the terminal is dumb.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import IO, Any

BOLD, DIM, RED, GREEN, YELLOW, MAGENTA = "1", "2", "31", "32", "33", "35"
ALARM, WARNING, PAUSED = f"{BOLD};{RED}", f"{BOLD};{YELLOW}", f"{BOLD};{MAGENTA}"

_SEQUENCE = re.compile(r"\x1b\[[0-9;]*m")


def wanted(stream: IO[str], environment: Mapping[str, str] = os.environ) -> bool:
    """Whether escape sequences belong on this stream."""
    if environment.get("NO_COLOR") or environment.get("TERM", "dumb") in ("dumb", "unknown", ""):
        return False
    return stream.isatty()


def paint(text: str, style: str) -> str:
    return f"\x1b[{style}m{text}\x1b[0m" if style and text else text


def stripped(text: str) -> str:
    """The text without colours."""
    return _SEQUENCE.sub("", text)


def _positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and value > 0


def _is(*words: str) -> Callable[[Any], bool]:
    return lambda value: value in words


@dataclass(frozen=True, slots=True)
class Rule:
    """A cell of one of these columns that is so gets the style."""

    columns: frozenset[str]
    holds: Callable[[Any], bool]
    style: str


def _rule(columns: str, holds: Callable[[Any], bool], style: str) -> Rule:
    return Rule(frozenset(columns.split()), holds, style)


RULES = (
    _rule("maxwait wait", _positive, ALARM),
    _rule("cl_waiting cl_waiting_cancel_req maxwait_us", _positive, WARNING),
    _rule("sum(cl_waiting) max(maxwait) waiting", _positive, WARNING),
    _rule("paused disabled", _positive, PAUSED),
    _rule("close_needed sv_login", _positive, YELLOW),
    _rule("state", _is("waiting", "cl_waiting", "waiting_cancel_req"), WARNING),
    _rule("state", _is("active", "cl_active", "sv_active"), GREEN),
    _rule("state", _is("idle", "sv_idle", "used", "sv_used"), DIM),
)


def cell_style(column: str, value: Any, paused: Collection[str] = ()) -> str:
    """The style of a cell, empty for none. `paused` are the databases known to be paused."""
    for rule in RULES:
        if column in rule.columns and rule.holds(value):
            return rule.style
    if paused and column in ("database", "name") and value in paused:
        return PAUSED
    return DIM if value == 0 and isinstance(value, (int, float)) else ""


def row_style(names: tuple[str, ...], row: tuple[Any, ...]) -> str:
    """A style for a whole row: a paused or disabled database, a state that is not normal."""
    found = dict(zip(names, row, strict=True))
    if found.get("paused") == 1 or found.get("disabled") == 1:
        return PAUSED
    if found.get("key") in ("paused", "suspended") and found.get("value") == "yes":
        return PAUSED
    return ""


def pieces(text: str) -> list[str]:
    """The text cut into escape sequences and what stands between them."""
    return [piece for piece in re.split(r"(\x1b\[[0-9;]*m)", text) if piece]
