"""The door: from an accepted socket to a client of the relay, a console session, a cancelled query or a refusal.

One coroutine per arriving client, gone when the relay has taken over: nothing in Python lasts as long as an idle client
but the few facts in its `Arrival`. The rule: whatever happens between accept and hand-over, the socket is closed or
handed over exactly once, and every count that went up comes down again.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any

from pooler import control, peers, wire
from pooler.auth import LoginError
from pooler.cancel import cancel
from pooler.channel import Channel, ConnectionClosed, while_there
from pooler.errand import Errand
from pooler.labels import Arrival, client_label
from pooler.log import ERROR
from pooler.login import Admitted, Cancel, House, is_own_user, login
from pooler.opener import tls_parts
from pooler.registry import PoolState, Waiter
from pooler.relay import Client, Newcomer
from pooler.relay.engine import clock, plain
from pooler.settings import Settings
from pooler.tcp import Choice, SocketOptions
from pooler.values import dataclass
from pooler.verbs import ConsoleSession
from pooler.welcome import Greeting, Welcome, ending

if TYPE_CHECKING:
    from pooler.bouncer import Bouncer, Console

EXHAUSTED = "bouncer resources exhaustion"
SUCCESSOR = "pooler -R"
"""application_name of a new process's login on the admin database of the one that it is to replace."""


@dataclass(slots=True)
class Visit:
    """A client from its accept to its hand-over; `since` is on the relay's clock."""

    channel: Channel
    arrival: Arrival
    since: int
    task: Errand | asyncio.Task[None] | None = None
    """Who carries it on at present."""
    overdue: bool = False
    """The janitor has ended it: client_login_timeout."""

    def time_out(self) -> None:
        assert self.task is not None
        self.overdue = True
        self.task.cancel()


