"""Workers put together with the rest of a service: what of it is the desk's then.

Loaded only where there are any.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import field
from typing import Any

from pooler.ending import Ending
from pooler.house.bouncer import Bouncer
from pooler.net.channel import Channel
from pooler.pools.running import Phase
from pooler.process.service import Service, ServiceError
from pooler.process.takeover import Inheritance
from pooler.relay import LightTask, Newcomer
from pooler.values import dataclass
from pooler.verbs import ConsoleSession, House
from pooler.workers.chief import Chief, Summed, Union
from pooler.workers.desk import Desk
from pooler.workers.hearing import Ears
from pooler.workers.succession import Accession, Surrender


@dataclass(slots=True)
class Names:
    """What databases are called at a port; the workers know it by the configuration."""

    aliases: Mapping[str, str] = field(default_factory=dict)


class HandOut:
    """The entrance of a port: whoever comes is handed to a worker."""

    def __init__(self, desk: Desk, port: int = 0) -> None:
        self._desk = desk
        self._port = port
        self.tasks: set[LightTask | asyncio.Task[None]] = set()
        self.on_successor: Callable[[Channel], Coroutine[Any, Any, None]] | None = None
        self.reception = Names()

    def arrived(self, sock: socket.socket | Newcomer) -> bool:
        handed = self._desk.hand_on(self._port, sock.fileno())
        os.close(sock.detach())
        return handed


class Crew:
    """The desk of a service and what everybody else sees of it. `setup`: what each worker is told first; `secret`: what
    all of them know and nobody else."""

    def __init__(
        self,
        bouncer: Bouncer,
        count: int,
        setup: tuple[Any, ...],
        secret: str,
        console: Callable[[Channel, ConsoleSession, House], Awaitable[None]],
    ) -> None:
        self.desk = desk = Desk(
            bouncer.running, bouncer.control, bouncer, bouncer.figures.window, count, (*setup, secret),
            lambda channel, session: console(channel, session, self.union),
        )  # fmt: skip
        self.union: Union = Union(bouncer, desk, Chief(bouncer.control, desk))
        bouncer.janitor.keeps_ready = False
        bouncer.periods.figures = Summed(desk)
        bouncer.periods.before = lambda: desk.figures(histograms=True)
        bouncer.reconfiguration.on_change.append(desk.configured)
        desk.on_gone.append(lambda number: bouncer.running.changed.set())
        self.ears = Ears(bouncer.running, desk, bouncer.hubs, secret)

    def way(self, port: int = 0) -> HandOut:
        """The entrance of a port; 0: the pooler's own."""
        return HandOut(self.desk, port)

    async def begin(self, service: Service, ending: Ending, *, succeeds: bool = False) -> None:
        """Have all of them serve before anybody is let in. `succeeds`: nobody opens anything before `go_on_with`.
        Raises ServiceError."""
        desk = self.desk
        desk.exchange.is_open = not succeeds
        Surrender(service, desk, self.ears)
        ending.also(desk.kill)
        service.gone = dict.fromkeys((Phase.WAIT_FOR_SERVERS, Phase.WAIT_FOR_CLIENTS), desk.all_gone)
        try:
            desk.start()
        except OSError as error:
            raise ServiceError(f"cannot start workers: {error.strerror}") from None
        await desk.all_ready()
        service.also(desk.look_forever)

    async def go_on_with(self, heir: Inheritance, service: Service) -> None:
        """Share out what the process before has had."""
        await Accession(self.desk, self.ears, heir).run(service)
