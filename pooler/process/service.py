"""The service: listening sockets, signals, the tasks that go on for ever, and the orderly end.

It decides nothing about clients and pools. A socket is bound before anything else is started, so that a busy port is
known at once; what PgBouncer does on a signal, this does.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import stat
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any

from pooler.clients.strangers import Strangers
from pooler.config.settings import Settings
from pooler.config.whole import Changes
from pooler.ending import SIGNALS, Ending
from pooler.house.control import Control
from pooler.house.events import Events
from pooler.house.reconfigure import Refused
from pooler.log import LOG, WARNING
from pooler.net.channel import Channel
from pooler.pools.reasons import Reason
from pooler.pools.running import Phase, Running
from pooler.process import systemd
from pooler.process.accepting import Acceptor, Way
from pooler.relay import LightTask
from pooler.rounds import REST
from pooler.servers.condemned import kill_pool
from pooler.servers.opener import Opener

if TYPE_CHECKING:
    from pooler.process.passing import Passage
    from pooler.process.takeover import Inheritance

ANSWER_GRACE = 0.05
LOGIN_GRACE = 2.0
"""Seconds that an online restart waits for logins that have begun."""


Work = Callable[[], Coroutine[Any, Any, None]]


class ServiceError(Exception):
    """The service cannot start; the message is one line for the user."""


class Service:
    """One pooler process from its first listening socket to its exit."""

    def __init__(
        self,
        running: Running,
        opener: Opener,
        events: Events,
        control: Control,
        strangers: Strangers,
        door: Way,
        ending: Ending,
        *,
        listeners: list[socket.socket],
        always: Sequence[Work] = (),
    ) -> None:
        """`listeners` are filled here; `always` is done as long as the service runs."""
        self.running = running
        self.opener = opener
        self.events = events
        self.control = control
        self.strangers = strangers
        self.door = door
        self.acceptor = Acceptor(running, strangers)
        self.ending = ending
        ending.also(self._remove_paths)
        self.listeners = listeners
        self._always = list(always)
        self.ended = asyncio.Event()
        self.failed = False
        self._asked = False
        """A signal has asked for the end."""
        self.patience: float | None = None
        """Seconds that SIGINT and SIGTERM wait for those who are there; None: as long as it takes (PgBouncer)."""
        self.on_hangup: list[Callable[[], None]] = []
        self.manager = systemd.Notifier()
        self.paths: list[tuple[str, int]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._surrendering = False
        self._successor: Passage | None = None
        self._waiting: asyncio.Task[None] | None = None
        """For the end of those who are there."""
        self.gone = {Phase.WAIT_FOR_SERVERS: self._no_servers, Phase.WAIT_FOR_CLIENTS: self._no_clients}
        """Whether those are gone whom each phase waits for."""
        self.give: Callable[[Passage], Coroutine[Any, Any, None]] = self._give
        """Hands everything over. Raises PassingError, and then nothing has changed."""
        door.on_successor = self._surrender
        running.on_phase.append(self._shutting_down)
        control.reconfiguration.on_change.append(self._changed)

    def also(self, work: Work) -> None:
        """Have this done as long as the service runs."""
        self._always.append(work)

    # ---- sockets

    def listen(self) -> None:
        """Take what a service manager has bound, else bind what the settings ask for. Raises ServiceError."""
        settings = self.running.config.settings
        if self.listeners:
            return
        for sock in systemd.passed_sockets():
            self.running.say(LOG, f"socket passed from service manager (fd {sock.fileno()})")
            sock.setblocking(False)
            self.listeners.append(sock)
        if self.listeners:
            return
        self._listen_tcp(settings)
        if settings.unix_socket_dir:
            self.listeners.append(self._bind_unix(settings))
        if not self.listeners:
            raise ServiceError("nowhere to listen on: set listen_addr or unix_socket_dir")

    def _listen_tcp(self, settings: Settings) -> None:
        """On all of listen_addr that can be had; ServiceError only when that is nothing, as in PgBouncer."""
        failures = []
        for host in listen_hosts(settings.listen_addr):
            try:
                self.listeners += self.bind_tcp(host, settings)
            except ServiceError as error:
                failures.append(str(error))
        if failures and not self.listeners:
            listed = ", ".join(settings.listen_addr)
            raise ServiceError(f"failed to listen on any address in listen_addr list: {listed} ({'; '.join(failures)})")
        for failure in failures:
            self.running.say(WARNING, failure)

    def bind_tcp(self, host: str | None, settings: Settings) -> list[socket.socket]:
        """Sockets that listen on every address of `host` (None: all), not yet watched. Raises ServiceError when there
        is none."""
        port, bound = settings.listen_port, []
        try:
            # Bytes: for a text Python loads all of IDNA.
            name = host.encode() if host and host.isascii() else host
            found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except OSError as error:
            raise ServiceError(f"cannot look up listen_addr {host}: {error.strerror}") from None
        for family, kind, protocol, _, address in dict.fromkeys(found):
            sock = socket.socket(family, kind, protocol)
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                if settings.so_reuseport:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                defer_accept(sock, settings)
                sock.bind(address)
                sock.listen(settings.listen_backlog)
            except OSError as error:
                sock.close()
                self._not_bound(host, address, error)
                continue
            bound.append(self._ready(sock, f"{_host(address[0])}:{port}"))
        if not bound:
            advice = "choose another port, or stop what listens there"
            raise ServiceError(f"cannot listen on {host or '*'}:{port}: {self._why}; {advice}")
        return bound

    def _not_bound(self, host: str | None, address: tuple[object, ...], error: OSError) -> None:
        self._why = os.strerror(error.errno) if error.errno else str(error)
        if host is None:
            # One of the two families may be missing on this machine.
            self.running.say(WARNING, f"cannot listen on port {self.running.config.settings.listen_port}: {self._why}")

    def _bind_unix(self, settings: Settings) -> socket.socket:
        directory, port = settings.unix_socket_dir, settings.listen_port
        name = f"{directory}/.s.PGSQL.{port}"
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            if name.startswith("@"):
                sock.bind("\0" + name[1:])
            else:
                _remove_stale(name)
                sock.bind(name)
                self.paths.append((name, os.stat(name).st_ino))
                _set_access(name, settings)
            sock.listen(settings.listen_backlog)
        except OSError as error:
            sock.close()
            raise ServiceError(f"cannot listen on unix:{name}: {os.strerror(error.errno or 0)}") from None
        return self._ready(sock, f"unix:{name}")

    def inherit(self, heir: Inheritance) -> None:
        """Go on with the listening sockets of the process whose place this one takes."""
        from pooler.process import takeover

        takeover.say_taken(self.running, heir)
        for listener in heir.listeners:
            listener.setblocking(False)
        self.listeners[:] = heir.listeners
        self.paths = [(path, inode) for path, inode in heir.house["paths"]]

    def _changed(self, found: Changes) -> None:
        if "tcp_defer_accept" in found.settings:
            for listener in (*self.listeners, *self.acceptor.watched):
                if listener.family != socket.AF_UNIX:
                    defer_accept(listener, self.running.config.settings)

    def _ready(self, sock: socket.socket, name: str) -> socket.socket:
        sock.setblocking(False)
        self.running.say(LOG, f"listening on {name}")
        return sock

    # ---- the run

    async def run(self, *beside: Work) -> None:
        """Serve until the end, and do what is to be done beside it; returns when everything is closed."""
        for listener in self.listeners:
            self.acceptor.watch(listener, self.door)
        for work in (*self._always, *beside):
            self._keep_up(work)
        self.manager.tell(systemd.READY)
        await self.ended.wait()
        self.manager.tell(systemd.STOPPING)
        self.manager.close()
        for task in (*self._tasks, *self.control.reconfiguration.background):
            task.cancel()
        self._close_listeners(everything=True)
        await self._close_connections()

    def _keep_up(self, work: Work) -> None:
        """Have this done until the end. Nothing of it should ever fail as a whole; what does is begun again."""
        task = self.running.loop.create_task(work())
        self._tasks.add(task)
        task.add_done_callback(partial(self._left_off, work))

    def _left_off(self, work: Work, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.running.rounds.failed("task", error)
            self.running.loop.call_later(REST, self._take_up, work)

    def _take_up(self, work: Work) -> None:
        if not self.ended.is_set():
            self._keep_up(work)

    def heed_signals(self) -> None:
        """From now on; before anybody can connect, since who can may as well send a signal."""
        for number, handler in self._signals().items():
            self.running.loop.add_signal_handler(number, handler)
        # The loop may be held up: what asks for the end at once is heard between any two of Python's steps, and in
        # calls that block, which the loop's own handlers would have the kernel go on with.
        for number in SIGNALS:
            signal.signal(number, self._heard)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        """The signals' own handlers come after this one, in the loop."""
        if number == signal.SIGQUIT or self._asked or self.running.leaving:
            self.ending.hurry()
        self._asked = True

    def _signals(self) -> dict[int, Callable[[], None]]:
        return {
            signal.SIGHUP: self.hang_up,
            signal.SIGINT: self._interrupt,
            signal.SIGTERM: self._terminate,
            signal.SIGQUIT: self._quit,
            signal.SIGUSR1: self._pause,
            signal.SIGUSR2: self._resume,
        }

    def hang_up(self) -> None:
        if not self.running.config.settings.conffile:
            self.running.say(LOG, "got SIGHUP, reopening logs: there is no configuration file to read")
            self._reopen()
            return
        self.running.say(LOG, "got SIGHUP, re-reading config")
        task = self.running.loop.create_task(self.running.rounds.once("reload", self._reload()))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reload(self) -> None:
        self.manager.tell(systemd.RELOADING)
        try:
            with contextlib.suppress(Refused):  # the log has been told why
                await self.control.reconfiguration.reload()
        finally:
            self.manager.tell(systemd.READY)
            self._reopen()

    def _reopen(self) -> None:
        for listener in self.on_hangup:
            self.running.rounds.attempt("reopen", listener)

    def _interrupt(self) -> None:
        if self.running.leaving:
            self.running.say(LOG, "got SIGINT while shutting down, fast exit")
            return self.stop_now()
        words = "got SIGINT, shutting down, waiting for all servers connections to be released"
        self.running.say(LOG, words)
        self.control.signalled("WAIT_FOR_SERVERS")

    def _terminate(self) -> None:
        if self.running.leaving:
            self.running.say(LOG, "got SIGTERM while shutting down, fast exit")
            return self.stop_now()
        self.running.say(LOG, "got SIGTERM, shutting down, waiting for all clients disconnect")
        self.control.signalled("WAIT_FOR_CLIENTS")

    def _quit(self) -> None:
        self.running.say(LOG, "got SIGQUIT, fast exit")
        self.stop_now()

    def _pause(self) -> None:
        running = self.running
        if self.control.halted():
            running.say(LOG, "got SIGUSR1, but already paused")
        else:
            running.say(LOG, "got SIGUSR1, pausing all activity")
            self.control.signalled("PAUSE")

    def _resume(self) -> None:
        running = self.running
        if running.shutting:
            running.say(LOG, "got SIGUSR2 while shutting down, ignoring")
        elif running.relay.suspended:
            running.say(LOG, "got SIGUSR2, continuing from SUSPEND")
            self.control.signalled("RESUME")
        elif running.registry.paused:
            running.say(LOG, "got SIGUSR2, continuing from PAUSE")
            self.control.signalled("RESUME")
        else:
            running.say(LOG, "got SIGUSR2, but not paused")

    # ---- the online restart

    async def _surrender(self, channel: Channel) -> None:
        rest = channel.detach()
        await self.give_way(socket.socket(fileno=rest.fd), rest.unsent)

    async def give_way(self, sock: socket.socket, greeting: bytes) -> None:
        """Another process takes our place: let those who log in come in, stop the world, hand it over, and go."""
        from pooler.process import takeover
        from pooler.process.passing import PassingError

        running = self.running
        running.say(LOG, "a new process wants to take over")
        with contextlib.ExitStack() as stack:
            stack.enter_context(sock)
            try:
                if self._surrendering:
                    raise PassingError("another one is about to")
                self._surrendering = True
                stack.callback(setattr, self, "_surrendering", False)
                line = await takeover.admit(running.loop, sock, greeting)
                self.acceptor.hold()
                stack.callback(self.acceptor.go_on)
                await self.give(line)
            except PassingError as error:
                return takeover.say_kept(running, error)
            # Open until this process ends, so that the new one notices.
            stack.pop_all()
        self._successor = line
        self.paths.clear()
        self._close_listeners(everything=True)
        running.say(LOG, "the new process has taken over, exiting")
        self._stop()

    async def _give(self, line: Passage) -> None:
        from pooler.process import takeover

        await self.logins_done()
        self.events.handle()
        takeover.surrender(self.running, self.events.hubs, self.listeners, self.paths, line)

    @property
    def succeeded(self) -> bool:
        """Whether a new process goes on with what was ours."""
        return self._successor is not None

    async def logins_done(self) -> None:
        """Until nobody is between accept and a pool, or for LOGIN_GRACE seconds."""
        consoles = {console.task for console in self.running.consoles.values()}
        own = asyncio.current_task()
        busy = {*self.door.tasks, *self.opener.tasks} - consoles - {own}
        if busy:
            await asyncio.wait({future_of(task) for task in busy}, timeout=LOGIN_GRACE)

    # ---- the end

    def fail(self) -> None:
        """Stop, because we cannot go on."""
        self.failed = True
        self.ending.status = 1
        self._stop()

    def stop_now(self) -> None:
        """As somebody has asked: nothing takes longer than a moment from here on."""
        self.ending.hurry()
        self._stop()

    def _stop(self) -> None:
        self.running.phase = Phase.IMMEDIATE
        self.ended.set()

    def _shutting_down(self, phase: Phase) -> None:
        if phase is Phase.IMMEDIATE:
            self.stop_now()
            return
        if not self._only_for_cancels(phase):
            self._close_listeners(everything=False)
        if self._waiting is None:
            self._waiting = self.running.loop.create_task(self._end_when_gone())
        # What is waited for may be another thing now.
        self.running.changed.set()

    def _only_for_cancels(self, phase: Phase) -> bool:
        """Whether ports stay open although nobody new is let in: peers pass on what is meant for the last clients, and
        balancers have been told."""
        running = self.running
        return phase is Phase.WAIT_FOR_CLIENTS and bool(running.peers and running.config.own.drain_delay)

    async def _end_when_gone(self) -> None:
        await self.running.rounds.once("shutdown", self._gone())
        self.ended.set()

    async def _gone(self) -> None:
        """Until those are gone whom the last word was of: the servers or the clients."""
        running = self.running
        gone = self.gone
        try:
            async with asyncio.timeout(self.patience):
                await self.events.until(lambda: running.ending or gone[running.phase]())
            if running.ending:
                return
            running.say(LOG, f"{running.phase.value[:-1]} connections dropped, exiting")
            # Who asked for it on the console hears of it first.
            await asyncio.sleep(ANSWER_GRACE)
        except TimeoutError:
            running.say(LOG, f"{running.phase.value} are still there after {self.patience:g} s, exiting")

    def _no_servers(self) -> bool:
        return self.control.server_count() == 0

    def _no_clients(self) -> bool:
        """Consoles count, as in PgBouncer: who asked for the end can watch it come."""
        return not (self.running.registry.clients or len(self.strangers))

    def _close_listeners(self, *, everything: bool) -> None:
        """TCP at once; the Unix socket stays for administrators until the very end."""
        for listener in list(self.listeners):
            if everything or listener.family != socket.AF_UNIX:
                self.acceptor.release(listener)
                listener.close()
                self.listeners.remove(listener)
        if everything:
            self._remove_paths()

    def _remove_paths(self) -> None:
        for path, inode in self.paths:
            _remove_own(path, inode)

    async def _close_connections(self) -> None:
        """What is left is told that this is the end, whichever it was."""
        running = self.running
        running.phase = Phase.IMMEDIATE
        for pool in running.registry.pools():
            kill_pool(running, self.opener, pool, Reason.ENDING)
        self.events.handle()
        left = [*self.door.tasks, *self.opener.tasks]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        self.events.handle()


