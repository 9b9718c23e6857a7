"""Bars and sparklines, in blocks or in ASCII. Pure: numbers in, text out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from admin.client.terminal import Fragment


@dataclass(frozen=True, slots=True)
class Glyphs:
    """The characters of one kind of terminal. `steps` go from the least to the most."""

    steps: str
    busy: str
    idle: str
    free: str
    bullet: str
    up: str
    down: str
    ellipsis: str


BLOCKS = Glyphs("▁▂▃▄▅▆▇█", "█", "▒", "·", "●", "▲", "▼", "…")
ASCII = Glyphs("_.-=+*%#", "#", "=", ".", "*", "^", "v", "~")


def bar(glyphs: Glyphs, busy: int, idle: int, limit: int, width: int, style: str) -> list[Fragment]:
    """Busy and idle parts of a limit as a bar; anything above none is at least one cell."""
    whole = max(limit, busy + idle, 1)
    full = _cells(busy, whole, width)
    half = min(_cells(busy + idle, whole, width), width) - full
    if idle and not half and full < width:
        half = 1
    return [
        (style, glyphs.busy * full),
        ("class:idle", glyphs.idle * half),
        ("class:free", glyphs.free * (width - full - half)),
    ]


def _cells(part: int, whole: int, width: int) -> int:
    if part <= 0:
        return 0
    return max(1, min(width, round(part * width / whole)))


def sparkline(glyphs: Glyphs, values: Sequence[float | None], width: int, top: float = 0) -> str:
    """The values as a line of `width` columns, newest right; unknown is blank. `top`: least full height."""
    shown = resampled(values, width)
    highest = max((value for value in shown if value is not None), default=0)
    scale = max(top, highest)
    return "".join(_step(glyphs, value, scale) for value in shown)


def _step(glyphs: Glyphs, value: float | None, scale: float) -> str:
    if value is None:
        return " "
    if value <= 0 or scale <= 0:
        return glyphs.steps[0]
    last = len(glyphs.steps) - 1
    return glyphs.steps[min(last, 1 + int(value / scale * (last - 0.001)))]


def resampled(values: Sequence[float | None], width: int) -> list[float | None]:
    """`width` values that cover all of `values`: means of equal parts, unknown where a part knows nothing."""
    if width <= 0:
        return []
    if len(values) <= width:
        return [None] * (width - len(values)) + list(values)
    parts = (values[place * len(values) // width : (place + 1) * len(values) // width] for place in range(width))
    return [_mean([value for value in part if value is not None]) for part in parts]


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
