"""Opening servers: a verdict that says yes becomes a login at PostgreSQL, and a login becomes a server of the relay.

Who may open is decided in `pool`; how a login goes is `dial`'s. Here is what lies between: one attempt at a time per
pool, what a failure means for those who wait, and the spare server of a neighbour that has to go for it. The rule:
who waits is considered whenever something changes that it may wait for, the longest waiting first.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from typing import Any

from pooler import wire
from pooler.kernel import is_ours
from pooler.log import DEBUG, ERROR, WARNING
from pooler.net.address import Peer
from pooler.net.channel import Channel
from pooler.net.dialerror import DialError
from pooler.net.dns import Dns
from pooler.net.tcp import SocketOptions
from pooler.pools.connection import Replication, ServerFacts, ServerState, client_label, server_label
from pooler.pools.reasons import Kind, Reason
from pooler.pools.refusal import LoginError
from pooler.pools.registry import PoolState
from pooler.pools.running import Running
from pooler.pools.verdict import ALLOWED, SHARED, Standing, Verdict, standing, verdict
from pooler.pools.welcome import Welcome, tracked_values
from pooler.relay import Client
from pooler.relay.engine import clock
from pooler.servers.dial import Dialed, Target, dial

"""The server is starting up, or shutting down: who waits may well be served."""
SLOW = 0.02
"""Seconds of a login after which who waits may have a server of another worker's."""
LIMITS = {
    Verdict.FULL: Reason.EVICTED_FOR_POOL,
    Verdict.DATABASE_FULL: Reason.EVICTED_FOR_DATABASE,
    Verdict.USER_FULL: Reason.EVICTED_FOR_USER,
}
"""What a spare server is closed for."""


STAGES = {"connect": Reason.SERVER_CONNECT, "login": Reason.SERVER_LOGIN}
"""As what a failure is counted, by the stage it came at."""


class Ended(DialError):
    """A login was ended by us: what it was begun for, or by, holds no more. The message says why."""


