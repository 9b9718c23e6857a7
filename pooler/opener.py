"""Opening servers: a verdict that says yes becomes a login at PostgreSQL, and a login becomes a server of the relay.

Who may open is decided in `pool`; how a login goes is `dial`'s. Here is what lies between: one attempt at a time per
pool, what a failure means for those who wait, and the idle server of a neighbour that has to go for it.
"""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING

from pooler import wire
from pooler.auth import LoginError
from pooler.channel import Channel, Detached, Peer
from pooler.dial import Dialed, DialError, Target, dial
from pooler.labels import Asker, Dial, server_label
from pooler.log import ERROR, LOG, WARNING
from pooler.pool import Verdict, verdict
from pooler.registry import PoolState
from pooler.relay import Client
from pooler.relay.engine import clock
from pooler.tcp import SocketOptions
from pooler.welcome import Welcome, tracked_values

if TYPE_CHECKING:
    from pooler.bouncer import Bouncer


class Opener:
    """See the module."""

    def __init__(self, bouncer: Bouncer) -> None:
        self.bouncer = bouncer
        self.tasks: set[asyncio.Task[None]] = set()
        self.attempts: set[Opening] = set()
        """Under way, those for replication too."""

    # ---- whether

    def consider(self, pool: PoolState, *, needed: bool = False) -> None:
        """Open a server if somebody waits for one (or it is `needed` all the same) and the verdict is yes."""
        bouncer = self.bouncer
        if pool.engine.paused or bouncer.shutting == "now" or not (needed or pool.wanting):
            return
        answer = verdict(bouncer.registry.wish(pool, bouncer.loop.time()))
        while answer in (Verdict.DATABASE_FULL, Verdict.USER_FULL) and not needed:
            if not self.evict(pool, answer):
                break
            answer = verdict(bouncer.registry.wish(pool, bouncer.loop.time()))
        if answer in (Verdict.OPEN, Verdict.RESERVE):
            if answer is Verdict.RESERVE:
                bouncer.say(WARNING, f"{self._label(pool)} taking connection from reserve_pool")
            self._begin(pool)
        else:
            # Until something changes the relay need not ask again with every client that comes to wait.
            pool.engine.full = True

    def room_made(self, pool: PoolState) -> None:
        """A server of `pool` is gone: whoever waited for a limit of its database or user may have one now."""
        pool.engine.full = False
        for other in (*pool.database.pools.values(), *pool.user.pools):
            if other.wanting:
                other.engine.full = False
                self.consider(other)

    def evict(self, pool: PoolState, answer: Verdict, *, own: bool = False) -> bool:
        """Close the server that has been idle for longest among the other pools under the same limit; `own`: in this
        pool too, as a replication client cannot use it."""
        rivals = {
            Verdict.FULL: (),
            Verdict.DATABASE_FULL: pool.database.pools.values(),
            Verdict.USER_FULL: pool.user.pools,
        }.get(answer)
        if rivals is None:
            return False
        pools = [rival for rival in rivals if rival is not pool] + ([pool] if own else [])
        idle = [server for rival in pools for server in rival.engine.idle_servers.all()]
        if not idle:
            return False
        self.bouncer.relay.drop(max(idle, key=lambda server: server.idle_us), "evicted")
        return True

    # ---- how

    def _begin(self, pool: PoolState) -> None:
        pool.opening += 1
        pool.last_attempt = self.bouncer.loop.time()
        task = self.bouncer.loop.create_task(self._open(pool))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _open(self, pool: PoolState) -> None:
        try:
            attempt = Opening(self.bouncer, pool, self.target(pool))
            try:
                dialed = await attempt.dial()
            finally:
                pool.opening -= 1
            self._opened(attempt, dialed)
        except DialError as error:
            self._failed(attempt, error)
        except Exception as error:
            # A bug of ours, or no room left in the kernel: those who wait get another attempt later.
            self.bouncer.say(ERROR, f"{self._label(pool)} cannot open a server: {type(error).__name__}: {error}")
            self._retry(pool)
        pool.engine.full = False
        self.consider(pool)

    def target(self, pool: PoolState, host: str | None = None) -> Target:
        """Where this pool's next server is, and how to log in there."""
        settings, database = self.bouncer.config.settings, pool.database
        config = database.config
        own = ("application_name", "client_encoding", "datestyle", "timezone")
        given = {name: getattr(config, name) for name in own}
        return Target(
            host=(pool.take_host() if host is None else host) or settings.unix_socket_dir,
            port=config.port,
            dbname=config.dbname or config.name,
            user=pool.user.name,
            credentials=self.bouncer.credentials(pool),
            sslmode=settings.server_tls_sslmode,
            tls_context=self.bouncer.server_context,
            parameters={name: value for name, value in given.items() if value is not None},
            connect_query=config.connect_query,
            socket_options=SocketOptions.of(settings),
        )

    def _opened(self, attempt: Opening, dialed: Dialed) -> None:
        bouncer, pool = self.bouncer, attempt.pool
        attempt.say_opened(dialed)
        if attempt.close_needed:
            return attempt.give_up(dialed)
        pool.failure = pool.engine.failing = None
        pool.welcome = Welcome(dialed.parameters, bouncer.relay.tracked_names)
        attempt.adopt(dialed)
        for waiter in pool.newcomers.values():
            if not waiter.ready.done() and not waiter.own:
                waiter.ready.set_result(None)

    def _failed(self, attempt: Opening, error: DialError) -> None:
        """Say why, tell those who wait for a first server, and try again in server_login_retry."""
        bouncer, pool = self.bouncer, attempt.pool
        attempt.say_failed(error)
        cached = f"server login has been failing, cached error: {error.message} (server_login_retry)"
        pool.failure = LoginError(cached, error.sqlstate)
        pool.engine.failing = cached
        if error.fields is not None or error.message.startswith("server login failed"):
            for waiter in pool.newcomers.values():
                waiter.give_up(LoginError(error.message, error.sqlstate))
            for client in pool.engine.waiting_clients.all():
                if isinstance(client.about, Asker):
                    bouncer.relay.drop(client, error.message)
        self._retry(pool)

    def _retry(self, pool: PoolState) -> None:
        self.bouncer.loop.call_later(self.bouncer.config.settings.server_login_retry, self._again, pool)

    def _again(self, pool: PoolState) -> None:
        pool.engine.full = False
        self.consider(pool)

    def _label(self, pool: PoolState) -> str:
        return f"{pool.database.name}/{pool.user.name}"


