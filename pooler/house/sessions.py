"""Who leaves what in its session: counted by kind and fate, shown while its client is here, told once.

The relay posts the first of each kind that a client does, and counts the rest by statement. The rule: whatever the
policy, nothing happens silently: a role that leaks is a warning, everything else a line of the log, once for each
client and kind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from pooler import relay
from pooler.config.kinds import PoolMode
from pooler.config.policy import Fate
from pooler.log import LOG, WARNING
from pooler.pools.connection import client_label
from pooler.pools.registry import PoolState
from pooler.pools.running import Running
from pooler.relay.engine import Instant
from pooler.sessions import OF_BEFORE
from pooler.stats import Event, SeenStat, SessionStat
from pooler.touches import PINNING, UNREAD, WORDS, Held, Touch
from pooler.values import dataclass

MOST_SEEN = 5_000
"""Statements of all pools together that are remembered; those after them are counted by kind only."""
EVENT = "session_state"
"""The kind of these among the events."""
UNTOLD = "(others)"
FOUND = "(found afterwards)"
"""As a statement: code has made it, of which nothing was seen."""


@dataclass(slots=True)
class Mark:
    """The first statement of a kind of one client, and when it came, on the wall's clock."""

    statement: str
    since: float


@dataclass(slots=True)
class Seen:
    """How often, from when to when."""

    count: int
    first: float
    last: float


class Sessions:
    """What is known of session state, beside the relay's."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self._marks: dict[int, dict[Held, Mark]] = {}
        self._clients: dict[int, relay.Client] = {}
        self.noted: tuple[dict[int, Any], ...] = (self._marks, self._clients)
        """What there is of clients, by their numbers."""
        self._seen: dict[tuple[str, str, Held, str, str], Seen] = {}
        self._counts: Counter[tuple[str, str]] = Counter()

    # ---- what the relay tells

    def touched(self, client: relay.Client, touch: Touch) -> None:
        """It does this kind of thing for the first time."""
        running, pool = self._running, client.pool.owner
        marks = self._marks.setdefault(client.id, {})
        self._clients[client.id] = client
        for kind in Held:
            if touch.kinds & kind and kind not in marks:
                marks[kind] = Mark(touch.said(kind), running.wall())
                fate = self.fate(pool, kind)
                if touch.statement == OF_BEFORE:
                    continue
                level = WARNING if kind is Held.ROLE and fate == "leaks" else LOG
                said = f"session state: {WORDS[kind]} {fate}: {touch.said(kind)}"
                running.say(level, f"{client_label(client.about)} {said}")

    def pinned(self, server: relay.Server, client: relay.Client, pins: int) -> None:
        """A server stays with its client, or no longer. What only a look has found is noted behind it."""
        now, marks = self._running.wall(), self._marks.get(client.id, {})
        found = [kind for kind in Held if kind & pinning(pins) and kind not in marks]
        for kind in found:
            self._clients[client.id] = client
            self._marks.setdefault(client.id, {})[kind] = Mark(FOUND, now)
            self._count(client.pool.owner, kind, FOUND, 1, now)
        what = f"stays with it for {', '.join(kind_words(pins))}" if pins else "is free again"
        self._running.say(LOG, f"{client_label(client.about)} its server {what}")

    def gone(self, client: relay.Client) -> None:
        for known in self.noted:
            known.pop(client.id, None)

    # ---- what is shown

    def fate(self, pool: PoolState, kind: Held) -> str:
        """What becomes of it in this pool."""
        registry = self._running.registry
        if registry.pool_mode(pool) is PoolMode.session:
            return "stays in its session"
        fate = registry.session_policy(pool).fate(kind)
        if fate is Fate.keep:
            if kind is Held.LISTEN and not pool.engine.hears:
                return "pins"
            return "pins" if kind & (PINNING | Held.SEQUENCE) else "follows"
        return "is refused" if fate is Fate.refuse else "leaks"

    def collect(self) -> None:
        """Take over what the relay has counted."""
        running = self._running
        now = running.wall()
        for pool in running.registry.pools():
            for touch, count in pool.engine.take_seen().items():
                for kind in Held:
                    if touch.kinds & kind:
                        self._count(pool, kind, touch.said(kind), count, now)

    def _count(self, pool: PoolState, kind: Held, statement: str, count: int, now: float) -> None:
        fate = self.fate(pool, kind)
        self._counts[pool.database.name, f"{WORDS[kind]} {fate}"] += count
        key = pool.database.name, pool.user.name, kind, fate, statement
        if key not in self._seen and len(self._seen) >= MOST_SEEN:
            key = *key[:-1], UNTOLD
        seen = self._seen.setdefault(key, Seen(0, now, now))
        seen.count += count
        seen.last = now

    def seen(self) -> Iterator[SeenStat]:
        """Statements that touched session state, since the start."""
        self.collect()
        for (database, user, kind, fate, statement), seen in self._seen.items():
            yield SeenStat(database, user, WORDS[kind], fate, statement, seen.count, seen.first, seen.last)

    def held(self, instant: Instant) -> Iterator[SessionStat]:
        """Of the clients that are here: what they have done of each kind, and whose server is pinned by it."""
        for number, marks in list(self._marks.items()):
            client = self._clients[number]
            server, pool = client.linked, client.pool.owner
            for kind, mark in marks.items():
                pins = server is not None and bool(pinning(server.pinned) & kind)
                yield SessionStat(
                    database=pool.database.name,
                    user=client.about.user,
                    application_name=self._application(client),
                    addr=client.about.peer.addr,
                    port=client.about.peer.port,
                    id=client.id,
                    kind=WORDS[kind],
                    fate="pins" if pins else self.fate(pool, kind),
                    statement=mark.statement,
                    since=mark.since,
                    pinned_us=instant.stamp - server.pinned_since if server is not None and pins else None,
                    server=server.pid if server is not None and pins else None,
                )

    def _application(self, client: relay.Client) -> str:
        names = self._running.relay.tracked_names
        value = client.parameters[names.index(b"application_name")]
        return value.decode("utf-8", "replace") if value else ""

    def events(self) -> Iterator[Event]:
        """By database, kind and fate."""
        self.collect()
        for (database, what), count in self._counts.items():
            yield Event(EVENT, database, what, count)


def pinning(pins: int) -> int:
    """Kinds by which a server stays with its client: what could not be read, or asked for, is code."""
    return pins | Held.UNSEEN if pins & UNREAD else pins


def kind_words(kinds: int) -> list[str]:
    return [WORDS[kind] for kind in Held if kinds & kind] or ["state that is not known"]