class Opener:
    """Opens the servers of all pools."""

    def __init__(self, running: Running, dns: Dns) -> None:
        self.running = running
        self.dns = dns
        self.tasks: set[asyncio.Task[None]] = set()
        self.attempts: set[Opening] = set()
        """Under way, those for replication and for listening too."""
        self.on_end_logins: list[Callable[[PoolState, Reason, Collection[str] | None], None]] = []
        """Called with what `end_logins` was: what was logged in is to go too, and is nobody's."""

    # ---- whether

    def rests(self, pool: PoolState) -> bool:
        """Whether nothing is opened for this pool, whoever waits."""
        return pool.engine.paused or pool.database.removed or self.running.ending

    def consider(self, pool: PoolState, *, needed: bool = False) -> None:
        """Open a server if one is missing for somebody who waits (or it is `needed` all the same) and the verdict is
        yes. Who waits for a server of its own takes room for it first."""
        if self.rests(pool):
            return
        self._claim(pool)
        if not (needed or pool.wanting):
            return
        answer = self.room(pool, needed=needed)
        if answer in ALLOWED:
            if answer is Verdict.RESERVE:
                self.say_reserve(pool)
            self._begin(pool)
        else:
            # Until something changes the relay need not ask again with every client that comes to wait.
            pool.engine.full = True

    def say_reserve(self, pool: PoolState) -> None:
        self.running.say(WARNING, f"{self._longest_waiting(pool)} taking connection from reserve_pool")

    def _longest_waiting(self, pool: PoolState) -> str:
        """What the log calls the client that a server is opened for."""
        queued = [client.about for client in pool.engine.waiting_clients.all()[:1]]
        queued += [waiter.arrival for waiter in pool.newcomers.values() if not waiter.own]
        return client_label(queued[0]) if queued else pool.name

    def _claim(self, pool: PoolState) -> None:
        for waiter in list(pool.newcomers.values()):
            if waiter.claim is not None and not waiter.ready.done():
                waiter.claim()

    def room(self, pool: PoolState, *, own: bool = False, needed: bool = False, sized: bool = True) -> Verdict:
        """The verdict on one more server of `pool`, for which spare ones of its rivals go if they have to; what comes
        free there later is told (`share`). `own`: for one client alone, which waits for no login but its own and greets
        nobody else. `needed`: nobody waits for it, so nothing goes for it. `sized`: pool_size counts too."""
        while True:
            wish = self.running.registry.wish(pool, self.running.now())
            if not sized:
                wish = dataclasses.replace(wish, pool_size=0)
            answer = verdict(dataclasses.replace(wish, opening=0, retry_in=0.0, greets=True) if own else wish)
            rivals = [] if needed else self._rivals(pool, answer, own=own)
            if not self._evict(rivals, answer):
                break
        waited = int(pool.oldest_wait(self.running.now()) * 1e6)
        since = max(1, self.running.relay.stamp() - waited)
        for rival in rivals:
            rival.engine.rival = min(rival.engine.rival or since, since)
            rival.stir()
        colleagues = self.running.colleagues
        closed = answer in (Verdict.BUSY, Verdict.LATER)
        if colleagues is not None and closed and pool.elsewhere and sized and not needed:
            colleagues.seek(pool)
        if colleagues is None or answer not in (*ALLOWED, *SHARED) or (needed and answer in SHARED):
            return answer
        granted = colleagues.may_open(pool, sized=sized, needed=needed, own=own)
        # For what goes here because of a limit that others have part in, this one is in the same queue as they.
        return answer if granted or answer in SHARED else Verdict.ELSEWHERE

    def _rivals(self, pool: PoolState, answer: Verdict, *, own: bool) -> list[PoolState]:
        """The pools under the limit that stands in the way. `pool` is one of them for a replication client, to whom its
        servers are of no use."""
        under: dict[Verdict, Iterable[PoolState]] = {
            Verdict.FULL: (pool,),
            Verdict.DATABASE_FULL: pool.database.pools.values(),
            Verdict.USER_FULL: pool.user.pools,
        }
        return [rival for rival in under.get(answer, ()) if own or rival is not pool]

    def _evict(self, rivals: Iterable[PoolState], answer: Verdict) -> bool:
        """Close the spare server that has been free for longest among those pools. One that is being tested goes last,
        and only where nobody waits for it."""
        spare = [
            server
            for rival in rivals
            for server in standing(rival.engine, Standing.SPARE)
            if server.state_name != ServerState.TESTED or not rival.engine.waiting_clients.count
        ]
        if not spare:
            return False
        oldest = max(spare, key=lambda server: (server.state_name != ServerState.TESTED, server.idle_us))
        self.running.evict(oldest, LIMITS[answer])
        if self.running.colleagues is not None:
            # Its right as well, before its own pool can open another one with that.
            self.running.colleagues.settle(oldest.pool.owner)
        return True

    def room_made(self, pool: PoolState) -> None:
        """A server of `pool` is gone: whoever waited for a limit of its database or user may have one now."""
        if self.running.colleagues is not None:
            self.running.colleagues.settle(pool)
        pool.engine.full = False
        pool.stir()
        for other in self._waiting_with(pool):
            other.engine.full = False
            self.consider(other)

    def share(self, pool: PoolState) -> None:
        """A server of `pool` has come free, and nobody takes it before this has returned: somebody under the same
        limits has waited for longer than all of its own clients. Theirs it is, if they still want it."""
        colleagues = self.running.colleagues
        try:
            if colleagues is not None and colleagues.yields(pool):
                return
            for other in self._waiting_with(pool):
                if other is pool:
                    self._claim(pool)
                else:
                    self.consider(other)
        finally:
            pool.engine.resume()

    def _waiting_with(self, pool: PoolState) -> list[PoolState]:
        """The pools under the limits of this one's database and user in which somebody waits: the longest first."""
        now = self.running.now()
        pools = {id(other): other for other in (*pool.database.pools.values(), *pool.user.pools)}
        waiting = [other for other in pools.values() if other.waiting]
        return sorted(waiting, key=lambda other: other.oldest_wait(now), reverse=True)

    # ---- how

    def _begin(self, pool: PoolState) -> None:
        pool.opening += 1
        pool.last_attempt = self.running.now()
        self.begin(self._open(pool))

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """To be done beside everything else, and to be ended with it."""
        task = self.running.loop.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _open(self, pool: PoolState) -> None:
        running = self.running
        try:
            await self._log_in(pool)
        except Exception as error:
            # A bug of ours, or no room left in the kernel: those who wait get another attempt later.
            running.say(ERROR, f"{pool.name} cannot open a server: {type(error).__name__}: {error}")
            self._set_back(pool, Reason.EXHAUSTED, ours=is_ours(error))
        running.changed.set()
        self.room_made(pool)

    async def _log_in(self, pool: PoolState) -> None:
        slow = None
        if self.running.colleagues is not None:
            slow = self.running.loop.call_later(SLOW, self._is_slow, pool)
        try:
            if self.rests(pool):
                return
            attempt = Opening(self, pool, self.target(pool))
            dialed = await attempt.dial()
        except Ended as error:
            return attempt.say_ended(error)
        except DialError as error:
            return await self._failed(attempt, error)
        finally:
            if slow is not None:
                slow.cancel()
            pool.opening -= 1
            self.running.changed.set()  # who waits for no server to be left may have waited for this one
        try:
            self._opened(attempt, dialed)
        except BaseException:
            dialed.channel.abort()
            raise

    def _is_slow(self, pool: PoolState) -> None:
        """Of who comes to wait later nobody would hear."""
        self.begin(self._look_elsewhere(pool))

    async def _look_elsewhere(self, pool: PoolState) -> None:
        """A login takes its time: whether others have what is waited for, or may be."""
        colleagues = self.running.colleagues
        if colleagues is not None and await colleagues.have(pool):
            self._is_elsewhere(pool)

    def _is_elsewhere(self, pool: PoolState) -> None:
        """Others have some: while a login is under way here, who waits may have one of those."""
        pool.elsewhere = pool.elsewhere or bool(pool.opening)
        self._again(pool)

    def end_logins(self, pool: PoolState, reason: Reason, *, at: Collection[str] | None = None) -> None:
        """Let no login of this pool go on; `at`: only those at these addresses."""
        for attempt in list(self.attempts):
            if attempt.pool is pool and (at is None or attempt.peer.addr in at):
                attempt.end(reason)
        for listener in self.on_end_logins:
            listener(pool, reason, at)

    def target(self, pool: PoolState, host: str | None = None) -> Target:
        """Where this pool's next server is, and how to log in there."""
        settings, database = self.running.config.settings, pool.database
        tls = self.running.server_tls(database)
        config = database.config
        own = ("application_name", "client_encoding", "datestyle", "timezone")
        given = {name: getattr(config, name) for name in own}
        return Target(
            host=(pool.take_host() if host is None else host) or settings.unix_socket_dir,
            port=config.port,
            dbname=config.dbname or config.name,
            user=pool.user.name,
            credentials=self.running.registry.credentials(pool),
            sslmode=tls.mode,
            tls_context=tls.context,
            tls_problem=tls.problem,
            parameters={name: value for name, value in given.items() if value is not None},
            connect_query=config.connect_query,
            socket_options=SocketOptions.of(settings),
        )

    def _opened(self, attempt: Opening, dialed: Dialed) -> None:
        running, pool = self.running, attempt.pool
        attempt.say_opened(dialed)
        attempt.adopt(dialed)
        pool.failure = pool.engine.failing = None
        pool.crowded = pool.elsewhere = False
        self.greet(pool, dialed.parameters)
        if running.colleagues is not None:
            running.colleagues.learned(pool, dialed.parameters)

    def received(self, pool: PoolState) -> None:
        """A server of this pool has come from elsewhere: who waits may have it. That none could be opened here holds as
        long as it did."""
        pool.engine.failing = None
        pool.engine.full = False
        pool.engine.resume()
        self.consider(pool)

    def opened_elsewhere(self, pool: PoolState) -> None:
        """What has failed here, or takes its time, has not failed there: it is tried again, if anybody waits."""
        pool.failure = pool.engine.failing = None
        self._is_elsewhere(pool)

    def greet(self, pool: PoolState, reported: Mapping[str, str]) -> None:
        """This is what a server says of itself: who waits to be told of it is let in."""
        pool.greet_with(Welcome(reported, self.running.relay.tracked_names))
        for waiter in pool.newcomers.values():
            if not waiter.ready.done() and not waiter.own:
                waiter.ready.set_result(None)

    async def _failed(self, attempt: Opening, error: DialError) -> None:
        """Say why, tell those who wait if nobody else would get in, and try again in server_login_retry."""
        pool, colleagues = attempt.pool, self.running.colleagues
        pool.host_failed(attempt.turn)
        pool.elsewhere = False
        found = colleagues is not None and await colleagues.have(pool)
        # One may have been opened there while that was asked (`opened_elsewhere`).
        pool.elsewhere = pool.elsewhere or found
        usable = pool.elsewhere or pool.usable
        if error.sqlstate == wire.TOO_MANY_CONNECTIONS and usable:
            return self._crowded(attempt, error)
        attempt.say_failed(error)
        self._set_back(pool, error.message, error.sqlstate, ours=error.ours)
        if pool.elsewhere:
            pool.engine.failing = None
        if error.refused and error.sqlstate != wire.CANNOT_CONNECT_NOW and not usable:
            self.running.end_waiting(pool, LoginError(error.message, error.sqlstate))

    def _crowded(self, attempt: Opening, error: DialError) -> None:
        """PostgreSQL grants no more than those that the pool has: it is full, and who waits has theirs. The log is told
        when that begins. There may be room again in server_login_retry, or when one of ours has gone."""
        pool = attempt.pool
        attempt.say_failed(error, Reason.SERVER_CROWDED, once=pool.crowded)
        if not pool.crowded:
            having = f"has {pool.engine.server_count} servers" if pool.usable else "has servers of other workers"
            self.running.say(WARNING, f"{pool.name} {having} and gets no more: clients wait as in a full pool")
        self._set_back(pool, error.message, error.sqlstate)
        pool.crowded, pool.engine.failing = True, None

    def server_gone(self, pool: PoolState) -> None:
        """A server of `pool` has ended: PostgreSQL may have room for another."""
        if pool.crowded:
            pool.failure = None
        self.room_made(pool)

    def _set_back(
        self, pool: PoolState, message: str, sqlstate: str = wire.PROTOCOL_VIOLATION, *, ours: bool = False
    ) -> None:
        """The attempt has come to nothing: the next one is made in server_login_retry, or sooner if it is `ours`."""
        cached = f"server login has been failing, cached error: {message} (server_login_retry)"
        pool.failure, pool.ours = LoginError(cached, sqlstate), ours
        pool.engine.failing, pool.crowded = cached, False
        if pool.welcome is None and self.running.colleagues is not None:
            self.running.colleagues.unanswered(pool)
        self.running.loop.call_later(self.running.registry.login_retry(ours=ours), self._again, pool)

    def _again(self, pool: PoolState) -> None:
        pool.engine.full = False
        self.consider(pool)



