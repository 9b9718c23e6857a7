"""Every exported figure once: its name, kind, help, labels, and how to read it from a Snapshot.

Nothing here knows a text format. Two prefixes: `pgbouncer_` repeats prometheus-community/pgbouncer_exporter
0.12 name by name and label by label, so that its dashboards and alerts hold; `pooler_` is what PgBouncer
never told. Label values that clients choose are cleaned and bounded in number (metrics.cardinality); all
others come from the configuration or from fixed sets of words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from metrics.buckets import Folded, fold
from metrics.cardinality import client_connections
from pooler.stats import DatabaseStat, Distributions, Histogram, PoolStat, Snapshot, WorkerStat, merge

Kind = Literal["gauge", "counter", "histogram"]
Sample = tuple[tuple[str, ...], float]
"""Label values, in the order of the figure's labels, and the value."""
Distribution = tuple[tuple[str, ...], Folded]


@dataclass(frozen=True, slots=True)
class Figure:
    """One metric family. `read` gives samples; for a histogram, `fold` gives distributions instead."""

    name: str
    """Without `_total`, which belongs to a counter's samples."""
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    read: Callable[[Snapshot], Iterable[Sample]] = lambda snapshot: ()
    fold: Callable[[Snapshot], Iterable[Distribution]] = lambda snapshot: ()

    @property
    def exposed(self) -> str:
        """The name as a query spells it."""
        return self.name + "_total" if self.kind == "counter" else self.name


def one(name: str, help: str, read: Callable[[Snapshot], float | None], kind: Kind = "gauge") -> Figure:
    """A figure without labels; absent when it cannot be had (None)."""

    def rows(snapshot: Snapshot) -> Iterator[Sample]:
        value = read(snapshot)
        if value is not None:
            yield (), value

    return Figure(name, kind, help, (), rows)


WORKER_FIGURES: tuple[tuple[str, Kind, str, Callable[[WorkerStat], float]], ...] = (
    ("up", "gauge", "1 while it answers", lambda one: one.state == "serving"),
    ("clients", "gauge", "Clients that it serves", lambda one: one.clients),
    ("servers", "gauge", "Its server connections", lambda one: one.servers),
    ("transactions", "counter", "Transactions since it was started", lambda one: one.xact_count),
    ("cpu_seconds", "counter", "Its processor time", lambda one: one.cpu_seconds),
    ("resident_bytes", "gauge", "Its memory", lambda one: one.resident_bytes),
    ("loop_longest_turn_seconds", "gauge", "As pooler_loop_longest_turn_seconds",
     lambda one: one.longest_turn_us / 1e6),
)  # fmt: skip
"""What tells the workers of a service apart."""


# Per database, per pool.

DATABASE_LABELS = ("name", "host", "port", "database", "force_user", "pool_mode")
POOL_LABELS = ("database", "user")


def of_database(name: str, help: str, read: Callable[[DatabaseStat], float]) -> Figure:
    """A gauge per entry of [databases], with the exporter's labels."""

    def rows(snapshot: Snapshot) -> Iterator[Sample]:
        for stat in snapshot.databases:
            values = (stat.name, stat.host, str(stat.port), stat.database, stat.force_user, stat.pool_mode)
            yield tuple(value or "" for value in values), read(stat)

    return Figure(f"pgbouncer_databases_{name}", "gauge", help, DATABASE_LABELS, rows)


def of_pool(name: str, help: str, read: Callable[[PoolStat], float], kind: Kind = "gauge") -> Figure:
    def rows(snapshot: Snapshot) -> Iterator[Sample]:
        return (((pool.database, pool.user), read(pool)) for pool in snapshot.pools)

    return Figure(name, kind, help, POOL_LABELS, rows)


def of_stats(name: str, help: str, read: Callable[[DatabaseStat], float]) -> Figure:
    """A counter per database."""

    def rows(snapshot: Snapshot) -> Iterator[Sample]:
        return (((stat.name,), read(stat)) for stat in snapshot.databases)

    return Figure(name, "counter", help, ("database",), rows)


def of_list(name: str, help: str, item: str | None = None) -> Figure:
    """A row of SHOW LISTS; no sample when the row is missing."""

    def rows(snapshot: Snapshot) -> Iterator[Sample]:
        return (((), row.items) for row in snapshot.lists if row.list == (item or name))

    return Figure(f"pgbouncer_{name}", "gauge", help, (), rows)


def seconds(microseconds: int) -> float:
    return microseconds / 1_000_000


# pgbouncer_exporter, by its names.

