"""auth_query: ask a PostgreSQL for the secret of a user who is not in auth_file.

The question is put by a client of our own in the pool (database, auth_user): it waits, is limited and shows up like
any other client, and gets a server under the parameters that server reported at its login, never those of the client
that logs in (CVE-2025-12819). The user's name travels as a parameter, never as SQL. The rule: whatever goes wrong with
the question is for the log, the client hears that the configuration is wrong; a secret is neither cached nor logged."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
from collections import deque
from collections.abc import Callable
from os import urandom

from pooler import wire
from pooler.clients.auth import StandIn
from pooler.clients.strangers import Strangers
from pooler.config.databases import RESERVED, RESERVED_AUTH_DBNAME, DatabaseConfig
from pooler.config.settings import Settings
from pooler.config.users import MAX_PASSWORD, MAX_USERNAME, Likeness, Secret, SecretKind
from pooler.log import WARNING
from pooler.net.channel import Channel, ConnectionClosed, while_there
from pooler.pools.connection import ClientFacts, QuestionFacts, client_label
from pooler.pools.reasons import Reason
from pooler.pools.refusal import LoginError
from pooler.pools.registry import PoolState
from pooler.pools.running import Running
from pooler.pools.welcome import tracked_values
from pooler.values import dataclass
from pooler.wire import ProtocolError

MAX_MESSAGE = 1 << 20
REMEMBERED = 64
"""Questions whose durations are kept."""
NOT_CONFIGURED = "bouncer config error"
NO_SUCH_DATABASE = "3D000"
"""invalid_catalog_name"""

PACED = 1000
"""Users that are looked at between two looks at the connections."""


class NoAnswer(Exception):
    """What the server says is no answer to the question. `reason`: why it is closed; `detail`: more for the log."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = str(reason)
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Question:
    """Where auth_query runs for the clients of a database, as whom, and what it is."""

    database: DatabaseConfig
    user: str
    query: str


def question(
    settings: Settings, database: DatabaseConfig | None, find: Callable[[str], DatabaseConfig | None]
) -> Question | None:
    """None: nobody is to be asked. `database` is the client's (None: the admin database, or no such one),
    `find` gives the entry of a name. Raises LoginError when auth_dbname leads nowhere."""
    user = (database.auth_user if database else None) or settings.auth_user
    if not user:
        return None
    name = (database.auth_dbname if database else None) or settings.auth_dbname
    if name == RESERVED:
        raise LoginError(NOT_CONFIGURED, log=RESERVED_AUTH_DBNAME)
    where = find(name) if name else database
    if where is None:
        if not name:
            return None
        raise LoginError(NOT_CONFIGURED, log=f'authentication database "{name}" is not configured.')
    return Question(where, user, (database.auth_query if database else None) or settings.auth_query)


