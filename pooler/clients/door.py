"""The door: from an accepted socket to a client of the relay, a console session, a cancelled query or a refusal.

One coroutine per arriving client, gone when the relay has taken over: nothing in Python lasts as long as an idle client
but the few facts in its `ClientFacts`. The rule: whatever happens between accept and hand-over, the socket is closed or
handed over exactly once, and every count that went up comes down again.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

from pooler import wire
from pooler.clients import peers
from pooler.clients.auth import PROVED, Exchange, Proof, carry_on
from pooler.clients.cancel import Canceller
from pooler.clients.login import Admitted, Cancel, is_own_user, log_attempt, login, prove, told
from pooler.clients.reception import Reception
from pooler.clients.regulars import Regular, Regulars
from pooler.clients.strangers import Strangers
from pooler.config.settings import Settings
from pooler.log import DEBUG, ERROR, NOISE
from pooler.net.address import Peer
from pooler.net.channel import Channel, ConnectionClosed, while_there
from pooler.net.credentials import NOTHING
from pooler.net.tcp import Choice, SocketOptions
from pooler.pools.connection import NOBODY, ClientFacts, Replication, client_label
from pooler.pools.reasons import Kind, Reason
from pooler.pools.refusal import Left, LoginError
from pooler.pools.registry import Database, PoolState, User, Waiter
from pooler.pools.running import ConsoleClient, Running
from pooler.pools.welcome import KEY_HEADER, Greeting, Welcome, ending
from pooler.relay import Client, Doorstep, LightTask, Place, Visit
from pooler.relay.engine import clock
from pooler.servers.opener import Opener
from pooler.sessions import Session
from pooler.verbs import ConsoleSession

Console = Callable[[Channel, ConsoleSession], Awaitable[None]]
"""Serves a session on the admin database."""
Steps = Coroutine[Any, Any, None]
AUTHENTICATION_OK = wire.authentication_ok()
"""With the welcome and not before: who is refused for want of a server has not been let in."""
NOT_REPLICATION = Replication.NONE
UNNAMED = ClientFacts(Peer("", 0, "", 0))
"""What is known of everybody at first."""
SUCCESSOR = "pooler -R"
"""application_name of a new process's login on the admin database of the one that it is to replace."""


