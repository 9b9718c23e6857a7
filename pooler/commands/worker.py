"""A worker of `pooler serve --workers`: the desk starts it, with the descriptor of its line as the only argument.

It is a pooler without ports, console, signals and log of its own: the desk has them. It ends when its line does.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import sys

from pooler.clients.startup import tracked_names
from pooler.config.whole import Config
from pooler.ending import Ending
from pooler.house.bouncer import Bouncer
from pooler.log import WARNING, Bridge, Log
from pooler.net import descriptors, tls
from pooler.net.channel import Channel
from pooler.process.service import Service
from pooler.relay import Relay
from pooler.verbs import ConsoleSession, House
from pooler.workers.hand import Hand, LineLog
from pooler.workers.handover import number_statements
from pooler.workers.hearing import FarHubs
from pooler.workers.line import Line, LineClosed, first_message
from pooler.workers.succession import Coming, Leaving

UNHEARD = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Sent to the whole group by a terminal or a service manager: the desk hears them, and says what is to be done."""
SWITCH = 0.0005


def main(arguments: list[str]) -> int:
    """Exit status: 0 ended as told, or with the desk."""
    for number in UNHEARD:
        signal.signal(number, signal.SIG_IGN)
    sock = socket.socket(fileno=int(arguments[0]))
    sock.set_inheritable(False)
    try:
        _, setup = first_message(sock)
    except LineClosed:
        return 0
    return run(sock, *setup)


def run(
    sock: socket.socket,
    config: Config,
    number: int,
    count: int,
    plain: bool,
    verbose: int,
    secret: str,
    tickets: bytes,
    first: int,
    step: int,
    life: int,
    before: int,
    markers: dict[tuple[str, str], bytes],
) -> int:
    """Serve what the desk hands over. `plain`: from elsewhere than loopback nobody comes without TLS; `secret`: what
    all workers know and nobody else; `tickets`: by which they take up each other's TLS sessions; `first`, `step`:
    numbers of connections; `before`: none of a statement is, which the process before may have given; `markers`: of its
    listening servers."""
    log = LineLog(verbose=verbose)
    log.configure(config.settings)
    logging.getLogger().addHandler(Bridge(log))
    secured = secured_by(config, tickets, log)
    descriptors.provide(config)
    tracked = [name.encode() for name in tracked_names(config.settings).values()]
    selector = Relay(tracked, config.own.io_uring)
    loop = asyncio.SelectorEventLoop(selector)
    asyncio.set_event_loop(loop)
    hands: list[Hand] = []

    async def console(channel: Channel, session: ConsoleSession, house: House) -> None:
        await hands[0].console(channel, session, house)

    async def serve() -> int:
        bouncer = Bouncer(config, loop, selector, log, console, plain_on_loopback_only=plain)
        running = bouncer.running
        bouncer.figures.used_only, bouncer.periods.before = True, None
        running.registry.part = number, count
        running.number_from(first, step)
        number_statements(selector, number, count, life, before)
        running.instruct_relay()
        running.tls = secured
        running.rounds.watch_over(loop)
        door = bouncer.door()

        async def turn_forever() -> None:
            await running.rounds.forever("statistics", bouncer.periods.sleep, running.relay.end_period)

        service = Service(
            running, bouncer.opener, bouncer.events, bouncer.control, bouncer.strangers, door, Ending(), listeners=[],
            always=(bouncer.janitor.sweep_forever, turn_forever, *bouncer.neighbours.always),
        )  # fmt: skip
        hand = Hand(
            running, bouncer.opener, bouncer.strangers, bouncer.canceller, bouncer.control, bouncer,
            lambda: bouncer.door(aliases_only=True), service.stop_now,
        )  # fmt: skip
        hands.append(hand)
        service.gone = {phase: hand.tells(gone) for phase, gone in service.gone.items()}
        far = FarHubs(running, bouncer.hubs, secret, markers, hand.say)
        leaving, coming = Leaving(service, hand.rights, hand.say, hand.all_in), Coming(service, hand.rights, far)
        works = {
            **hand.works, **far.works, **leaving.works, **coming.works,
            "code made": lambda place: bouncer.survey.made_at(place, running.now()),
        }  # fmt: skip
        line = Line(sock, loop, works, service.stop_now, running.rounds.failed)
        hand.begin(line, {0: door})
        log.begin(line)
        line.put("ready")
        gc.freeze()
        sys.setswitchinterval(SWITCH)
        await service.run(hand.settle_forever)
        line.close()
        return 0

    try:
        return loop.run_until_complete(serve())
    finally:
        loop.close()


def secured_by(config: Config, tickets: bytes, log: Log) -> tls.Tls:
    secured = tls.start(config.settings)
    secured.client.share_tickets(tickets)
    if secured.server.problem:
        log.line(WARNING, f"TLS setup failed: {secured.server.problem}")
    return secured


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
