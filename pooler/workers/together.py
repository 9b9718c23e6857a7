"""Figures of all workers as those of one service: snapshots in, one Snapshot out.

What counts is added, what is a limit is the service's, the longest wait is the longest. The desk's own snapshot is one
of them: it has the configuration, and no clients. The rule: a total never falls because a worker is gone; what it had
counted is kept by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any, Protocol, TypeVar

from pooler.house.snapshot import TOTAL
from pooler.stats import (
    ADMIN_DATABASE,
    ZERO,
    Counters,
    DatabaseStat,
    Event,
    ListItem,
    LoopStat,
    MemStat,
    PeerStat,
    PoolStat,
    ProcessStat,
    SeenStat,
    Snapshot,
    SocketStat,
    UserStat,
    Window,
    WorkerStat,
    merged,
)

KNOWN = 1
"""The number of every pool and database here: its sums are of one thing for as long as the service runs."""
POOL_SUMS = (
    *("cl_active", "cl_waiting", "cl_active_cancel_req", "cl_waiting_cancel_req", "sv_active", "sv_active_cancel"),
    *("sv_being_canceled", "sv_idle", "sv_used", "sv_tested", "sv_login"),
)
OF_THE_DESK = frozenset(("databases", "users", "peers", "pools", "peer_pools", "dns_names", "dns_zones"))
"""Items of SHOW LISTS that are not sums."""


class Told(Protocol):
    """A worker as the desk knows it."""

    number: int
    process: Any
    since: float
    ready: bool
    silent: bool
    before: Snapshot | None


Row = TypeVar("Row")


class Lost:
    """What workers that are gone have counted."""

    def __init__(self) -> None:
        self.counters: dict[object, Counters] = {}
        """By the window's keys."""
        self.events: dict[tuple[str, str, str], int] = {}
        self.cpu_seconds = 0.0

    def add(self, last: Snapshot) -> None:
        """`last` is what was known of it."""
        for key, counters in counted((last,), {}).items():
            self.counters[key] = self.counters.get(key, ZERO) + counters
        for event in last.events:
            key = event.kind, event.database, event.reason
            self.events[key] = self.events.get(key, 0) + event.count
        self.cpu_seconds += last.process.cpu_seconds or 0.0


def counted(snapshots: Iterable[Snapshot], lost: Mapping[object, Counters]) -> dict[object, Counters]:
    """Counts of pools, databases and all together: what averages are made of."""
    sums: dict[object, Counters] = dict(lost)

    def add(key: object, counters: Counters) -> None:
        # What has nothing to count has ZERO itself; ten thousand databases may.
        before = sums.setdefault(key, ZERO)
        if counters is not ZERO and counters != ZERO:
            sums[key] = before + counters

    for snapshot in snapshots:
        for pool in snapshot.pools:
            add(("pool", pool.database, pool.user), pool.counters)
        for database in snapshot.databases:
            add(("database", database.name), database.counters)
        add(TOTAL, snapshot.total or ZERO)
    return sums


def together(
    desk: Snapshot, workers: Mapping[int, Snapshot], lost: Lost, window: Window, rows: Sequence[WorkerStat] = ()
) -> Snapshot:
    """One Snapshot of all of them, by the desk's clock."""
    everybody = (desk, *workers.values())
    sums, now = counted(everybody, lost.counters), desk.steady or 0.0
    pools = tuple(_pools(everybody, sums, window, now))
    databases = tuple(_databases(everybody, sums, window, now))
    users = tuple(_users(everybody))
    return replace(
        desk,
        databases=databases,
        pools=pools,
        users=users,
        lists=tuple(_lists(everybody, len(databases), len(pools), len(users))),
        peers=tuple(_peers(everybody)),
        mem=tuple(_mem(everybody)),
        dns_hosts=tuple({host.hostname: host for each in everybody for host in each.dns_hosts}.values()),
        events=tuple(_events(everybody, lost)),
        active=all(each.active for each in everybody),
        paused=any(each.paused for each in everybody),
        suspended=any(each.suspended for each in everybody),
        process=_process(everybody, lost),
        clients=[row for each in everybody for row in _by_now(each, now)],
        servers=[row for each in everybody for row in each.servers],
        loop=_loop(everybody),
        total=sums[TOTAL],
        workers=tuple(rows),
    )


