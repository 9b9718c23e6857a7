"""What the prompt knows without asking: a thread with its own connection keeps the toolbar and completion
fresh.

The typing thread never waits for it: it reads the frozen `Facts` and `Pulse` published last, and says
which topics it wants. The rule on cost: nothing is asked for that is not on the screen, so the pulse is
taken only while a prompt shows it, and clients are listed only while somebody completes a client's id.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from admin.repl import vocabulary
from admin.repl.address import Address
from admin.repl.answers import Answer
from admin.repl.link import CannotConnect, CommandFailed, Link, Lost
from admin.repl.vocabulary import Vocabulary

PERIOD = 2.0
ANSWER_SECONDS = 5.0
ADMIN_DATABASE = "pgbouncer"
MOST_CLIENTS = 500
"""More ids than this help nobody choose."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A row of SHOW CONFIG."""

    value: str
    default: str
    changeable: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """What completion offers beside words."""

    vocabulary: Vocabulary = field(default_factory=vocabulary.own)
    databases: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    settings: Mapping[str, Setting] = field(default_factory=dict)
    clients: tuple[tuple[str, str], ...] = ()
    """Ids, and who that is."""
    paused: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Pulse:
    """What the toolbar shows. `tps` is None until two samples are in; `trouble` tells why there is none."""

    connected: bool = False
    version: str = ""
    pools: int = 0
    state: str = ""
    paused: tuple[str, ...] = ()
    clients: int = 0
    waiting: int = 0
    maxwait: float = 0.0
    servers: int = 0
    tps: float | None = None
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Topic:
    """Something completion may want: how to read it into Facts, and for how many seconds it stays good."""

    load: Callable[[Link, Facts], Facts]
    seconds: float


class Background(threading.Thread):
    """The thread. `on_change` is called from it whenever something new is published."""

    def __init__(
        self,
        address: Callable[[], Address],
        on_change: Callable[[], None] = lambda: None,
        period: float = PERIOD,
    ) -> None:
        super().__init__(name="console-background", daemon=True)
        self.facts = Facts()
        self.pulse = Pulse()
        self.on_change = on_change
        self._address = address
        self._period = period
        self._link: Link | None = None
        self._turn = threading.Condition()
        self._wanted: set[str] = {"words", "databases", "users", "settings"}
        self._loaded: dict[str, float] = {}
        self._shown = self._stopping = self._moved = False
        self._due = 0.0
        self._last: tuple[float, int] | None = None

    def want(self, *topics: str) -> bool:
        """Have these topics refreshed if they are older than they should be; whether that is so."""
        now = time.monotonic()
        stale = {topic for topic in topics if now - self._loaded.get(topic, -1e9) > TOPICS[topic].seconds}
        if stale - self._wanted:
            with self._turn:
                self._wanted |= stale
                self._turn.notify()
        return bool(stale)

    def expire(self, *topics: str) -> None:
        """These topics have just been changed by a command."""
        for topic in topics:
            self._loaded.pop(topic, None)
        self.want(*topics)

    def show(self, shown: bool) -> None:
        """Whether the toolbar is on the screen."""
        with self._turn:
            self._shown = shown
            self._turn.notify()

    def move(self) -> None:
        """The session is connected elsewhere now."""
        with self._turn:
            self._moved = True
            self._wanted |= {"words", "databases", "users", "settings"}
            self._turn.notify()

    def learn(self, view: str, columns: tuple[str, ...]) -> None:
        """The console has just shown this view with these columns."""
        with self._turn:
            words = self.facts.vocabulary.learnt(view, columns)
            self.facts = replace(self.facts, vocabulary=words)

    def stop(self) -> None:
        with self._turn:
            self._stopping = True
            self._turn.notify()
        link = self._link
        if link is not None:
            link.abort()

    def run(self) -> None:
        while (work := self._next_work()) is not None:
            topics, pulse = work
            try:
                self._serve(self._connected(), topics, pulse)
            except (CannotConnect, Lost, CommandFailed) as error:
                self._last = None
                self._publish(self.facts, replace(Pulse(), trouble=str(error)))
        if self._link is not None:
            self._link.close()

    def _next_work(self) -> tuple[set[str], bool] | None:
        """Wait for something to do: topics, or the next pulse while it is shown. None to stop."""
        with self._turn:
            while not self._stopping:
                now = time.monotonic()
                pulse = self._shown and now >= self._due
                if self._wanted or pulse:
                    topics, self._wanted = self._wanted, set()
                    if pulse:
                        self._due = now + self._period
                    return topics, pulse
                self._turn.wait(self._due - now if self._shown else None)
        return None

    def _connected(self) -> Link:
        if self._link is not None and (self._moved or self._link.closed):
            self._link.close()
            self._link = None
        if self._link is None:
            self._moved = False
            self._last = None
            self._loaded.clear()
            self._link = Link.open(self._address(), "pooler console toolbar")
            self._wanted |= {"words"}
        return self._link

    def _serve(self, link: Link, topics: set[str], pulse: bool) -> None:
        facts = self.facts
        for topic in sorted(topics, key=list(TOPICS).index):
            facts = self._load(link, topic, facts)
            self._publish(facts, self.pulse)
        if pulse:
            self._publish(*self._beat(link, facts))

    def _load(self, link: Link, topic: str, facts: Facts) -> Facts:
        """The topic's facts; a console that refuses (rights, age) simply has none."""
        self._loaded[topic] = time.monotonic()
        try:
            return TOPICS[topic].load(link, facts)
        except CommandFailed:
            return facts

    def _beat(self, link: Link, facts: Facts) -> tuple[Facts, Pulse]:
        pools = link.ask("SHOW POOLS", seconds=ANSWER_SECONDS)
        stats = link.ask("SHOW STATS", seconds=ANSWER_SECONDS)
        facts = _databases(link, facts)
        states = _states(link, facts)
        count = sum(row["total_xact_count"] for row in _pooled(stats))
        now = time.monotonic()
        tps = None if self._last is None else (count - self._last[1]) / max(now - self._last[0], 0.001)
        self._last = now, count
        return facts, pulse_of(pools, link.version, states, facts.paused, tps)

    def _publish(self, facts: Facts, pulse: Pulse) -> None:
        with self._turn:
            facts = replace(facts, vocabulary=_newer(facts.vocabulary, self.facts.vocabulary))
            changed = facts != self.facts or pulse != self.pulse
            self.facts, self.pulse = facts, pulse
        if changed:
            self.on_change()


