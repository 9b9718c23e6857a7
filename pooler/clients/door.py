"""The door: from an accepted socket to a client of the relay, a console session, a cancelled query or a refusal.

One coroutine per arriving client, gone when the relay has taken over: nothing in Python lasts as long as an idle client
but the few facts in its `ClientFacts`. The rule: whatever happens between accept and hand-over, the socket is closed or
handed over exactly once, and every count that went up comes down again.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

from pooler import wire
from pooler.clients import peers
from pooler.clients.cancel import Canceller
from pooler.clients.login import Admitted, Cancel, is_own_user, login
from pooler.clients.reception import Reception
from pooler.clients.strangers import Strangers, Visit
from pooler.config.settings import Settings
from pooler.log import DEBUG, ERROR, NOISE
from pooler.net.channel import Channel, ConnectionClosed, while_there
from pooler.net.credentials import NOTHING
from pooler.net.tcp import Choice, SocketOptions
from pooler.pools.connection import NOBODY, ClientFacts, Replication, client_label
from pooler.pools.reasons import Kind, Reason
from pooler.pools.refusal import Left, LoginError
from pooler.pools.registry import PoolState, User, Waiter
from pooler.pools.running import ConsoleClient, Running
from pooler.pools.welcome import Greeting, Welcome, ending
from pooler.relay import Client, LightTask, Newcomer
from pooler.relay.engine import clock
from pooler.servers.opener import Opener
from pooler.sessions import Session
from pooler.verbs import ConsoleSession

Console = Callable[[Channel, ConsoleSession], Awaitable[None]]
"""Serves a session on the admin database."""
AUTHENTICATION_OK = wire.authentication_ok()
"""With the welcome and not before: who is refused for want of a server has not been let in."""
NOT_REPLICATION = Replication.NONE
SUCCESSOR = "pooler -R"
"""application_name of a new process's login on the admin database of the one that it is to replace."""