class Lookup:
    """Asks auth_query."""

    def __init__(self, running: Running, strangers: Strangers) -> None:
        self._running = running
        self._strangers = strangers
        self._durations: deque[float] = deque(maxlen=REMEMBERED)
        self.seen: Likeness | None = None
        """Of the secret that was found last."""
        self.configure()

    def configure(self) -> None:
        """There is another configuration."""
        config = self._running.config
        found = []
        for secret in config.secrets.values():
            if secret.text:
                found.append(Likeness.of(secret))
            if len(found) % PACED == 0:
                self._running.relay.pace()
        self._likenesses = tuple(found) or (Likeness(SecretKind.plain),)
        self.asks = bool(config.settings.auth_user) or any(entry.auth_user for entry in config.databases.values())
        """Whether auth_query may be asked at all."""

    def likeness(self, user: str) -> Likeness:
        """What this user's secret would look like, if it does not exist: like another one's."""
        if self.seen is not None:
            return self.seen
        # As many of each kind as there are, and always the same one for the same name.
        return self._likenesses[hash(user) % len(self._likenesses)]

    async def secret(self, database: DatabaseConfig | None, attempt: ClientFacts, channel: Channel) -> Secret | None:
        """What auth_query says of the user of `attempt`, who is at the other end of `channel`. Raises LoginError, and
        ConnectionClosed when they leave meanwhile."""
        running = self._running
        asked = question(running.config.settings, database, running.registry.find)
        if asked is None:
            if database is None:
                await self._wait_as_usual()
            return None
        place = running.database(asked.database.name)
        if place is None:
            raise LoginError(NOT_CONFIGURED, log=f'authentication database "{asked.database.name}" is not configured.')
        if place.disabled:
            raise LoginError(f'authentication database "{place.name}" is disabled')
        began = running.now()
        pool = running.registry.pool(place, asked.user, forced=False)
        found = await while_there(channel, self._ask(pool, asked.query, attempt))
        self._durations.append(running.now() - began)
        if found is not None and len(wire.encode(found.text)) > MAX_PASSWORD:
            running.say(WARNING, f"{client_label(attempt)} auth_query: password too long for {found.user}")
            found = Secret(found.user, "")
        if found is None or not found.text:
            # Made for who does not exist as well, in the time that reading a secret takes. Without a password, or with
            # one that has expired, a user exists, but nobody can prove to be it.
            mock = StandIn(attempt.user, self.likeness(attempt.user)).stored()
            return None if found is None else dataclasses.replace(mock, user=found.user)
        self.seen = Likeness.of(found)
        return found

    async def _wait_as_usual(self) -> None:
        """A database that does not exist answers no sooner than one that does."""
        if self._durations:
            await asyncio.sleep(self._durations[urandom(1)[0] % len(self._durations)])

    async def _ask(self, pool: PoolState, query: str, attempt: ClientFacts) -> Secret | None:
        with self._strangers.pair(attempt.number) as (ours, theirs):
            return await self._ask_by(ours, theirs, pool, query, attempt)

    async def _ask_by(
        self, ours: socket.socket, theirs: socket.socket, pool: PoolState, query: str, attempt: ClientFacts
    ) -> Secret | None:
        running, relay = self._running, self._running.relay
        theirs.setblocking(False)
        channel = Channel(ours, running.loop)
        about = QuestionFacts(attempt.peer, pool.database.name, attempt.user, attempt.tls, number=running.next_number())
        reported = pool.welcome.reported if pool.welcome is not None else {}
        parameters = tracked_values(relay.tracked_names, reported)
        try:
            client = relay.adopt_client(
                pool.engine, about.number, theirs.fileno(), None, b"", parameters, about, urandom(8)
            )
        except BaseException:
            theirs.close()
            channel.abort()
            raise
        theirs.detach()
        client.quiet = True
        try:
            return await ask(channel, query, attempt.user)
        except NoAnswer as error:
            relay.drop(client.linked or client, error.reason)
            raise LoginError(NOT_CONFIGURED, log=error.detail or error.reason) from None
        except ConnectionClosed:
            if pool.failure is not None and pool.failure.sqlstate == NO_SUCH_DATABASE:
                # With a `*` entry everybody can ask for any: which of them exist is none of a stranger's business.
                return None
            raise LoginError(about.lost or Reason.SERVER_CRASHED) from None
        finally:
            channel.abort()
            if not client.is_lost:
                running.drop(client, Reason.ANSWERED)


async def ask(channel: Channel, query: str, user: str) -> Secret | None:
    """One question on a connection that is idle. Raises NoAnswer or ConnectionClosed; then the connection is of no
    further use. The Sync comes last, so that a server whose answer is none is still ours to close."""
    question = wire.parse("", query, []) + wire.bind("", "", [user]) + wire.describe(b"P", "") + wire.execute("")
    await channel.send(question + wire.flush())
    found: Secret | None = None
    try:
        while True:
            kind, body = await channel.read_message(MAX_MESSAGE)
            if kind == b"Z":
                return found
            if kind == b"C":
                await channel.send(wire.sync())
            elif kind == b"D":
                found = _read_row(wire.read_data_row(body))
            elif kind not in b"12NSA":
                _check(kind, body)
    except ProtocolError as error:
        raise NoAnswer(Reason.NOT_UNDERSTOOD, error.message) from None


def _check(kind: bytes, body: bytes) -> None:
    """What a right answer has beside its row."""
    if kind == b"E":
        fields = wire.error_fields(body)
        said = f"{fields.get('S', 'ERROR')}: {fields.get('M', '')}"
        raise NoAnswer(Reason.NO_ANSWER, f"error in auth_query: {said}")
    if kind != b"T":
        raise NoAnswer(Reason.NOT_UNDERSTOOD)
    columns = len(wire.read_row_description(body))
    if columns != 2:
        raise NoAnswer(f"{Reason.COLUMNS}, not {columns}")


def _read_row(row: list[bytes | None]) -> Secret | None:
    """(name, secret). The name is the query's word for it: a login goes by it, as with PgBouncer. A function that finds
    nobody gives a row of NULLs, which is as good as none."""
    name, secret = row if len(row) == 2 else (None, None)
    if not name or len(name) >= MAX_USERNAME:
        return None
    return Secret(wire.decode(name), wire.decode(secret or b""))
