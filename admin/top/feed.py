"""The thread that asks the console and makes Frames. The screen's thread never waits for it, nor parses.

The rule on cost: each second only SHOW POOLS and SHOW STATS; limits, percentiles, states and events every few
seconds; clients, servers and transactions only while a detail screen shows them, and the seldomer the longer the
answer takes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from admin.client.address import Address
from admin.client.link import CannotConnect, CommandFailed, Lost
from admin.client.poll import Poll
from admin.top import model
from admin.top.chronicle import Chronicle
from admin.top.model import Detail, Frame, Key, PoolRow, Rates
from admin.top.trends import Trends
from pooler.readback import ShowRow, number, waited_us
from pooler.stats import ADMIN_DATABASE, PoolStat, Snapshot, seconds_between

LATENCY_VIEWS = ("POOL_LATENCY", "LATENCY")
"""The one that tells more first."""
EVENTS_PERIOD = 2.0
SLOW_PERIOD = 5.0
"""For limits, percentiles and states."""
DETAIL_PERIOD = 2.0
DETAIL_SHARE = 100
"""A detail that takes t seconds to answer is asked for every 100 t: it costs the server 1 % of a core at worst."""
RETRY_PERIOD = 2.0


@dataclass(frozen=True, slots=True)
class Latencies:
    """p99 by kind (query, xact, wait), then by pool, or by database (user empty) where the console tells no more; None
    where it tells nothing. `counts` are transactions by pool over the last periods: how a database's pools share its
    tps."""

    p99: Mapping[str, Mapping[Key, float]] | None = None
    counts: Mapping[Key, int] = field(default_factory=dict)

    def of(self, kind: str, key: Key) -> float | None:
        p99 = (self.p99 or {}).get(kind, {})
        return p99.get(key, p99.get((key[0], "")))


class Feed(threading.Thread):
    """Publishes a Frame every `delay` seconds as `frame`, and calls `on_frame` from its own thread."""

    def __init__(self, address: Address, delay: float = 1.0, on_frame: Callable[[], None] = lambda: None) -> None:
        super().__init__(name="top-feed", daemon=True)
        self.frame = Frame(label=address.label, delay=delay)
        self.on_frame = on_frame
        self._address = address
        self._poll = Poll(lambda: address, "pooler top")
        self._turn = threading.Condition()
        self._delay = delay
        self._stopping = self._hurry = False
        self._detail_key: Key | None = None
        self._detail_due = 0.0
        self._last: Snapshot | None = None
        self._trends = Trends()
        self._chronicle = Chronicle()

    @property
    def address(self) -> Address:
        return self._address

    def stop(self) -> None:
        self._wake(stopping=True)
        self._poll.abort()

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
        self._poll.forget()
        self._detail_due = 0.0
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
                self._connect()
                self._publish(self._take())
            except (CannotConnect, Lost, CommandFailed) as error:
                self._forget()
                pause = RETRY_PERIOD
                self._publish(replace(self.frame, connected=False, trouble=str(error), now=time.time()))
            with self._turn:
                left = pause - (time.monotonic() - began)
                if not self._hurry and not self._stopping:
                    self._turn.wait(max(left, 0.01))
                self._hurry = False
        self._poll.close()

    def _publish(self, frame: Frame) -> None:
        self.frame = frame
        self.on_frame()

    def _forget(self) -> None:
        """The connection is gone, and with it the meaning of the last sample."""
        self._poll.close()
        self._last = None
        self._detail_due = 0.0

    def _connect(self) -> None:
        if self._poll.connect() and self._trends.empty and self._poll.words.has_view("HISTORY"):
            self._trends.remember(self._poll.ask("HISTORY"), time.time())

    def _take(self) -> Frame:
        """One Frame, from two questions and what is remembered."""
        latency = next(filter(self._poll.words.has_view, LATENCY_VIEWS), "")
        self._poll.refresh("DATABASES", "STATE", latency, within=max(SLOW_PERIOD, self._delay))
        if self._poll.refresh("EVENTS", within=max(EVENTS_PERIOD, self._delay)):
            self._chronicle.take(self._poll.rows("EVENTS"), time.time())
        self._poll.refresh("POOLS", "STATS")
        taken, latencies = self._poll.snapshot(), latencies_of(latency, self._poll.rows(latency))
        pools = [pool for pool in taken.pools if pool.database != ADMIN_DATABASE]
        found = self._rates(taken)
        tps = self._sample(taken.now, found, pools, latencies)
        rows = tuple(self._row(pool, pools, taken, found.get(pool.database), tps, latencies) for pool in pools)
        pooled = [stat for stat in taken.databases if stat.name != ADMIN_DATABASE]
        mean = model.mean_query(pooled) if latencies.p99 is not None else None
        return Frame(
            now=taken.now,
            taken=taken.now,
            label=self._address.label,
            version=self._poll.version,
            connected=True,
            state="paused" if taken.paused else "suspended" if taken.suspended else "",
            rows=rows,
            totals=model.totals(rows, found.values(), *self._trends.of_all(taken.now), mean),
            span=self._trends.span,
            percentiles=latencies.p99 is not None,
            detail=self._detail(taken),
            events=self._chronicle.events(taken.now),
            counted=self._poll.words.has_view("EVENTS"),
            delay=self._delay,
        )

    def _rates(self, now: Snapshot) -> dict[str, Rates | None]:
        """By database."""
        before, self._last = self._last, now
        old = {stat.name: stat for stat in before.databases} if before else {}
        seconds = seconds_between(now, before) if before else 0.0
        return {
            stat.name: model.rates(stat, old.get(stat.name), seconds)
            for stat in now.databases
            if stat.name != ADMIN_DATABASE
        }

    def _sample(
        self, now: float, found: dict[str, Rates | None], pools: list[PoolStat], latencies: Latencies
    ) -> dict[Key, float]:
        """Add to the trends; the tps of each pool that has a rate."""
        keys = [(pool.database, pool.user) for pool in pools]
        tps = {
            key: _share(key, keys, latencies.counts) * rate.tps
            for key in keys
            if (rate := found.get(key[0])) is not None
        }
        rates = [rate.tps for rate in found.values() if rate is not None]
        if rates:
            self._trends.sample_all(now, self._delay, sum(rates))
        waiting = {key: pool.cl_waiting for key, pool in zip(keys, pools, strict=True)}
        self._trends.sample(now, self._delay, tps, waiting)
        return tps

    def _row(
        self,
        pool: PoolStat,
        pools: list[PoolStat],
        taken: Snapshot,
        rate: Rates | None,
        tps: Mapping[Key, float],
        latencies: Latencies,
    ) -> PoolRow:
        key = pool.database, pool.user
        several = sum(other.database == pool.database for other in pools) > 1
        database = next((stat for stat in taken.databases if stat.name == pool.database), None)
        mean = float(database.averages.query_time) if database is not None and latencies.p99 is not None else None
        row = model.pool_row(pool, database, rate, shared=several, avg=mean, paused=taken.paused)
        trend, waits = self._trends.of(key, taken.now)
        told = several and not latencies.counts
        return replace(
            row, tps=tps.get(key), tps_shared=told, trend=trend, waits=waits,
            p99=latencies.of("query", key), xact_p99=latencies.of("xact", key), wait_p99=latencies.of("wait", key),
        )  # fmt: skip

    def _detail(self, taken: Snapshot) -> Detail | None:
        key, now = self._detail_key, time.monotonic()
        if key is None:
            return None
        shown = self.frame.detail
        if shown is not None and shown.key == key and now < self._detail_due:
            return shown
        forced = any(stat.name == key[0] and stat.force_user == key[1] for stat in taken.databases)
        clients = _of_pool(self._poll.ask("CLIENTS"), key, forced)
        servers = _of_pool(self._poll.ask("SERVERS"), key, forced)
        told = frozenset(view for view in MORE if self._poll.words.has_view(view))
        for view in sorted(told):
            clients, servers = MORE[view](clients, servers, self._poll.ask(view))
        took = time.monotonic() - now
        every = max(DETAIL_PERIOD, self._delay, DETAIL_SHARE * took)
        self._detail_due = now + every
        clients.sort(key=_urgency)
        servers.sort(key=lambda row: (row["state"] != "active", -row.get("xact_us", 0), row["connect_time"]))
        return Detail(key, tuple(clients), tuple(servers), took, every, told)


def latencies_of(view: str, rows: Sequence[ShowRow]) -> Latencies:
    """Of the rows of one of LATENCY_VIEWS; no view, no figures."""
    if not view:
        return Latencies()
    p99 = {
        kind: {
            (row["database"], row.get("user", "")): float(row[f"{kind}_p99"]) for row in rows if f"{kind}_p99" in row
        }
        for kind in ("query", "xact", "wait")
    }
    return Latencies(p99, {(row["database"], row["user"]): row["xact_count"] for row in rows if "user" in row})


def _share(key: Key, keys: list[Key], counts: Mapping[Key, int]) -> float:
    """The pool's part of its database's transactions, as far as the console tells; else the whole."""
    whole = sum(counts.get(other, 0) for other in keys if other[0] == key[0])
    return counts.get(key, 0) / whole if whole else 1.0


def _of_pool(rows: list[ShowRow], key: Key, forced: bool) -> list[ShowRow]:
    """The connections of a pool. Where the database's entry names its user, `forced`, all of the database are: clients
    keep their own names."""
    return [row for row in rows if row["database"] == key[0] and (forced or row["user"] == key[1])]


def _aged(
    clients: list[ShowRow], servers: list[ShowRow], transactions: list[ShowRow]
) -> tuple[list[ShowRow], list[ShowRow]]:
    """The same with `xact_us`, the age of the transaction they are in; a server's is its client's."""
    ages = {row["id"]: row["xact_us"] for row in transactions}
    aged = [{**client, "xact_us": ages.get(client["id"], 0)} for client in clients]
    linked = {client["link"]: client["xact_us"] for client in aged if client["link"]}
    return list(aged), [{**server, "xact_us": linked.get(server["ptr"], 0)} for server in servers]


def _with_sessions(
    clients: list[ShowRow], servers: list[ShowRow], sessions: list[ShowRow]
) -> tuple[list[ShowRow], list[ShowRow]]:
    """The same with `session_state` of those who have left something, and `pinned_us` of who keeps a server for that;
    the server has both as well."""
    left: dict[object, list[ShowRow]] = {client["id"]: [] for client in clients}
    for row in sessions:
        left.get(row["id"], []).append(row)
    kept = {row["server"]: rows for rows in left.values() for row in rows if row["server"]}
    told = [{**client, **_left(left[client["id"]])} for client in clients]
    return list(told), [{**server, **_left(kept.get(server["remote_pid"], ()))} for server in servers]


def _left(rows: Sequence[ShowRow]) -> ShowRow:
    if not rows:
        return {}
    pinned = max((number(row, "pinned_us") for row in rows), default=0)
    return {"session_state": ", ".join(f"{row['kind']} {row['fate']}" for row in rows), "pinned_us": pinned}


Telling = Callable[[list[ShowRow], list[ShowRow], list[ShowRow]], tuple[list[ShowRow], list[ShowRow]]]
MORE: Mapping[str, Telling] = {"TRANSACTIONS": _aged, "SESSION_STATE": _with_sessions}
"""Views that tell more of clients and servers, and how: clients, servers, the view's rows."""


def _urgency(row: ShowRow) -> tuple[bool, bool, float, float]:
    """Waiting clients first, the longest wait on top; then those with a server, the oldest transaction first."""
    waiting = str(row["state"]).startswith("waiting")
    return not waiting, not row["link"], -waited_us(row, "wait"), -row.get("xact_us", 0)
