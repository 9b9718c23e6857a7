"""The desk's exchange: rights to servers, and servers that go from the worker that has them to the one that wants them.

A want is granted where the ledger has room. Where it has none, whoever holds some of the account is told once that it
is sought there: it says so when it has one to spare, and is asked for it then; so nothing is said as long as all are
busy. A server of the same pool is handed over, any other is closed, and the right goes on. The rule: the right goes
with the server; one that is lost under way is nobody's, and its right is free. See EXCHANGE.md.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import field
from typing import Any, Protocol

from pooler.values import dataclass
from pooler.workers.ledger import DESK, Account, Ledger, servers_of
from pooler.workers.line import LineClosed

PRESS = 0.003
"""Seconds after which a server of another worker is sought."""
AGAIN = 0.035
"""Seconds until it is looked again whether who has more than its part is to give up one that is in use."""
CALM = 0.25
"""The same, of who has its part."""
SLACK = 0.05
"""By so much longer than a worker's own clients somebody elsewhere has waited before its only server goes there."""
ANSWER = 5.0
"""Seconds for a worker to answer."""


class Speaker(Protocol):
    """The line to a worker."""

    def put(self, name: str, *values: Any, descriptors: Sequence[int] = ()) -> bool: ...

    async def ask(self, name: str, *values: Any) -> Any: ...


class Holder(Protocol):
    """A worker."""

    @property
    def line(self) -> Speaker: ...

    @property
    def silent(self) -> bool: ...


@dataclass(slots=True)
class Want:
    """A server that a worker wants."""

    worker: int
    database: str
    user: str
    sized: bool
    needed: bool
    """Nobody waits for it: it is given if there is room, and asked for again if not."""
    own: bool
    """Only the right is of use: it is opened for one alone, or to listen."""
    moved: bool
    """Only a server of the pool is of use that is handed over: none can be opened there."""
    limits: tuple[int, int, int]
    since: float
    pressed: asyncio.TimerHandle | None = None
    looked: int = 0
    """How often it was sought."""
    asked: bool = False
    """Somebody was asked for a server for it, and has not answered."""

    @property
    def key(self) -> tuple[int, str, str]:
        return self.worker, self.database, self.user

    @property
    def accounts(self) -> list[tuple[Account, int]]:
        pairs = list(zip(servers_of(self.database, self.user), self.limits, strict=True))
        return pairs if self.sized else pairs[1:]

    @property
    def pool(self) -> tuple[str, str] | None:
        """Whose servers may be handed over for it."""
        return (self.database, self.user) if self.sized and not self.own else None


@dataclass(slots=True)
class Sought:
    """Who of an account's holders has been told that it is sought there, and who has said since that it has one."""

    told: set[int] = field(default_factory=set)
    spare: list[int] = field(default_factory=list)


