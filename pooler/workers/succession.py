"""The online restart of a service with workers, and into one (-R): every process's part goes over by its desk.

The old desk has all workers stand still and takes what each has, as a process alone would put it; the new process takes
it part by part, on its own line, and gives each of its workers, if it has any, what is to be there. The rule: until the
new desk has everything nobody has let go of anything, and what goes wrong till then has the old service go on; and no
worker of the new one opens a server before the rights of all that were handed over are in the ledger.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import socket
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import field
from typing import Any

from pooler.aside import aside
from pooler.log import ERROR
from pooler.net.channel import Channel
from pooler.process.passing import Fact, Passage, PassingError
from pooler.process.service import LOGIN_GRACE, Service, ServiceError
from pooler.process.takeover import END, GONE, PART, TAKEN, Adoption, Belongings, Inheritance, Part, agree, patience
from pooler.values import dataclass
from pooler.workers.desk import Desk, Worker
from pooler.workers.hearing import Ears, FarHubs
from pooler.workers.ledger import CLIENTS, clients_of, servers_of
from pooler.workers.line import Failed, LineClosed
from pooler.workers.rights import Rights

ANSWER = 5.0
"""Seconds for a process of the service to do what it is told, beyond what that takes."""
UNDECIDED = 60.0
"""Seconds for which a worker stands still and hears nothing of what becomes of it; then it ends, since it cannot know
whose its clients are."""
HEADER = len(json.dumps({"kind": END}, separators=(",", ":")))
KEPT = "kept"
STILL, ON, SURRENDER, ADOPT, SUCCESSOR = "still", "go on", "surrender", "adopt", "successor"
Frame = tuple[bytes, int | None]


# ---- the old service: its desk


@dataclass(slots=True)
class Held:
    """What a worker that stands still has put, and the line that it waits at."""

    worker: Worker
    line: Passage
    frames: list[Frame] = field(default_factory=list)

    def read(self) -> None:
        """All of it. Raises PassingError."""
        while True:
            frame = self.line.take_packed()
            if len(frame[0]) <= HEADER and json.loads(frame[0]) == {"kind": END}:
                return
            self.frames.append(frame)

    def keep(self) -> None:
        """It is to go on."""
        with suppress(PassingError):  # it has ended
            self.line.put({"kind": KEPT})

    def release(self) -> None:
        """It is to let go: when this returns it has, or is no more."""
        try:
            self.line.put({"kind": TAKEN})
            if self.line.take()[0] != {"kind": GONE}:
                raise PassingError("it has not let go")
        except PassingError:
            self.worker.process.kill()

    def close(self) -> None:
        self.line.sock.close()
        for _, descriptor in self.frames:
            if descriptor is not None:
                os.close(descriptor)


class Surrender:
    """How a desk hands over all that its service has."""

    def __init__(self, service: Service, desk: Desk, ears: Ears) -> None:
        self._service = service
        self._desk = desk
        self._ears = ears
        service.give = self.give
        desk.works_of.append(lambda number: {SUCCESSOR: self._come})

    def _come(self, greeting: bytes, descriptors: Sequence[int]) -> None:
        """A new process has logged in at one of the workers."""
        if descriptors:
            self._desk.keep(self._service.give_way(socket.socket(fileno=descriptors[0]), greeting))

    async def give(self, line: Passage) -> None:
        """Raises PassingError, and then all go on."""
        serving = self._serving()
        try:
            with ExitStack() as stack:
                # Whoever logs in comes in, and what is under way between two workers, or to them, arrives.
                await _answered([worker.line.ask(STILL) for worker in serving])
                await _answered([self._ears.be_still()])
                held = [stack.enter_context(closing(one)) for one in self._hold(serving)]
                outcomes = await asyncio.gather(*(aside(one.read) for one in held), return_exceptions=True)
                self._decide(line, held, [outcome for outcome in outcomes if outcome is not None])
        except BaseException:
            self._ears.go_on()
            for worker in serving:
                worker.line.put(ON)
            raise

    def _serving(self) -> list[Worker]:
        workers = list(self._desk.workers.values())
        for worker in workers:
            if worker.silent or not worker.ready:
                raise PassingError(f"worker {worker.number} does not answer")
        if len(workers) < self._desk.count:
            raise PassingError("a worker is missing")
        return workers

    def _hold(self, workers: Sequence[Worker]) -> Iterator[Held]:
        """Have them put all that they have."""
        ledger = self._desk.ledger
        for worker in workers:
            ours, theirs = socket.socketpair()
            with theirs:
                worker.line.put(SURRENDER, descriptors=[theirs.fileno()])
            # It looks through all before it puts the first.
            within, _ = patience(2 * ledger.held(worker.number, CLIENTS), 0)
            yield Held(worker, Passage(ours, 2 * within))

    def _decide(self, line: Passage, held: Sequence[Held], failures: Sequence[BaseException]) -> None:
        """From here on nothing else has a turn. Once the new process has been told that we let go, we have."""
        try:
            for failure in failures:
                raise failure
            own = self._pass_on(line, held)
            line.put({"kind": GONE})
        except BaseException:
            for one in held:
                one.keep()
            raise
        for one in held:
            one.release()
        own.let_go()

    def _pass_on(self, line: Passage, held: Sequence[Held]) -> Belongings:
        service = self._service
        own = Belongings(service.running, service.events.hubs)
        frames = [frame for one in held for frame in one.frames]
        connections = sum(descriptor is not None for _, descriptor in frames)
        line.hurry(*patience(connections, max(len(text) for text, _ in frames)))
        own.put(line, service.listeners, service.paths)
        for one in held:
            line.put({"kind": PART})
            for text, descriptor in one.frames:
                line.put_packed(text, descriptor)
        agree(line)
        return own


async def _answered(questions: Sequence[Coroutine[Any, Any, Any]]) -> None:
    """All workers have. Raises PassingError."""
    try:
        async with asyncio.timeout(LOGIN_GRACE + ANSWER):
            await asyncio.gather(*questions)
    except (LineClosed, Failed) as error:
        raise PassingError(f"a worker has failed: {error}") from None
    except TimeoutError:
        raise PassingError("a worker does not answer") from None


# ---- the old service: a worker


class Leaving:
    """A worker's side. `all_in` returns when nobody who has come is still to be let in; `end` ends it at once, and
    nobody is told anything."""

    def __init__(
        self,
        service: Service,
        rights: Rights,
        say: Callable[..., bool],
        all_in: Callable[[], Coroutine[Any, Any, None]],
        end: Callable[[int], object] = os._exit,
    ) -> None:
        self._service = service
        self._rights = rights
        self._say = say
        self._all_in = all_in
        self._end = end
        service.door.on_successor = self._come

    @property
    def works(self) -> Mapping[str, Callable[..., Any]]:
        """What the desk may say."""
        return {STILL: self._be_still, ON: self._go_on, SURRENDER: self._surrender}

    async def _come(self, channel: Channel) -> None:
        """A new process: it speaks with the desk."""
        rest = channel.detach()
        with socket.socket(fileno=rest.fd) as sock:
            self._say(SUCCESSOR, rest.unsent, descriptors=[sock.fileno()])

    async def _be_still(self) -> None:
        self._rights.still = True
        await self._all_in()
        await self._service.logins_done()

    def _go_on(self) -> None:
        self._rights.still = False

    def _surrender(self, descriptors: Sequence[int]) -> None:
        """Stand still, put everything, and hear what becomes of it."""
        service = self._service
        service.events.handle()
        with ExitStack() as stack:
            (sock,) = [stack.enter_context(socket.socket(fileno=descriptor)) for descriptor in descriptors]
            line, own = Passage(sock, ANSWER), Belongings(service.running, service.events.hubs)
            line.hurry(*own.patience)
            try:
                own.put(line)
                line.put({"kind": END})
            except PassingError:
                # The desk has given it up, and has told why.
                return
            line.hurry(UNDECIDED, UNDECIDED)
            try:
                verdict, _ = line.take()
                if verdict == {"kind": TAKEN}:
                    own.let_go()
                    line.put({"kind": GONE})
            except PassingError:
                # Whose they are is unknown: if they are the new process's, nothing of ours may reach them.
                self._end(1)


# ---- the new service: its desk


def shares(parts: Sequence[Part], count: int) -> list[list[Part]]:
    """What each of so many workers is to have. With as many as before each has what one had; else clients are shared
    out in turn, each with the server that it has, or is the only one to have drawn on, and then the servers that are
    free."""
    if len(parts) == count + 1:
        return [[part] for part in parts[1:]]
    clients, servers = itertools.cycle(range(count)), itertools.cycle(range(count))
    found: list[list[Part]] = [[] for _ in range(count)]
    for part in parts:
        who = _takers(part, clients, servers)
        for number, mine in enumerate(found):
            own = [one for one in part.connections if who[_name(one[0])] == number]
            mine.append(Part(part.house, part.pools, connections=own))
    return found


def _name(fact: Fact) -> tuple[str, int]:
    return fact["kind"], fact["state"]["id"]


def _takers(part: Part, clients: Iterator[int], servers: Iterator[int]) -> dict[tuple[str, int], int]:
    """Who takes each connection of a part."""
    facts = [fact for fact, _ in part.connections]
    of_one = {fact["state"].get("sole"): _name(fact) for fact in facts if fact["kind"] == "server"}
    found: dict[tuple[str, int], int] = {}
    for fact in facts:
        if fact["kind"] == "client":
            linked, number = fact["state"]["server"], fact["state"]["id"]
            found[_name(fact)] = taker = next(clients)
            for server in [("server", linked)] if linked else [of_one[number]] if number in of_one else []:
                found[server] = taker
    for fact in facts:
        if _name(fact) not in found:
            found[_name(fact)] = next(servers)
    return found


class Accession:
    """How a desk goes on with what it was handed over: `run`, before anybody new is let in."""

    def __init__(self, desk: Desk, ears: Ears, heir: Inheritance) -> None:
        self._desk = desk
        self._ears = ears
        self._heir = heir

    async def run(self, service: Service) -> None:
        desk, heir = self._desk, self._heir
        self._ears.hold()
        adoption = Adoption(service.running, service.opener, service.events.hubs, heir.house)
        for part in heir.parts:
            adoption.pauses(part.house)
        hubs = []
        for fact, descriptor in heir.hubs():
            adoption.hub(fact, descriptor)
            hubs.append(self._ears.told(fact))
        desk.number_behind(*(max(part.house[name] for part in heir.parts) for name in ("next", "last_statement")))
        workers = [worker for worker in desk.workers.values() if worker.ready]
        if not workers:
            raise ServiceError("cannot go on: no worker is left")
        portions = list(zip(workers, shares(heir.parts, len(workers)), strict=True))
        for worker, parts in portions:
            self._count(worker.number, parts)
        desk.exchange.open()
        await asyncio.gather(*(self._hand(worker, parts, hubs) for worker, parts in portions))
        for _, descriptor in heir.connections:
            os.close(descriptor)
        self._ears.go_on()

    def _count(self, number: int, parts: Sequence[Part]) -> None:
        """What this worker gets is counted before anybody opens anything, whatever the limits are today."""
        for fact in [fact for part in parts for fact, _ in part.connections]:
            whose = servers_of(fact["database"], fact["user"])
            if fact["kind"] == "client":
                whose = clients_of(fact["database"], fact["about"][1])
            self._desk.ledger.take(number, [(account, 0) for account in whose])

    async def _hand(self, worker: Worker, parts: Sequence[Part], hubs: Sequence[Fact]) -> None:
        """Have one worker go on with these. One that does not is ended, with what was to be its."""
        try:
            async with asyncio.timeout(UNDECIDED):
                await self._ask(worker, parts, hubs)
        except Exception as error:
            why = str(error) or "no answer in time"
            self._desk.running.say(ERROR, f"worker {worker.number} has not taken over its clients: {why}")
            worker.process.kill()

    async def _ask(self, worker: Worker, parts: Sequence[Part], hubs: Sequence[Fact]) -> None:
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                asked = asyncio.ensure_future(worker.line.ask(ADOPT, descriptors=[theirs.fileno()]))
                await asyncio.sleep(0)
            try:
                await aside(lambda: self._put(Passage(ours, ANSWER), worker, parts, hubs))
                await asked
            finally:
                asked.cancel()
                await asyncio.gather(asked, return_exceptions=True)

    def _put(self, line: Passage, worker: Worker, parts: Sequence[Part], hubs: Sequence[Fact]) -> None:
        """As an old process would. Each knows all pools and all who listen."""
        first, step = self._desk.numbers(worker)
        for place, part in enumerate(parts):
            if place:
                line.put({"kind": PART})
            line.put(part.house | {"next": first, "step": step})
            for fact in part.pools if place else [fact for one in self._heir.parts for fact in one.pools]:
                line.put(fact)
            for fact in () if place else hubs:
                line.put(fact)
            for fact, descriptor in part.connections:
                line.put(fact, descriptor)
        agree(line)
        line.put({"kind": GONE})


# ---- the new service: a worker


class Coming:
    """A worker's side."""

    def __init__(self, service: Service, rights: Rights, far: FarHubs) -> None:
        self._service = service
        self._rights = rights
        self._far = far

    @property
    def works(self) -> Mapping[str, Callable[..., Any]]:
        """What the desk may say."""
        return {ADOPT: self._adopt}

    def _adopt(self, descriptors: Sequence[int]) -> None:
        """Go on with what comes; when this returns, all that was asked for by it has been said."""
        service = self._service
        with ExitStack() as stack:
            (sock,) = [stack.enter_context(socket.socket(fileno=descriptor)) for descriptor in descriptors]
            heir = Inheritance(Passage(sock, UNDECIDED))
            try:
                heir.fetch()
            except BaseException:
                heir.close()
                raise
        for fact, _ in heir.connections:
            if fact["kind"] == "server":
                self._rights.inherit(fact["database"], fact["user"])
        heir.adopt(service.running, service.opener, service.events.hubs)
        self._rights.settle_all()
        self._far.wish()