class Door:
    """See the module. `console` serves the admin database; `house` answers the questions of logins, the bouncer itself
    unless another is set."""

    def __init__(self, bouncer: Bouncer, console: Console, house: House | None = None) -> None:
        self.bouncer = bouncer
        self.house: House = house or bouncer
        self.console = console
        self.tasks: set[Errand | asyncio.Task[None]] = set()
        self.on_successor: Callable[[Channel], Awaitable[None]] | None = None
        """Called with the new process of an online restart."""
        self._choices: tuple[Choice, ...] = ()
        self._choices_of: tuple[Settings, bool] | None = None

    def arrived(self, sock: socket.socket | Newcomer) -> None:
        """A client has been accepted."""
        bouncer = self.bouncer
        try:
            tcp = isinstance(sock, Newcomer) or sock.family != socket.AF_UNIX
            for choice in self._socket_options(bouncer.config.settings, tcp=tcp):
                sock.setsockopt(*choice)
            channel = Channel(sock, bouncer.loop)
            arrival = Arrival(channel.peer, number=bouncer.next_number())
        except OSError:
            # It left before we could look at it.
            os.close(sock.detach())
            return
        visit = Visit(channel, arrival, clock())
        bouncer.logging_in[arrival.number] = visit
        visit.task = errand = Errand(self._receive(visit, self._admit(visit)), bouncer.loop)
        self.tasks.add(errand)
        errand.start()

    def _socket_options(self, settings: Settings, *, tcp: bool) -> tuple[Choice, ...]:
        """Worked out anew only when the settings are other ones."""
        known = self._choices_of
        if known is None or known[0] is not settings or known[1] is not tcp:
            self._choices_of = settings, tcp
            self._choices = SocketOptions.of(settings).choices(tcp=tcp)
        return self._choices

    async def _receive(self, visit: Visit, steps: Coroutine[Any, Any, None]) -> None:
        """Go through with `steps` of the visit; it ends with them, unless they have passed it on to another task."""
        task = visit.task
        assert task is not None
        try:
            await steps
        except LoginError as error:
            self._refuse(visit, error)
        except ConnectionClosed:
            self._refuse(visit, LoginError("client unexpected eof", notify=False))
        except asyncio.CancelledError:
            if not visit.overdue:
                raise
            self._refuse(visit, LoginError("client_login_timeout"))
        except Exception as error:
            label = client_label(visit.arrival)
            self.bouncer.say(ERROR, f"{label} fault in the login: {type(error).__name__}: {error}")
            self._refuse(visit, LoginError(EXHAUSTED))
        finally:
            self.tasks.discard(task)
            if visit.task is task:
                self._logged_in(visit)
                visit.channel.abort()

    def _pass_on(self, visit: Visit, steps: Coroutine[Any, Any, None]) -> None:
        """The rest of a visit needs a task of asyncio's."""
        visit.task = self.bouncer.loop.create_task(self._receive(visit, steps))
        self.tasks.add(visit.task)

    def _logged_in(self, visit: Visit) -> None:
        self.bouncer.logging_in.pop(visit.arrival.number, None)
        if self.bouncer.shutting:
            self.bouncer.changed.set()

    async def _admit(self, visit: Visit) -> None:
        outcome = await login(visit.channel, self.house, visit.arrival)
        self._logged_in(visit)
        if isinstance(outcome, Cancel):
            self._pass_on(visit, cancel(self.bouncer, visit.channel, visit.arrival, outcome.key))
        elif outcome.admin:
            self._pass_on(visit, self._serve_console(visit.channel, visit.arrival, outcome, visit.since))
        else:
            await self._join_pool(visit, outcome)

    def _refuse(self, visit: Visit, error: LoginError) -> None:
        bouncer, arrival = self.bouncer, visit.arrival
        label = client_label(arrival)
        bouncer.say_closing(label, error.message, visit.since)
        bouncer.tally("login", arrival.database if arrival.database in bouncer.registry.databases else "", "refused")
        if error.notify:
            bouncer.say_error(label, error.message)
            visit.channel.send_now(wire.error_response("FATAL", error.sqlstate, error.message))

    # ---- a pool's client

    async def _join_pool(self, visit: Visit, admitted: Admitted) -> None:
        """Counted in at once, since its limits were checked a moment ago; out again unless it is handed over (then its
        end counts it out)."""
        bouncer, registry = self.bouncer, self.bouncer.registry
        assert admitted.database is not None
        database, user = bouncer.database(admitted.database), registry.user(visit.arrival.user)
        # The names that others have too: ten thousand clients need not keep their own copies.
        visit.arrival.database, visit.arrival.user = database.name, user.name
        registry.count_in(database, user)
        try:
            pool = bouncer.pool(database, admitted.user)
            if pool.user.name == admitted.user:
                # Never what another user proved with: a forced user's servers are logged in to as configured.
                pool.credentials = admitted.credentials.joined(pool.credentials)
            if admitted.replication == "none":
                welcome = await self._first_server(visit, pool)
                self._hand_over(visit, pool, welcome.greeting(admitted.parameters))
            else:
                await self._replicate(visit, pool, admitted)
        except BaseException:
            registry.count_out(database, user)
            raise

    async def _first_server(self, visit: Visit, pool: PoolState) -> Welcome:
        """Wait until it is known what to tell a client of this pool about its server."""
        while pool.welcome is None:
            waiter = self._waiter(visit)
            pool.newcomers[visit.arrival.number] = waiter
            try:
                self.bouncer.opener.consider(pool)
                await while_there(visit.channel, waiter.ready)
            finally:
                del pool.newcomers[visit.arrival.number]
        return pool.welcome

    def _waiter(self, visit: Visit, *, own: bool = False) -> Waiter:
        loop = self.bouncer.loop
        return Waiter(loop.time(), loop.create_future(), visit.arrival, own=own)

    async def _replicate(self, visit: Visit, pool: PoolState, admitted: Admitted) -> None:
        """Get a server for this client alone, and tell the client what that server reports."""
        from pooler.replication import own_server

        bouncer = self.bouncer
        own = await own_server(bouncer, visit.channel, pool, self._waiter(visit, own=True), admitted)
        welcome = Welcome(own.reported, bouncer.relay.tracked_names)
        try:
            client = self._hand_over(visit, pool, welcome.greeting({}))
            try:
                own.adopt(client)
            except Exception as error:
                # The client is the relay's, and counted out by its end.
                bouncer.fault(client, error)
                bouncer.relay.drop(client, EXHAUSTED)
        finally:
            own.forget()

    def _hand_over(self, visit: Visit, pool: PoolState, greeting: Greeting) -> Client:
        bouncer, settings = self.bouncer, self.bouncer.config.settings
        key, rest = peers.new_key(settings.peer_id), visit.channel.detach()
        plain(visit.arrival.peer)
        plain(visit.arrival)
        try:
            client = bouncer.relay.adopt_client(
                pool.engine,
                visit.arrival.number,
                rest.fd,
                tls_parts(rest),
                rest.leftover,
                greeting.tracked,
                visit.arrival,
                key,
                visit.since,
            )
        except BaseException:
            rest.close()
            raise
        client.send(rest.unsent + greeting.messages + ending(key, settings.login_notify_message))
        pool.engine.login_took(clock() - visit.since)
        return client

    # ---- the admin database

    async def _serve_console(self, channel: Channel, arrival: Arrival, admitted: Admitted, since: int) -> None:
        from pooler.bouncer import ConsoleClient

        bouncer = self.bouncer
        key = peers.new_key(bouncer.config.settings.peer_id)
        assert admitted.rights
        if self.on_successor is not None and is_successor(arrival, admitted):
            return await self.on_successor(channel)
        label = client_label(arrival)
        session = ConsoleSession(admitted.user, admitted.rights, admitted.parameters, key, arrival.number, label)
        task = asyncio.current_task()
        assert task is not None
        bouncer.consoles[arrival.number] = ConsoleClient(session, arrival, since, task)
        reason = "client close request"
        try:
            await self.console(channel, session, bouncer)
        except (ConnectionClosed, LoginError) as error:
            reason = error.message
        finally:
            del bouncer.consoles[arrival.number]
            control.console_gone(bouncer)
            bouncer.say_closing(label, reason, since)


def is_successor(arrival: Arrival, admitted: Admitted) -> bool:
    """Whether this is a process of our own system user that wants to take our place (-R)."""
    return is_own_user(arrival) and admitted.application_name.startswith(SUCCESSOR)
