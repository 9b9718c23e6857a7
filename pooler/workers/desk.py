"""The desk: starts the workers, hands them the clients, keeps the ledger, and knows what they have.

It serves no client itself but those of the console. The rule: a worker that is gone takes its own clients with it and
nothing else: its rights are free, another one is started, and what it had counted stays in the sums.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import field
from functools import partial
from math import inf
from typing import Any

from pooler import wire
from pooler.aside import aside
from pooler.config.databases import RESERVED
from pooler.config.whole import Changes, Config
from pooler.house.control import Control
from pooler.log import ERROR, LOG, WARNING
from pooler.net.channel import Channel, ConnectionClosed
from pooler.net.tls import TICKET_KEYS
from pooler.pools.refusal import LoginError
from pooler.pools.running import Running
from pooler.stats import ZERO, Counters, DescriptorStat, SeenStat, SessionStat, Snapshot, Window
from pooler.values import dataclass
from pooler.verbs import ConsoleSession, House, Remark, Verb
from pooler.workers.exchange import Exchange, Want
from pooler.workers.ledger import CLIENTS, Account, Ledger, clients_of
from pooler.workers.line import Failed, Line, LineClosed, packed
from pooler.workers.lobby import Lobby, turn_away
from pooler.workers.roll import Roll
from pooler.workers.together import Lost, counted, seen_together, together, told_apart

LOOK = 1.0
"""Seconds between two looks at each worker."""
SILENT, KILLED = 3.0, 15.0
"""Seconds without an answer after which a worker is given no more clients, and after which it is ended."""
STARTED = 60.0
"""Seconds for a worker to serve, before it is ended: commands wait for it."""
AGAIN = 0.5
"""Seconds after which another is started in the place of one that has ended young."""
YOUNG = 5.0
PATIENCE = 2.0
"""Seconds for the workers to end."""
ANSWER = 5.0
"""Seconds for a worker to answer what is asked of all."""
RECALLS = frozenset(("RECONNECT", "KILL"))
"""Commands by which the servers that there are go: none is handed over past them."""
FULL = 1.0
"""Seconds for which a worker that had no room for a client is given none, if another one has."""
NO_ROOM = "no more connections allowed: no descriptors are left"
NUMBERS = 1_000_000
"""Connections that one worker may number in its time."""
PROGRAM = ("-P", "-m", "pooler.commands.worker")


@dataclass(slots=True)
class Worker:
    """One of them, as the desk knows it."""

    number: int
    process: subprocess.Popen[bytes]
    line: Line
    since: float
    ready: bool = False
    heard: float = 0.0
    """When it has answered last (monotonic)."""
    last: Snapshot | None = None
    before: Snapshot | None = None
    """What it has last told of its figures, and what the time before."""
    coming: int = 0
    """Clients that were handed to it and have not logged in."""
    handed: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Those of them that it has not taken yet: the port they came by, and a descriptor of ours."""
    silent: bool = False
    full: float = -1e9
    """When it had no room for another descriptor (monotonic)."""
    life: int = 0
    """How many there were of this number before, or more."""
    gone: bool = False
    """Whether all are gone there whom an orderly end waits for."""


