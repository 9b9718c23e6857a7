"""How long the HTTP listener waits for a request: connections that never finish asking are ended.

uvicorn waits for ever for the first head, and for a body; some hundred connections that say nothing would keep every
scrape and probe out. Rule: who has been sending the same request for READ_SECONDS, or no request, is gone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

READ_SECONDS = 10.0


class Patience:
    """What each connection was waited for, and since when."""

    def __init__(self) -> None:
        self.since: dict[Any, tuple[object, float]] = {}

    def weary(self, connections: Iterable[Any], now: float) -> list[Any]:
        """Those of uvicorn's connections to end; to be asked every second or so."""
        waiting: dict[Any, tuple[object, float]] = {}
        for connection in connections:
            if not reading(connection):
                continue
            known = self.since.get(connection)
            same = known is not None and known[0] is connection.cycle
            waiting[connection] = known if known is not None and same else (connection.cycle, now)
        self.since = waiting
        return [connection for connection, (_, since) in waiting.items() if now - since >= READ_SECONDS]


def reading(connection: Any) -> bool:
    """Whether it is the client's turn: to begin a request, or to send the rest of one."""
    cycle = connection.cycle
    return cycle is None or cycle.response_complete or cycle.more_body