STATS_TOTALS: tuple[tuple[str, str, Callable[[DatabaseStat], float]], ...] = (
    ("queries_pooled", "Total number of SQL queries pooled", lambda s: s.counters.query_count),
    ("queries_duration_seconds", "Total number of seconds spent by pgbouncer when actively connected to "
     "PostgreSQL, executing queries", lambda s: seconds(s.counters.query_time)),
    ("received_bytes", "Total volume in bytes of network traffic received by pgbouncer, shown as bytes",
     lambda s: s.counters.bytes_received),
    ("sent_bytes", "Total volume in bytes of network traffic sent by pgbouncer, shown as bytes",
     lambda s: s.counters.bytes_sent),
    ("client_wait_seconds", "Time spent by clients waiting for a server in seconds",
     lambda s: seconds(s.counters.wait_time)),
    ("sql_transactions_pooled", "Total number of SQL transactions pooled", lambda s: s.counters.xact_count),
    ("server_in_transaction_seconds", "Total number of seconds spent by pgbouncer when connected to "
     "PostgreSQL "
     "in a transaction, either idle in transaction or executing queries",
     lambda s: seconds(s.counters.xact_time)),
    ("client_parses", "Total number of prepared statement Parse messages received from clients",
     lambda s: s.counters.client_parse_count),
    ("server_parses", "Total number of prepared statement Parse messages sent by pgbouncer to PostgreSQL",
     lambda s: s.counters.server_parse_count),
    ("binds", "Total number of prepared statements readied for execution with a Bind message",
     lambda s: s.counters.bind_count),
    ("server_assignments", "Total number of times a server was assigned to a client",
     lambda s: s.counters.server_assignment_count),
)  # fmt: skip

