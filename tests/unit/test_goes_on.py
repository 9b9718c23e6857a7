"""Nothing that is said or measured ends what is done: everything that the pooler does beside its clients is made to
fail, and the next round comes, the others have had theirs, and the failure is counted and told. What is on the way to
drains is in test_metrics_go_on, the list of all that is started in test_started.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import importlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from admin.platform.desired import Desired, Drain
from admin.platform.errors import unavailable
from admin.platform.running.supervision import Setup, Supervisor
from metrics.prometheus import Exposition, negotiate
from pooler import aside, rounds
from pooler.commands import plane, serve
from pooler.commands.fronts import Fronts
from pooler.commands.plane import Following
from pooler.config.databases import Alias, DatabaseConfig
from pooler.config.whole import Added, Changes, Config, compose
from pooler.house import janitor, periods, reconfigure, snapshot
from pooler.house.snapshot import Figures
from pooler.pools.reasons import Kind, Reason
from pooler.pools.registry import PoolState
from pooler.pools.running import Phase
from pooler.process.ports import Ports
from pooler.process.service import ServiceError
from pooler.stats import DrainStat
from tests.fixtures.waiting import DEADLINE
from tests.unit.faults import EMFILE, Bug, Sink, fails
from tests.unit.pooler.house.test_bouncer import House


@pytest.fixture(autouse=True)
def _no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "REST", 0.001)


@pytest.fixture
def house() -> Iterator[House]:
    made = House()
    yield made
    made.close()


# ---- the janitor and the statistics

EVERYBODY = [
    *(("DUTIES", duty.__name__) for duty in janitor.DUTIES),
    *(("ALWAYS", duty.__name__) for duty in janitor.ALWAYS),
    *(("CHORES", chore.__name__) for chore in janitor.CHORES),
    ("", "keep_forced_pools"),
]


@pytest.mark.parametrize(("table", "broken"), EVERYBODY)
def test_a_duty_that_fails_keeps_no_other_from_its_turn(
    house: House, monkeypatch: pytest.MonkeyPatch, table: str, broken: str
) -> None:
    """On either pool, in this round and in the next."""
    done: list[tuple[str, str]] = []

    def recorded(work: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(work)
        def run(janitor: Any, *subject: Any) -> Any:
            if work.__name__ == broken:
                raise Bug("a bug")
            done.append((work.__name__, subject[0].user.name if subject and isinstance(subject[0], PoolState) else ""))
            return work(janitor, *subject)

        return run

    for name in ("DUTIES", "ALWAYS", "CHORES"):
        monkeypatch.setattr(janitor, name, tuple(map(recorded, getattr(janitor, name))))
    monkeypatch.setattr(janitor.Janitor, "keep_forced_pools", recorded(janitor.Janitor.keep_forced_pools))
    for user in ("bob", "anna"):
        house.bouncer.running.registry.pool(house.pool().database, user).newcomers[1] = SimpleNamespace(  # type: ignore[assignment]
            ready=SimpleNamespace(done=lambda: True),
            own=False,
            since=house.loop.time(),
            arrival=SimpleNamespace(user=user),
        )
    per_pool = {name for kind, name in EVERYBODY if kind in ("DUTIES", "ALWAYS")}
    wanted = {(name, user) for _, name in EVERYBODY for user in (("bob", "anna") if name in per_pool else ("",))}
    for later in range(2):
        done.clear()
        house.bouncer.janitor.sweep(house.bouncer.running.now() + later)
        assert {(name, user) for name, user in wanted if name != broken} == set(done)
    failures = 4 if broken in per_pool else 2
    assert house.bouncer.running.rounds.counts() == {broken: failures}
    assert house.log.having(f"ERROR fault in {broken}: Bug: a bug") == [f"ERROR fault in {broken}: Bug: a bug"]


def test_a_sweep_that_fails_as_a_whole_is_followed_by_the_next(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    swept = 0

    def sweep(janitor: Any, now: float) -> Iterator[None]:
        nonlocal swept
        swept += 1
        raise Bug("a bug")

    monkeypatch.setattr(janitor, "PERIOD", 0.001)
    monkeypatch.setattr(janitor.Janitor, "_round", sweep)

    async def scene() -> None:
        task = house.loop.create_task(house.bouncer.janitor.sweep_forever())
        while swept < 3:
            await asyncio.sleep(0.001)
        task.cancel()

    house.run(scene())
    assert len(house.log.having("ERROR fault in janitor: Bug: a bug")) == 1


@pytest.mark.parametrize("broken", ["end_period", "turn_window", "feed_history", "say_averages"])
def test_a_period_ends_whatever_fails_of_it(house: House, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    house.pool()
    steps = [
        functools.wraps(step)(fails) if step.__name__ == broken else step for step in periods.STEPS
    ]
    monkeypatch.setattr(periods, "STEPS", steps)

    async def a_moment() -> None:
        await asyncio.sleep(0.001)

    monkeypatch.setattr(house.bouncer.periods, "sleep", a_moment)

    async def scene() -> None:
        task = house.loop.create_task(house.bouncer.periods.turn_forever())
        while house.bouncer.running.rounds.counts().get(broken, 0) < 3:
            await asyncio.sleep(0.001)
        task.cancel()

    house.run(scene())
    assert len(house.log.having("ERROR")) == 1
    assert (house.bouncer.history.sums() == ()) == (broken == "feed_history")
    assert (house.bouncer.figures.window._new == {}) == (broken == "turn_window")
    assert (house.log.having("LOG stats: ") == []) == (broken == "say_averages")


# ---- figures

PARTS = ("users", "lists", "peers", "mem", "dns_hosts", "events", "drains")


@pytest.mark.parametrize("broken", PARTS)
def test_a_fault_in_one_part_of_the_figures_leaves_the_others(
    house: House, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    house.bouncer.figures.drain_sources.append(lambda: (DrainStat("file", "x", "idle", 0, 0, 0, 0, ""),))
    house.bouncer.running.tally(Kind.CONNECT, "app", Reason.SERVER)
    house.bouncer.dns.names["db"] = importlib.import_module("pooler.net.dns").Name()
    house.pool()
    whole = house.bouncer.snapshot()
    monkeypatch.setattr(Figures, f"_{broken}", functools.wraps(getattr(Figures, f"_{broken}"))(fails))
    taken = house.bouncer.snapshot()
    assert getattr(taken, broken) == ()
    for name in (*PARTS, "pools", "databases"):
        if name not in (broken, "peers"):
            assert getattr(taken, name), name
    assert whole.pools == taken.pools
    monkeypatch.undo()
    assert ("round", f"figures_{broken}", 1) in {(e.kind, e.reason, e.count) for e in house.bouncer.snapshot().events}


def test_what_the_system_does_not_tell_is_absent(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """With no descriptors left there is no /proc to be read: a stranger's thousand connections ended the process."""

    def none_left(*_: Any, **__: Any) -> Any:
        raise EMFILE

    monkeypatch.setattr(snapshot, "open", none_left, raising=False)
    monkeypatch.setattr("pooler.house.snapshot.os.stat", none_left)
    taken = house.bouncer.snapshot()
    monkeypatch.undo()
    process = taken.process
    assert (process.resident_bytes, process.open_fds) == (None, None)
    assert process.cpu_seconds is not None
    text = b"".join(Exposition(negotiate("")[0]).render(taken)).decode()
    assert "pooler_process_cpu_seconds_total " in text
    assert "pooler_process_resident_memory_bytes" not in text
    assert "pooler_process_open_fds" not in text
    assert house.bouncer.running.rounds.counts() == {}


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.setblocking(False)
        yield made


