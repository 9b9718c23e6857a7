"""auth_query: ask a PostgreSQL for the secret of a user who is not in auth_file.

The question is put by a client of our own in the pool (database, auth_user): it waits, is limited and shows up like
any other client, and gets a server under the parameters that server reported at its login, never those of the client
that logs in (CVE-2025-12819). The user's name travels as a parameter, never as SQL. The rule: whatever goes wrong is
a LoginError and costs the server connection; a secret is neither cached nor logged."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from os import urandom
from typing import TYPE_CHECKING

from pooler import wire
from pooler.auth import LoginError, stand_in
from pooler.channel import Channel, ConnectionClosed, while_there
from pooler.databases import RESERVED, RESERVED_AUTH_DBNAME, DatabaseConfig
from pooler.labels import Asker
from pooler.login import Attempt
from pooler.registry import PoolState
from pooler.settings import Settings
from pooler.users import MAX_PASSWORD, MAX_USERNAME, Secret, SecretKind
from pooler.values import dataclass
from pooler.welcome import tracked_values
from pooler.wire import ProtocolError

if TYPE_CHECKING:
    from pooler.bouncer import Bouncer

MAX_MESSAGE = 1 << 20
REMEMBERED = 64
"""Questions whose durations are kept."""
NOT_CONFIGURED = "bouncer config error"
NO_SUCH_DATABASE = "3D000"
"""invalid_catalog_name"""


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
    """See the module."""

    def __init__(self, bouncer: Bouncer) -> None:
        self._bouncer = bouncer
        self._durations: deque[float] = deque(maxlen=REMEMBERED)
        self.kind: SecretKind | None = None
        """How the secret found last was stored."""

    async def secret(self, database: DatabaseConfig | None, attempt: Attempt, channel: Channel) -> Secret | None:
        """What auth_query says of the user of `attempt`, who is at the other end of `channel`. Raises LoginError, and
        ConnectionClosed when they leave meanwhile."""
        bouncer = self._bouncer
        asked = question(bouncer.config.settings, database, bouncer.find_database)
        if asked is None:
            if database is None:
                await self._wait_as_usual()
            return None
        place = bouncer.database(asked.database)
        if place.disabled:
            raise LoginError(f'authentication database "{place.name}" is disabled')
        began = bouncer.loop.time()
        pool = bouncer.pool(place, asked.user, forced=False)
        found = await while_there(channel, self._ask(pool, asked.query, attempt))
        self._durations.append(bouncer.loop.time() - began)
        if found is None:
            return None
        if not found.text:
            # No password, or one that has expired: such a user exists, but nobody can prove to be it.
            return stand_in(found.user, bouncer.usual_kind(), bouncer.config.settings.scram_iterations)
        self.kind = found.kind
        return found

    async def _wait_as_usual(self) -> None:
        """A database that does not exist answers no sooner than one that does."""
        if self._durations:
            await asyncio.sleep(self._durations[urandom(1)[0] % len(self._durations)])

    async def _ask(self, pool: PoolState, query: str, attempt: Attempt) -> Secret | None:
        bouncer, relay = self._bouncer, self._bouncer.relay
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        channel = Channel(ours, bouncer.loop)
        about = Asker(attempt.peer, pool.database.name, attempt.user, attempt.tls, number=bouncer.next_number())
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
        except LoginError as error:
            relay.drop(client.linked or client, error.message)
            raise
        except ConnectionClosed:
            if pool.failure is not None and pool.failure.sqlstate == NO_SUCH_DATABASE:
                # With a `*` entry everybody can ask for any: which of them exist is none of a stranger's business.
                return None
            raise LoginError(about.lost or "server conn crashed?") from None
        finally:
            channel.abort()
            if not client.is_lost:
                relay.drop(client, "auth_query answered")


async def ask(channel: Channel, query: str, user: str) -> Secret | None:
    """One question on a connection that is idle. Raises LoginError or ConnectionClosed; then the connection
    is of no further use. The Sync comes last, so that a server whose answer is none is still ours to close."""
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
                found = _read_row(wire.read_data_row(body), user)
            elif kind not in b"12NSA":
                _check(kind, body)
    except ProtocolError as error:
        raise LoginError("unexpected response from auth_query", log=error.message) from None


def _check(kind: bytes, body: bytes) -> None:
    """What a right answer has beside its row."""
    if kind == b"E":
        fields = wire.error_fields(body)
        raise LoginError("error response from auth_query", log=f"auth_query: {fields.get('M', '')}")
    if kind != b"T":
        raise LoginError("unexpected response from auth_query")
    columns = len(wire.read_row_description(body))
    if columns != 2:
        raise LoginError(f"expected 2 columns from auth_query, not {columns}")


def _read_row(row: list[bytes | None], user: str) -> Secret:
    """(name, secret). The name is the query's word for it: a login goes by it, as with PgBouncer."""
    name, secret = row if len(row) == 2 else (None, None)
    if name is None:
        raise LoginError("auth_query response contained null user name")
    if len(name) >= MAX_USERNAME or len(secret or b"") >= MAX_PASSWORD:
        raise LoginError("unexpected response from auth_query", log=f"auth_query: too long a secret for {user}")
    return Secret(wire.decode(name), wire.decode(secret or b""))
