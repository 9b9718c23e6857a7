"""A worker's rights to servers: those that it has, wants and gives up, and servers that come and go with theirs.

The rule: it has as many rights as it has servers, or one more for a moment; what it does not use goes back. A server
that nobody here needs has been free for RESTED; it is offered where it is sought, and goes when it is asked for.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from pooler.config.kinds import PoolMode
from pooler.pools.connection import ServerState
from pooler.pools.reasons import Kind, Reason
from pooler.pools.registry import MODES, PoolState
from pooler.pools.running import Running
from pooler.pools.verdict import Standing, standing
from pooler.relay import Server, engine
from pooler.servers.opener import Opener
from pooler.values import dataclass
from pooler.workers.handover import Unfit, part_with, receive, server_as_bytes
from pooler.workers.ledger import Account, servers_of

RESTED = 5_000
"""Microseconds for which a server has been free that nobody here needs."""
TICK = 0.012
"""Seconds between two looks at what is sought elsewhere and who waits here."""
PATIENT = 0.012
"""Seconds that somebody waits before the desk is asked anew that has had none to give: most have one of their own
worker's by then, and a worker that has all its servers at work asks for nothing with each who comes."""
UNRESTED = RESTED / 1e6 + TICK
"""Seconds until that look where no server is free: none has rested sooner than RESTED from now."""
CALM = 0.5
"""Seconds after which nobody has waited of late."""
STILL = 0.25
"""Seconds after which a server that is still wanted is thought about anew: limits may be others, the reserve's time has
come."""
UNSIZED_REST = 1.0
"""Seconds for which a right to listen is kept for who has asked for it."""
EVICTED = {
    "pool": Reason.EVICTED_FOR_POOL,
    "database": Reason.EVICTED_FOR_DATABASE,
    "user": Reason.EVICTED_FOR_USER,
}
"""What a server goes elsewhere for, by the account that is full."""
Name = tuple[str, str]
Pool = tuple[str, str] | None


@dataclass(slots=True)
class Wanted:
    """What the desk was told to be wanted, and when it was thought about last."""

    pool: PoolState
    facts: tuple[bool, bool, bool, bool, tuple[int, int, int]]
    """Whether pool_size counts, whether nobody waits for it, whether only the right is of use, whether none is, and the
    limits."""
    looked: float