# ---- servers


def test_a_server_that_cannot_even_be_tried_is_tried_again(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a CA file cannot be read for want of a descriptor: it counted as being opened for ever."""
    tried = 0

    def target(*_: Any, **__: Any) -> Any:
        nonlocal tried
        tried += 1
        raise EMFILE

    monkeypatch.setattr(house.bouncer.opener, "target", target)

    async def scene() -> None:
        state = house.pool()
        house.bouncer.opener.consider(state, needed=True)
        while tried < 2:
            await asyncio.sleep(0.01)
            house.bouncer.opener.consider(state, needed=True)
        await asyncio.gather(*house.bouncer.opener.tasks)
        assert state.opening == 0

    house.run(scene())


def test_a_database_that_was_removed_goes_with_its_last_connection(house: House) -> None:
    state = house.pool()
    state.database.removed = True
    state.database.clients = 1
    house.bouncer.running.forget_removed(state.database)
    house.bouncer.janitor.sweep(house.bouncer.running.now())
    assert "app" in house.bouncer.running.registry.databases
    state.database.clients = 0
    house.bouncer.janitor.sweep(house.bouncer.running.now())
    assert "app" not in house.bouncer.running.registry.databases


# ---- fronts and the control plane


def fronts(house: House, **parts: Any) -> Fronts:
    service: Any = SimpleNamespace(on_hangup=[], fail=lambda: house.log.line("FATAL", "the pooler is ended"))
    flags: Any = SimpleNamespace(http="off", ini="x", http_cert=None, http_key=None)
    made = Fronts(house.bouncer.running, house.bouncer.snapshot, house.bouncer.history, service, flags)
    for name, part in parts.items():
        setattr(made, name, part)
    return made


def test_a_drain_of_an_app_that_cannot_be_had_costs_the_others_nothing(house: House) -> None:
    """Those that stay are the same objects, and keep what they hold; those that go are closed."""
    sinks: list[Any] = []
    reporter: Any = SimpleNamespace(set_sinks=lambda found: sinks.__setitem__(slice(None), found))
    made = fronts(house, reporter=reporter)
    good = Drain("a", "syslog://127.0.0.1:9", frozenset({"one"}))
    other = Drain("b", "syslog://127.0.0.1:9", frozenset({"two"}))

    async def scene() -> None:
        made.drain_apps((good, Drain("a", "gopher://h", frozenset()), other))
        first, second = sinks
        made.drain_apps((Drain("a", good.url, frozenset({"one", "more"})),))
        assert sinks == [first]
        assert first.databases == {"one", "more"}
        (closing,) = made.closing
        await closing
        assert second.stats().state == "closed"
        await first.close(0)

    house.run(scene())
    (line,) = house.log.having("ERROR")
    assert "a log drain of a cannot be served: drain scheme 'gopher' is unknown" in line


@pytest.mark.slow
def test_the_period_is_what_it_is_now_and_so_is_where_lines_go(house: House, tmp_path: Path) -> None:
    """0 at the start, or by a SET; what was replaced is closed, each to its end."""
    made, running = fronts(house), house.bouncer.running
    vars(made.flags).update(metrics_period=None, metrics_extra=False, drains=(), daemon=False)
    one, two = str(tmp_path / "one"), str(tmp_path / "two")

    def change(**own: Any) -> None:
        config = running.registry.config
        running.registry.config = dataclasses.replace(config, own=dataclasses.replace(config.own, **own))
        made.changed(Changes(running.config, own=frozenset(own)))

    async def go() -> None:
        own = dataclasses.replace(running.config.own, metrics_period=0, metrics=(one,))
        running.registry.config = dataclasses.replace(running.config, own=own)
        made.open_sinks()
        assert (made.drains(), os.listdir(tmp_path)) == ((), [])
        change(metrics_period=0.01)
        reporting = asyncio.ensure_future(made.run())
        while not (tmp_path / "one").exists() or not (tmp_path / "one").stat().st_size:
            await asyncio.sleep(0.01)
        assert len(made.drains()) == 1
        change(metrics=(two,))
        change(metrics_period=0.0)
        assert made.drains() == ()
        assert len(made.closing) == 2
        await asyncio.gather(*made.closing)
        await asyncio.sleep(0)
        assert not made.closing
        reporting.cancel()
        await asyncio.gather(reporting, return_exceptions=True)

    house.run(go())


@pytest.mark.parametrize("broken", ["_serve_http", "heir"])
def test_a_front_that_fails_ends_none_of_the_others(house: House, broken: str) -> None:
    """A TaskGroup ended the control plane's following with the metrics."""
    ran: list[str] = []

    async def run(name: str) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        ran.append(name)

    async def breaks(*_: Any, **__: Any) -> None:
        raise Bug("a bug")

    reporter = SimpleNamespace(run=lambda: run("reporter"))
    made = fronts(house, reporter=reporter, plane=object(), follow=lambda: run("plane"))
    heir: Any = SimpleNamespace(old_process_gone=breaks) if broken == "heir" else None
    if broken != "heir":
        made._serve_http = breaks  # type: ignore[method-assign]
    house.run(made.run(heir))
    assert sorted(ran) == ["plane", "reporter"]
    assert len(house.log.having("ERROR fault in")) == 1
    assert not house.log.having("FATAL")


@pytest.mark.parametrize("taken_over", [False, True])
def test_a_port_for_http_that_is_taken_ends_nobody_who_was_taken_over(
    house: House, listener: socket.socket, taken_over: bool
) -> None:
    made = fronts(house)
    vars(made.flags)["http"] = listener.getsockname()
    house.run(made._serve_http(required=not taken_over))
    assert house.log.having("ERROR cannot serve HTTP on 127.0.0.1")
    assert bool(house.log.having("FATAL the pooler is ended")) is not taken_over


@pytest.mark.parametrize("broken", ["http", "reporter", "plane"])
def test_the_end_of_one_front_does_not_depend_on_the_others(house: House, broken: str) -> None:
    closed: list[str] = []

    async def close(name: str, seconds: float) -> None:
        assert seconds
        closed.append(name)
        if name == broken:
            raise Bug("a bug")

    def close_plane() -> None:
        closed.append("plane")
        if broken == "plane":
            raise Bug("a bug")

    parts = {name: SimpleNamespace(close=functools.partial(close, name)) for name in ("http", "reporter")}
    house.run(fronts(house, plane=SimpleNamespace(close=close_plane), **parts).close())
    assert closed == ["http", "reporter", "plane"]


def test_old_sinks_are_all_closed_whatever_fails(house: House) -> None:
    bad, good = Sink(broken=True), Sink(broken=False)
    house.run(fronts(house)._close_all([bad, good]))
    assert (bad.closed, good.closed) == (1, 1)


class Looks:
    """A state that answers what it is told to, in turn."""

    def __init__(self, *answers: Desired | Exception) -> None:
        self.answers = list(answers)

    def watch(self) -> Looks:
        return self

    def look(self) -> Desired:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.mark.parametrize("broken", ["look", "thread", "away", "adopt", "ports"])
def test_the_state_is_followed_whatever_failed(house: House, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    monkeypatch.setattr(plane, "POLL_INTERVAL", 0.001)
    wanted, adopted, opened = Desired(), 0, 0
    none_left = RuntimeError("can't start new thread")
    failure = {"look": Bug("a bug"), "thread": none_left, "away": unavailable("It is away.")}
    looks = Looks(*([failure[broken]] * 2 if broken in failure else []), wanted)

    def add(found: Added) -> None:
        nonlocal adopted
        adopted += 1
        if broken == "adopt" and adopted <= 2:
            raise Bug("a bug")

    class Doors(Ports):
        def adopt(self, config: Config) -> None:
            nonlocal opened
            opened += 1
            self.missing = {5433} if broken == "ports" and opened <= 2 else set()

    bouncer = house.bouncer
    monkeypatch.setattr(bouncer.reconfiguration, "add", add)
    ports = Doors(bouncer.running, house.service(), lambda port: bouncer.door())

    async def scene() -> None:
        reconfiguration = bouncer.reconfiguration
        following = Following(looks, bouncer.running, reconfiguration, ports, lambda drains: None)  # type: ignore[arg-type]
        task = house.loop.create_task(following.run())
        while following._served is None or ports.missing:
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.wait([task])

    house.run(scene())
    assert adopted == (3 if broken == "adopt" else 1)
    assert opened == (3 if broken == "ports" else 1)
    assert len(house.log.having("ERROR")) == (0 if broken == "ports" else 1)


def test_a_port_of_the_state_that_is_taken_is_opened_when_it_is_free(house: House, listener: socket.socket) -> None:
    port, tries = listener.getsockname()[1], 0

    def bind(host: str | None, settings: Any) -> list[socket.socket]:
        nonlocal tries
        tries += 1
        if tries <= 2:
            raise ServiceError("cannot listen")
        return []

    service = house.service()
    service.bind_tcp = bind  # type: ignore[method-assign]
    ports = Ports(house.bouncer.running, service, lambda port: house.bouncer.door())
    wanted = compose({}, [DatabaseConfig("one", alias=Alias(port, "data"))])
    for missing in ({port}, {port}, set()):
        ports.adopt(wanted)
        assert ports.missing == missing
    assert house.log.having("ERROR") == [f"ERROR no pools of the state on port {port}: cannot listen"]
    assert house.bouncer.running.rounds.counts() == {f"port {port}": 2}


def test_an_app_lives_on_when_a_look_for_releases_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("admin.platform.running.supervision.POLL_SECONDS", 0.001)
    said: list[str] = []
    old, new = Setup(1, {"A": "1"}), Setup(2, {"A": "2"})
    answers: list[Setup | Exception] = [Bug("a bug"), RuntimeError("can't start new thread"), old, new]

    def look() -> Setup:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    supervisor = Supervisor(["true"], look, pool=False, grace=1, restarts=True, say=said.append)
    assert asyncio.run(asyncio.wait_for(supervisor._release(old), DEADLINE)) == new
    assert said == ["fault in release: Bug: a bug", "fault in release: RuntimeError: can't start new thread"]


@pytest.mark.parametrize("error", [ImportError(), EMFILE, MemoryError()])
def test_a_console_that_cannot_be_loaded_keeps_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broken(name: str) -> Any:
        raise error

    monkeypatch.setattr(serve, "import_module", broken)
    monkeypatch.setattr("pooler.commands.serve.gc.freeze", lambda: None)
    asyncio.run(asyncio.wait_for(serve.load_console(), DEADLINE))


def test_an_orderly_end_that_fails_is_an_end(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(house.bouncer.events, "until", fails)

    async def scene() -> None:
        service = house.service()
        house.bouncer.running.shut_down(Phase.WAIT_FOR_SERVERS)
        await service.ended.wait()

    house.run(scene())
    assert house.log.having("ERROR fault in shutdown: Bug: a bug")


# ---- RELOAD, and what else is done beside the loop


@pytest.mark.parametrize("work", ["threads", "no threads"])
def test_what_is_done_beside_the_loop_gives_back_its_error(
    house: House, monkeypatch: pytest.MonkeyPatch, work: str
) -> None:
    if work == "no threads":
        monkeypatch.setattr("pooler.aside.threading.Thread.start", no_more_threads)

    async def scene() -> None:
        with pytest.raises(Bug):
            await aside.aside(fails)
        assert await aside.aside(lambda: 3) == 3

    house.run(scene())


def no_more_threads(thread: Any) -> None:
    raise RuntimeError("can't start new thread")


def test_who_gives_up_what_is_done_beside_the_loop_hears_no_more_of_it(house: House) -> None:
    begun, released = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        released.wait(DEADLINE)

    async def scene() -> None:
        task = asyncio.ensure_future(aside.aside(work))
        while not begun.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.wait((task,))
        assert task.cancelled()
        released.set()
        for thread in threading.enumerate():
            if thread.name == "aside":
                thread.join(DEADLINE)
        await asyncio.sleep(0)

    house.run(scene())
    assert house.bouncer.running.rounds.counts() == {}


def test_a_reload_that_fails_is_told_and_the_next_one_comes(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a bug of ours: what is wrong with a file is another matter."""
    config = house.bouncer.config
    settings = dataclasses.replace(config.settings, conffile="some.ini")
    house.bouncer.running.registry.config = dataclasses.replace(config, settings=settings)
    read: list[str] = []
    adopted: list[Any] = []

    def load(path: str, old: Any) -> Any:
        read.append(path)
        if len(read) < 3:
            raise Bug("a bug")
        return house.bouncer.config

    monkeypatch.setattr(reconfigure, "load", load)
    monkeypatch.setattr(house.bouncer.reconfiguration, "adopt", lambda *all: adopted.append(all))

    async def scene() -> None:
        service = house.service()
        for _ in range(3):
            service.hang_up()
        await asyncio.gather(*service._tasks)
        assert not house.bouncer.reconfiguration.background
        assert not service._tasks

    house.run(scene())
    assert read == ["some.ini"] * 3
    assert house.log.having("ERROR fault in reload: Bug: a bug")
    assert house.bouncer.running.rounds.counts() == {"reload": 2}
    assert len(adopted) == 1
