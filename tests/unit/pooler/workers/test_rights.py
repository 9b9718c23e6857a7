"""A worker's rights: when it is looked who waits and what is to spare. What becomes of them is in the system tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from pooler.config.kinds import PoolMode
from pooler.pools.registry import MODES
from pooler.workers.ledger import servers_of
from pooler.workers.rights import PATIENT, TICK, UNRESTED, Rights

NAME = ("app", "joe")
POOL = servers_of(*NAME)[0]


class Clock:
    """A loop whose time is ours; it has one timer at a time."""

    def __init__(self) -> None:
        self.now = 100.0
        self.due: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, work: Callable[[], None]) -> Any:
        entry = self.now + delay, work
        self.due.append(entry)
        return SimpleNamespace(when=lambda: entry[0], cancel=lambda: self.due.remove(entry))

    def pause(self) -> float:
        """Seconds until the only timer."""
        ((when, _),) = self.due
        return when - self.now

    def turn(self) -> float:
        """The next look; seconds from there to the one behind it."""
        ((self.now, work),) = self.due
        self.due.clear()
        work()
        return self.pause()


class Worker:
    """One with one pool: `free` servers of it, and somebody who has `waited`."""

    def __init__(self) -> None:
        self.clock, self.free, self.waited = Clock(), 0, 0.001
        self.said: list[str] = []
        engine = SimpleNamespace(idle_servers=self, used_servers=SimpleNamespace(count=0), full=True)
        self.pool: Any = SimpleNamespace(
            engine=engine, waiting=1, wanting=0, oldest_wait=lambda _: self.waited,
            database=SimpleNamespace(name=NAME[0]), user=SimpleNamespace(name=NAME[1]),
        )  # fmt: skip
        databases = {NAME[0]: SimpleNamespace(pools={NAME[1]: self.pool})}
        running: Any = SimpleNamespace(
            loop=self.clock, now=self.clock.time, registry=SimpleNamespace(databases=databases)
        )
        self.rights = Rights(running, SimpleNamespace(), self.say)  # type: ignore[arg-type]

    @property
    def count(self) -> int:
        return self.free

    def say(self, name: str, *values: Any, **more: Any) -> bool:
        self.said.append(name)
        return True

    def wait(self) -> None:
        """The desk had none to give, and somebody waits."""
        self.rights._waits[NAME] = self.pool


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest.mark.parametrize(("free", "pause"), [(0, UNRESTED), (1, TICK)])
def test_what_is_sought_elsewhere_is_looked_for_when_one_can_have_rested(
    worker: Worker, free: int, pause: float
) -> None:
    worker.free = free
    worker.rights.sought(POOL)
    assert worker.clock.pause() == pytest.approx(TICK)
    for _ in range(3):
        assert worker.clock.turn() == pytest.approx(pause)
    assert worker.said == []


@pytest.mark.parametrize("waited", [0.0, 0.003, 0.011, 0.03])
def test_who_waits_is_seen_before_it_has_waited_for_two_ticks(worker: Worker, waited: float) -> None:
    worker.waited = waited
    worker.wait()
    worker.rights._go_on()
    pause = worker.clock.turn()
    assert TICK <= pause <= max(TICK, PATIENT + TICK - waited) + 1e-9
    assert waited > TICK or pause + waited == pytest.approx(PATIENT + TICK)


def test_what_comes_meanwhile_is_not_kept_until_a_late_look(worker: Worker) -> None:
    worker.waited = 0.0
    worker.wait()
    worker.rights._go_on()
    assert worker.clock.turn() > TICK
    worker.clock.now += 0.001
    worker.rights.sought(POOL)
    assert worker.clock.pause() == pytest.approx(TICK)


@pytest.mark.parametrize("moved", [True, False])
def test_what_cannot_be_moved_is_not_closed_for_who_can_open_none(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, moved: bool
) -> None:
    """It would be of use to nobody."""
    server, evicted = SimpleNamespace(idle_us=1), []
    monkeypatch.setattr(worker.rights, "_spare", lambda account: iter([server]))
    monkeypatch.setattr(worker.rights, "_fits", lambda *_: False)
    worker.rights._running.evict = lambda *what: evicted.append(what)  # type: ignore[method-assign]
    answer = asyncio.run(worker.rights.give_one(POOL, NAME, moved))
    assert (answer, len(evicted)) == ((None, 0) if moved else (False, 1))


def a_server(*, close_needed: bool = False, tls: str = "") -> SimpleNamespace:
    return SimpleNamespace(close_needed=close_needed, about=SimpleNamespace(tls=tls))


@pytest.mark.parametrize(
    ("servers", "mode", "has"),
    [
        ([], PoolMode.transaction, False),
        ([a_server()], PoolMode.transaction, True),
        ([a_server()], PoolMode.session, False),
        ([a_server(tls="TLSv1.3")], PoolMode.transaction, False),
        ([a_server(close_needed=True)], PoolMode.transaction, False),
        ([a_server(close_needed=True), a_server()], PoolMode.statement, True),
    ],
)
def test_others_have_what_can_be_handed_over(
    worker: Worker, servers: list[SimpleNamespace], mode: PoolMode, has: bool
) -> None:
    worker.pool.engine.mode, worker.pool.engine.servers = MODES[mode], lambda: servers
    assert worker.rights.has(*NAME) is has
    assert not worker.rights.has("another", NAME[1])