class Rights:
    """`say` puts a message on the line: False when nobody is there to hear it."""

    def __init__(self, running: Running, opener: Opener, say: Callable[..., bool]) -> None:
        self._running = running
        self._opener = opener
        self._say = say
        self._sized: Counter[Name] = Counter()
        self._unsized: Counter[Name] = Counter()
        self._unsized_since = 0.0
        self._wanted: dict[Name, Wanted] = {}
        self._scarce: dict[Name, float] = {}
        """Pools of which the desk had none to give when it was asked last, and when somebody was seen to wait."""
        self._waits: dict[Name, PoolState] = {}
        """Those of them where it is looked whether somebody waits for long."""
        self._rivals: list[tuple[Account, int, Pool, bool]] = []
        """Accounts of which somebody elsewhere wants a server that is in use, since when (the relay's clock), of which
        pool it may be handed over, and whether it is of no use otherwise."""
        self._sought: set[Account] = set()
        """Accounts of which the desk is told when there is one to spare."""
        self._counts: dict[Name, int | None] = {}
        """How many servers all workers have, of pools that have a min_pool_size. None: that was asked."""
        self._next: asyncio.TimerHandle | None = None
        """The next look at what is sought and who waits."""
        self.still = False
        """While another process is about to take over: nothing goes to another worker."""

    @property
    def works(self) -> dict[str, Callable[..., Any]]:
        return {
            "granted": self.granted,
            "counted": self.counted,
            "sought": self.sought,
            "yield": self.give_one,
            "next": self.next_goes,
            "server": self.server,
            "has": self.has,
            "opened elsewhere": self.opened_elsewhere,
        }

    # ---- what is wanted here

    def may_open(self, pool: PoolState, *, sized: bool, needed: bool, own: bool) -> bool:
        name = _name(pool)
        if sized and self._sized[name] > pool.servers:
            return True
        if not sized and self._unsized[name] > pool.listening:
            return True
        if needed or own or not self._is_patient(pool):
            self._want(pool, sized, needed, own)
        return False

    def seek(self, pool: PoolState) -> None:
        """None can be opened here: one that another worker has is of use, and no right."""
        if not self._is_patient(pool):
            self._want(pool, True, False, False, True)

    def _is_patient(self, pool: PoolState) -> bool:
        """Whether who waits here waits for a moment until the desk is asked anew."""
        name = _name(pool)
        if name not in self._scarce or name in self._wanted or pool.oldest_wait(self._running.now()) >= PATIENT:
            return False
        self._waits[name] = pool
        self._go_on()
        return True

    def _want(self, pool: PoolState, sized: bool, needed: bool, own: bool, moved: bool = False) -> None:
        registry, name, now = self._running.registry, _name(pool), self._running.now()
        waited = pool.oldest_wait(now)
        size = registry.pool_size(pool) if sized else 0
        if needed and pool.engine.failing is None:
            size = min(size, registry.min_pool_size(pool.database.config))
        if size and 0 < registry.config.settings.reserve_pool_timeout <= waited:
            # The others may have all that there is without it.
            size += registry.reserve_size(pool)
        limits = size, registry.database_limit(pool.database), registry.user_limit(pool.user)
        facts = sized, needed, own, moved, limits
        if name in self._wanted and self._wanted[name].facts == facts:
            return
        self._wanted[name] = Wanted(pool, facts, now)
        self._waits.pop(name, None)
        self._say("want", pool.welcome is not None, *name, *facts, now - waited)
        self._go_on()

    def _still(self, name: Name, wanted: Wanted, now: float) -> None:
        """Whether it is still wanted."""
        pool = wanted.pool
        self._scarce[name] = now
        if self.wanted_no_more(pool):
            self._waits[name] = pool
        elif now - wanted.looked >= STILL:
            wanted.looked = now
            self._think(pool)

    def _look_at_who_waits(self, name: Name, pool: PoolState, now: float) -> None:
        """As long as somebody has waited of late the relay need not tell of all who come."""
        if pool.waiting:
            self._scarce[name] = now
            if pool.oldest_wait(now) >= PATIENT and pool.wanting:
                del self._waits[name]
                self._think(pool)
        elif now - self._scarce.get(name, 0.0) > CALM:
            del self._waits[name]
            pool.engine.full = False

    def _think(self, pool: PoolState) -> None:
        pool.engine.full = False
        self._opener.consider(pool)

    def wanted_no_more(self, pool: PoolState) -> bool:
        """Whether no server is wanted there, or none any more, which the desk is told."""
        name = _name(pool)
        if name not in self._wanted:
            return True
        waits = pool.wanting or any(waiter.claim is not None for waiter in pool.newcomers.values())
        if waits and not self._opener.rests(pool):
            return False
        del self._wanted[name]
        self._say("unwanted", *name)
        return True

    def granted(self, database: str, user: str, sized: bool, held: int) -> None:
        """One more server of this pool may be opened. `held`: by all workers, with this one."""
        name = database, user
        wanted = self._wanted.pop(name, None)
        self._scarce.pop(name, None)
        if sized:
            self._sized[name] += 1
        else:
            self._unsized[name] += 1
            self._unsized_since = self._running.now()
        pool = self._pool(name)
        if pool is None:
            return self._give_back(name, self._sized.pop(name, 0), self._unsized.pop(name, 0))
        pool.engine.full = False
        if sized and pool.wanting and pool.servers < self._running.registry.pool_size(pool) < held:
            # Of the reserve, which a worker that has fewer cannot see by itself.
            self._opener.say_reserve(pool)
        self._opener.consider(pool, needed=wanted is not None and wanted.facts[1])
        self.settle(pool)

    def inherit(self, database: str, user: str) -> None:
        """A server of this pool comes from the process before, with its right."""
        self._sized[database, user] += 1

    # ---- what is not used

    def settle(self, pool: PoolState) -> None:
        """A server of `pool` is gone: its place is everybody's."""
        name = _name(pool)
        spare = self._sized[name] - pool.servers
        listens = self._unsized[name] - pool.listening
        if listens > 0 and self._running.now() - self._unsized_since < UNSIZED_REST:
            listens = 0
        if spare > 0 or listens > 0:
            self._sized[name] -= max(spare, 0)
            self._unsized[name] -= max(listens, 0)
            self._give_back(name, max(spare, 0), max(listens, 0))

    def settle_all(self) -> None:
        """The same of all pools, also where no end has said so."""
        known = {_name(pool): pool for pool in self._running.registry.pools()}
        for name in {*self._sized, *self._unsized}:
            pool = known.get(name)
            if pool is not None:
                self.settle(pool)
            else:
                self._give_back(name, self._sized.pop(name, 0), self._unsized.pop(name, 0))
        for name in self._scarce.keys() - known.keys():
            del self._scarce[name]
        for name in self._counts.keys() - known.keys():
            del self._counts[name]
            self._say("count no more", *name)

    def _give_back(self, name: Name, sized: int, unsized: int) -> None:
        count = self._counts.get(name)
        if count is not None:
            # So that no other one is closed before the desk has said so.
            self._counts[name] = count - sized
        if sized or unsized:
            self._say("back", *name, sized, unsized)

    # ---- how many all have

    def count(self, pool: PoolState) -> int | None:
        """None until it was told; from now on it is."""
        name = _name(pool)
        if name not in self._counts:
            self._counts[name] = None
            self._say("count", *name)
        return self._counts[name]

    def counted(self, database: str, user: str, count: int) -> None:
        """So many servers of this pool there are in all workers. One that is wanted only so that there are enough is
        thought about anew."""
        name = database, user
        pool = self._pool(name)
        if pool is None:
            return
        self._counts[name] = count
        if name in self._wanted and self._wanted[name].facts[1]:
            del self._wanted[name]
            self._think(pool)
        pool.stir()

    # ---- what is sought elsewhere

    def sought(self, account: Account) -> None:
        """A server of this account is sought elsewhere: say so when there is one to spare."""
        self._sought.add(account)
        self._go_on()

    def _go_on(self, pause: float = TICK) -> None:
        """The next look is in so many seconds, or sooner."""
        loop = self._running.loop
        if not (self._sought or self._waits or self._wanted):
            return
        if self._next is not None:
            if self._next.when() <= loop.time() + pause:
                return
            self._next.cancel()
        self._next = loop.call_later(pause, self._tick)

    def _tick(self) -> None:
        """One timer for all: with little to do a turn of the loop is what costs. Where the next look could see nothing
        it is left out: whatever there is is seen no later than by one in each TICK."""
        self._next, now = None, self._running.now()
        pause = TICK if self._wanted else 2 * TICK
        try:
            for account in list(self._sought):
                if next(self._spare(account), None) is not None:
                    self._sought.discard(account)
                    self._say("spare", account)
                else:
                    pause = min(pause, TICK if self._free(account) else UNRESTED)
            for name, wanted in list(self._wanted.items()):
                self._still(name, wanted, now)
            for name, pool in list(self._waits.items()):
                pause = min(pause, max(TICK, PATIENT + TICK - pool.oldest_wait(now)))
                self._look_at_who_waits(name, pool, now)
        finally:
            self._go_on(pause)

    def _free(self, account: Account) -> bool:
        """Whether a server of the account has nothing to do."""
        return any(_has_free(pool) for pool in self._pools(account))

    def _spare(self, account: Account) -> Iterator[Server]:
        """Servers of the account that nobody here needs."""
        for pool in self._pools(account):
            if _has_free(pool) and not pool.waiting:
                yield from (
                    server
                    for server in standing(pool.engine, Standing.SPARE)
                    if server.state_name != ServerState.TESTED and server.idle_us >= RESTED
                )

    async def give_one(self, account: Account, wanted: Pool, moved: bool) -> bool | None:
        """One that nobody needs goes, if there is any: handed over if it is of the pool that is `wanted`, else closed,
        unless it is of use only when it is `moved`. Whether there is another; if not, it is told when there is. None:
        there are, and none of them can be moved."""
        # Whoever has asked something while this process had no turn is heard first.
        await asyncio.sleep(0)
        if self.still:
            self.sought(account)
            return False
        spare = sorted(self._spare(account), key=lambda server: (not self._fits(server, wanted), -server.idle_us))
        if spare and not self._part(spare[0], wanted, account, moved):
            return None
        if len(spare) > 1:
            return True
        self.sought(account)
        return False

    def next_goes(self, account: Account, since: float, wanted: Pool, moved: bool) -> None:
        """The next of this account that comes free goes, unless one of ours has waited since before that."""
        stamp = max(1, int(since * 1e6))
        self._rivals = [rival for rival in self._rivals if rival[0] != account]
        self._rivals.append((account, stamp, wanted, moved))
        for pool in self._pools(account):
            pool.engine.rival = min(pool.engine.rival or stamp, stamp)
            pool.stir()

    def yields(self, pool: PoolState) -> bool:
        """A server of `pool` has come free: whether it has gone for somebody who has waited for longer elsewhere."""
        if self.still:
            return False
        accounts = servers_of(*_name(pool))
        for place, (account, since, wanted, moved) in enumerate(self._rivals):
            if account not in accounts:
                continue
            del self._rivals[place]
            now = self._running.now()
            if pool.waiting and (now - pool.oldest_wait(now)) * 1e6 < since:
                return False
            spare = standing(pool.engine, Standing.SPARE)
            return bool(spare) and self._part(spare[0], wanted, account, moved)
        return False

    def _fits(self, server: Server, wanted: Pool) -> bool:
        return wanted == _name(server.pool.owner) and engine.may_pass(server)

    def _part(self, server: Server, wanted: Pool, account: Account, moved: bool) -> bool:
        """It goes for this account, which is full: handed over if that can be, else closed with its right, or kept
        where that is of no use. Whether it is gone."""
        if self._fits(server, wanted) and self._hand_over(server):
            return True
        if not moved:
            self._running.evict(server, EVICTED[account[0]])
        return not moved

    # ---- servers that come and go

    def _hand_over(self, server: Server) -> bool:
        """Whether it has gone: not without a descriptor to send it by, or without a desk."""
        pool: PoolState = server.pool.owner
        name = _name(pool)
        try:
            gone = self._say("given", *name, server_as_bytes(self._running, server), descriptors=[server.fd])
        except OSError:
            gone = False
        if gone:
            self._sized[name] -= 1
            engine.abandon(server)
            pool.elsewhere = pool.elsewhere or pool.failure is not None
            pool.engine.failing = None
            pool.engine.full = False
            pool.stir()
            self._running.changed.set()
        return gone

    def server(self, database: str, user: str, record: bytes, outdated: bool, descriptors: Sequence[int]) -> None:
        """A server of another worker's, with its right, or one of ours that nobody wanted. `outdated`: it is to go."""
        name = database, user
        self._wanted.pop(name, None)
        pool = self._pool(name)
        made = self._received(pool, record, descriptors[0]) if pool is not None and descriptors else None
        if pool is None or made is None:
            if pool is None and descriptors:
                part_with(descriptors[0])
            self._give_back(name, 1, 0)
            # Who waits here waits for another one.
            return self._think(pool) if pool is not None else None
        self._sized[name] += 1
        self._say("opened", made.about.place, made.pid)
        if outdated or pool.engine.paused:
            self._running.drop(made, Reason.PAUSED if pool.engine.paused else Reason.OUTDATED)
        self._opener.received(pool)

    def _received(self, pool: PoolState, record: bytes, descriptor: int) -> Server | None:
        running = self._running
        try:
            return receive(running, self._opener, pool, record, descriptor)
        except Unfit as unfit:
            running.say_closing(unfit.label, Reason.OUTDATED, unfit.since)
            running.tally(Kind.CLOSE, pool.database.name, Reason.OUTDATED)
        except Exception as error:
            running.rounds.failed("a server from another worker", error)
        part_with(descriptor)
        return None

    def has(self, database: str, user: str) -> bool:
        """Whether there are servers of this pool here that can be handed over."""
        pool = self._pool((database, user))
        if pool is None or pool.engine.mode == MODES[PoolMode.session]:
            return False
        return any(not (server.close_needed or server.about.tls) for server in pool.engine.servers())

    def opened_elsewhere(self, database: str, user: str) -> None:
        """A server of this pool, behind our having failed."""
        pool = self._pool((database, user))
        if pool is not None:
            self._opener.opened_elsewhere(pool)

    # ---- who is there

    def _pool(self, name: Name) -> PoolState | None:
        database, user = name
        found = self._running.registry.databases.get(database)
        return found.pools.get(user) if found is not None else None

    def _pools(self, account: Account) -> Iterable[PoolState]:
        if account[0] == "pool":
            found = self._pool((account[1], account[2]))
            return [found] if found is not None else []
        return [pool for pool in self._running.registry.pools() if account in servers_of(*_name(pool))]


def _has_free(pool: PoolState) -> bool:
    return bool(pool.engine.idle_servers.count + pool.engine.used_servers.count)


def _name(pool: PoolState) -> Name:
    return pool.database.name, pool.user.name
