"""The thread that asks the console and makes Frames. The screen's thread never waits for it, nor parses.

The rule on cost: each second only SHOW POOLS and SHOW STATS; limits, percentiles and states every few
seconds; clients and servers only while a detail screen shows them, and the seldomer the longer the answer
takes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from admin.repl import vocabulary
from admin.repl.address import Address
from admin.repl.link import CannotConnect, CommandFailed, Link, Lost
from admin.repl.vocabulary import Vocabulary
from admin.top import model
from admin.top.model import Detail, Frame, Key, Limits, PoolRow, Rates, Record
from admin.top.trends import Trends

ANSWER_SECONDS = 10.0
SLOW_PERIOD = 5.0
"""For limits, percentiles and states."""
DETAIL_PERIOD = 2.0
DETAIL_SHARE = 100
"""A detail that takes t seconds to answer is asked for every 100 t: it costs the server 1 % of a core at worst."""
RETRY_PERIOD = 2.0
EMPTY: dict[str, Any] = {}


@dataclass(slots=True)
class Slow:
    """What is asked for every SLOW_PERIOD."""

    due: float = 0.0
    limits: dict[str, Limits] | None = None
    forced: dict[str, str] = field(default_factory=dict)
    """Whose pool all clients of a database share, where its entry names a user."""
    p99: dict[Key, float] | None = None
    counts: dict[Key, int] = field(default_factory=dict)
    """Transactions by pool over the last periods, where the console tells: how a database's pools share its tps."""
    state: str = ""