class Door:
    """One way in: a reception that answers logins, and where they lead. Doors share `tasks`, all that goes on behind
    them. `console_gone` is told when a session on the admin database has ended."""

    def __init__(
        self,
        running: Running,
        opener: Opener,
        strangers: Strangers,
        canceller: Canceller,
        reception: Reception,
        console: Console,
        *,
        console_gone: Callable[[], None],
        tasks: set[LightTask | asyncio.Task[None]],
    ) -> None:
        self.running = running
        self.reception = reception
        self.tasks = tasks
        self.on_successor: Callable[[Channel], Coroutine[Any, Any, None]] | None = None
        """Called with the new process of an online restart."""
        self._opener = opener
        self._strangers = strangers
        self._canceller = canceller
        self._console = console
        self._console_gone = console_gone
        self._choices: dict[bool, tuple[Choice, ...]] = {}
        """What is set on sockets, of TCP and others, by the settings `_choices_of`."""
        self._choices_of: Settings | None = None

    def arrived(self, sock: socket.socket | Newcomer) -> bool:
        """A client has been accepted; False when the next one should be accepted in another turn."""
        running = self.running
        settings = running.registry.config.settings
        tcp = isinstance(sock, Newcomer) or sock.family != socket.AF_UNIX
        channel = Channel(sock, running.loop)
        channel.longest = settings.max_packet_size
        if settings is not self._choices_of:
            self._choose_options(settings)
        try:
            channel.tune(self._choices[tcp])
            arrival = ClientFacts(channel.peer, number=running.next_number())
        except OSError:
            # It left before we could look at it.
            os.close(sock.detach())
            return True
        if running.log_file.wordy:
            self.reception.log(arrival, DEBUG, f"P: got connection: {arrival.peer.way}")
        visit, strangers = Visit(channel, arrival, clock()), self._strangers
        if strangers.too_many(channel.fileno()) and strangers.make_way(partial(self._take_place, visit)):
            return strangers.at_ease
        self._let_in(visit)
        return True

    def _take_place(self, visit: Visit) -> None:
        """Somebody has gone for this one."""
        if self.running.ending:
            return visit.channel.abort()
        visit.channel.take_lowest()
        self._let_in(visit)

    def _let_in(self, visit: Visit) -> None:
        """Often all that is needed is here already: then it is let in at once."""
        self._strangers.come(visit)
        visit.steps = steps = self._admit(visit)
        visit.task = task = LightTask(self._receive(visit, steps), self.tasks, self.running.loop)
        task.go_on()

    def _choose_options(self, settings: Settings) -> None:
        options = SocketOptions.of(settings)
        self._choices_of, self._choices = settings, {tcp: options.choices(tcp=tcp) for tcp in (True, False)}

    async def _receive(self, visit: Visit, steps: Coroutine[Any, Any, None]) -> None:
        """Go through with `steps` of the visit; it ends with them, unless others have become its steps meanwhile."""
        try:
            await steps
        except LoginError as error:
            self._refuse(visit, error)
        except ConnectionClosed:
            self._refuse(visit, LoginError(Reason.CLIENT_EOF, notify=False))
        except asyncio.CancelledError:
            if visit.ended is None:
                raise
            self._refuse(visit, visit.ended)
        except Exception as error:
            label = client_label(visit.arrival)
            self.running.say(ERROR, f"{label} fault in the login: {type(error).__name__}: {error}")
            self._refuse(visit, LoginError(Reason.EXHAUSTED))
        finally:
            self._leave(visit, steps)

    def _leave(self, visit: Visit, steps: Coroutine[Any, Any, None]) -> None:
        """These steps are done, and the visit with them, unless it is others' now."""
        if visit.steps is steps:
            visit.steps = None
            if not visit.channel.closed:
                visit.channel.abort()
            if visit.stranger:
                self._no_stranger(visit)
            if self.running.shutting:
                # It may be the last one: who waited for a first server was no stranger any more, and no client yet.
                self.running.changed.set()

    def _pass_on(self, visit: Visit, steps: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """The rest of a visit needs a task of asyncio's."""
        visit.steps = steps
        visit.task = task = self.running.loop.create_task(self._receive(visit, steps))
        self.tasks.add(task)

        def done(_: asyncio.Task[None]) -> None:
            # Of a task that is ended before it has begun nothing is run, not even what comes last.
            steps.close()
            self.tasks.discard(task)
            if task.cancelled() and visit.ended is not None:
                self._refuse(visit, visit.ended)
            self._leave(visit, steps)

        task.add_done_callback(done)
        return task

    def _no_stranger(self, visit: Visit) -> None:
        """It has logged in, or is gone."""
        visit.stranger = False
        self._strangers.gone(visit)

    async def _admit(self, visit: Visit) -> None:
        outcome = await login(visit.channel, self.reception, visit.arrival)
        if isinstance(outcome, Cancel):
            visit.cancels = visit.channel.at_work = True
            self._pass_on(visit, self._canceller.cancel(visit.channel, visit.arrival, outcome.key))
            return
        self._no_stranger(visit)
        if outcome.database is None:
            if self.running.colleagues is not None:
                await self.running.colleagues.admit(None, visit.arrival.user, bounded=outcome.rights != "admin")
            self._open_console(visit, outcome)
        else:
            await self._join_pool(visit, outcome)

    def _refuse(self, visit: Visit, error: LoginError) -> None:
        running, arrival = self.running, visit.arrival
        label = client_label(arrival)
        left = isinstance(error, Left)
        if not left:
            running.say_closing(label, error.message, visit.since)
        if not left or arrival.user != NOBODY:
            # Whoever connects and says nothing, as probes do, is no client that was turned away.
            running.tally(Kind.LOGIN, arrival.database, Reason.LEFT if left else Reason.REFUSED)
        running.say(DEBUG, f"{label} failed connection attempt")
        if error.notify and not visit.cancels:
            running.say_error(label, error.message)
            told = wire.error_response("FATAL", error.sqlstate, error.message, detail=error.detail or None)
            visit.channel.send_now(told)

    # ---- a pool's client

    async def _join_pool(self, visit: Visit, admitted: Admitted) -> None:
        """Counted in at once, since its limits were checked a moment ago; out again unless it is handed over (then its
        end counts it out)."""
        running, registry, arrival = self.running, self.running.registry, visit.arrival
        assert admitted.database is not None
        if running.colleagues is not None:
            await running.colleagues.admit(admitted.database.name, arrival.user)
            if registry.find(admitted.database.name) != admitted.database:
                # It has left the configuration, or is another one, while the others were asked.
                running.colleagues.left(admitted.database.name, arrival.user)
                raise LoginError(Reason.REMOVED)
        database = running.entry(admitted.database, arrival)
        user = registry.user(arrival.user)
        # The names that others have too: ten thousand clients need not keep their own copies.
        arrival.database, arrival.user = admitted.database.name, user.name
        registry.count_in(database, user)
        try:
            pool = registry.pool(database, admitted.user)
            learnt = admitted.credentials
            if learnt is not NOTHING and learnt is not pool.credentials and pool.user.name == admitted.user:
                # Never what another user proved with: a forced user's servers are logged in to as configured.
                pool.credentials = learnt.joined(pool.credentials)
            if admitted.replication is NOT_REPLICATION:
                welcome = pool.welcome or await self._first_server(visit, pool)
                if welcome.of_standby:
                    pool.engine.try_one()
                greeting = welcome.greeting(admitted.parameters, pool.manners)
                self._hand_over(visit, pool, greeting, admitted.session)
            else:
                await self._replicate(visit, pool, admitted)
        except BaseException:
            registry.count_out(database, user)
            raise

    async def _first_server(self, visit: Visit, pool: PoolState) -> Welcome:
        """Wait until it is known what to tell a client of this pool about its server."""
        since = clock()
        while pool.welcome is None:
            waiter = self._waiter(visit)
            pool.expect(visit.arrival.number, waiter)
            self.reception.log(visit.arrival, DEBUG, "pause_client")
            try:
                self._opener.consider(pool)
                await while_there(visit.channel, waiter.ready)
                waiter.check()
            finally:
                pool.expect_no_more(visit.arrival.number)
            self.reception.log(visit.arrival, DEBUG, "activate_client")
        pool.engine.waited(clock() - since)
        return pool.welcome

    def _waiter(self, visit: Visit, *, own: bool = False) -> Waiter:
        running = self.running
        return Waiter(running.now(), running.loop.create_future(), visit.arrival, own=own)

    async def _replicate(self, visit: Visit, pool: PoolState, admitted: Admitted) -> None:
        """Get a server for this client alone, and tell the client what that server reports."""
        from pooler.clients.replication import own_server

        running, since = self.running, clock()
        own = await own_server(self._opener, visit.channel, pool, self._waiter(visit, own=True), admitted)
        pool.engine.waited(clock() - since)
        welcome = Welcome(own.reported, running.relay.tracked_names)
        try:
            client = self._hand_over(visit, pool, welcome.greeting({}, running.registry.own_manners()))
            try:
                own.adopt(client)
            except Exception as error:
                # The client is the relay's, and counted out by its end.
                running.fault(client, error)
                running.drop(client, Reason.EXHAUSTED)
        finally:
            own.forget()

    def _hand_over(self, visit: Visit, pool: PoolState, greeting: Greeting, session: Session = ()) -> Client:
        running, notice = self.running, self.running.registry.config.settings.login_notify_message
        key = peers.new_key(running.peer_id)
        said = AUTHENTICATION_OK + greeting.messages + ending(key, notice)
        client = visit.channel.hand_over(
            running.relay, pool.engine, visit.arrival, greeting.tracked, key, visit.since, session, said
        )
        self._say_welcome(visit)
        return client

    def _say_welcome(self, visit: Visit) -> None:
        if self.running.log_file.wordy:
            self.reception.log(visit.arrival, NOISE, "P: welcome_client")
            self.reception.log(visit.arrival, DEBUG, "logged in")

    # ---- the admin database

    def _open_console(self, visit: Visit, admitted: Admitted) -> None:
        """Counted in at once, since its limits were checked a moment ago; out again when it ends, in whatever way."""
        running, arrival = self.running, visit.arrival
        visit.channel.put(AUTHENTICATION_OK)
        if self.on_successor is not None and is_successor(arrival, admitted):
            self._pass_on(visit, self.on_successor(visit.channel))
            return
        assert admitted.rights
        key, label = peers.new_key(running.peer_id), client_label(arrival)
        session = ConsoleSession(admitted.user, admitted.rights, admitted.parameters, key, arrival.number, label)
        user = running.registry.user(admitted.user)
        running.registry.count_in(None, user)
        running.console_logins += 1
        self._say_welcome(visit)
        gone = partial(self._no_console, arrival.number, user)
        task = self._pass_on(visit, self._serve_console(visit, session, gone))
        running.consoles[arrival.number] = ConsoleClient(session, arrival, visit.since, task)
        # Also where nothing of it was run: see `_pass_on`.
        task.add_done_callback(lambda _: gone())

    async def _serve_console(self, visit: Visit, session: ConsoleSession, gone: Callable[[], None]) -> None:
        reason: str = Reason.CLIENT_CLOSE
        try:
            await self._console(visit.channel, session)
        except ConnectionClosed:
            reason = Reason.CLIENT_EOF
        except LoginError as error:
            reason = error.message
        finally:
            gone()
            self.running.say_closing(session.label, reason, visit.since)

    def _no_console(self, number: int, user: User) -> None:
        if self.running.consoles.pop(number, None) is not None:
            self.running.registry.count_out(None, user)
            self._console_gone()


def is_successor(arrival: ClientFacts, admitted: Admitted) -> bool:
    """Whether this is a process of our own system user that wants to take our place (-R)."""
    return is_own_user(arrival) and admitted.application_name.startswith(SUCCESSOR)
