"""Where the figures come from: a callable that answers with a Snapshot, at once or after an await.

The pooler's own source answers at once; a foreign PgBouncer has to be asked over the wire, and sibling
processes will have to be as well. Whoever needs figures calls `take` and need not know which. A source that
cannot answer raises `Unavailable`, with a sentence fit for a log line.
"""

from __future__ import annotations

from collections.abc import Awaitable
from inspect import isawaitable
from typing import Protocol

from pooler.stats import Snapshot


class Unavailable(Exception):
    """The source has no figures now; the message says why, without secrets."""


class Source(Protocol):
    def __call__(
        self, *, clients: bool = False, servers: bool = False, histograms: bool = False
    ) -> Snapshot | Awaitable[Snapshot]: ...


async def take(source: Source, *, clients: bool = False, servers: bool = False, histograms: bool = False) -> Snapshot:
    answer = source(clients=clients, servers=servers, histograms=histograms)
    return await answer if isawaitable(answer) else answer