def future_of(task: LightTask | asyncio.Task[None]) -> asyncio.Future[None]:
    """One that is done when the task is."""
    return task.future() if isinstance(task, LightTask) else task


def listen_hosts(addresses: tuple[str, ...]) -> list[str | None]:
    """The hosts of listen_addr; None stands for all of them (*)."""
    return [None if name == "*" else name for name in addresses]


def _host(address: str | int) -> str:
    return f"[{address}]" if ":" in str(address) else str(address)


def _remove_stale(path: str) -> None:
    """A socket file that nobody answers at is of a process that is gone. Raises OSError when somebody does."""
    try:
        if not stat.S_ISSOCK(os.stat(path, follow_symlinks=False).st_mode):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            os.unlink(path)
        else:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _remove_own(path: str, inode: int) -> None:
    """Unless another process has put its own there meanwhile."""
    try:
        if os.stat(path, follow_symlinks=False).st_ino == inode:
            os.unlink(path)
    except OSError:
        # It is gone, or not ours to remove any more: this is the end, and the next one finds it stale.
        return


def _set_access(path: str, settings: Settings) -> None:
    """Of the socket that was bound there; not of what a link leads to."""
    import grp

    if settings.unix_socket_group:
        try:
            group = grp.getgrnam(settings.unix_socket_group).gr_gid
        except KeyError:
            raise ServiceError(f"could not find group '{settings.unix_socket_group}'") from None
        os.chown(path, -1, group, follow_symlinks=False)
    if not stat.S_ISSOCK(os.stat(path, follow_symlinks=False).st_mode):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    os.chmod(path, settings.unix_socket_mode)


def defer_accept(sock: socket.socket, settings: Settings) -> None:
    """Whether who connects is heard of with its first bytes only, or after a second, which is all that the setting
    decides in PgBouncer."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, int(settings.tcp_defer_accept != 0))
