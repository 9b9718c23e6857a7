"""A house without a bouncer, and a scripted client that logs in there."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import os
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from pooler import wire
from pooler.clients.login import Admitted, Cancel, Grounds, login
from pooler.config.databases import DatabaseConfig
from pooler.config.hba import parse_hba
from pooler.config.users import Likeness, Secret, SecretKind
from pooler.config.whole import Config, compose
from pooler.net import scram
from pooler.net.address import Peer
from pooler.net.channel import Channel, ConnectionClosed
from pooler.pools.connection import ClientFacts
from pooler.pools.refusal import LoginError
from tests.unit.pairs import run, send_pieces, tcp_pair

PASSWORD = "correct horse"
MD5 = "md5" + hashlib.md5(f"{PASSWORD}bob".encode()).hexdigest()
SCRAM = scram.verifier_text(scram.make_verifier(PASSWORD, 10))
SECRETS = {"plain": PASSWORD, "md5": MD5, "scram": SCRAM}

Client = Callable[[Channel], Awaitable[Any]]


class House:
    """Databases `app` and `forced`; users in the Config's secrets."""

    def __init__(self, secret: str = PASSWORD, *, hba: str = "", **settings: str) -> None:
        secrets = [Secret("bob", secret)] if secret else []
        databases = [DatabaseConfig("app"), DatabaseConfig("forced", user="owner")]
        config = compose({name: value for name, value in settings.items()}, databases, secrets=secrets)
        if hba:
            config = dataclasses.replace(config, hba=parse_hba(hba))
        self.config: Config = config
        self.tls_context: ssl.SSLContext | None = None
        self.must_use_tls = False
        self.lines: list[str] = []
        self.full = False
        self.wordy = False

    def tls_required(self, peer: Peer) -> bool:
        return self.must_use_tls

    def find_database(self, name: str) -> DatabaseConfig | None:
        return self.config.databases.get(name)

    def grounds(self, database: DatabaseConfig | None, user: str) -> Grounds:
        own = database is not None and database.secrets is not None
        secrets = database.secrets if database is not None and database.secrets is not None else self.config.secrets
        return Grounds(own, secrets.get(user))

    def footing(self, config: Config, name: str, database: DatabaseConfig | None) -> None:
        pass

    def likeness(self, user: str) -> Likeness:
        return next(map(Likeness.of, self.config.secrets.values()), Likeness(SecretKind.scram))

    def must_ask(self, database: DatabaseConfig | None, user: str) -> bool:
        return False

    async def find_secret(
        self, database: DatabaseConfig | None, attempt: ClientFacts, channel: Channel
    ) -> Secret | None:
        return self.grounds(database, attempt.user).secret

    async def check_room(self, channel: Channel) -> None:
        pass

    def check_limits(self, database: DatabaseConfig | None, user: str) -> None:
        if self.full:
            raise LoginError("no more connections allowed (max_client_conn)")

    def log(self, attempt: ClientFacts, level: str, text: str) -> None:
        self.lines.append(text)


async def meet(house: House, client: Client, pair: tuple[socket.socket, socket.socket] | None = None) -> Any:
    """What login returns or raises for what `client` does; the client ends by itself."""
    loop = asyncio.get_running_loop()
    mine, theirs = pair or tcp_pair()
    speaker, channel = Channel(mine, loop), Channel(theirs, loop)

    async def play() -> Any:
        try:
            return await client(speaker)
        except ConnectionClosed:
            return None

    playing = asyncio.create_task(play())
    try:
        return await login(channel, house)
    finally:
        channel.abort()
        await playing
        speaker.abort()


async def unix_meet(house: House, play: Client, directory: Path) -> Any:
    path = str(directory / ".s.PGSQL.6432")
    Path(path).unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        mine = socket.socket(socket.AF_UNIX)
        mine.connect(path)
        return await meet(house, play, (mine, listener.accept()[0]))


def outcome(house: House, client: Client) -> Admitted | Cancel:
    result: Admitted | Cancel = run(meet(house, client))
    return result


def refusal(house: House, client: Client) -> LoginError:
    with pytest.raises(LoginError) as caught:
        run(meet(house, client))
    return caught.value


def client(
    password: str = PASSWORD, *, user: str = "bob", database: str = "app", piece: int = 10_000, **params: str
) -> Client:
    """A whole login by whatever method is asked."""

    async def play(channel: Channel) -> None:
        names = {name: value for name, value in (("user", user), ("database", database)) if value} | params
        await send_pieces(channel, wire.startup_message(names), piece)
        await answer(channel, user, password, piece)

    return play


async def answer(channel: Channel, user: str, password: str, piece: int = 10_000) -> None:
    exchange = scram.ClientExchange()
    while True:
        kind, body = await channel.read_message()
        assert kind == b"R"
        code, data = wire.read_authentication(body)
        if code == 0:
            return
        if code == 12:
            exchange.finish(data)
            continue
        if code == 3:
            reply = wire.password_message(wire.encode(password))
        elif code == 5:
            inner = hashlib.md5(wire.encode(password + user)).hexdigest().encode()
            reply = wire.password_message(b"md5" + hashlib.md5(inner + data).hexdigest().encode())
        elif code == 10:
            reply = wire.sasl_initial_response("SCRAM-SHA-256", exchange.first())
        else:
            reply = wire.sasl_response(exchange.final(scram.derive_keys(password, *exchange.take(data))))
        await send_pieces(channel, reply, piece)


def bytes_client(*data: bytes) -> Client:
    """Sends bytes, then ends its direction, and reads what comes."""

    async def play(channel: Channel) -> None:
        for part in data:
            await channel.send(part)
        with socket.socket(fileno=os.dup(channel.fileno())) as twin:
            twin.shutdown(socket.SHUT_WR)
        while True:
            await channel.read_exactly(1)

    return play