class Exchange:
    """`workers` by number; `keep` has a coroutine done."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        ledger: Ledger,
        workers: Mapping[int, Holder],
        keep: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self.ledger = ledger
        self.recalled = 0
        """While this is not 0, servers were recalled and some workers may not have heard of it: none is handed over."""
        self.is_open = True
        """Whether anything is granted: not before what comes from an old process is in the ledger."""
        self.passed = 0
        """Servers that were handed over."""
        self._loop = loop
        self._workers = workers
        self._keep = keep
        self._wants: dict[tuple[int, str, str], Want] = {}
        self._sought: dict[Account, Sought] = {}
        self._counting: dict[Account, set[int]] = {}
        """Who is told how many servers there are of a pool: a min_pool_size is of all together."""

    def open(self) -> None:
        """What comes from the old process is in the ledger."""
        self.is_open = True
        for account in self._counting:
            self._tell(account)

    # ---- wants and rights

    def want(self, want: Want) -> bool:
        """Somebody wants this; whether it has to wait for it."""
        self._forget(want.key)
        if not self.is_open:
            # Nobody waits yet: it is for min_pool_size, and asked for again.
            return False
        self._wants[want.key] = want
        if self._grant(want) is None:
            return False
        if want.needed:
            self._forget(want.key)
            self._tell(want.accounts[0][0], want.worker)
            return False
        full = next(self._full(want))
        if full in self._sought and self._sought[full].spare:
            self._press(want)
        else:
            want.pressed = self._loop.call_later(PRESS, self._press, want)
        return True

    def wanting(self, database: str, user: str) -> list[int]:
        """The workers that wait for a server of this pool."""
        return [want.worker for want in self._waiting() if (want.database, want.user) == (database, user)]

    def unwanted(self, number: int, database: str, user: str) -> None:
        self._forget((number, database, user))

    def gone(self, number: int) -> None:
        """This worker has ended."""
        freed = self.ledger.gone(number)
        for account in list(self._counting):
            self.count_no_more(number, *account[1:])
        for account in freed:
            self._tell(account)
        for key in [key for key in self._wants if key[0] == number]:
            self._forget(key)
        for account, sought in list(self._sought.items()):
            sought.told.discard(number)
            self._no_longer_spare(account, number)
        self.serve()

    def back(self, number: int, database: str, user: str, sized: int, unsized: int) -> None:
        """Rights that this worker does not use."""
        accounts = servers_of(database, user)
        self.ledger.give_back(number, accounts, sized)
        self.ledger.give_back(number, accounts[1:], unsized)
        if sized:
            self._tell(accounts[0])
        self.serve()

    def serve(self) -> None:
        """There may be room: the longest waiting first."""
        for want in self._waiting():
            if want.key in self._wants:
                self._grant(want)

    def _waiting(self) -> list[Want]:
        return sorted(self._wants.values(), key=lambda want: want.since)

    def _grant(self, want: Want) -> Account | None:
        """Give what is wanted, if there is room; else the account that has none."""
        full = want.accounts[0][0] if want.moved else self.ledger.take(want.worker, want.accounts)
        if full is None:
            self._forget(want.key)
            held = self.ledger.total(servers_of(want.database, want.user)[0])
            self._workers[want.worker].line.put("granted", want.database, want.user, want.sized, held)
            if want.sized:
                self._tell(want.accounts[0][0])
        return full

    def _forget(self, key: tuple[int, str, str]) -> None:
        want = self._wants.pop(key, None)
        if want is not None and want.pressed is not None:
            want.pressed.cancel()

    def count(self, number: int, database: str, user: str) -> None:
        """This worker is told how many servers of the pool there are, now and whenever there are others."""
        account = servers_of(database, user)[0]
        self._counting.setdefault(account, set()).add(number)
        self._workers[number].line.put("counted", database, user, self.ledger.total(account))

    def count_no_more(self, number: int, database: str, user: str) -> None:
        account = servers_of(database, user)[0]
        self._counting.get(account, set()).discard(number)
        if not self._counting.get(account):
            self._counting.pop(account, None)

    def _tell(self, account: Account, only: int | None = None) -> None:
        for number in self._counting.get(account, ()):
            if only in (None, number):
                self._workers[number].line.put("counted", *account[1:], self.ledger.total(account))

    # ---- servers that others have

    def _press(self, want: Want) -> None:
        """It still waits: it is sought; and again after a while, one that is in use as well."""
        full = next(self._full(want), None)
        if self._wants.get(want.key) is not want or full is None:
            return
        want.looked += 1
        lacks = self._lacks(want, full)
        soon = lacks is not None or want.looked == 1
        want.pressed = self._loop.call_later(AGAIN if soon else CALM, self._press, want)
        self._seek(want, full)
        if lacks is not None and want.looked > 1:
            self._workers[lacks].line.put("next", full, self._since(want, full, lacks), want.pool, want.moved)

    def _lacks(self, want: Want, account: Account) -> int | None:
        """Who has most, if this one has less than its part."""
        others = self._others(account, want)
        less = self.ledger.held(want.worker, account) < self._part(want, account)
        return others[0][0] if others and less else None

    def _since(self, want: Want, account: Account, giver: int) -> float:
        """Of whose clients nobody goes first who has come after that."""
        more = self.ledger.held(giver, account) > self._part(want, account)
        return 0.0 if more else want.since + SLACK

    def _others(self, account: Account, want: Want) -> list[tuple[int, int]]:
        """(worker, how many it holds), who has most first."""
        return [
            (number, count)
            for number, count in self.ledger.holders(account)
            if number != want.worker and number in self._workers and not self._workers[number].silent
        ]

    def _part(self, want: Want, account: Account) -> int:
        """What each may have who has some of it, or wants some."""
        limit = self.ledger.total(account) if want.moved else dict(want.accounts)[account]
        wanting = {want.worker for want in self._wants.values() if account in dict(want.accounts)}
        having = {number for number, _ in self.ledger.holders(account) if number != DESK}
        return max(1, limit // len(wanting | having))

    def _full(self, want: Want) -> Iterator[Account]:
        """What stands in its way; of the one that is to be moved, the pool itself."""
        if want.moved:
            return iter([want.accounts[0][0]])
        return (account for account, limit in want.accounts if limit and self.ledger.total(account) >= limit)

    def _seek(self, want: Want, account: Account) -> None:
        """Ask who has said that it has one to spare; tell the others that it is sought."""
        sought = self._sought.setdefault(account, Sought())
        others = [number for number, _ in self._others(account, want)]
        for number in others:
            if number not in sought.told and number not in sought.spare:
                sought.told.add(number)
                self._workers[number].line.put("sought", account)
        ready = next((number for number in sought.spare if number in others), None)
        if ready is not None and not want.asked:
            sought.spare.remove(ready)
            want.asked = True
            self._keep(self._fetch(want, account, ready))

    def spare(self, number: int, account: Account) -> None:
        """This worker has one of the account that it does not need."""
        sought = self._sought.setdefault(account, Sought())
        sought.told.discard(number)
        if number not in sought.spare:
            sought.spare.append(number)
        for want in self._waiting():
            if want.looked and not want.asked and want.worker != number and account in self._full(want):
                return self._seek(want, account)

    def _no_longer_spare(self, account: Account, number: int) -> None:
        sought = self._sought.get(account)
        if sought is not None and number in sought.spare:
            sought.spare.remove(number)
        if sought is not None and not (sought.told or sought.spare):
            del self._sought[account]

    async def _fetch(self, want: Want, account: Account, number: int) -> None:
        """Have that worker give up one. What comes of it has come before its answer. Without an answer nobody knows
        what it has been told, and it is told again that one is sought."""
        worker = self._workers.get(number)
        more: bool | None = None
        try:
            if worker is not None:
                async with asyncio.timeout(ANSWER):
                    more = await worker.line.ask("yield", account, want.pool, want.moved)
        except (LineClosed, TimeoutError):
            pass
        finally:
            want.asked = False
        if more is None:
            # It has some, and none of use, or is late: the next look asks again.
            return
        sought = self._sought.setdefault(account, Sought())
        if number in self._workers and number not in sought.spare:
            # It has said whether there is another, or says when there is one.
            (sought.spare.append if more else sought.told.add)(number)
        if self._wants.get(want.key) is want and account in self._full(want):
            self._seek(want, account)

    async def press(self, account: Account) -> None:
        """The desk itself needs room there: the first worker that has a server to spare gives it up."""
        for number, held in self.ledger.holders(account):
            worker = self._workers.get(number)
            if worker is None or worker.silent:
                continue
            with suppress(LineClosed, TimeoutError):
                async with asyncio.timeout(ANSWER):
                    await worker.line.ask("yield", account, None, False)
            if self.ledger.held(number, account) < held:
                return

    # ---- handing over

    def given(self, number: int, database: str, user: str, record: bytes, descriptors: Sequence[int]) -> None:
        """A server that this worker has let go of, with its right: to who has waited for longest, or back where nobody
        does any more."""
        if not descriptors:
            # There was no room for it; PostgreSQL has seen its end.
            return self.back(number, database, user, 1, 0)
        (descriptor,) = descriptors
        wants = (want for want in self._waiting() if want.pool == (database, user) and want.worker in self._workers)
        want = None if self.recalled else next(wants, None)
        to, accounts = number if want is None else want.worker, servers_of(database, user)
        self.ledger.give_back(number, accounts)
        self.ledger.take(to, [(account, 0) for account in accounts])
        outdated = bool(self.recalled)
        try:
            self._workers[to].line.put("server", database, user, record, outdated, descriptors=[descriptor])
        except OSError:
            # We have no descriptor left to send it by: it ends here, and who wants one has what that leaves.
            self.back(to, database, user, 1, 0)
            raise
        finally:
            os.close(descriptor)
        self.passed += to != number
        if want is not None:
            self._forget(want.key)
