"""Lines of several poolers as one stream, each with the name of its pooler. Who cannot be reached is named, and keeps
nobody waiting."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from metrics.foreign.tail import Lost, Refused
from metrics.heroku import LogLine


class Named(NamedTuple):
    """A line, and whose it is; or why there are no more of that pooler: None at its end."""

    pooler: str
    line: LogLine | Exception | None


def name_of(url: str) -> str:
    """Host and port."""
    return urlsplit(url).netloc.rpartition("@")[2]


class Several:
    """`sources`: what gives the lines of each, by name; `complain` is told who has failed."""

    def __init__(self, sources: Mapping[str, Callable[[], Iterator[LogLine]]], complain: Callable[[str], None]) -> None:
        self._sources = sources
        self._complain = complain
        self._lines: queue.SimpleQueue[Named] = queue.SimpleQueue()
        self.failed = False
        """Whether any has."""

    def live(self) -> Iterator[tuple[str, LogLine]]:
        """As they come, until the last one has ended."""
        for name in self._sources:
            threading.Thread(target=self._read, args=(name,), name=f"lines {name}", daemon=True).start()
        left = len(self._sources)
        while left:
            name, line = self._lines.get()
            if isinstance(line, LogLine):
                yield name, line
                continue
            left -= 1
            if isinstance(line, Lost | Refused):
                self.failed = True
                self._complain(str(line) if name in str(line) else f"{name}: {line}")
            elif line is not None:
                raise line

    def past(self, count: int) -> list[tuple[str, LogLine]]:
        """The last `count` of all together, by their time."""
        lines = sorted(self.live(), key=lambda named: named[1].when)
        return lines[-count:] if count else []

    def _read(self, name: str) -> None:
        """In a thread."""
        end: Exception | None = None
        try:
            for line in self._sources[name]():
                self._lines.put(Named(name, line))
        except Exception as error:
            end = error
        self._lines.put(Named(name, end))
