"""What happens, from counts of it: SHOW EVENTS read again and again, told as events with when they were last seen.

The console tells only how often; that something has just happened shows in a count that grew since the reading before.
Times are Unix seconds. The rule: the first reading is no news, nor is one of a pooler that was started anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from admin.top.model import Event
from pooler.readback import ShowRow, number

RECENT = 60.0
"""Seconds that `Event.recent` covers."""

Name = tuple[str, str, str]


class Chronicle:
    """The counts seen so far."""

    def __init__(self) -> None:
        self._counts: dict[Name, int] | None = None
        self._growths: dict[Name, deque[tuple[float, int]]] = {}
        self._last: dict[Name, float] = {}

    def take(self, rows: Iterable[ShowRow], now: float) -> None:
        """A reading."""
        counts = {(str(row["kind"]), str(row["database"]), str(row["reason"])): number(row, "count") for row in rows}
        before, self._counts = self._counts, counts
        if before is None or any(counts.get(name, 0) < count for name, count in before.items()):
            return
        for name, count in counts.items():
            gained = count - before.get(name, 0)
            if gained:
                self._growths.setdefault(name, deque()).append((now, gained))
                self._last[name] = now

    def events(self, now: float) -> tuple[Event, ...]:
        """All that was ever counted: what happened last comes first, then what happened most often."""
        found = [
            Event(*name, count, self._recent(name, now), self._last.get(name, 0.0))
            for name, count in (self._counts or {}).items()
        ]
        return tuple(sorted(found, key=lambda event: (-event.last, -event.count, event.text)))

    def _recent(self, name: Name, now: float) -> int:
        growths = self._growths.get(name)
        while growths and growths[0][0] <= now - RECENT:
            growths.popleft()
        return sum(gained for _, gained in growths or ())
