"""The console's views as tables of columns: for each SHOW its name, type and reader, in PgBouncer 1.26's
order.

A view reads one `Shown`, that is a Snapshot and what stands beside it, and yields rows; it counts nothing
and asks nobody. The rule: the layouts of PgBouncer's views never change (pgmetrics, pgbouncer_fdw and
CloudNativePG read them by position); what is new goes into a view of our own, below the line.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter, itemgetter
from typing import Any

from admin.fieldtypes import BYTEA, FLOAT8, INT4, INT8, NUMERIC, TEXT, TIMESTAMPTZ, Value, local_time
from pooler.config.whole import ConfigRow, config_rows
from pooler.stats import (
    ADMIN_DATABASE,
    ZERO,
    Averages,
    Counters,
    DatabaseStat,
    Histogram,
    Snapshot,
    SocketStat,
    workers,
)
from pooler.verbs import House, Latency

MICROSECONDS = 1_000_000
SHARES = (0.5, 0.9, 0.99)


@dataclass(frozen=True, slots=True)
class Shown:
    """What a view reads."""

    snapshot: Snapshot
    house: House


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    oid: int
    read: Callable[[Any], Value]
    """From one object of the view's source to the value."""
    moment: Callable[[Any], Value] | None = None
    """For a time that PgBouncer shows as a text, in its local zone: the time, which SQL reckons with."""


@dataclass(frozen=True, slots=True)
class View:
    """One SHOW. `needs` names the parts of the figures that are only there when asked for; `order` are the
    columns that rows are sorted by, compared as bytes (strcmp), none to keep the source's order."""

    name: str
    columns: tuple[Column, ...]
    source: Callable[[Shown], Iterable[Any]]
    needs: frozenset[str] = frozenset()
    order: tuple[str, ...] = ()

    def rows(self, shown: Shown, columns: Iterable[Column] | None = None) -> Iterator[tuple[Value, ...]]:
        """All rows: of all columns, or of some of them."""
        readers = tuple(column.read for column in (self.columns if columns is None else columns))
        items = self.source(shown)
        if self.order:
            items = sorted(items, key=lambda item: [wire_order(getattr(item, name)) for name in self.order])
        for item in items:
            yield tuple([read(item) for read in readers])

    @property
    def relation(self) -> tuple[Column, ...]:
        """The columns as SQL has them."""
        return tuple(
            column if column.moment is None else Column(column.name, TIMESTAMPTZ, column.moment)
            for column in self.columns
        )


def wire_order(value: str | int) -> bytes | int:
    return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value


def _secret(instead: Value) -> Callable[[Any], Value]:
    """PgBouncer shows here what a successor needs: cancel keys, passwords and SCRAM keys. Ours gets them on a socket of
    its own, and no console ever."""
    return lambda item: instead


def _column(oid: int, name: str, source: str | Callable[[Any], Value] | None = None) -> Column:
    return Column(name, oid, source if callable(source) else attrgetter(source or name))


def s(name: str, source: str | Callable[[Any], Value] | None = None) -> Column:
    return _column(TEXT, name, source)


def i(name: str, source: str | Callable[[Any], Value] | None = None) -> Column:
    return _column(INT4, name, source)


def q(name: str, source: str | Callable[[Any], Value] | None = None) -> Column:
    return _column(INT8, name, source)


def n(name: str, source: str | Callable[[Any], Value] | None = None) -> Column:
    return _column(NUMERIC, name, source)


def b(name: str, source: str | Callable[[Any], Value] | None = None) -> Column:
    return _column(BYTEA, name, source)


def f(name: str, source: str | Callable[[Any], Value] | None = None) -> Column:
    return _column(FLOAT8, name, source)


def t(name: str, source: str | Callable[[Any], Value] | None = None) -> Column:
    return _column(TIMESTAMPTZ, name, source)


# ---- STATS and its relatives: one list of counters, spelled the four ways PgBouncer spells them


@dataclass(frozen=True, slots=True)
class _Counter:
    """`field` of Counters and Averages, and its names in the views that call it something else."""

    field: str
    total: str
    average: str
    in_averages: str
    in_totals: str


def _counter(field: str, total: str = "", average: str = "", in_averages: str = "", totals: str = "") -> _Counter:
    return _Counter(
        field,
        f"total_{total or field}",
        f"avg_{average or total or field}",
        in_averages or field,
        totals or field,
    )