POOLS: tuple[tuple[str, str, Callable[[PoolStat], float]], ...] = (
    ("client_active_connections", "Client connections linked to server connection and able to process "
     "queries, "
     "shown as connection", lambda p: p.cl_active),
    ("client_active_cancel_connections", "Client connections that have forwarded query cancellations to "
     "the server "
     "and are waiting for the server response", lambda p: p.cl_active_cancel_req),
    ("client_waiting_connections", "Client connections waiting on a server connection, shown as connection",
     lambda p: p.cl_waiting),
    ("client_waiting_cancel_connections", "Client connections that have not forwarded query "
     "cancellations to the "
     "server yet", lambda p: p.cl_waiting_cancel_req),
    ("server_active_connections", "Server connections linked to a client connection, shown as connection",
     lambda p: p.sv_active),
    ("server_active_cancel_connections", "Server connections that are currently forwarding a cancel request",
     lambda p: p.sv_active_cancel),
    ("server_being_canceled_connections", "Servers that normally could become idle but are waiting to "
     "do so until "
     "all in-flight cancel requests have completed that were sent to cancel a query on this server",
     lambda p: p.sv_being_canceled),
    ("server_idle_connections", "Server connections idle and ready for a client query, shown as connection",
     lambda p: p.sv_idle),
    ("server_used_connections", "Server connections idle more than server_check_delay, needing "
     "server_check_query, "
     "shown as connection", lambda p: p.sv_used),
    ("server_testing_connections", "Server connections currently running either server_reset_query or "
     "server_check_query, shown as connection", lambda p: p.sv_tested),
    ("server_login_connections", "Server connections currently in the process of logging in, shown as "
     "connection",
     lambda p: p.sv_login),
    ("client_maxwait_seconds", "Age of oldest unserved client connection, shown as second",
     lambda p: p.maxwait_us // 1_000_000),
)  # fmt: skip

STATS_ALIASES: tuple[Figure, ...] = tuple(
    of_stats(f"pgbouncer_stats_{name}", f"{help} (alias of pgbouncer_stats_totals_{name}_total)", read)
    for name, help, read in STATS_TOTALS
)
"""What the exporter's own documentation, and dashboards after it, call the same counters."""

EXPORTER: tuple[Figure, ...] = (
    Figure("pgbouncer_version_info", "gauge", "The pgbouncer version info", ("version",),
           lambda snapshot: [((snapshot.pgbouncer_version,), 1)]),
    one("pgbouncer_config_max_client_connections", "Config maximum number of client connections",
        lambda snapshot: snapshot.max_client_conn),
    one("pgbouncer_config_max_user_connections", "Config maximum number of server connections per user",
        lambda snapshot: snapshot.max_user_connections),
    of_list("databases", "Count of databases"),
    of_list("users", "Count of users"),
    of_list("pools", "Count of pools"),
    of_list("free_clients", "Count of free clients"),
    of_list("used_clients", "Count of used clients"),
    of_list("login_clients", "Count of clients in login state"),
    of_list("free_servers", "Count of free servers"),
    of_list("used_servers", "Count of used servers"),
    of_list("cached_dns_names", "Count of DNS names in the cache", "dns_names"),
    of_list("cached_dns_zones", "Count of DNS zones in the cache", "dns_zones"),
    of_list("in_flight_dns_queries", "Count of in-flight DNS queries", "dns_queries"),
    Figure("pgbouncer_client_connections", "gauge", "Number of client connections, by who they say they are; "
           "the rarest application names are counted together",
           ("database", "user", "application_name", "state"), client_connections),
    of_database("pool_size", "Maximum number of server connections", lambda d: d.pool_size),
    of_database("reserve_pool", "Maximum number of additional connections for this database",
                lambda d: d.reserve_pool_size),
    of_database("max_connections", "Maximum number of allowed connections for this database",
                lambda d: d.max_connections),
    of_database("current_connections", "Current number of connections for this database",
                lambda d: d.current_connections),
    of_database("paused", "1 if this database is currently paused, else 0", lambda d: d.paused),
    of_database("disabled", "1 if this database is currently disabled, else 0", lambda d: d.disabled),
    *(of_pool(f"pgbouncer_pools_{name}", help, read) for name, help, read in POOLS),
    *(of_stats(f"pgbouncer_stats_totals_{name}", help, read) for name, help, read in STATS_TOTALS),
    *STATS_ALIASES,
)  # fmt: skip

# The process, under the exporter's prefix and our own.

PROCESS: tuple[tuple[str, Kind, str, Callable[[Snapshot], float | None]], ...] = (
    ("cpu_seconds", "counter", "Total user and system CPU time spent in seconds",
     lambda s: s.process.cpu_seconds),
    ("resident_memory_bytes", "gauge", "Resident memory size in bytes", lambda s: s.process.resident_bytes),
    ("open_fds", "gauge", "Number of open file descriptors", lambda s: s.process.open_fds),
    ("max_fds", "gauge", "Maximum number of open file descriptors", lambda s: s.process.max_fds),
    ("start_time_seconds", "gauge", "Start time of the process since unix epoch in seconds",
     lambda s: s.process.start_time),
)  # fmt: skip

# What is ours.

MAX_HISTOGRAM_DATABASES = 250
"""Databases with histograms of their own; those after them in the configuration share the label OTHERS."""
OTHERS = "(others)"


def of_events(name: str, kind: str, help: str) -> Figure:
    """A counter by reason. Reasons are words of ours, databases are those of the configuration."""

    def rows(snapshot: Snapshot) -> Iterator[Sample]:
        return (((e.database, e.reason), e.count) for e in snapshot.events if e.kind == kind)

    return Figure(f"pooler_{name}", "counter", help, ("database", "reason"), rows)


def of_durations(name: str, help: str, pick: Callable[[Distributions], Histogram]) -> Figure:
    """A histogram per database, in seconds; databases without a sample are left out."""

    def distributions(snapshot: Snapshot) -> Iterator[Distribution]:
        named = {stat.name for stat in snapshot.databases[:MAX_HISTOGRAM_DATABASES]}
        parts: dict[str, list[Histogram]] = {}
        for pool in snapshot.pools:
            if pool.distributions is not None and pick(pool.distributions).counts:
                label = pool.database if pool.database in named else OTHERS
                parts.setdefault(label, []).append(pick(pool.distributions))
        return (((database,), fold(merge(found))) for database, found in parts.items())

    return Figure(f"pooler_{name}_seconds", "histogram", help, ("database",), fold=distributions)


DRAIN_LABELS = ("kind", "target")


def of_drain(name: str, kind: Kind, help: str, field: str) -> Figure:
    """Two drains may look the same, for their paths are not shown: they are counted together."""

    def rows(snapshot: Snapshot) -> Iterator[Sample]:
        sums: Counter[tuple[str, ...]] = Counter()
        for drain in snapshot.drains:
            sums[drain.kind, drain.target] += getattr(drain, field)
        return iter(sums.items())

    return Figure(f"pooler_drain_{name}", kind, help, DRAIN_LABELS, rows)


POOLER: tuple[Figure, ...] = (
    Figure("pooler_build_info", "gauge", "Who answers: always 1", ("name", "version", "build", "python"),
           lambda s: [((s.process.name, s.process.version, s.process.build, s.process.python), 1)]),
    one("pooler_paused", "1 while PAUSE holds", lambda s: s.paused),
    one("pooler_suspended", "1 while SUSPEND holds", lambda s: s.suspended),
    of_durations("client_wait", "Time clients waited for a server, one sample per server assignment",
                 lambda d: d.wait),
    of_durations("query_duration", "Time from a query to the server's ReadyForQuery", lambda d: d.query),
    of_durations("transaction_duration", "Time from a transaction's first query to its "
            "end", lambda d: d.xact),
    of_durations("login_duration", "Time from a client's first byte to the end of its "
            "login", lambda d: d.login),
    of_pool("pooler_pool_size", "Server connections the pool may have, without the reserve",
            lambda p: p.pool_size),
    of_pool("pooler_pool_reserve_size", "Server connections the pool may have beyond its size when "
            "clients wait",
            lambda p: p.reserve_pool_size),
    of_pool("pooler_pool_maxwait_seconds", "Age of the oldest waiting client, with microseconds",
            lambda p: seconds(p.maxwait_us)),
    of_pool("pooler_pool_transactions", "Transactions served", lambda p: p.counters.xact_count, "counter"),
    of_pool("pooler_pool_queries", "Queries served", lambda p: p.counters.query_count, "counter"),
    of_pool("pooler_pool_received_bytes", "Bytes received from clients", lambda p: p.counters.bytes_received,
            "counter"),
    of_pool("pooler_pool_sent_bytes", "Bytes received from servers for "
            "clients", lambda p: p.counters.bytes_sent,
            "counter"),
    of_stats("pooler_client_logins", "Client logins that succeeded", lambda d: d.counters.client_login_count),
    of_stats("pooler_prepared_hits", "Binds whose statement the server had already prepared",
             lambda d: d.counters.prepared_hit_count),
    of_stats("pooler_prepared_misses", "Binds for which a statement had to be prepared on the server first",
             lambda d: d.counters.prepared_miss_count),
    *(
        Figure(
            f"pooler_worker_{name}", kind, f"{help}, by worker; absent with one process", ("worker",),
            lambda s, read=read: (((str(one.number),), read(one)) for one in s.workers),  # type: ignore[misc]
        )
        for name, kind, help, read in WORKER_FIGURES
    ),
    one("pooler_loop_longest_turn_seconds", "Longest time between two looks at the connections, in this "
        "stats_period or the one before", lambda s: seconds(s.loop.longest_turn_us)),
    one("pooler_loop_longest_turn_cpu_seconds", "Most processor time that the pooler took between two looks at the "
        "connections, in this stats_period or the one before", lambda s: seconds(s.loop.longest_turn_cpu_us)),
    of_events("connects", "connect", "Connections made, by kind"),
    of_events("disconnects", "disconnect", "Client connections closed, by reason"),
    of_events("server_closes", "close", "Server connections closed, by reason"),
    of_events("errors", "error", "What went wrong, by reason"),
    of_events("timeouts", "timeout", "Connections and queries ended by a time limit, by the setting"),
    of_events("failed_rounds", "round", "Rounds of the pooler's own work that failed, and lines its log has lost, "
              "by what it was"),
    of_events("missed_notifications", "notification", "Times that the listening server of a database was lost while "
              "clients listened"),
    of_events("login_failures", "login", "Client logins that failed, by reason"),
    Figure("pooler_session_state", "counter", "Statements that touched session state, by its kind and fate",
           ("database", "kind", "fate"), lambda s: (((e.database, *e.reason.split(" ", 1)), e.count)
                                                    for e in s.events if e.kind == "session_state")),
    of_drain("delivered_lines", "counter", "Log lines delivered", "delivered"),
    of_drain("dropped_lines", "counter", "Log lines given up", "dropped"),
    of_drain("retries", "counter", "Deliveries tried again", "retries"),
    of_drain("queued_lines", "gauge", "Log lines waiting for delivery", "queued"),
    Figure("pooler_memory_bytes", "gauge", "Memory of the pooler's own objects, as SHOW MEM", ("object",),
           lambda s: (((row.name,), row.memtotal) for row in s.mem)),
)  # fmt: skip

CATALOG: tuple[Figure, ...] = (
    *EXPORTER,
    *(one(f"{prefix}_process_{name}", help, read, kind)
      for prefix in ("pgbouncer", "pooler") for name, kind, help, read in PROCESS),
    *POOLER,
)  # fmt: skip

FOREIGN: tuple[Figure, ...] = (
    *EXPORTER,
    *(
        figure
        for figure in POOLER
        if figure.labels == DRAIN_LABELS
        or figure.name in ("pooler_pool_size", "pooler_pool_reserve_size", "pooler_pool_maxwait_seconds")
    ),
)
"""What a PgBouncer that is not ours can tell; zeros for what it cannot would be lies."""

UP = Figure("pgbouncer_up", "gauge", "The pgbouncer scrape succeeded")
"""Told by the front: 1 with a Snapshot, 0 without one, when it is all there is to tell."""
