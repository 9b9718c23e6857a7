"""What the pooler has counted, as frozen values: one `Snapshot` feeds the SHOW views, the log lines and Prometheus.

This module takes no measurement and does no I/O. The relay counts where a thing happens; `Bouncer.snapshot` copies
the counts into these classes. Everything here is plain data, so snapshots of several processes can be serialised
and summed. Units: times are microseconds (`_us` or named so by PgBouncer), ages and stamps are Unix seconds.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field, fields
from operator import add, attrgetter, sub

from pooler.values import dataclass

SUB_BITS = 5
"""log2 of the linear steps inside one power of two: 32 steps, so a bucket is at most 1/32 wide (middle: 1.6 % off)."""
MAX_EXPONENT = 36
"""Samples of 2**36 us (19 hours) and above share the last bucket."""
BUCKETS = (MAX_EXPONENT - SUB_BITS + 1) << SUB_BITS


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

    def __sub__(self, other: Counters) -> Counters:
        return Counters(*map(sub, _counts(self), _counts(other)))


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
    Keys are any hashable: the caller's choice of what is counted apart.
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
        before = self._old.get(key, ZERO)
        return NOTHING if total is before else Averages.over(total - before, now - self._old_stamp)

    def last_period(self, key: object) -> Averages:
        """The same until the next turn, so worked out once."""
        found = self._last.get(key)
        if found is None and key in self._new:
            gained = self._new[key] - self._old.get(key, ZERO)
            found = self._last[key] = Averages.over(gained, self._new_stamp - self._old_stamp)
        return found or NOTHING


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

    def __sub__(self, other: Histogram) -> Histogram:
        if not other.counts:
            return self
        return Histogram(
            array("Q", (a - b for a, b in zip(self.counts, other.counts, strict=True))),
            self.total_us - other.total_us,
        )

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
class Event:
    """How often something rare happened: `kind` is connect, disconnect, error, timeout, login or drain; `reason`
    is one of a fixed set of words of ours, never a client's text."""

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
    """The process itself, for SHOW ABOUT and the process metrics."""

    name: str
    version: str
    python: str
    build: str
    pid: int
    start_time: float
    cpu_seconds: float
    resident_bytes: int
    open_fds: int
    max_fds: int


@dataclass(frozen=True, slots=True)
class LoopStat:
    """The event loop's longest turns in this period and the one before, in microseconds: between two looks at the
    connections, and what the pooler itself computed between two. Where the first is much longer, the machine was."""

    longest_turn_us: int = 0
    longest_turn_cpu_us: int = 0
    no_ring: str = ""
    """Why what a turn sends does not leave by io_uring, in one system call; empty when it does."""


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
    pgbouncer_version: str = "PgBouncer 1.25.2"
    """The answer of SHOW VERSION, which exporters parse; who we really are stands in `process`."""

    async def release(self) -> None:
        """Empty the lists of clients and servers, some rows at a time: ten thousand at once take milliseconds."""
        for rows in (self.clients, self.servers):
            while isinstance(rows, list) and rows:
                del rows[-RELEASED:]
                await asyncio.sleep(0)