COUNTERS = (
    _counter("server_assignment_count"),
    _counter("xact_count"),
    _counter("query_count"),
    _counter("bytes_received", "received", "recv", totals="client_bytes"),
    _counter("bytes_sent", "sent", totals="server_bytes"),
    _counter("xact_time"),
    _counter("query_time"),
    _counter("wait_time"),
    _counter("client_parse_count", in_averages="avg_client_parse_count", totals="ps_client_parse_count"),
    _counter("server_parse_count", in_averages="avg_server_parse_count", totals="ps_server_parse_count"),
    _counter("bind_count", in_averages="avg_bind_count", totals="ps_bind_count"),
    _counter("client_login_count", in_averages="avg_client_login_count"),
)
"""The totals of all, then the averages of all: what 1.26 added stands in the middle of STATS."""

WEIGHTS = {
    "xact_time": "xact_count",
    "query_time": "query_count",
    "wait_time": "server_assignment_count",
}
"""Averages that are means, and the rate each mean is weighted by when databases are taken together."""


def _databases(shown: Shown) -> Iterable[DatabaseStat]:
    return shown.snapshot.databases


def _with_pools(shown: Shown) -> Iterator[DatabaseStat]:
    """What has never had a pool has nothing to count; what had one keeps its counts when that is gone."""
    known = {pool.database for pool in shown.snapshot.pools}
    return (one for one in shown.snapshot.databases if one.name in known or one.counters is not ZERO)


def _totals(shown: Shown) -> Iterator[tuple[str, int]]:
    databases = [database for database in shown.snapshot.databases if database.counters is not ZERO]
    counts = sum((database.counters for database in databases), start=Counters())
    averages = [database.averages for database in databases]
    for counter in COUNTERS:
        yield f"total_{counter.in_totals}", getattr(counts, counter.field)
    for counter in COUNTERS:
        yield f"avg_{counter.in_totals}", _average_of_all(averages, counter.field)


