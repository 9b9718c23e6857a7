"""Numbers as people read them: durations, bytes and thousands, chosen by a column's name.

PgBouncer names its columns by habit rather than by rule, so the habits are a table here. Nothing is rounded
away that matters: three digits stay.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any

_UNITS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), unit)
    for pattern, unit in (
        (r"^(total_|avg_)?(xact|query|wait|login)_time$", "us"),
        (r"(^|_)us$", "us"),
        (r"^(wait|query|xact|login)_(p\d+|max|avg)$", "us"),
        (r"^(maxwait|wait|server_lifetime|uptime|ttl|age|seconds)$", "s"),
        (r"_seconds$", "s"),
        (r"^(avg_recv|avg_sent)$", "B/s"),
        (r"^(total_|bytes_)(received|sent)$", "B"),
        (r"^(memtotal|total_(client|server)_bytes)$", "B"),
        (r"^avg_(client|server)_bytes$", "B/s"),
        (r"(^|_)bytes(_|$)", "B"),
        (r"^(id|port|local_port|remote_pid|pid|ptr|link|fd|serial|peer_id)$", ""),
    )
)


@cache
def unit_of(column: str) -> str:
    """`us`, `s`, `B`, `B/s`, `n` for a count, or empty for a number that is a name."""
    return next((unit for pattern, unit in _UNITS if pattern.search(column)), "n")


def readable(column: str, value: Any) -> str:
    """A number of that column as a person reads it."""
    return _WRITERS[unit_of(column)](value)


def duration(microseconds: float) -> str:
    """`950 µs`, `1.25 ms`, `3.10 s`, `4m 05s`, `2h 03m`, `5d 02h`."""
    if abs(microseconds) < 1000:
        return f"{microseconds:.0f} µs" if microseconds else "0"
    if abs(microseconds) < 1_000_000:
        return f"{_three(microseconds / 1000)} ms"
    seconds = microseconds / 1_000_000
    if abs(seconds) < 60:
        return f"{_three(seconds)} s"
    return _long(int(seconds))


def _long(seconds: int) -> str:
    if seconds < 3600:
        return f"{seconds // 60}m {seconds % 60:02}s"
    if seconds < 86400:
        return f"{seconds // 3600}h {seconds % 3600 // 60:02}m"
    return f"{seconds // 86400}d {seconds % 86400 // 3600:02}h"


def size(count: float) -> str:
    """`512 B`, `1.25 kB`, `3.10 MB`, in powers of 1024 as PostgreSQL's pg_size_pretty."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(count) < 1024 or unit == "TB":
            break
        count /= 1024
    return f"{count:.0f} B" if unit == "B" else f"{_three(count)} {unit}"


def number(value: float) -> str:
    """`12,345`; a fraction keeps one digit."""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def short(value: float) -> str:
    """`999`, `1.2k`, `34.5k`, `1.2M`: a number for a narrow column."""
    for unit in ("", "k", "M", "G"):
        if abs(value) < 999.5 or unit == "G":
            break
        value /= 1000
    if not unit:
        return f"{value:.0f}"
    return f"{value:.1f}{unit}" if abs(value) < 99.95 else f"{value:.0f}{unit}"


def _three(value: float) -> str:
    """Three significant digits."""
    if abs(value) >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 9.995 else f"{value:.2f}"


_WRITERS: dict[str, Callable[[Any], str]] = {
    "us": duration,
    "s": lambda seconds: duration(seconds * 1_000_000),
    "B": size,
    "B/s": lambda count: f"{size(count)}/s",
    "n": number,
    "": str,
}
