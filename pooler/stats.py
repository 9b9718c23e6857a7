"""What the pooler has counted, as frozen values: one `Snapshot` feeds the SHOW views, the log lines and Prometheus.

This module takes no measurement and does no I/O. The relay counts where a thing happens; `Bouncer.snapshot` copies
the counts into these classes. Everything here is plain data, so snapshots of several processes can be serialised
and summed. Units: times are microseconds (`_us` or named so by PgBouncer), ages and stamps are Unix seconds. The rule:
counts only grow, and nobody else subtracts one from another. What was gained between two is asked of `since`, or of
`gained`, `gained_spread` and `gained_in_all`, which know whether both are of the same thing.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field, fields
from operator import add, attrgetter, sub
from typing import TypeVar

from pooler.values import dataclass

PGBOUNCER_VERSION = "1.26.1"
"""The release whose console, settings and words these are."""
ADMIN_DATABASE = "pgbouncer"
"""The console's database: it is not pooled, its queries are no traffic, and no other may have its name. Also the name
of the user who may log in there without a password, from the account that the pooler runs as."""
QUANTILES = (0.5, 0.95, 0.99)
"""Those that are told of durations."""
SUB_BITS = 5
"""log2 of the linear steps inside one power of two: 32 steps, so a bucket is at most 1/32 wide (middle: 1.6 % off)."""
MAX_EXPONENT = 36
"""Samples of 2**36 us (19 hours) and above share the last bucket."""
BUCKETS = (MAX_EXPONENT - SUB_BITS + 1) << SUB_BITS


N = TypeVar("N", int, float)


def since(now: Sequence[N], before: Sequence[N]) -> tuple[N, ...] | None:
    """What was gained, place by place. None when a count has fallen: it is no longer of the same thing (a pooler that
    was started anew, a PgBouncer that has forgotten a pool), and what was gained is not known. It is neither less than
    nothing, nor all that there is."""
    gained = tuple(map(sub, now, before))
    return gained if min(gained, default=0) >= 0 else None


@dataclass(frozen=True, slots=True)
class Counters:
    """Monotonic counts of one pool since start. Field names are those of SHOW STATS_TOTALS."""

    server_assignment_count: int = 0
    xact_count: int = 0
    query_count: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0
    xact_time: int = 0
    query_time: int = 0
    wait_time: int = 0
    client_parse_count: int = 0
    server_parse_count: int = 0
    bind_count: int = 0
    client_login_count: int = 0
    prepared_hit_count: int = 0
    prepared_miss_count: int = 0

    def __add__(self, other: Counters) -> Counters:
        return Counters(*map(add, _counts(self), _counts(other)))

    def since(self, before: Counters) -> Counters | None:
        """What was gained since; None when the counts are no longer of the same thing."""
        if self is before:
            return ZERO
        gained = since(_counts(self), _counts(before))
        return None if gained is None else Counters(*gained)


COUNTERS = tuple(f.name for f in fields(Counters))
_counts = attrgetter(*COUNTERS)
ZERO = Counters()


@dataclass(frozen=True, slots=True)
class Averages:
    """Rates and means over a window, with PgBouncer's integer division: counts and bytes per second, times in
    microseconds per transaction, query and server assignment."""

    server_assignment_count: int = 0
    xact_count: int = 0
    query_count: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0
    xact_time: int = 0
    query_time: int = 0
    wait_time: int = 0
    client_parse_count: int = 0
    server_parse_count: int = 0
    bind_count: int = 0
    client_login_count: int = 0

    @classmethod
    def over(cls, delta: Counters, seconds: float) -> Averages:
        """Averages of `delta`, the counts gained in `seconds`; all zero for an empty window."""
        usec = int(seconds * 1_000_000)
        if usec <= 0 or delta == ZERO:
            return NOTHING

        rates = [count * 1_000_000 // usec for count in _counts(delta)]
        for time, events in MEANS:
            rates[time] = _mean(getattr(delta, COUNTERS[time]), getattr(delta, events))
        return cls(*rates[: len(AVERAGES)])


AVERAGES = tuple(f.name for f in fields(Averages))
"""The first of COUNTERS, in the same order."""
MEANS = tuple(
    (AVERAGES.index(time), events)
    for time, events in (
        ("xact_time", "xact_count"),
        ("query_time", "query_count"),
        ("wait_time", "server_assignment_count"),
    )
)
"""Places of the times that are means, and what each is a mean over; all others are rates."""


def _mean(total: int, count: int) -> int:
    return total // count if count > 0 else 0


NOTHING = Averages()
RELEASED = 250
"""Rows that `Snapshot.release` frees in one turn of the loop."""


class Window:
    """The two marks between which averages are taken.

    `turn` is called once a stats_period. A live average compares now with the older mark, so it covers one to two
    periods (PgBouncer's SHOW STATS); `last_period` compares the two marks, so it covers exactly one (the log line).
    Keys are any hashable: the caller's choice of what is counted apart, and never the same for two things of one name.
    What has no mark began after it. Stamps are of a clock that is never set back.
    """

    def __init__(self, now: float) -> None:
        self._old_stamp = self._new_stamp = now
        self._old: Mapping[object, Counters] = {}
        self._new: Mapping[object, Counters] = {}
        self._last: dict[object, Averages] = {}

    def turn(self, now: float, counters: Mapping[object, Counters]) -> None:
        self._old, self._old_stamp = self._new, self._new_stamp
        self._new, self._new_stamp = dict(counters), now
        self._last = {}

    def live(self, now: float, key: object, total: Counters) -> Averages:
        return Averages.over(_beyond(total, self._old.get(key)), now - self._old_stamp)

    def last_period(self, key: object) -> Averages:
        """The same until the next turn, so worked out once."""
        found = self._last.get(key)
        if found is None and key in self._new:
            gained = _beyond(self._new[key], self._old.get(key))
            found = self._last[key] = Averages.over(gained, self._new_stamp - self._old_stamp)
        return found or NOTHING


def _beyond(now: Counters, before: Counters | None) -> Counters:
    return now if before is None else now.since(before) or ZERO


def bucket_of(value: int) -> int:
    """Index of the bucket that counts a sample of `value` microseconds (the relay does the same in C)."""
    if value < 1 << SUB_BITS:
        return max(value, 0)
    exponent = value.bit_length() - 1
    if exponent >= MAX_EXPONENT:
        return BUCKETS - 1
    return ((exponent - SUB_BITS) << SUB_BITS) + (value >> (exponent - SUB_BITS))


def bucket_bounds(index: int) -> tuple[int, int]:
    """Half-open range [low, high) of the samples, in microseconds, that bucket `index` counts."""
    if index < 1 << SUB_BITS:
        return index, index + 1
    shift = (index >> SUB_BITS) - 1
    low = ((index & ((1 << SUB_BITS) - 1)) + (1 << SUB_BITS)) << shift
    return low, low + (1 << shift)


@dataclass(frozen=True, slots=True)
class Histogram:
    """Log-linear distribution of durations. `counts` has BUCKETS entries, or none when nothing was ever recorded."""

    counts: array[int] = field(default_factory=lambda: array("Q"))
    total_us: int = 0

    @property
    def count(self) -> int:
        return sum(self.counts)

    def __add__(self, other: Histogram) -> Histogram:
        return merge((self, other))

    def since(self, before: Histogram) -> Histogram:
        """The samples since; none when these are no longer the same thing's."""
        if not before.counts:
            return self
        total = self.total_us - before.total_us
        if total < 0 or len(self.counts) != len(before.counts) or self.counts == before.counts:
            return Histogram()
        try:
            return Histogram(array("Q", map(sub, self.counts, before.counts)), total)
        except OverflowError:
            # Fewer than there were.
            return Histogram()

    def quantile(self, share: float) -> int:
        """The duration in microseconds below which `share` (0..1) of the samples lie; 0 without samples."""
        return self.quantiles((share,))[0]

    def quantiles(self, shares: Iterable[float]) -> tuple[int, ...]:
        """Several quantiles in one pass over the buckets; shares may come in any order."""
        total = self.count
        wanted = sorted((max(1.0, share * total), place) for place, share in enumerate(shares))
        answer = [0] * len(wanted)
        if not total:
            return tuple(answer)
        seen, at = 0, 0
        for index, count in enumerate(self.counts):
            seen += count
            while at < len(wanted) and seen >= wanted[at][0] - 1e-9:
                low, high = bucket_bounds(index)
                answer[wanted[at][1]] = (low + high - 1) // 2
                at += 1
            if at == len(wanted):
                break
        return tuple(answer)

    @property
    def max(self) -> int:
        """Upper edge of the highest bucket in use, in microseconds; 0 without samples."""
        for index in range(len(self.counts) - 1, -1, -1):
            if self.counts[index]:
                return bucket_bounds(index)[1] - 1
        return 0


def merge(parts: Iterable[Histogram]) -> Histogram:
    """The distribution of all samples of all parts."""
    filled = [part for part in parts if part.counts]
    if not filled:
        return Histogram()
    if len(filled) == 1:
        return filled[0]
    columns = zip(*(part.counts for part in filled), strict=True)
    return Histogram(array("Q", map(sum, columns)), sum(part.total_us for part in filled))


@dataclass(frozen=True, slots=True)
class Distributions:
    """Histograms of one pool: waits for a server, queries, transactions and client logins."""

    wait: Histogram = field(default_factory=Histogram)
    query: Histogram = field(default_factory=Histogram)
    xact: Histogram = field(default_factory=Histogram)
    login: Histogram = field(default_factory=Histogram)

    def since(self, before: Distributions) -> Distributions:
        pairs = zip(_spreads(self), _spreads(before), strict=True)
        return Distributions(*(now.since(then) for now, then in pairs))


_spreads = attrgetter(*(f.name for f in fields(Distributions)))


def merged(parts: Iterable[Distributions]) -> Distributions:
    """The distributions of all samples of all parts."""
    columns = zip(*map(_spreads, parts), strict=True)
    return Distributions(*map(merge, columns))


UNKNOWN = 0
"""The number of what cannot be told from another of its name: a PgBouncer's that is not ours."""


@dataclass(frozen=True, slots=True)
class PoolStat:
    """One pool, that is one (database, user) pair: a row of SHOW POOLS and its share of SHOW STATS."""

    database: str
    user: str
    cl_active: int
    cl_waiting: int
    cl_active_cancel_req: int
    cl_waiting_cancel_req: int
    sv_active: int
    sv_active_cancel: int
    sv_being_canceled: int
    sv_idle: int
    sv_used: int
    sv_tested: int
    sv_login: int
    maxwait_us: int
    pool_mode: str
    load_balance_hosts: str | None
    pool_size: int
    """Limit of server connections without the reserve."""
    reserve_pool_size: int
    counters: Counters
    averages: Averages
    distributions: Distributions | None = None
    """Present when the snapshot was taken with histograms."""
    born: int = UNKNOWN
    """Which pool of this name it is: another one has another number. See `gained`."""


@dataclass(frozen=True, slots=True)
class DatabaseStat:
    """One entry of [databases]: a row of SHOW DATABASES, and the sums of its pools for SHOW STATS."""

    name: str
    host: str | None
    port: int
    database: str
    force_user: str | None
    pool_size: int
    min_pool_size: int
    reserve_pool_size: int
    server_lifetime: int
    pool_mode: str | None
    load_balance_hosts: str | None
    max_connections: int
    current_connections: int
    max_client_connections: int
    current_client_connections: int
    paused: bool
    disabled: bool
    counters: Counters
    averages: Averages
    last_period: Averages
    """Over exactly the last full stats_period, as the `stats:` log line wants it."""
    born: int = UNKNOWN
    """As a pool's."""


@dataclass(frozen=True, slots=True)
class UserStat:
    """A row of SHOW USERS; None where the user has no setting of its own."""

    name: str
    pool_size: int | None
    reserve_pool_size: int | None
    pool_mode: str | None
    max_user_connections: int
    current_connections: int
    max_user_client_connections: int
    current_client_connections: int


@dataclass(frozen=True, slots=True)
class SocketStat:
    """One connection: a row of SHOW CLIENTS, SERVERS or SOCKETS."""

    type: str
    """C for a client, S for a server."""
    user: str
    database: str
    replication: str
    """none, logical or physical."""
    state: str
    addr: str
    port: int
    local_addr: str
    local_port: int
    connect_time: float
    request_time: float
    wait_us: int
    close_needed: bool
    ptr: str
    link: str
    """The ptr of the connection it is linked to; empty when not linked."""
    remote_pid: int
    tls: str
    application_name: str
    prepared_statements: int
    id: int
    recv_pos: int = 0
    pkt_pos: int = 0
    pkt_remain: int = 0
    send_pos: int = 0
    send_remain: int = 0
    pkt_avail: int = 0
    send_avail: int = 0
    xact_us: int = 0
    """Of a client: since the first query of the transaction it is in; 0 outside of one."""


@dataclass(frozen=True, slots=True)
class HistorySample:
    """One database over one period that ended at `time` and lasted `seconds`. Rates are per second, times in
    microseconds; the counts of clients and servers are those at the period's end."""

    time: float
    database: str
    seconds: float
    tps: float
    qps: float
    bytes_received: int
    bytes_sent: int
    avg_xact_time: int
    avg_query_time: int
    avg_wait_time: int
    cl_active: int
    cl_waiting: int
    sv_active: int
    sv_idle: int
    sv_total: int
    maxwait_us: int
    pool_size: int = 0
    query_times: tuple[int, ...] = ()
    """QUANTILES of the period's queries in microseconds; empty when there was none."""
    wait_times: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ListItem:
    """A row of SHOW LISTS."""

    list: str
    items: int


@dataclass(frozen=True, slots=True)
class PeerStat:
    """A row of SHOW PEERS and of SHOW PEER_POOLS."""

    peer_id: int
    host: str
    port: int
    pool_size: int
    cl_active_cancel_req: int = 0
    cl_waiting_cancel_req: int = 0
    sv_active_cancel: int = 0
    sv_login: int = 0


@dataclass(frozen=True, slots=True)
class MemStat:
    """A row of SHOW MEM: objects of one kind, `size` bytes each."""

    name: str
    size: int
    used: int
    free: int
    memtotal: int


@dataclass(frozen=True, slots=True)
class DescriptorStat:
    """A row of SHOW FDS. `task` is pooler (a listening socket), client or server; `link` the descriptor of the other
    side, 0 without one. What PgBouncer shows beside them is secret, and is not known here: see the view."""

    fd: int
    task: str
    addr: str
    port: int
    user: str | None = None
    database: str | None = None
    link: int = 0
    client_encoding: str | None = None
    std_strings: str | None = None
    datestyle: str | None = None
    timezone: str | None = None


@dataclass(frozen=True, slots=True)
class DnsHost:
    """A row of SHOW DNS_HOSTS; `ttl` in seconds from now."""

    hostname: str
    ttl: int
    addrs: str


@dataclass(frozen=True, slots=True)
class SessionStat:
    """What a client that is here has left in its session, of one kind: the first statement that did so, its constants
    left out. `pinned_us`, `server`: for how long its server stays with it because of that, and the process id of it."""

    database: str
    user: str
    application_name: str
    addr: str
    port: int
    id: int
    kind: str
    fate: str
    statement: str
    since: float
    pinned_us: int | None
    server: int | None


@dataclass(frozen=True, slots=True)
class SeenStat:
    """How often a statement has touched session state, from when to when (seconds since 1970)."""

    database: str
    user: str
    kind: str
    fate: str
    statement: str
    count: int
    first_seen: float
    last_seen: float


@dataclass(frozen=True, slots=True)
class Event:
    """How often something rare happened: `kind` is connect, disconnect, error, timeout, login, round, session_state or
    notification; `reason` is one of a fixed set of words of ours, never a client's text."""

    kind: str
    database: str
    reason: str
    count: int


@dataclass(frozen=True, slots=True)
class DrainStat:
    """One place the log lines go: a row of SHOW DRAINS. `target` never holds a password."""

    kind: str
    """stdout, file, syslog, syslog+tls, http or https."""
    target: str
    state: str
    """idle, connecting, connected, waiting (before it tries again) or closed."""
    queued: int
    delivered: int
    dropped: int
    retries: int
    last_error: str
    """Empty when the last attempt succeeded."""


@dataclass(frozen=True, slots=True)
class ProcessStat:
    """The process itself, for SHOW ABOUT and the process metrics. None: the figure cannot be had now."""

    name: str
    version: str
    python: str
    build: str
    pid: int
    start_time: float
    cpu_seconds: float | None
    resident_bytes: int | None
    open_fds: int | None
    max_fds: int | None


@dataclass(frozen=True, slots=True)
class LoopStat:
    """The event loop's longest turns in this period and the one before, in microseconds: between two looks at the
    connections, and what the pooler itself computed between two. Where the first is much longer, the machine was."""

    longest_turn_us: int = 0
    longest_turn_cpu_us: int = 0
    no_ring: str = ""
    """Why what a turn sends does not leave by io_uring, in one system call; empty when it does."""


@dataclass(frozen=True, slots=True)
class WorkerStat:
    """One of the service's workers. `state`: serving, silent (it does not answer) or starting; `tps` transactions a
    second of late, `longest_turn_us` as in LoopStat."""

    number: int
    pid: int
    state: str
    since: float
    clients: int
    servers: int
    xact_count: int
    tps: float
    cpu_seconds: float
    resident_bytes: int
    longest_turn_us: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything any front shows, taken at one instant. `clients` and `servers` are empty unless asked for."""

    now: float
    databases: tuple[DatabaseStat, ...]
    pools: tuple[PoolStat, ...]
    users: tuple[UserStat, ...]
    lists: tuple[ListItem, ...]
    peers: tuple[PeerStat, ...]
    mem: tuple[MemStat, ...]
    dns_hosts: tuple[DnsHost, ...]
    events: tuple[Event, ...]
    active: bool
    paused: bool
    suspended: bool
    max_client_conn: int
    max_user_connections: int
    stats_period: int
    process: ProcessStat
    clients: Sequence[SocketStat] = ()
    servers: Sequence[SocketStat] = ()
    drains: tuple[DrainStat, ...] = ()
    loop: LoopStat = LoopStat()
    total: Counters | None = None
    """Of all databases that have ever been here but the console's, gone or not; None where only what is here is
    known."""
    steady: float | None = None
    """`now` by a clock that is never set: for the time between two snapshots of one process."""
    workers: tuple[WorkerStat, ...] = ()
    """The processes that share the work; empty when there is but one."""
    pgbouncer_version: str = f"PgBouncer {PGBOUNCER_VERSION}"
    """The answer of SHOW VERSION, which exporters parse; who we really are stands in `process`."""

    async def release(self) -> None:
        """Empty the lists of clients and servers, some rows at a time: ten thousand at once take milliseconds."""
        for rows in (self.clients, self.servers):
            while isinstance(rows, list) and rows:
                del rows[-RELEASED:]
                await asyncio.sleep(0)


def workers(snapshot: Snapshot) -> tuple[WorkerStat, ...]:
    """The processes that share the work; where there is but one, that."""
    if snapshot.workers:
        return snapshot.workers
    process, pools = snapshot.process, [pool for pool in snapshot.pools if pool.database != ADMIN_DATABASE]
    tps = sum(stat.averages.xact_count for stat in snapshot.databases if stat.name != ADMIN_DATABASE)
    lists = {item.list: item.items for item in snapshot.lists}
    own = WorkerStat(
        number=0,
        pid=process.pid,
        state="serving",
        since=process.start_time,
        clients=lists.get("used_clients", 0),
        servers=lists.get("used_servers", 0),
        xact_count=(snapshot.total or sum((pool.counters for pool in pools), ZERO)).xact_count,
        tps=float(tps),
        cpu_seconds=process.cpu_seconds or 0.0,
        resident_bytes=process.resident_bytes or 0,
        longest_turn_us=snapshot.loop.longest_turn_us,
    )
    return (own,)


# ---- between two snapshots

Counted = TypeVar("Counted", PoolStat, DatabaseStat)


def same(now: Counted, before: Counted | None) -> Counted | None:
    """What was here under the name of `now`, if it was the very same."""
    return before if before is not None and before.born == now.born else None


def gained(now: Counted, before: Counted | None) -> Counters:
    """What a pool or database has counted since a snapshot in which `before` had its name. All that it has counted,
    when it came after that; nothing where that cannot be known."""
    known = same(now, before)
    if known is None:
        return now.counters if now.born > UNKNOWN else ZERO
    return now.counters.since(known.counters) or ZERO


def gained_spread(now: PoolStat, before: PoolStat | None) -> Distributions:
    """The same of its distributions; none for a snapshot without histograms."""
    known, spread = same(now, before), now.distributions or Distributions()
    if known is None:
        return spread if now.born > UNKNOWN else Distributions()
    return spread.since(known.distributions or Distributions())


def gained_in_all(now: Snapshot, before: Snapshot) -> Counters:
    """The same of all databases but the console's: of those that went in between as well, where that is known."""
    if now.total is not None and before.total is not None:
        return now.total.since(before.total) or ZERO
    old = {stat.name: stat for stat in before.databases}
    stats = (stat for stat in now.databases if stat.name != ADMIN_DATABASE)
    return sum((gained(stat, old.get(stat.name)) for stat in stats), ZERO)


def seconds_between(now: Snapshot, before: Snapshot) -> float:
    """Below or at nought only if the wall clock is all there is, and was set back."""
    if now.steady is not None and before.steady is not None:
        return now.steady - before.steady
    return now.now - before.now
