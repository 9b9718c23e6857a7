"""What the prompt knows without asking: a thread with its own connection keeps the toolbar and completion
fresh.

The typing thread never waits for it: it reads the frozen `Facts` and `Pulse` published last, and says
which topics it wants. The rule on cost: nothing is asked for that is not on the screen, so the pulse is
taken only while a prompt shows it, and clients are listed only while somebody completes a client's id.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from admin.client import vocabulary
from admin.client.address import Address
from admin.client.link import CannotConnect, CommandFailed, Lost
from admin.client.poll import Poll
from admin.client.vocabulary import Vocabulary
from pooler.readback import ShowRow
from pooler.stats import ADMIN_DATABASE, Snapshot, gained_in_all, seconds_between

PERIOD = 2.0
ANSWER_SECONDS = 5.0
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

    load: Callable[[Poll, Facts], Facts]
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
        self._period = period
        self._poll = Poll(address, "pooler console toolbar", ANSWER_SECONDS)
        self._turn = threading.Condition()
        self._wanted: set[str] = {"words", "databases", "users", "settings"}
        self._loaded: dict[str, float] = {}
        self._shown = self._stopping = self._moved = False
        self._due = 0.0
        self._last: Snapshot | None = None

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
        """Whether the toolbar is on the screen. Figures from before a long absence are not shown again."""
        with self._turn:
            self._shown = shown
            if shown and time.monotonic() > self._due + self._period:
                self.pulse = Pulse()
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
        self._poll.abort()

    def run(self) -> None:
        while (work := self._next_work()) is not None:
            try:
                try:
                    self._serve(*work)
                except Lost:  # of a console that may be back already, as after a restart while nobody looked
                    self._serve(*work)
            except (CannotConnect, Lost, CommandFailed) as error:
                self._last = None
                self._publish(self.facts, replace(Pulse(), trouble=str(error)))
        self._poll.close()

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

    def _connected(self) -> set[str]:
        """See to it that we are connected to where the session is; the topics that are to be learnt of it at once."""
        if self._moved:
            self._moved = False
            self._poll.close()
        if not self._poll.connect():
            return set()
        self._last = None
        self._loaded.clear()
        return {"words"}

    def _serve(self, topics: set[str], pulse: bool) -> None:
        wanted = topics | self._connected()
        facts = self.facts
        for topic in sorted(wanted, key=list(TOPICS).index):
            facts = self._load(topic, facts)
            self._publish(facts, self.pulse)
        if pulse:
            self._publish(*self._beat(facts))

    def _load(self, topic: str, facts: Facts) -> Facts:
        """The topic's facts; a console that refuses (rights, age) simply has none."""
        self._loaded[topic] = time.monotonic()
        try:
            return TOPICS[topic].load(self._poll, facts)
        except CommandFailed:
            return facts

    def _beat(self, facts: Facts) -> tuple[Facts, Pulse]:
        self._poll.refresh("DATABASES", "STATE", "POOLS", "STATS")
        now = self._poll.snapshot()
        before, self._last = self._last, now
        return _with_databases(facts, self._poll.rows("DATABASES")), pulse_of(now, before, self._poll.version)

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


def pulse_of(now: Snapshot, before: Snapshot | None, version: str) -> Pulse:
    """The toolbar's figures, and the transactions a second since the ones before."""
    pools = [pool for pool in now.pools if pool.database != ADMIN_DATABASE]
    tps = None
    if before is not None:
        tps = gained_in_all(now, before).xact_count / max(seconds_between(now, before), 0.001)
    return Pulse(
        connected=True,
        version=version,
        pools=len(pools),
        state="paused" if now.paused else "suspended" if now.suspended else "",
        paused=tuple(sorted(database.name for database in now.databases if database.paused)),
        clients=sum(pool.cl_active + pool.cl_waiting for pool in pools),
        waiting=sum(pool.cl_waiting for pool in pools),
        maxwait=max((pool.maxwait_us for pool in pools), default=0) / 1e6,
        servers=sum(pool.sv_active for pool in pools),
        tps=tps,
    )


def _words(poll: Poll, facts: Facts) -> Facts:
    return replace(facts, vocabulary=poll.words.with_columns(vocabulary.own_columns()))


def _databases(poll: Poll, facts: Facts) -> Facts:
    return _with_databases(facts, poll.ask("DATABASES"))


def _with_databases(facts: Facts, rows: Sequence[ShowRow]) -> Facts:
    return replace(
        facts,
        databases=tuple(row["name"] for row in rows if row["name"] != ADMIN_DATABASE),
        paused=frozenset(row["name"] for row in rows if row.get("paused") == 1),
    )


def _users(poll: Poll, facts: Facts) -> Facts:
    rows = poll.ask("USERS")
    return replace(facts, users=tuple(row["name"] for row in rows))


def _settings(poll: Poll, facts: Facts) -> Facts:
    rows = poll.ask("CONFIG")
    return replace(
        facts,
        settings={
            row["key"]: Setting(row["value"] or "", row.get("default") or "", row["changeable"] == "yes")
            for row in rows
        },
    )


def _clients(poll: Poll, facts: Facts) -> Facts:
    rows = poll.ask("CLIENTS")
    return replace(facts, clients=tuple(map(_client, rows[:MOST_CLIENTS])))


def _client(row: ShowRow) -> tuple[str, str]:
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