class Opening:
    """One attempt to open a server, and what the log hears of it."""

    def __init__(self, bouncer: Bouncer, pool: PoolState, target: Target) -> None:
        self.bouncer = bouncer
        self.pool = pool
        self.target = target
        self.number = bouncer.next_number()
        self.close_needed = False
        """What it goes by no longer holds."""
        self.since = clock()
        """On the relay's clock."""
        self.peer = Peer("unix" if target.host.startswith(("/", "@")) else target.host, target.port, "", 0)
        """As far as is known before it is connected."""

    @property
    def _label(self) -> str:
        return server_label(self.pool, self.peer, self.number)

    async def dial(self) -> Dialed:
        """A login at PostgreSQL, in at most server_connect_timeout. Raises DialError."""
        bouncer, target = self.bouncer, self.target
        bouncer.opener.attempts.add(self)
        try:
            async with asyncio.timeout(bouncer.config.settings.server_connect_timeout or None):
                if not target.host:
                    raise DialError("cannot connect", stage="connect", detail="unix socket dir not configured")
                addresses = await bouncer.dns.addresses(target.host, target.port)
                target = dataclasses.replace(target, addresses=addresses)
                return await dial(target, loop=bouncer.loop, connected=self._connected)
        except TimeoutError:
            raise DialError("connect timeout", stage="connect") from None
        finally:
            bouncer.opener.attempts.remove(self)

    def about(self, dialed: Dialed) -> Dial:
        """What is kept of the server in the relay."""
        pool, target = self.pool, self.target
        return Dial(
            self.peer,
            pool.database.name,
            pool.user.name,
            dialed.tls,
            target.replication,
            host=target.host,
            address=dialed.address,
        )

    def _connected(self, channel: Channel) -> None:
        self.peer = peer = channel.peer
        source = f" (from {peer.local_addr}:{peer.local_port})" if not peer.is_unix else ""
        self.bouncer.say(LOG, f"{self._label} new connection to server{source}")

    def say_opened(self, dialed: Dialed) -> None:
        """The server has let us in."""
        if dialed.tls:
            self.bouncer.say(LOG, f"{self._label} SSL established: {dialed.tls}")
        self.bouncer.tally("connect", self.pool.database.name, "server")

    def adopt(self, dialed: Dialed, client: Client | None = None) -> None:
        """Hand the server over to the relay, with `client` as that client's own. Raises what `adopt_server` raises;
        the server is closed then."""
        relay = self.bouncer.relay
        about, rest = self.about(dialed), dialed.channel.detach()
        values = tracked_values(relay.tracked_names, dialed.parameters)
        try:
            relay.adopt_server(
                self.pool.engine,
                self.number,
                rest.fd,
                tls_parts(rest),
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

    def give_up(self, dialed: Dialed) -> None:
        """Close what was opened: since it was begun its reason has gone."""
        self.bouncer.say(LOG, f"{self._label} closing because: close_needed (age=0s)")
        dialed.channel.send_now(wire.terminate())
        dialed.channel.abort()

    def say_failed(self, error: DialError) -> None:
        """The server could not be had. What it said itself stands in a line of its own, and so do details."""
        bouncer, pool = self.bouncer, self.pool
        pool.host_failed()
        reason = error.message
        if error.fields is not None:
            reason = "login failed"
            severity = error.fields.get("S", "FATAL")
            bouncer.say(WARNING, f"{self._label} server login failed: {severity} {error.message}")
        elif error.detail:
            bouncer.say(WARNING, f"{self._label} {reason}: {error.detail}")
        bouncer.say(LOG, f"{self._label} closing because: {reason} (age=0s)")
        bouncer.tally("error", pool.database.name, f"server {error.stage}")


def tls_parts(rest: Detached) -> tuple[object, object, object] | None:
    """The TLS state as the relay takes it over."""
    if rest.ssl is None:
        return None
    return rest.ssl._sslobj, rest.incoming, rest.outgoing  # type: ignore[attr-defined]
