"""A server that goes from one worker to another: all that it is besides its socket, as bytes, and it made again.

The record is the relay's (takeover.pxi), as for the online restart; statements go by their numbers, which are one
worker's alone (`share_numbers`). The rule: it goes on only where it would be made in the same way today.
"""

from __future__ import annotations

import os
import pickle
import socket
from contextlib import suppress

from pooler import wire
from pooler.config.whole import made_with
from pooler.pools.connection import server_label
from pooler.pools.registry import PoolState
from pooler.pools.running import Running
from pooler.relay import Server, engine
from pooler.relay.records import StatementTable
from pooler.servers.opener import Opener
from pooler.workers.line import packed

OWN_NUMBERS = 1_000_000_000
"""Statements that one process may name in its time."""


class Unfit(Exception):
    """It is of no use here: what the log calls it, and since when it was there."""

    def __init__(self, label: str, since: int) -> None:
        super().__init__(label)
        self.label = label
        self.since = since


def number_statements(relay: engine.Relay, number: int, count: int, life: int, before: int = 0) -> None:
    """No two workers, and no two processes in the place of one, give a statement the same number; nor one up to
    `before`."""
    engine.share_numbers(relay, number + count * (-(-before // count) + OWN_NUMBERS * life), count)


def made_by(running: Running, pool: PoolState) -> tuple[object, ...]:
    """What servers of this pool are made with today."""
    return made_with(pool.database.config), tuple(map(str, running.tls.server.facts)), running.relay.tracked_names


def server_as_bytes(running: Running, server: Server) -> bytes:
    table: StatementTable = {}
    state = engine.record(server, table)
    return packed((made_by(running, server.pool.owner), server.about, state, table))


def receive(running: Running, opener: Opener, pool: PoolState, record: bytes, descriptor: int) -> Server:
    """The server at work here; nobody has it yet. If it raises, Unfit among others, the descriptor is still the
    caller's."""
    made, about, state, table = pickle.loads(record)
    here = about.address is None or opener.dns.take_in(about.host, about.address)
    # Who waits to be told of a server would not be by this one, which has said it elsewhere.
    unknown = pool.welcome is None
    if not here or unknown or made != made_by(running, pool) or pool.database.removed:
        raise Unfit(server_label(pool.name, about.peer, state["id"]), state["connected"])
    os.set_blocking(descriptor, False)
    statements = {number: engine.same_statement(running.relay, number, *rest) for number, rest in table.items()}
    return engine.receive_server(pool.engine, descriptor, state, state["params"], about, statements)


def part_with(descriptor: int) -> None:
    """The server is nobody's any more: it is told so, and closed."""
    with socket.socket(fileno=descriptor) as sock, suppress(OSError):
        sock.send(wire.terminate(), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
