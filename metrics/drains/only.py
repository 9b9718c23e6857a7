"""A sink for the lines about some databases, in front of one for all."""

from __future__ import annotations

from collections.abc import Sequence

from metrics.drains.sink import Sink
from metrics.heroku import LogLine
from pooler.stats import DrainStat


class Only:
    """Passes on what is about `databases`, which may become others."""

    def __init__(self, sink: Sink, databases: frozenset[str]) -> None:
        self._sink = sink
        self.databases = databases

    def emit(self, lines: Sequence[LogLine]) -> None:
        if wanted := [line for line in lines if line.addon in self.databases]:
            self._sink.emit(wanted)

    def reopen(self) -> None:
        self._sink.reopen()

    def stats(self) -> DrainStat:
        return self._sink.stats()

    async def close(self, timeout: float = 1.0) -> None:
        await self._sink.close(timeout)