def _average_of_all(averages: list[Averages], field: str) -> int:
    if field not in WEIGHTS:
        return sum(getattr(average, field) for average in averages)
    weights = [getattr(average, WEIGHTS[field]) for average in averages]
    values = [getattr(average, field) for average in averages]
    if not sum(weights):
        return max(values, default=0)
    return int(sum(w * v for w, v in zip(weights, values, strict=True)) // sum(weights))


# ---- connections


@lru_cache(maxsize=4096)
def _second(stamp: int) -> str:
    return local_time(stamp)


def _connect_time(socket: SocketStat) -> str:
    return _second(int(socket.connect_time))


def _request_time(socket: SocketStat) -> str:
    return _second(int(socket.request_time))


SOCKET_COLUMNS = (
    s("type"), s("user"), s("database"), s("replication"), s("state"),
    s("addr"), i("port"), s("local_addr"), i("local_port"),
    Column("connect_time", TEXT, _connect_time, attrgetter("connect_time")),
    Column("request_time", TEXT, _request_time, attrgetter("request_time")),
    i("wait", lambda socket: socket.wait_us // MICROSECONDS),
    i("wait_us", lambda socket: socket.wait_us % MICROSECONDS),
    i("close_needed", lambda socket: int(socket.close_needed)),
    s("ptr"), s("link"), i("remote_pid"), s("tls"), s("application_name"), i("prepared_statements"), i("id"),
)  # fmt: skip

BUFFER_COLUMNS = (
    i("recv_pos"), i("pkt_pos"), i("pkt_remain"), i("send_pos"), i("send_remain"), i("pkt_avail"),
    i("send_avail"),
)  # fmt: skip

CLIENTS, SERVERS, HISTOGRAMS = frozenset({"clients"}), frozenset({"servers"}), frozenset({"histograms"})
SOCKETS = CLIENTS | SERVERS
SESSIONS, DESCRIPTORS = frozenset({"sessions"}), frozenset({"descriptors"})

QUIET = frozenset({"idle", "used"})
"""States of a connection that is doing nothing; ACTIVE_SOCKETS leaves them out."""


def _sockets(shown: Shown) -> Iterator[SocketStat]:
    yield from shown.snapshot.clients
    yield from shown.snapshot.servers


def _socket_state(socket: SocketStat) -> str:
    """SOCKETS names states by PgBouncer's lists, with their side: an idle client is in the list of active
    ones."""
    if socket.type == "C":
        return "cl_active" if socket.state == "idle" else f"cl_{socket.state}"
    return "sv_login" if socket.state == "new" else f"sv_{socket.state}"


def _socket_columns() -> tuple[Column, ...]:
    named = {"state": s("state", _socket_state)}
    return tuple(named.get(column.name, column) for column in SOCKET_COLUMNS) + BUFFER_COLUMNS


def _busy(shown: Shown) -> Iterator[SocketStat]:
    """A console is idle by its state, having no server; but this is one's answer."""
    return (s for s in _sockets(shown) if s.state not in QUIET or s.database == ADMIN_DATABASE)


# ---- single rows and pairs


def _key_and_value() -> tuple[Column, ...]:
    return s("key", itemgetter(0)), s("value", itemgetter(1))


def _yes_no(state: bool) -> str:
    return "yes" if state else "no"


def _states(shown: Shown) -> Iterator[tuple[str, str]]:
    yield "active", _yes_no(shown.snapshot.active)
    yield "paused", _yes_no(shown.snapshot.paused)
    if shown.snapshot.suspended:
        # Ours: PgBouncer 1.26 has neither SUSPEND nor this row.
        yield "suspended", "yes"


def _about(shown: Shown) -> Iterator[tuple[str, str]]:
    process, now = shown.snapshot.process, shown.snapshot.now
    yield "name", process.name
    yield "version", process.version
    yield "compatible with", shown.snapshot.pgbouncer_version
    yield "build", process.build
    yield "python", process.python
    yield "pid", str(process.pid)
    yield "started", local_time(process.start_time)
    yield "uptime", duration(now - process.start_time)
    if process.cpu_seconds is not None:
        yield "cpu seconds", f"{process.cpu_seconds:.2f}"
    if process.resident_bytes is not None:
        yield "resident bytes", str(process.resident_bytes)
    yield "io_uring", f"no ({shown.snapshot.loop.no_ring})" if shown.snapshot.loop.no_ring else "yes"
    if process.open_fds is not None and process.max_fds is not None:
        yield "file descriptors", f"{process.open_fds} of {process.max_fds}"


def duration(seconds: float) -> str:
    """`3 days 04:05:06`, as PostgreSQL shows an interval."""
    whole = max(int(seconds), 0)
    days, rest = divmod(whole, 86_400)
    clock = time.strftime("%H:%M:%S", time.gmtime(rest))
    return f"{days} day{'s' if days > 1 else ''} {clock}" if days else clock


def _size_or_empty(size: int | None) -> str:
    return "" if size is None else f"{size:9d}"


def _config(shown: Shown) -> list[ConfigRow]:
    return sorted(config_rows(shown.house.config), key=itemgetter(0))


# ---- our own views


@dataclass(frozen=True, slots=True)
class _Percentiles:
    """A row of LATENCY, computed once: (count, p50, p90, p99, max) by kind."""

    latency: Latency
    figures: dict[str, tuple[int, ...]]


KINDS = ("wait", "query", "xact", "login")


def _percentiles(latencies: Iterable[Latency]) -> Iterator[_Percentiles]:
    for latency in latencies:
        yield _Percentiles(latency, {kind: _figures(getattr(latency.distributions, kind)) for kind in KINDS})


def _figures(histogram: Histogram) -> tuple[int, ...]:
    return (histogram.count, *histogram.quantiles(SHARES), histogram.max)


def _figure(kind: str, place: int) -> Callable[[Any], Value]:
    return lambda row: row.figures[kind][place]


def _latency_columns() -> Iterator[Column]:
    for kind in KINDS:
        yield q(f"{kind}_count", _figure(kind, 0))
        for place, name in enumerate(("p50", "p90", "p99", "max"), 1):
            yield q(f"{kind}_{name}", _figure(kind, place))


LATENCY_COLUMNS = (f("seconds", lambda row: round(row.latency.seconds, 3)), *_latency_columns())
"""Times in microseconds, over the last one to two periods."""


WAITING = frozenset({"waiting", "waiting_cancel_req"})


def _waiting(shown: Shown) -> list[tuple[SocketStat, float]]:
    """Queued clients, the longest wait first, with the moment each began to wait."""
    now = shown.snapshot.now
    queued = [client for client in shown.snapshot.clients if client.state in WAITING]
    queued.sort(key=lambda client: -client.wait_us)
    return [(client, now - client.wait_us / MICROSECONDS) for client in queued]


def _transactions(shown: Shown) -> list[tuple[SocketStat, float, int]]:
    """Clients in a transaction that have a server, the longest first: with the moment it began (its first query, which
    may have waited) and the server's process."""
    now = shown.snapshot.now
    processes = {server.ptr: server.remote_pid for server in shown.snapshot.servers}
    found = [client for client in shown.snapshot.clients if client.xact_us and client.link in processes]
    found.sort(key=lambda client: -client.xact_us)
    return [(client, now - client.xact_us / MICROSECONDS, processes[client.link]) for client in found]


def _client(name: str) -> Callable[[Any], Value]:
    read = attrgetter(name)
    return lambda row: read(row[0])


VIEWS: tuple[View, ...] = (
    View("VERSION", (s("version", lambda shown: shown.snapshot.pgbouncer_version),), lambda shown: (shown,)),
    View(
        "STATS",
        (s("database", "name"), *(n(c.total, f"counters.{c.field}") for c in COUNTERS),
         *(n(c.average, f"averages.{c.field}") for c in COUNTERS)),
        _with_pools, order=("name",),
    ),
    View(
        "STATS_TOTALS",
        (s("database", "name"), *(n(c.field, f"counters.{c.field}") for c in COUNTERS)),
        _with_pools, order=("name",),
    ),
    View(
        "STATS_AVERAGES",
        (s("database", "name"), *(n(c.in_averages, f"averages.{c.field}") for c in COUNTERS)),
        _with_pools, order=("name",),
    ),
    View("TOTALS", (s("name", itemgetter(0)), n("value", itemgetter(1))), _totals),
    View(
        "POOLS",
        (s("database"), s("user"),
         i("cl_active"), i("cl_waiting"), i("cl_active_cancel_req"), i("cl_waiting_cancel_req"),
         i("sv_active"), i("sv_active_cancel"), i("sv_being_canceled"), i("sv_idle"), i("sv_used"),
         i("sv_tested"), i("sv_login"),
         i("maxwait", lambda pool: pool.maxwait_us // MICROSECONDS),
         i("maxwait_us", lambda pool: pool.maxwait_us % MICROSECONDS),
         s("pool_mode"), s("load_balance_hosts")),
        lambda shown: shown.snapshot.pools, order=("database", "user"),
    ),
    View(
        "PEER_POOLS",
        (i("peer_id"), i("cl_active_cancel_req"), i("cl_waiting_cancel_req"), i("sv_active_cancel"),
         i("sv_login")),
        lambda shown: shown.snapshot.peers, order=("peer_id",),
    ),
    View("CLIENTS", SOCKET_COLUMNS, lambda shown: shown.snapshot.clients, CLIENTS),
    View("SERVERS", SOCKET_COLUMNS, lambda shown: shown.snapshot.servers, SERVERS),
    View("SOCKETS", _socket_columns(), _sockets, SOCKETS),
    View("ACTIVE_SOCKETS", _socket_columns(), _busy, SOCKETS),
    View(
        "DATABASES",
        (s("name"), s("host"), i("port"), s("database"), s("force_user"),
         i("pool_size"), i("min_pool_size"), i("reserve_pool_size"), i("server_lifetime"),
         s("pool_mode"), s("load_balance_hosts"),
         i("max_connections"), i("current_connections"), i("max_client_connections"),
         i("current_client_connections"),
         i("paused", lambda database: int(database.paused)),
         i("disabled", lambda database: int(database.disabled))),
        _databases, order=("name",),
    ),
    View(
        "USERS",
        (s("name"), s("pool_size", lambda user: _size_or_empty(user.pool_size)),
         s("reserve_pool_size", lambda user: _size_or_empty(user.reserve_pool_size)), s("pool_mode"),
         i("max_user_connections"), i("current_connections"),
         i("max_user_client_connections"), i("current_client_connections")),
        lambda shown: shown.snapshot.users, order=("name",),
    ),
    View("LISTS", (s("list"), i("items")), lambda shown: shown.snapshot.lists),
    View(
        "PEERS", (i("peer_id"), s("host"), i("port"), i("pool_size")),
        lambda shown: shown.snapshot.peers, order=("peer_id",),
    ),
    View(
        "CONFIG",
        (s("key", itemgetter(0)), s("value", itemgetter(1)),
         s("default", itemgetter(2)), s("changeable", itemgetter(3))),
        _config,
    ),
    View("STATE", _key_and_value(), _states),
    View(
        "MEM", (s("name"), i("size"), i("used"), i("free"), i("memtotal")),
        lambda shown: shown.snapshot.mem,
    ),
    View(
        "DNS_HOSTS", (s("hostname"), q("ttl"), s("addrs")),
        lambda shown: shown.snapshot.dns_hosts, order=("hostname",),
    ),
    View(
        "DNS_ZONES", (s("zonename"), q("serial"), i("count")),
        lambda shown: (),  # the system's resolver answers for hosts; of zones and their serials it does not tell
    ),
    View(
        "FDS",
        (i("fd"), s("task"), s("user"), s("database"), s("addr"), i("port"), q("cancel", _secret(0)), i("link"),
         s("client_encoding"), s("std_strings"), s("datestyle"), s("timezone"), s("password", _secret(None)),
         b("scram_client_key", _secret(None)), b("scram_server_key", _secret(None))),
        lambda shown: shown.house.descriptors(), DESCRIPTORS,
    ),
    # ---- our own
    View("ABOUT", _key_and_value(), _about),
    View(
        "WAITING",
        (t("since", itemgetter(1)), q("wait_us", _client("wait_us")), s("database", _client("database")),
         s("user", _client("user")), s("application_name", _client("application_name")),
         s("addr", _client("addr")), i("port", _client("port")), s("state", _client("state")),
         i("id", _client("id"))),
        _waiting, CLIENTS,
    ),
    View(
        "TRANSACTIONS",
        (t("since", itemgetter(1)), q("xact_us", _client("xact_us")), s("database", _client("database")),
         s("user", _client("user")), s("application_name", _client("application_name")),
         s("addr", _client("addr")), i("port", _client("port")), i("id", _client("id")),
         i("server_pid", itemgetter(2))),
        _transactions, SOCKETS,
    ),
    View(
        "LATENCY",
        (s("database", "latency.database"), *LATENCY_COLUMNS),
        lambda shown: _percentiles(shown.house.history.by_database(shown.snapshot)), HISTOGRAMS,
    ),
    View(
        "POOL_LATENCY",
        (s("database", "latency.database"), s("user", "latency.user"), *LATENCY_COLUMNS),
        lambda shown: _percentiles(shown.house.history.by_pool(shown.snapshot)), HISTOGRAMS,
    ),
    View(
        "HISTORY",
        (t("time"), s("database"), f("seconds"), f("tps"), f("qps"), q("bytes_received"), q("bytes_sent"),
         q("avg_xact_time"), q("avg_query_time"), q("avg_wait_time"),
         i("cl_active"), i("cl_waiting"), i("sv_active"), i("sv_idle"), i("sv_total"), q("maxwait_us")),
        lambda shown: shown.house.history.samples(),
    ),
    View("LOOP", (q("longest_turn_us"), q("longest_turn_cpu_us")), lambda shown: (shown.snapshot.loop,)),
    View("EVENTS", (s("kind"), s("database"), s("reason"), q("count")), lambda shown: shown.snapshot.events),
    View(
        "SESSION_STATE",
        (s("database"), s("user"), s("application_name"), s("addr"), i("port"), i("id"), s("kind"), s("fate"),
         t("since"), q("pinned_us"), i("server"), s("statement")),
        lambda shown: shown.house.session_state(), SESSIONS,
    ),
    View(
        "SESSION_STATE_SEEN",
        (s("database"), s("user"), s("kind"), s("fate"), q("count"), t("first_seen"), t("last_seen"), s("statement")),
        lambda shown: shown.house.session_state_seen(), SESSIONS, order=("database", "user", "kind", "statement"),
    ),
    View(
        "WORKERS",
        (i("worker", "number"), i("pid"), s("state"), t("since"), i("clients"), i("servers"), q("xact_count"), f("tps"),
         f("cpu_seconds"), q("resident_bytes"), q("longest_turn_us")),
        lambda shown: workers(shown.snapshot),
    ),
    View(
        "DRAINS",
        (s("kind"), s("target"), s("state"), q("queued"), q("delivered"), q("dropped"), q("retries"),
         s("last_error")),
        lambda shown: shown.snapshot.drains,
    ),
)  # fmt: skip

BY_NAME = {view.name: view for view in VIEWS}
