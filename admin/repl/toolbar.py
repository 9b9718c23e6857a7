"""The line at the bottom of the prompt: the pooler's pulse, fitted to the terminal's width.

Pure: a Pulse in, styled fragments out. What matters most stands left, and what does not fit is left out
whole.
"""

from __future__ import annotations

from dataclasses import dataclass

from admin.client import units
from admin.client.terminal import Fragment
from admin.repl.background import Pulse

STYLES = {
    "bottom-toolbar": "noreverse bg:#303030 #c6c6c6",
    "bar.ok": "#87d787",
    "bar.alarm": "bold #ff8787",
    "bar.warning": "bold #ffd787",
    "bar.paused": "bold #d7afff",
    "bar.dim": "#8a8a8a",
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where the session is, and how it is set; what the pulse does not know."""

    label: str
    options: str = ""
    glyphs: bool = True


def bar(pulse: Pulse, place: Place, width: int) -> list[Fragment]:
    """The toolbar's fragments, at most `width` columns."""
    parts = _connected(pulse, place) if pulse.connected else _away(pulse, place)
    if place.options:
        parts.append(("class:bar.dim", place.options))
    return _fit(parts, width, " │ " if place.glyphs else " | ")


def _connected(pulse: Pulse, place: Place) -> list[Fragment]:
    return [
        ("class:bar.ok", f"{'●' if place.glyphs else '*'} {place.label} {pulse.version}"),
        _pools(pulse),
        _figure("waiting", f"{pulse.waiting:,}", "class:bar.warning" if pulse.waiting else ""),
        _figure("max wait", _wait(pulse), "class:bar.alarm" if pulse.maxwait >= 1 else ""),
        ("", f"{'…' if pulse.tps is None else units.short(pulse.tps)} tps"),
        ("", f"{pulse.clients:,} clients, {pulse.servers:,} servers busy"),
    ]


def _away(pulse: Pulse, place: Place) -> list[Fragment]:
    if not pulse.trouble:
        return [("class:bar.dim", f"{'○' if place.glyphs else '-'} {place.label}")]
    return [("class:bar.alarm", f"{'✗' if place.glyphs else '!'} {place.label} not connected, trying"),
            ("class:bar.dim", pulse.trouble)]  # fmt: skip


def _pools(pulse: Pulse) -> Fragment:
    count = f"{pulse.pools} pool{'' if pulse.pools == 1 else 's'}"
    if pulse.state:
        return "class:bar.paused", f"{count}, all {pulse.state}"
    if pulse.paused:
        names = ", ".join(pulse.paused[:2]) + ("…" if len(pulse.paused) > 2 else "")
        return "class:bar.paused", f"{count}, paused: {names}"
    return "", count


def _wait(pulse: Pulse) -> str:
    return units.duration(pulse.maxwait * 1e6) if pulse.maxwait else "0"


def _figure(name: str, value: str, style: str) -> Fragment:
    return style, f"{name} {value}"


def _fit(parts: list[Fragment], width: int, between: str) -> list[Fragment]:
    """The parts that fit, from the left."""
    line: list[Fragment] = []
    room = width - 1
    for style, text in parts:
        glue = between if line else " "
        if len(glue) + len(text) > room:
            if not line:
                line.append((style, (glue + text)[: max(room, 0)]))
            break
        line += [("class:bar.dim", glue), (style, text)]
        room -= len(glue) + len(text)
    return line