class Feed(threading.Thread):
    """Publishes a Frame every `delay` seconds as `frame`, and calls `on_frame` from its own thread."""

    def __init__(self, address: Address, delay: float = 1.0, on_frame: Callable[[], None] = lambda: None) -> None:
        super().__init__(name="top-feed", daemon=True)
        self.frame = Frame(label=address.label, delay=delay)
        self.on_frame = on_frame
        self._address = address
        self._link: Link | None = None
        self._words: Vocabulary = vocabulary.own()
        self._turn = threading.Condition()
        self._delay = delay
        self._stopping = self._hurry = False
        self._detail_key: Key | None = None
        self._detail_due = 0.0
        self._slow = Slow()
        self._last: tuple[float, dict[str, Record]] | None = None
        self._trends = Trends()

    def stop(self) -> None:
        self._wake(stopping=True)
        link = self._link
        if link is not None:
            link.abort()

    def set_delay(self, seconds: float) -> None:
        self._delay = seconds
        self._wake()

    def show_detail(self, key: Key | None) -> None:
        """Which pool's connections are on the screen; None for no pool's."""
        if key != self._detail_key:
            self._detail_key, self._detail_due = key, 0.0
            self._wake()

    def refresh(self) -> None:
        """Something was changed by a command: ask for everything now."""
        self._slow.due = self._detail_due = 0.0
        self._wake()

    def _wake(self, *, stopping: bool = False) -> None:
        with self._turn:
            self._hurry = True
            self._stopping = self._stopping or stopping
            self._turn.notify()

    def run(self) -> None:
        while not self._stopping:
            began = time.monotonic()
            pause = self._delay
            try:
                self._publish(self._take(self._connected()))
            except (CannotConnect, Lost, CommandFailed) as error:
                self._forget()
                pause = RETRY_PERIOD
                self._publish(replace(self.frame, connected=False, trouble=str(error), now=time.time()))
            with self._turn:
                left = pause - (time.monotonic() - began)
                if not self._hurry and not self._stopping:
                    self._turn.wait(max(left, 0.01))
                self._hurry = False
        if self._link is not None:
            self._link.close()

    def _publish(self, frame: Frame) -> None:
        self.frame = frame
        self.on_frame()

    def _forget(self) -> None:
        """The connection is gone, and with it the meaning of the last sample."""
        if self._link is not None:
            self._link.close()
        self._link, self._last = None, None
        self._slow.due = self._detail_due = 0.0

    def _connected(self) -> Link:
        if self._link is None:
            self._link = Link.open(self._address, "pooler top")
            told = self._link.ask("SHOW HELP", seconds=ANSWER_SECONDS)
            self._words = vocabulary.own().told(told.notices)
            if self._trends.empty and self._words.has_view("HISTORY"):
                self._trends.remember(self._ask(self._link, "HISTORY"), time.time())
        return self._link

    def _ask(self, link: Link, view: str) -> list[Record]:
        return list(link.ask(f"SHOW {view}", seconds=ANSWER_SECONDS).records())

    def _take(self, link: Link) -> Frame:
        """One Frame, from two questions and what is remembered."""
        now, monotonic = time.time(), time.monotonic()
        pools = model.pooled(self._ask(link, "POOLS"))
        stats = {row["database"]: row for row in model.pooled(self._ask(link, "STATS"))}
        if monotonic >= self._slow.due:
            self._take_slow(link, monotonic)
        found = self._rates(monotonic, stats)
        tps = self._sample(now, found, pools)
        rows = tuple(
            self._row(pool, pools, found.get(pool["database"]), tps.get((pool["database"], pool["user"])), now)
            for pool in pools
        )
        return Frame(
            now=now,
            label=self._address.label,
            version=link.version,
            connected=True,
            state=self._slow.state,
            rows=rows,
            totals=model.totals(rows, found.values(), *self._trends.of_all(now)),
            span=self._trends.span,
            percentiles=self._slow.p99 is not None,
            detail=self._detail(link, monotonic),
            delay=self._delay,
        )

    def _take_slow(self, link: Link, monotonic: float) -> None:
        slow = self._slow
        slow.due = monotonic + max(SLOW_PERIOD, self._delay)
        databases = self._ask(link, "DATABASES")
        slow.limits = model.limits(databases)
        slow.forced = {row["name"]: row["force_user"] for row in databases if row.get("force_user")}
        slow.p99 = self._percentiles(link)
        slow.state = ""
        if self._words.has_view("STATE"):
            states = [row["key"] for row in self._ask(link, "STATE") if row["value"] == "yes"]
            slow.state = next((state for state in states if state != "active"), "")

    def _percentiles(self, link: Link) -> dict[Key, float] | None:
        """p99 of queries by pool, or by database (user empty); None when the console has no such view."""
        for view in ("POOL_LATENCY", "LATENCY"):
            if self._words.has_view(view):
                rows = self._ask(link, view)
                if view == "POOL_LATENCY":
                    self._slow.counts = {(row["database"], row["user"]): row["xact_count"] for row in rows}
                return {(row["database"], row.get("user", "")): float(row["query_p99"]) for row in rows}
        return None

    def _rates(self, monotonic: float, stats: dict[str, Record]) -> dict[str, Rates | None]:
        last, self._last = self._last, (monotonic, stats)
        then, before = last or (monotonic, EMPTY)
        gone = monotonic - then
        return {name: model.rates(before.get(name), row, gone) for name, row in stats.items()}

    def _sample(self, now: float, found: dict[str, Rates | None], pools: list[Record]) -> dict[Key, float]:
        """Add to the trends; the tps of each pool that has a rate."""
        keys = [(pool["database"], pool["user"]) for pool in pools]
        tps = {key: self._share(key, keys) * rate.tps for key in keys if (rate := found.get(key[0])) is not None}
        rates = [rate.tps for rate in found.values() if rate is not None]
        if rates:
            self._trends.sample_all(now, self._delay, sum(rates))
        waiting = {key: pool["cl_waiting"] for key, pool in zip(keys, pools, strict=True)}
        self._trends.sample(now, self._delay, tps, waiting)
        return tps

    def _share(self, key: Key, keys: list[Key]) -> float:
        """The pool's part of its database's transactions, as far as the console tells; else the whole."""
        counts = self._slow.counts
        whole = sum(counts.get(other, 0) for other in keys if other[0] == key[0])
        return counts.get(key, 0) / whole if whole else 1.0

    def _row(self, pool: Record, pools: list[Record], rate: Rates | None, tps: float | None, now: float) -> PoolRow:
        database, user = pool["database"], pool["user"]
        p99 = self._slow.p99 or {}
        several = sum(other["database"] == database for other in pools) > 1
        row = model.pool_row(
            pool,
            (self._slow.limits or {}).get(database, model.NO_LIMITS),
            rate,
            shared=several,
            p99=p99.get((database, user), p99.get((database, ""))),
            paused=self._slow.state == "paused",
        )
        trend, waits = self._trends.of((database, user), now)
        told = several and not self._slow.counts
        return replace(row, tps=tps, tps_shared=told, trend=trend, waits=waits)

    def _detail(self, link: Link, monotonic: float) -> Detail | None:
        key = self._detail_key
        if key is None:
            return None
        shown = self.frame.detail
        if shown is not None and shown.key == key and monotonic < self._detail_due:
            return shown
        began = time.monotonic()
        clients = self._of_pool(self._ask(link, "CLIENTS"), key)
        servers = self._of_pool(self._ask(link, "SERVERS"), key)
        taken = time.monotonic() - began
        every = max(DETAIL_PERIOD, self._delay, DETAIL_SHARE * taken)
        self._detail_due = monotonic + every
        clients.sort(key=_urgency)
        servers.sort(key=lambda row: (row["state"] != "active", row["connect_time"]))
        return Detail(key, tuple(clients), tuple(servers), taken, every)

    def _of_pool(self, rows: list[Record], key: Key) -> list[Record]:
        """A client keeps its own name where the database's entry names another for the pool."""
        database, user = key
        rows = [row for row in rows if row["database"] == database]
        if self._slow.forced.get(database) == user:
            return rows
        return [row for row in rows if row["user"] == user]


def _urgency(row: Record) -> tuple[bool, bool, float]:
    """Waiting clients first, the longest wait on top; then those with a server."""
    waiting = str(row["state"]).startswith("waiting")
    return not waiting, not row["link"], -(row.get("wait", 0) + row.get("wait_us", 0) / 1e6)