class Desk:
    """All workers. `house`: the desk's own figures, without theirs; `setup`: what each is told first beside the
    configuration; `serve` has a console session."""

    def __init__(
        self,
        running: Running,
        control: Control,
        house: House,
        window: Window,
        count: int,
        setup: tuple[Any, ...],
        serve: Callable[[Channel, ConsoleSession], Any],
    ) -> None:
        self.running = running
        self.window = window
        """Of the averages of all."""
        self._control = control
        self._house = house
        self.count = count
        self.ledger = Ledger()
        self.workers: dict[int, Worker] = {}
        self.exchange = Exchange(running.loop, self.ledger, self.workers, self.keep)
        self._roll = Roll(self.workers, self.keep)
        self.lost = Lost()
        self.ending = False
        self.on_ready: list[Callable[[], None]] = []
        self.on_gone: list[Callable[[int], None]] = []
        """Called when a worker serves, and with the number of one that has ended."""
        self.works_of: list[Callable[[int], Mapping[str, Callable[..., Any]]]] = []
        """What else than the desk works for the worker of a number."""
        self._setup = setup
        self._before = 0, 0
        """What connections and statements of the process before have for numbers is not above these."""
        self.markers: dict[tuple[str, str], bytes] = {}
        """Of the listening servers of the process before, by database and host."""
        self._tickets = os.urandom(TICKET_KEYS)
        """By which all take up TLS sessions again; others with each configuration, since what was proved by an earlier
        one may prove nothing now."""
        self._serve = serve
        self._welcomes: dict[tuple[str, str], Mapping[str, str]] = {}
        self._failing: dict[tuple[str, str], set[int]] = {}
        """The workers where no server of a pool could be opened since one was, elsewhere."""
        self._consoles: dict[int, ConsoleSession] = {}
        self._lobby = Lobby()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._turn = itertools.count()
        self._places = itertools.count()
        self._generation = itertools.count(1)
        self._started: dict[int, float] = {}
        self._looked = running.now()
        self._telling = asyncio.Lock()
        """Held while a configuration is made ready for the workers."""
        self.in_force: asyncio.Task[None] | None = None
        """Ends when all workers have the configuration."""
        self.sessions: list[SessionStat] = []
        self.seen: list[SeenStat] = []
        self.descriptors: list[DescriptorStat] = []

    # ---- processes

    def start(self) -> None:
        """All of them. Raises OSError."""
        self.running.number_from(self.count + 1, self.count + 1)
        for number in range(self.count):
            self._start(number)

    def _start(self, number: int) -> None:
        running = self.running
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, *PROGRAM, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env={key: value for key, value in os.environ.items() if key not in ("NOTIFY_SOCKET", "LISTEN_FDS")},
            )
        line = Line(ours, running.loop, {}, partial(self._ended, number), running.rounds.failed)
        line.works = self._works(number)
        life = max(0, next(self._generation) - 1 - number)
        worker = Worker(number, process, line, running.wall(), heard=running.now(), life=life)
        self.workers[number] = worker
        self._started[number] = running.now()
        numbers = *self.numbers(worker), life, self._before[1]
        line.put(
            "setup", self.running.config, number, self.count, *self._setup, self._tickets, *numbers, dict(self.markers)
        )
        for verb in self._standing():
            line.put("perform", verb)

    def numbers(self, worker: Worker) -> tuple[int, int]:
        """The first one of this worker's connections, and the step: its own, those of one that was started anew too."""
        step = self.count + 1
        before = -(-self._before[0] // step)
        return worker.number + 1 + step * (before + NUMBERS * worker.life), step

    def number_behind(self, connection: int, statement: int) -> None:
        """The process before has given numbers up to these."""
        self._before = connection, statement
        step = self.count + 1
        self.running.number_from((-(-connection // step) + 1) * step, step)

    def _standing(self) -> Iterable[Verb]:
        """What was commanded and still holds."""
        registry = self.running.registry
        if registry.paused:
            yield Verb("PAUSE")
        for database in list(registry.databases.values()):
            if database.paused:
                yield Verb("PAUSE", database.name)
            if database.disabled:
                yield Verb("DISABLE", database.name)

    def _works(self, number: int) -> dict[str, Callable[..., Any]]:
        return {
            "say": self.running.say,
            "ready": partial(self._ready, number),
            "taken": partial(self._taken, number),
            "refused": partial(self._refused, number),
            "admit": partial(self._admit, number),
            "room": self._has_room_for_one,
            "left": partial(self._left, number),
            "gone": partial(self._gone, number),
            "want": partial(self._want, number),
            "unwanted": partial(self.exchange.unwanted, number),
            "back": partial(self.exchange.back, number),
            "count": partial(self.exchange.count, number),
            "count no more": partial(self.exchange.count_no_more, number),
            "spare": partial(self.exchange.spare, number),
            "given": partial(self.exchange.given, number),
            "failing": partial(self._fails, number),
            "unanswered": partial(self._say_welcome, number),
            "learned": partial(self._learned, number),
            "code made": partial(self._pass_on, number, "code made"),
            "texts changed": partial(self._pass_on, number, "texts changed"),
            "cancel": partial(self._cancel, number),
            "console": partial(self._console, number),
            "cancel console": self._cancel_console,
            **{name: work for works in self.works_of for name, work in works(number).items()},
        }

    def _ready(self, number: int) -> None:
        worker = self.workers[number]
        worker.ready, worker.heard = True, self.running.now()
        self._let_in()
        for listener in self.on_ready:
            listener()

    async def all_ready(self) -> None:
        """Until everyone serves, or one has ended instead."""
        while not all(worker.ready for worker in self.workers.values()) and not self.ending:
            await asyncio.sleep(0.005)

    def _ended(self, number: int) -> None:
        worker = self.workers.pop(number)
        running = self.running
        self.keep(self._reap(worker))
        if worker.last is not None:
            self.lost.add(worker.last)
        self.exchange.gone(number)
        self._hand_again(worker)
        for listener in self.on_gone:
            listener(number)
        if self.ending or running.leaving:
            return
        who = f"worker {number} (pid {worker.process.pid})"
        running.say(ERROR, f"{who} has ended: its clients are gone, another one begins")
        young = running.now() - self._started[number] < YOUNG
        running.loop.call_later(AGAIN if young else 0, self._start_again, number)

    def _start_again(self, number: int) -> None:
        if self.ending or self.running.leaving or number in self.workers:
            return
        try:
            self._start(number)
        except OSError as error:
            self.running.rounds.failed("worker", error)
            self.running.loop.call_later(AGAIN, self._start_again, number)

    async def _reap(self, worker: Worker) -> None:
        """Its line is closed: it ends, or is ended."""
        until = self.running.now() + PATIENCE
        while worker.process.poll() is None:
            if self.running.now() > until:
                worker.process.kill()
            await asyncio.sleep(0.01)

    async def close(self) -> None:
        """End them all."""
        self.ending = True
        workers = list(self.workers.values())
        for worker in workers:
            worker.line.put("end")
        until = self.running.now() + PATIENCE
        while any(worker.process.poll() is None for worker in workers) and self.running.now() < until:
            await asyncio.sleep(0.005)
        for worker in workers:
            worker.line.close()
            if worker.process.poll() is None:
                worker.process.kill()
                worker.process.wait()
        for task in list(self._tasks):
            task.cancel()
        self._lobby.send_away(inf)

    def kill(self) -> None:
        """At once, whatever becomes of their clients."""
        for worker in list(self.workers.values()):
            if worker.process.poll() is None:
                worker.process.send_signal(signal.SIGKILL)

    # ---- clients

    def pick(self) -> Worker | None:
        """The worker that has the fewest clients, in turn where some have equally few; one that had no room a
        moment ago only where none had."""
        serving = [worker for worker in self.workers.values() if worker.ready and not worker.silent]
        if not serving:
            return None
        turn = next(self._turn)
        return min(
            [worker for worker in serving if self._has_room(worker)] or serving,
            key=lambda one: (
                self.ledger.held(one.number, CLIENTS) + one.coming,
                (one.number - turn) % self.count,
            ),
        )

    def _has_room(self, worker: Worker) -> bool:
        return self.running.now() - worker.full > FULL

    def hand_on(self, port: int, descriptor: int) -> bool:
        """Give a client that was accepted to a worker, when there is one; False: there is none yet, or no room for it
        here."""
        worker = self.pick()
        if worker is not None:
            return self._hand(worker, port, descriptor)
        try:
            self._lobby.come(port, descriptor, self.running.now())
        except OSError as error:
            self._no_room(descriptor, error)
        return False

    def _no_room(self, descriptor: int, error: OSError) -> None:
        self.running.rounds.failed("accept", error, f"a client cannot be handed on: {error.strerror}")
        turn_away(descriptor, wire.TOO_MANY_CONNECTIONS, NO_ROOM)

    def _let_in(self) -> None:
        """A worker serves: who has waited for one."""
        while self._lobby and (worker := self.pick()) is not None:
            self._lobby.hand_on(partial(self._hand, worker))

    def _hand(self, worker: Worker, port: int, descriptor: int) -> bool:
        """Whether it is told; if not, the client is."""
        elsewhere = self.ledger.total(CLIENTS) - self.ledger.held(worker.number, CLIENTS)
        place = next(self._places)
        try:
            worker.handed[place] = port, os.dup(descriptor)
            worker.line.put("newcomer", place, port, elsewhere, descriptors=[descriptor])
        except OSError as error:
            kept = worker.handed.pop(place, None)
            if kept is not None:
                os.close(kept[1])
            self._no_room(descriptor, error)
            return False
        worker.coming += 1
        worker.gone = False
        return True

    def _taken(self, number: int, place: int) -> None:
        """It has this one, for better or worse."""
        _, descriptor = self.workers[number].handed.pop(place)
        os.close(descriptor)

    def _refused(self, number: int, place: int) -> None:
        """It has no room for another descriptor. Another one may have."""
        worker = self.workers[number]
        port, descriptor = worker.handed.pop(place)
        worker.coming, worker.full = max(0, worker.coming - 1), self.running.now()
        other = self.pick()
        if other is not None and self._has_room(other):
            self.hand_on(port, descriptor)
        else:
            turn_away(descriptor, wire.TOO_MANY_CONNECTIONS, NO_ROOM)
        os.close(descriptor)

    def _hand_again(self, worker: Worker) -> None:
        """Who was handed to one that is gone, and never taken, is handed to another."""
        for port, descriptor in worker.handed.values():
            self.hand_on(port, descriptor)
            os.close(descriptor)

    def _admit(
        self, number: int, database: str | None, user: str, limits: tuple[int, int, int]
    ) -> Account | Awaitable[Account | None] | None:
        worker = self.workers.get(number)
        if worker is not None:
            worker.coming = max(0, worker.coming - 1)
        wanted = tuple(zip(clients_of(database, user), limits, strict=True))
        full = self.ledger.take(number, wanted)
        return None if full is None else self._admit_behind(number, wanted)

    async def _admit_behind(self, number: int, wanted: Sequence[tuple[Account, int]]) -> Account | None:
        """Nobody is refused for one who has gone."""
        await self._roll.call()
        return self.ledger.take(number, wanted)

    async def _has_room_for_one(self, limit: int) -> bool:
        """Whether one more client would be within max_client_conn."""
        if self.ledger.total(CLIENTS) >= limit:
            await self._roll.call()
        return self.ledger.total(CLIENTS) < limit

    def _left(self, number: int, database: str | None, user: str) -> None:
        self.ledger.give_back(number, clients_of(database, user))

    def _gone(self, number: int, gone: bool) -> None:
        worker = self.workers[number]
        # Who is on the way there comes behind what it has said.
        worker.gone = gone and not worker.handed
        self.running.changed.set()

    def all_gone(self) -> bool:
        """Whether those are gone whom an orderly end waits for. No worker ends before the others: who comes, as for the
        console, is handed to any."""
        return all(worker.gone for worker in self.workers.values())

    # ---- servers

    def _want(self, number: int, greets: bool, *facts: Any) -> None:
        """`greets`: it knows what to tell who comes in."""
        want = Want(number, *facts)
        if not self.exchange.want(want):
            return
        if not greets:
            self._say_welcome(number, want.database, want.user)

    def _say_welcome(self, number: int, database: str, user: str) -> None:
        reported = self._welcomes.get((database, user))
        if reported is not None:
            self.workers[number].line.put("welcome", database, user, reported)

    async def _fails(self, number: int, database: str, user: str) -> bool:
        """It could open no server of this pool: whether others have some for it."""
        self._failing.setdefault((database, user), set()).add(number)
        return any((await self.gather("has", database, user, but=number)).values())

    def _learned(self, number: int, database: str, user: str, reported: Mapping[str, str]) -> None:
        self._welcomes[database, user] = reported
        for other in self._failing.pop((database, user), set()) & self.workers.keys() - {number}:
            self.workers[other].line.put("opened elsewhere", database, user)
        for other in self.exchange.wanting(database, user):
            # It may have asked before anybody knew.
            self.workers[other].line.put("welcome", database, user, reported)

    def forget_welcomes(self) -> None:
        """What was learnt of servers may hold no more."""
        self._welcomes.clear()

    def _pass_on(self, number: int, name: str, *values: Any) -> None:
        """To all the others."""
        for worker in self.workers.values():
            if worker.number != number:
                worker.line.put(name, *values)

    # ---- what is asked of all

    async def ask_all(self, name: str, *values: Any, but: int | None = None, late: bool = True) -> dict[int, Any]:
        """The answers by worker; an exception is the answer of one that has failed. Who is silent is not waited for.
        `late`: it does the same once it goes on."""
        workers = [worker for worker in self.workers.values() if worker.number != but and not worker.silent]
        for worker in self.workers.values() if late else ():
            if worker.silent and worker.number != but:
                self.keep(_unheard(worker.line.ask(name, *values)))
        answers = await asyncio.gather(
            *(worker.line.ask(name, *values) for worker in workers), return_exceptions=True
        )
        return {worker.number: answer for worker, answer in zip(workers, answers, strict=True)}

    async def gather(self, name: str, *values: Any, but: int | None = None) -> dict[int, Any]:
        """As `ask_all`, of figures: only what was answered in time."""
        async def one(worker: Worker) -> Any:
            try:
                async with asyncio.timeout(ANSWER):
                    return await worker.line.ask(name, *values)
            except (LineClosed, TimeoutError):
                return None

        workers = [w for w in self.workers.values() if w.ready and not w.silent and w.number != but]
        answers = await asyncio.gather(*map(one, workers))
        return {w.number: answer for w, answer in zip(workers, answers, strict=True) if answer is not None}

    async def figures(self, *, clients: bool = False, servers: bool = False, histograms: bool = False) -> Snapshot:
        """One Snapshot of the service."""
        await self._house.prepared(frozenset())
        found = await self.gather("figures", clients, servers, histograms)
        for number, snapshot in found.items():
            self._note(number, snapshot)
        return self.sum_of(found, servers=servers, histograms=histograms)

    def _note(self, number: int, snapshot: Snapshot) -> None:
        worker = self.workers.get(number)
        if worker is None:
            return
        worker.heard = self.running.now()
        if worker.last is not None and snapshot.now - worker.last.now > LOOK / 2:
            worker.before = worker.last
        worker.last = snapshot

    def sum_of(
        self, found: Mapping[int, Snapshot], *, servers: bool = False, histograms: bool = False
    ) -> Snapshot:
        """With what is known of those that have not answered."""
        known = {worker.number: worker.last for worker in self.workers.values() if worker.last is not None}
        snapshots = {**known, **found}
        own = self._house.snapshot(servers=servers, histograms=histograms)
        return together(own, snapshots, self.lost, self.window, tuple(told_apart(self.workers.values(), snapshots)))

    def known(self) -> Snapshot:
        """The same, of what they have last told."""
        return self.sum_of({})

    def counters(self) -> dict[object, Counters]:
        """For the averages' window."""
        known = [worker.last for worker in self.workers.values() if worker.last is not None]
        return counted((self._house.snapshot(), *known), self.lost.counters)

    async def look(self) -> None:
        """At each worker: what it has counted, and whether it answers at all."""
        now = self.running.now()
        # Seconds in which we had no turn ourselves (stopped, or a machine that stood still) are no silence of theirs.
        away, self._looked = max(0.0, now - self._looked - LOOK), now
        if limit := self.running.config.settings.client_login_timeout:
            self._lobby.send_away(now - limit)
        for worker in list(self.workers.values()):
            worker.heard = min(now, worker.heard + away)
            quiet = now - worker.heard
            if quiet > (KILLED if worker.ready else STARTED):
                self.running.say(ERROR, f"worker {worker.number} has not answered for {quiet:.0f} s: it is ended")
                worker.process.kill()
            elif worker.ready and quiet > SILENT and not worker.silent:
                worker.silent = True
                self.running.say(WARNING, f"worker {worker.number} does not answer: nobody new is handed to it")
            if worker.ready:
                self.keep(self._look_at(worker))

    async def _look_at(self, worker: Worker) -> None:
        try:
            snapshot = await worker.line.ask("figures", False, False, False)
        except LineClosed:
            return
        self._note(worker.number, snapshot)
        lists = {item.list: item.items for item in snapshot.lists}
        worker.coming = lists.get("login_clients", 0)
        if worker.silent:
            worker.silent = False
            self.running.say(LOG, f"worker {worker.number} answers again")
            self._let_in()

    async def look_forever(self) -> None:
        await self.running.rounds.forever("workers", lambda: asyncio.sleep(LOOK), self.look)

    async def gather_sessions(self) -> None:
        found, seen = await self.gather("sessions"), await self.gather("seen")
        self.sessions = [row for rows in found.values() for row in rows]
        self.seen = list(seen_together(row for rows in seen.values() for row in rows))

    async def gather_descriptors(self) -> None:
        found = await self.gather("descriptors")
        self.descriptors = [*self._house.descriptors(), *(row for rows in found.values() for row in rows)]

    async def learn_databases(self) -> None:
        """Those that are in use somewhere are known here as well: what is commanded of all is of these."""
        found = await self.figures()
        used = [database.name for database in found.databases if database.counters is not ZERO]
        for name in {*used, *(pool.database for pool in found.pools)} - {RESERVED}:
            self.running.database(name)

    # ---- commands

    async def perform(self, verb: Verb) -> Remark | None:
        """Have all workers do it; returns when all have. Raises what they raise, if nobody could."""
        recalls = verb.name in RECALLS
        self.exchange.recalled += recalls
        try:
            answers = await self.ask_all("perform", verb)
        finally:
            self.exchange.recalled -= recalls
        if verb.name == "PAUSE":
            # A server that was under way has come where it is closed once something is answered behind it.
            await self.gather("has", "", "")
        failed = [answer for answer in answers.values() if isinstance(answer, Exception)]
        good = [answer for answer in answers.values() if not isinstance(answer, Exception)]
        if failed and not good:
            raise getattr(failed[0], "error", failed[0])
        return next((answer for answer in good if answer is not None), None)

    def tell(self, verb: Verb) -> None:
        """The same, and nobody waits for it."""
        for worker in self.workers.values():
            worker.line.put("perform", verb)

    def configured(self, found: Changes) -> None:
        """There is another configuration: all are told, and `in_force` is when they have it."""
        self.forget_welcomes()
        self._tickets = os.urandom(TICKET_KEYS)
        self.in_force = self.keep(self._configure(self.running.config, self._tickets))

    async def _configure(self, config: Config, tickets: bytes) -> None:
        """However large it is, it is made ready beside the loop, and told in the order in which it came."""
        async with self._telling:
            told = await aside(lambda: packed(config))
        answers = await self.ask_all("configure", told, tickets)
        for number, answer in answers.items():
            if isinstance(answer, Exception):
                self.running.say(ERROR, f"worker {number} goes on with the old configuration: {answer}")

    async def _cancel(self, number: int, key: bytes) -> str | None:
        answers = await self.ask_all("cancel key", key, but=number, late=False)
        for answer in answers.values():
            if isinstance(answer, Failed) and not isinstance(answer.error, LoginError):
                self.running.rounds.failed("cancel key", answer.error)
        return next((answer for answer in answers.values() if isinstance(answer, str)), None)

    # ---- the console

    def _console(self, worker: int, *facts: Any, descriptors: Sequence[int]) -> None:
        user, rights, parameters, key, number, label = facts
        if not descriptors:
            self.workers[worker].line.put("console over", number, NO_ROOM, False)
            return
        sock = socket.socket(fileno=descriptors[0])
        session = ConsoleSession(user, rights, parameters, key, number, label)
        self._consoles[number] = session
        self.keep(self._have(self.workers[worker].line, Channel(sock, self.running.loop), session))

    async def _have(self, line: Line, channel: Channel, session: ConsoleSession) -> None:
        """One session; the worker, who has the client, is told how it has ended."""
        why, left = "", False
        try:
            await self._serve(channel, session)
        except ConnectionClosed as end:
            why, left = end.message, True
        except LoginError as error:
            why = error.message
        finally:
            self._consoles.pop(session.id, None)
            self._control.console_gone()
            line.put("console over", session.id, why, left)
            if not channel.closed:
                channel.abort()

    def attended(self) -> bool:
        """Whether anybody is at a console."""
        return bool(self._consoles)

    def _cancel_console(self, number: int) -> None:
        session = self._consoles.get(number)
        if session is not None:
            session.canceled.set()

    def keep(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self.running.loop.create_task(self.running.rounds.once("desk", work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _unheard(question: Coroutine[Any, Any, Any]) -> None:
    """Nobody waits for what is said to this."""
    with suppress(LineClosed, Failed):
        await question
