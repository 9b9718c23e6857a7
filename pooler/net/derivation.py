"""SCRAM keys from passwords without holding up the event loop: what takes long is done in a thread, where hashlib lets
go of Python's lock.

How long it takes is chosen by others: by a server, by who made a verifier, by scram_iterations. The rule: keys of our
own passwords are remembered, since logins come in storms; strangers' guesses are not, and have threads of their own.
"""

from __future__ import annotations

import asyncio
import functools
import hmac
import threading
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from pooler.config.users import ScramSecret
from pooler.net.scram import MAX_ITERATIONS, Keys, derive_keys

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

QUICK_ITERATIONS = 5000
"""Done at once: PostgreSQL's 4096 take a millisecond."""
QUICK_GUESS = 500
"""A stranger can have as many of them as it likes."""
QUICK_LENGTH = 200
"""Characters of a password that is not ASCII, which SASLprep goes through one by one."""
THREADS = 2
REMEMBERED = 4096


class Work(NamedTuple):
    """What keys are derived from."""

    password: str
    salt: bytes
    iterations: int

    def is_quick(self, most: int) -> bool:
        """Whether it is done in no time: with `most` iterations at most."""
        plain = self.password.isascii() or len(self.password) <= QUICK_LENGTH
        return plain and self.iterations <= most

    def do(self) -> Keys:
        return derive_keys(*self)


class Memory:
    """Keys that were derived before. The lock is for what threads write."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[Work, Keys] = {}
        self._under_way: dict[Work, Future[Keys]] = {}
        self._generation = 0

    def recall(self, work: Work) -> Keys | None:
        """What came of this work, if it has been done."""
        return self._known.get(work)

    async def derive(self, work: Work) -> Keys:
        """At once if they are known or quickly derived; who asks for the same meanwhile waits for the same thread."""
        found = self._known.get(work)
        if found is not None:
            return found
        if work.is_quick(QUICK_ITERATIONS):
            return self._do(work)
        future = self._under_way.get(work)
        if future is None:
            future = self._under_way[work] = _threads("keys").submit(self._do, work)
        # One that gives up takes nothing away from the others.
        return await asyncio.shield(asyncio.wrap_future(future))

    def prepare(self, works: Iterable[Work]) -> None:
        """Derive these in the background, so that the first login with each takes no longer than the next; `works` is
        gone through there, too. What was to be prepared before is left."""
        self._generation += 1
        try:
            threading.Thread(target=self._do_all, args=(works, self._generation), daemon=True).start()
        except RuntimeError:
            # No thread to be had: each is derived when it is needed.
            return

    def _do_all(self, works: Iterable[Work], generation: int) -> None:
        for work in islice(works, REMEMBERED):
            if self._generation != generation:
                return
            if work not in self._known:
                self._do(work)

    def _do(self, work: Work) -> Keys:
        try:
            keys = work.do()
            with self._lock:
                if len(self._known) >= REMEMBERED:
                    del self._known[next(iter(self._known))]
                self._known[work] = keys
            return keys
        finally:
            self._under_way.pop(work, None)


async def fits(password: str, verifier: ScramSecret) -> bool:
    """Whether a stranger's guess is the password that this verifier was made from."""
    work = Work(password, verifier.salt, verifier.iterations)
    if work.iterations > MAX_ITERATIONS:
        return False
    keys = work.do() if work.is_quick(QUICK_GUESS) else await _in_thread(work)
    return hmac.compare_digest(keys.server_key, verifier.server_key)


async def _in_thread(work: Work) -> Keys:
    return await asyncio.wrap_future(_threads("guesses").submit(work.do))


@functools.cache
def _threads(name: str) -> ThreadPoolExecutor:
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(THREADS, name)