def _newer(words: Vocabulary, published: Vocabulary) -> Vocabulary:
    """The words just read, with the columns that were learnt meanwhile."""
    if words.views.keys() != published.views.keys():
        return words
    return replace(words, columns={**words.columns, **published.columns})


def pulse_of(pools: Answer, version: str, state: str, paused: frozenset[str], tps: float | None) -> Pulse:
    """The toolbar's figures of one SHOW POOLS."""
    rows = _pooled(pools)
    waits = [row["maxwait"] + row.get("maxwait_us", 0) / 1e6 for row in rows]
    return Pulse(
        connected=True,
        version=version,
        pools=len(rows),
        state=state,
        paused=tuple(sorted(paused)),
        clients=sum(row["cl_active"] + row["cl_waiting"] for row in rows),
        waiting=sum(row["cl_waiting"] for row in rows),
        maxwait=max(waits, default=0.0),
        servers=sum(row["sv_active"] for row in rows),
        tps=None if tps is None else max(tps, 0.0),
    )


def _pooled(answer: Answer) -> list[dict[str, Any]]:
    """Rows other than the console's own."""
    return [row for row in answer.records() if row["database"] != ADMIN_DATABASE]


def _states(link: Link, facts: Facts) -> str:
    """`paused` or `suspended` when the whole pooler is; PgBouncer tells since 1.19."""
    if not facts.vocabulary.has_view("STATE"):
        return ""
    rows = link.ask("SHOW STATE", seconds=ANSWER_SECONDS).rows
    return next((key for key, value in rows if value == "yes" and key != "active"), "")


def _words(link: Link, facts: Facts) -> Facts:
    told = link.ask("SHOW HELP", seconds=ANSWER_SECONDS)
    words = vocabulary.own().told(told.notices).with_columns(vocabulary.own_columns())
    return replace(facts, vocabulary=words)


def _databases(link: Link, facts: Facts) -> Facts:
    rows = link.ask("SHOW DATABASES", seconds=ANSWER_SECONDS).records()
    return replace(
        facts,
        databases=tuple(row["name"] for row in rows if row["name"] != ADMIN_DATABASE),
        paused=frozenset(row["name"] for row in rows if row.get("paused") == 1),
    )


def _users(link: Link, facts: Facts) -> Facts:
    rows = link.ask("SHOW USERS", seconds=ANSWER_SECONDS).records()
    return replace(facts, users=tuple(row["name"] for row in rows))


def _settings(link: Link, facts: Facts) -> Facts:
    rows = link.ask("SHOW CONFIG", seconds=ANSWER_SECONDS).records()
    return replace(
        facts,
        settings={
            row["key"]: Setting(row["value"] or "", row.get("default") or "", row["changeable"] == "yes")
            for row in rows
        },
    )


def _clients(link: Link, facts: Facts) -> Facts:
    rows = link.ask("SHOW CLIENTS", seconds=ANSWER_SECONDS).records()
    return replace(facts, clients=tuple(map(_client, rows[:MOST_CLIENTS])))


def _client(row: Mapping[str, Any]) -> tuple[str, str]:
    """A client's id (before 1.24 its address in memory is all there is) and who it is."""
    who = f"{row['user']}@{row['database']} {row['state']} {row['addr']} {row.get('application_name', '')}"
    return str(row.get("id", row["ptr"])), who.strip()


TOPICS: dict[str, Topic] = {
    "words": Topic(_words, 1e9),
    "databases": Topic(_databases, 5),
    "users": Topic(_users, 15),
    "settings": Topic(_settings, 60),
    "clients": Topic(_clients, 3),
}