def _grouped(rows: Iterable[Row], key: Callable[[Row], object]) -> Iterable[list[Row]]:
    groups: dict[object, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups.values()


def _sum(rows: Iterable[Any], name: str) -> int:
    return sum(getattr(row, name) for row in rows)


def _sums(rows: Sequence[Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: _sum(rows, name) for name in names}


def _pools(
    everybody: Sequence[Snapshot], sums: Mapping[object, Counters], window: Window, now: float
) -> Iterable[PoolStat]:
    rows = (pool for each in everybody for pool in each.pools if pool.database != ADMIN_DATABASE)
    consoles = [pool for each in everybody for pool in each.pools if pool.database == ADMIN_DATABASE]
    for group in (*_grouped(rows, attrgetter("database", "user")), consoles):
        if not group:
            continue
        first = group[0]
        key = "pool", first.database, first.user
        spreads = [pool.distributions for pool in group if pool.distributions is not None]
        yield replace(
            first,
            **_sums(group, POOL_SUMS),
            maxwait_us=max(pool.maxwait_us for pool in group),
            counters=sums[key],
            averages=window.live(now, key, sums[key]),
            distributions=merged(spreads) if spreads else None,
            born=KNOWN,
        )


def _databases(
    everybody: Sequence[Snapshot], sums: Mapping[object, Counters], window: Window, now: float
) -> Iterable[DatabaseStat]:
    rows = (database for each in everybody for database in each.databases if database.name != ADMIN_DATABASE)
    console = [database for each in everybody for database in each.databases if database.name == ADMIN_DATABASE]
    for group in (*_grouped(rows, attrgetter("name")), console):
        if not group:
            continue
        # The desk's comes first: what is configured is the service's there.
        key = "database", group[0].name
        if len(group) == 1 and sums[key] is ZERO:
            # Nobody has used it yet, and what it shows is as it is configured.
            yield group[0]
            continue
        yield replace(
            group[0],
            current_connections=_sum(group, "current_connections"),
            current_client_connections=_sum(group, "current_client_connections"),
            paused=any(row.paused for row in group),
            disabled=any(row.disabled for row in group),
            counters=sums[key],
            averages=window.live(now, key, sums[key]),
            last_period=window.last_period(key),
            born=KNOWN,
        )


def _users(everybody: Sequence[Snapshot]) -> Iterable[UserStat]:
    for group in _grouped((user for each in everybody for user in each.users), attrgetter("name")):
        # Of many thousands most are used nowhere, and the desk's alone.
        yield group[0] if len(group) == 1 else replace(
            group[0],
            current_connections=_sum(group, "current_connections"),
            current_client_connections=_sum(group, "current_client_connections"),
        )


def _lists(everybody: Sequence[Snapshot], databases: int, pools: int, users: int) -> Iterable[ListItem]:
    counts = {"databases": databases, "pools": pools, "users": users}
    for group in _grouped((item for each in everybody for item in each.lists), attrgetter("list")):
        name = group[0].list
        items = group[0].items if name in OF_THE_DESK else _sum(group, "items")
        yield ListItem(name, counts.get(name, items))


def _by_now(each: Snapshot, now: float) -> Iterable[SocketStat]:
    """Its clients. Workers answer one behind the other, and who has waited for longest is known among all."""
    later = max(0, int((now - each.steady) * 1e6)) if each.steady is not None else 0
    for row in each.clients:
        if row.wait_us or row.xact_us:
            waited, works = (value and value + later for value in (row.wait_us, row.xact_us))
            yield replace(row, wait_us=waited, xact_us=works)
        else:
            yield row


def _peers(everybody: Sequence[Snapshot]) -> Iterable[PeerStat]:
    names = ("cl_active_cancel_req", "cl_waiting_cancel_req", "sv_active_cancel")
    for group in _grouped((peer for each in everybody for peer in each.peers), attrgetter("peer_id")):
        yield replace(group[0], **_sums(group, names))


def _mem(everybody: Sequence[Snapshot]) -> Iterable[MemStat]:
    for group in _grouped((row for each in everybody for row in each.mem), attrgetter("name")):
        used, total = _sum(group, "used"), _sum(group, "memtotal")
        size = total // used if used else group[0].size
        yield MemStat(group[0].name, size, used, _sum(group, "free"), total)


def _events(everybody: Sequence[Snapshot], lost: Lost) -> Iterable[Event]:
    sums = dict(lost.events)
    for each in everybody:
        for event in each.events:
            key = event.kind, event.database, event.reason
            sums[key] = sums.get(key, 0) + event.count
    return sorted((Event(*key, count) for key, count in sums.items()), key=attrgetter("kind", "database", "reason"))


def _process(everybody: Sequence[Snapshot], lost: Lost) -> ProcessStat:
    """Processor time and memory of all; of descriptors those of the process that has the fewest left."""
    processes = [each.process for each in everybody]
    times = [process.cpu_seconds for process in processes if process.cpu_seconds is not None]
    sizes = [process.resident_bytes for process in processes if process.resident_bytes is not None]
    fullest = min(processes, key=lambda one: (one.max_fds or 0) - (one.open_fds or 0))
    return replace(
        processes[0],
        cpu_seconds=sum(times) + lost.cpu_seconds if times else None,
        resident_bytes=sum(sizes) if sizes else None,
        open_fds=fullest.open_fds,
        max_fds=fullest.max_fds,
    )


def _loop(everybody: Sequence[Snapshot]) -> LoopStat:
    turns = [each.loop for each in everybody]
    return LoopStat(
        max(turn.longest_turn_us for turn in turns),
        max(turn.longest_turn_cpu_us for turn in turns),
        next((turn.no_ring for turn in turns if turn.no_ring), ""),
    )


def seen_together(rows: Iterable[SeenStat]) -> Iterable[SeenStat]:
    """What was seen anywhere, each once."""
    groups: dict[tuple[str, ...], SeenStat] = {}
    for row in rows:
        key = row.database, row.user, row.kind, row.fate, row.statement
        other = groups.get(key)
        groups[key] = row if other is None else SeenStat(
            *key,
            row.count + other.count,
            min(row.first_seen, other.first_seen),
            max(row.last_seen, other.last_seen),
        )
    return groups.values()


def told_apart(workers: Iterable[Told], snapshots: Mapping[int, Snapshot]) -> Iterable[WorkerStat]:
    """What tells them apart."""
    for worker in sorted(workers, key=lambda one: one.number):
        last = snapshots.get(worker.number)
        state = "silent" if worker.silent else "serving" if worker.ready else "starting"
        if last is None:
            yield WorkerStat(worker.number, worker.process.pid, state, worker.since, 0, 0, 0, 0.0, 0.0, 0, 0)
            continue
        lists = {item.list: item.items for item in last.lists}
        counters = last.total or Counters()
        yield WorkerStat(
            worker.number,
            worker.process.pid,
            state,
            worker.since,
            lists.get("used_clients", 0),
            lists.get("used_servers", 0),
            counters.xact_count,
            _rate(worker, last),
            last.process.cpu_seconds or 0.0,
            last.process.resident_bytes or 0,
            last.loop.longest_turn_us,
        )


def _rate(worker: Told, last: Snapshot) -> float:
    before = worker.before
    if before is None or before.total is None or last.total is None or last.now <= before.now:
        return 0.0
    gained = last.total.since(before.total)
    return gained.xact_count / (last.now - before.now) if gained is not None else 0.0