class Door(Doorstep):
    """One way in: a reception that answers logins, and where they lead. Doors share `tasks`, all that goes on behind
    them. `console_gone` is told when a session on the admin database has ended."""

    running: Running
    strangers: Strangers

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
        nobody = (UNNAMED.database, UNNAMED.user, UNNAMED.tls, UNNAMED.replicates)
        super().__init__(running, strangers, tasks, Channel, ClientFacts, Peer, nobody)
        self.reception = reception
        self._regulars = Regulars(reception)
        self.known = self._regulars.known
        self.on_successor: Callable[[Channel], Coroutine[Any, Any, None]] | None = None
        """Called with the new process of an online restart."""
        self._opener = opener
        self._canceller = canceller
        self._console = console
        self._console_gone = console_gone
        self._local_choices: tuple[Choice, ...] = ()
        """What is set on sockets that are not of TCP."""

    # ---- what is asked of an arrival

    def settle(self, settings: Settings) -> None:
        """These are in force now."""
        options = SocketOptions.of(settings)
        self.choices, self._local_choices = (options.choices(tcp=tcp) for tcp in (True, False))
        self.longest = settings.max_packet_size

    def local_visit(self, sock: socket.socket) -> Visit:
        """Of one that has not come by the relay's accept. Raises OSError."""
        running = self.running
        channel = Channel(sock, running.loop)
        channel.longest = self.longest
        channel.tune(self.choices if sock.family != socket.AF_UNIX else self._local_choices)
        return Visit(self, channel, ClientFacts(channel.peer, number=running.next_number()), clock())

    def say_arrival(self, visit: Visit) -> None:
        """The log hears of it."""
        self.reception.log(visit.arrival, DEBUG, f"P: got connection: {visit.arrival.peer.way}")

    def make_way(self, visit: Visit) -> bool:
        """Whether somebody goes for this one."""
        return self.strangers.make_way(partial(self._take_place, visit))

    def _take_place(self, visit: Visit) -> None:
        """Somebody has gone for this one."""
        channel: Channel = visit.channel
        if self.running.ending:
            return channel.abort()
        channel.take_lowest()
        visit.go_on()

    # ---- what a visit asks

    def speaks_tls(self, visit: Visit) -> bool:
        """Whether this one can have TLS."""
        return self.reception.tls_context is not None and not visit.arrival.peer.is_unix

    def regular(self, visit: Visit, packet: bytes) -> Regular | None:
        """Who says this, if it is one."""
        return self._regulars.find(packet, visit.channel, visit.arrival)

    def say_attempt(self, arrival: ClientFacts) -> None:
        """The log hears who tries to come in."""
        log_attempt(self.reception, arrival)

    def enter(self, visit: Visit) -> Steps | None:
        """A regular has proved what there was to prove; what is left to be waited for."""
        exchange: Exchange | None = visit.exchange
        proof = PROVED if exchange is None or exchange.proof is None else exchange.proof
        try:
            admitted = visit.regular.admit(self.reception, visit.arrival, proof)
        except LoginError as error:
            return self.failing(visit, error)
        if proof.farewell:
            visit.channel.put(proof.farewell)
        if visit.stranger:
            self.no_stranger(visit)
        if self.running.colleagues is not None:
            return self._join_pool(visit, admitted)
        rest = self._join(visit, admitted)
        if rest is None:
            regular: Regular = visit.regular
            # Who began under another configuration may have been let in, but goes before nobody.
            if (regular.place is None or not regular.place.stands) and regular.is_as_it_was(self.reception):
                regular.place = self._place(visit.arrival, admitted)
        return rest

    def _place(self, arrival: ClientFacts, admitted: Admitted) -> Place | None:
        """Where this one has gone, with all that it went there by; None where that differs from one to the next."""
        running, registry, reception = self.running, self.running.registry, self.reception
        settings = registry.config.settings
        database, user = registry.databases[arrival.database], registry.user(arrival.user)
        pool = registry.pool(database, admitted.user)
        welcome = pool.welcome
        if welcome is None or welcome.of_standby or not reception.lets_all_in_alike:
            return None
        facts: tuple[tuple[object, str, object], ...] = (
            (registry, "config", registry.config),
            (running, "tls", running.tls),
            (running, "shutting", False),
            (running, "colleagues", None),
            (running, "neighbour_id", running.neighbour_id),
            (running.log_file, "wordy", False),
            (reception, "aliases", reception.aliases),
            (database, "config", database.config),
            (database, "removed", False),
            (database, "disabled", False),
            (user, "config", user.config),
            (pool, "welcome", welcome),
            (pool, "manners", pool.manners),
            (pool, "credentials", pool.credentials),
            (pool, "forgotten", False),
        )
        counted = (
            (registry, settings.max_client_conn),
            (database, registry.database_client_limit(database)),
            (user, registry.user_client_limit(user)),
        )
        greeting = welcome.greeting(admitted.parameters, pool.manners)
        said, last = AUTHENTICATION_OK + greeting.messages, ending(b"", settings.login_notify_message)
        head = len(KEY_HEADER)
        return Place(
            running.relay,
            pool.engine,
            facts,
            counted,
            registry.users,
            admitted.credentials,
            database.name,
            user.name,
            greeting.tracked,
            admitted.session,
            said + last[:head],
            last[head:],
            running.peer_id,
            self.strangers,
            not settings.log_connections,
        )

    def begin(self, visit: Visit, sent: Awaitable[None] | None = None) -> Steps:
        """It is no regular, or says what is not ordinary; `sent`: what has to be sent first."""

        async def beginning() -> Admitted | Cancel:
            asked, arrival = self.reception, visit.arrival
            if sent is not None:
                await told(asked, arrival, sent)
            return await login(visit.channel, asked, arrival, refused=visit.refused)

        return self._admit(visit, beginning())

    def carry_on(self, visit: Visit, sent: Awaitable[None] | None) -> Steps:
        """A regular's answer is not in one piece, or none at all; `sent`: what has to be sent first."""

        async def proving() -> Proof:
            if sent is not None:
                await sent
            return await carry_on(visit.channel, visit.exchange)

        return self._admit(visit, self._rest(visit, proving()))

    def failing(self, visit: Visit, error: BaseException) -> Steps:
        """A login ends with this error."""

        async def proving() -> Proof:
            raise error

        return self._admit(visit, self._rest(visit, proving()))

    async def _rest(self, visit: Visit, proving: Coroutine[Any, Any, Proof]) -> Admitted:
        """Of a login that `proving` is left of."""
        asked, arrival, regular = self.reception, visit.arrival, visit.regular
        if regular is None:
            await told(asked, arrival, proving)
            raise ValueError("nobody's proof")
        proof = await told(asked, arrival, prove(asked, arrival, regular.claim, proving))
        admitted: Admitted = regular.admit(asked, arrival, proof)
        visit.channel.put(proof.farewell)
        return admitted

    async def receive(self, visit: Visit, steps: Steps) -> None:
        """Go through with `steps` of the visit; it ends with them, unless others have become its steps meanwhile."""
        try:
            await steps
        except LoginError as error:
            self._refuse(visit, error)
        except ConnectionClosed:
            self._refuse(visit, LoginError(Reason.CLIENT_EOF, notify=False))
        except asyncio.CancelledError:
            if visit.sentence is None:
                raise
            self._refuse(visit, visit.sentence)
        except Exception as error:
            label = client_label(visit.arrival)
            self.running.say(ERROR, f"{label} fault in the login: {type(error).__name__}: {error}")
            self._refuse(visit, LoginError(Reason.EXHAUSTED))
        finally:
            self._leave(visit, steps)

    def _leave(self, visit: Visit, steps: Steps) -> None:
        """These steps are done, and the visit with them, unless it is others' now."""
        if visit.steps is steps:
            visit.steps = None
            if not visit.channel.closed:
                visit.channel.abort()
            if visit.stranger:
                self.no_stranger(visit)
            if self.running.shutting:
                # It may be the last one: who waited for a first server was no stranger any more, and no client yet.
                self.running.changed.set()

    def _pass_on(self, visit: Visit, steps: Steps) -> asyncio.Task[None]:
        """The rest of a visit needs a task of asyncio's."""
        visit.steps = steps
        visit.task = task = self.running.loop.create_task(self.receive(visit, steps))
        self.tasks.add(task)

        def done(_: asyncio.Task[None]) -> None:
            # Of a task that is ended before it has begun nothing is run, not even what comes last.
            steps.close()
            self.tasks.discard(task)
            if task.cancelled() and visit.sentence is not None:
                self._refuse(visit, visit.sentence)
            self._leave(visit, steps)

        task.add_done_callback(done)
        return task

    async def _admit(self, visit: Visit, steps: Coroutine[Any, Any, Admitted | Cancel]) -> None:
        outcome = await steps
        if isinstance(outcome, Cancel):
            visit.cancels = visit.channel.at_work = True
            self._pass_on(visit, self._canceller.cancel(visit.channel, visit.arrival, outcome.key))
            return
        self.no_stranger(visit)
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
        running, registry, arrival = self.running, self.running.registry, visit.arrival
        assert admitted.database is not None
        if running.colleagues is not None:
            before = admitted.database
            await running.colleagues.admit(before.name, arrival.user)
            # While the others were asked it may have changed, or gone; or who comes in is decided otherwise.
            try:
                admitted.database = registry.find(before.name)
                if admitted.database is None or admitted.database.secrets != before.secrets:
                    raise LoginError(Reason.REMOVED)
                self.reception.check_limits(admitted.database, arrival.user)
            except LoginError:
                running.colleagues.left(before.name, arrival.user)
                raise
        if (rest := self._join(visit, admitted)) is not None:
            await rest

    def _join(self, visit: Visit, admitted: Admitted) -> Steps | None:
        """Counted in at once, since its limits were checked a moment ago; out again unless it is handed over (then its
        end counts it out). What is left to be waited for."""
        running, registry, arrival = self.running, self.running.registry, visit.arrival
        assert admitted.database is not None
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
            if admitted.replication is not NOT_REPLICATION or pool.welcome is None:
                return self._join_later(visit, pool, admitted, database, user)
            self._greet(visit, pool, pool.welcome, admitted)
        except BaseException:
            registry.count_out(database, user)
            raise
        return None

    async def _join_later(
        self, visit: Visit, pool: PoolState, admitted: Admitted, database: Database, user: User
    ) -> None:
        """As above, of who is counted in."""
        try:
            if admitted.replication is NOT_REPLICATION:
                self._greet(visit, pool, await self._first_server(visit, pool), admitted)
            else:
                await self._replicate(visit, pool, admitted)
        except BaseException:
            self.running.registry.count_out(database, user)
            raise

    def _greet(self, visit: Visit, pool: PoolState, welcome: Welcome, admitted: Admitted) -> None:
        if welcome.of_standby:
            pool.engine.try_one()
        self._hand_over(visit, pool, welcome.greeting(admitted.parameters, pool.manners), admitted.session)

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
        client: Client = visit.channel.hand_over(
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
            if self.running.colleagues is not None:
                # It was counted as a client of the console.
                self.running.colleagues.left(None, arrival.user)
            self._pass_on(visit, self.on_successor(visit.channel))
            return
        assert admitted.rights
        key, label = peers.new_key(running.peer_id), client_label(arrival)
        user = running.registry.user(admitted.user)
        gone = partial(self._no_console, arrival.number, user)
        session = ConsoleSession(
            admitted.user, admitted.rights, admitted.parameters, key, arrival.number, label, on_left=gone
        )
        running.registry.count_in(None, user)
        running.console_logins += 1
        self._say_welcome(visit)
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