class Opening:
    """One attempt to open a server, and what the log hears of it."""

    def __init__(self, opener: Opener, pool: PoolState, target: Target) -> None:
        self.running = running = opener.running
        self._opener = opener
        self.pool = pool
        self.turn = pool.next_host
        """Of the pool's hosts, where the same is dialled until it fails."""
        self.target = target
        self.number = running.next_number()
        self.since = clock()
        """On the relay's clock."""
        self.peer = Peer("unix" if target.host.startswith(("/", "@")) else target.host, target.port, "", 0)
        """As far as is known before it is connected."""
        self.stage = "resolve"
        """What it is at: resolve, connect or login."""
        self._ended = ""
        self._task: asyncio.Task[Any] | None = None

    @property
    def label(self) -> str:
        return server_label(self.pool.name, self.peer, self.number)

    async def dial(self) -> Dialed:
        """A login at PostgreSQL, in at most server_connect_timeout. Raises DialError, or Ended."""
        running, target = self.running, self.target
        running.say(DEBUG, f"{self.label} launching new connection to server")
        self._opener.attempts.add(self)
        self._task = asyncio.current_task()
        try:
            async with asyncio.timeout(running.config.settings.server_connect_timeout or None):
                if not target.host:
                    raise DialError("cannot connect", stage="connect", detail="unix socket dir not configured")
                addresses = await self._opener.dns.addresses(target.host, target.port)
                target = dataclasses.replace(target, addresses=addresses)
                self.stage = "connect"
                return await dial(target, loop=running.loop, watcher=self._watch)
        except TimeoutError:
            raise self._too_slow() from None
        except asyncio.CancelledError:
            if not self._ended:
                raise
            assert self._task is not None
            self._task.uncancel()
            raise Ended(self._ended, stage="login") from None
        finally:
            self._opener.attempts.remove(self)

    def _too_slow(self) -> DialError:
        """In PgBouncer's words a server that does not take the connection is one that cannot be connected to."""
        if self.stage == "connect":
            return DialError("connect failed", stage="connect")
        return DialError("connect timeout", stage="login" if self.stage == "login" else "connect")

    def end(self, reason: str) -> None:
        """It has no reason to go on. `dial` raises Ended in the next turn of the loop."""
        if not self._ended and self._task is not None:
            self._ended = reason
            self._task.cancel()

    def about(self, dialed: Dialed) -> ServerFacts:
        """What is kept of the server in the relay."""
        pool, target = self.pool, self.target
        return ServerFacts(
            self.peer,
            pool.database.name,
            pool.user.name,
            dialed.tls,
            target.replication,
            host=target.host,
            address=dialed.address,
        )

    def _watch(self, channel: Channel) -> None:
        self.stage = "login"
        self.peer = peer = channel.peer
        if channel.tls:
            return self.running.say_connected(f"{self.label} SSL established: {channel.tls}")
        self.running.say(DEBUG, f"{self.label} S: connect ok")
        self.running.say_connected(f"{self.label} new connection to server{peer.source}")

    def say_opened(self, dialed: Dialed) -> None:
        """The server has let us in."""
        self.running.tally(Kind.CONNECT, self.pool.database.name, Reason.SERVER)
        if dialed.complaint:
            self.running.say(ERROR, f"S: error while executing exec_on_query: {dialed.complaint}")
        if self.running.log_file.wordy:
            self.running.say(DEBUG, f"{self.label} S: auth ok")
            for name, value in dialed.parameters.items():
                self.running.say(DEBUG, f"{self.label} S: param: {name} = {value}")
            self.running.say(DEBUG, f"{self.label} server login ok, start accepting queries")

    def adopt(self, dialed: Dialed, client: Client | None = None) -> None:
        """Hand the server over to the relay, with `client` as that client's own. Raises what `adopt_server` raises;
        the server is closed then."""
        relay = self.running.relay
        about, rest = self.about(dialed), dialed.channel.detach()
        values = tracked_values(relay.tracked_names, dialed.parameters)
        try:
            relay.adopt_server(
                self.pool.engine,
                self.number,
                rest.fd,
                rest.tls,
                rest.leftover,
                values,
                about,
                dialed.pid,
                dialed.cancel_key,
                self.since,
                client,
            )
        except BaseException:
            rest.close()
            raise
        if self.running.colleagues is not None:
            self.running.colleagues.opened(about.place, dialed.pid)

    def say_ended(self, error: Ended) -> None:
        self.running.say_closing(self.label, error.message, self.since)

    def say_failed(self, error: DialError, counted: Reason | None = None, *, once: bool = False) -> None:
        """The server could not be had. What it said itself stands in a line of its own, and so do details. `once`: it
        was told before, and only that this connection ends is."""
        running, pool = self.running, self.pool
        running.relay.stamp()
        reason = error.closing
        if error.fields is not None and self.target.replication is not Replication.NONE:
            reason = Reason.LOGIN_FAILED
            running.say(ERROR, f"S: login failed: {error.fields.get('S', 'FATAL')}: {error.message}")
        elif error.fields is not None and not once:
            running.say(WARNING, f"server login failed: {error.fields.get('S', 'FATAL')} {error.message}")
        elif error.log or (error.detail and not error.told and running.config.settings.log_disconnections):
            running.say(error.level, f"{self.label} {error}")
        running.say_closing(self.label, reason, self.since)
        running.tally(Kind.ERROR, pool.database.name, counted or STAGES[error.stage])
