"""The service: listening sockets, signals, the tasks that go on for ever, and the orderly end.

It decides nothing about clients and pools. A socket is bound before anything else is started, so that a busy port is
known at once; what PgBouncer does on a signal, this does.
"""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import signal
import socket
import stat
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

from pooler import control, janitor, reconfigure, systemd
from pooler.channel import Channel
from pooler.log import ERROR, FATAL, LOG, WARNING
from pooler.settings import Settings

if TYPE_CHECKING:
    from pooler.bouncer import Bouncer
    from pooler.door import Door
    from pooler.passing import Line
    from pooler.takeover import Inheritance

ACCEPTS = 64
"""Clients accepted in one turn of the loop."""
NO_MORE_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
ACCEPT_PAUSE = 5.0
SPARE_FILES = 64
ANSWER_GRACE = 0.05
LOGIN_GRACE = 2.0
"""Seconds that an online restart waits for logins that have begun."""


class ServiceError(Exception):
    """The service cannot start; the message is one line for the user."""


class Service:
    """One pooler process from its first listening socket to its exit."""

    def __init__(self, bouncer: Bouncer, door: Door) -> None:
        self.bouncer = bouncer
        self.door = door
        self.listeners: list[socket.socket] = []
        self.ended = asyncio.Event()
        self.failed = False
        self.patience: float | None = None
        """Seconds that SIGINT and SIGTERM wait for those who are there; None: as long as it takes (PgBouncer)."""
        self.on_hangup: list[Callable[[], None]] = []
        self.manager = systemd.Notifier()
        self._paths: list[tuple[str, int]] = []
        self._successor: Line | None = None
        door.on_successor = self._surrender
        bouncer.on_shutdown = self._shutting_down
        bouncer.listeners = lambda: self.listeners

    # ---- sockets

    def listen(self) -> None:
        """Take what a service manager has bound, else bind what the settings ask for. Raises ServiceError."""
        settings = self.bouncer.config.settings
        if self.listeners:
            return
        for sock in systemd.passed_sockets():
            self.bouncer.say(LOG, f"socket passed from service manager (fd {sock.fileno()})")
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
            self.bouncer.say(WARNING, failure)

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
                if settings.tcp_defer_accept:
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, settings.tcp_defer_accept)
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
            self.bouncer.say(WARNING, f"cannot listen on port {self.bouncer.config.settings.listen_port}: {self._why}")

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
                self._paths.append((name, os.stat(name).st_ino))
                _set_access(name, settings)
            sock.listen(settings.listen_backlog)
        except OSError as error:
            sock.close()
            raise ServiceError(f"cannot listen on unix:{name}: {os.strerror(error.errno or 0)}") from None
        return self._ready(sock, f"unix:{name}")

    def inherit(self, heir: Inheritance) -> None:
        """Go on with the sockets and connections of the process whose place this one takes."""
        from pooler import takeover

        takeover.say_taken(self.bouncer, heir)
        for listener in heir.listeners:
            listener.setblocking(False)
        self.listeners = heir.listeners
        self._paths = [(path, inode) for path, inode in heir.house["paths"]]
        heir.adopt(self.bouncer)

    def _ready(self, sock: socket.socket, name: str) -> socket.socket:
        sock.setblocking(False)
        self.bouncer.say(LOG, f"listening on {name}")
        return sock

    def _accept(self, listener: socket.socket) -> None:
        tcp = listener.family != socket.AF_UNIX
        accept = partial(self.bouncer.relay.accept, listener.fileno()) if tcp else partial(accept_unix, listener)
        for _ in range(ACCEPTS):
            try:
                client = accept()
            except OSError as error:
                return self._accept_failed(listener, error)
            if client is None:
                return
            self.door.arrived(client)

    def _accept_failed(self, listener: socket.socket, error: OSError) -> None:
        self.bouncer.say(ERROR, f"accept() failed: {os.strerror(error.errno or 0)}")
        if error.errno in NO_MORE_FILES:
            # The listener stays readable: without a rest the loop would do nothing else.
            self.bouncer.loop.remove_reader(listener)
            self.bouncer.loop.call_later(ACCEPT_PAUSE, self._accept_again, listener)

    def _accept_again(self, listener: socket.socket) -> None:
        if listener.fileno() >= 0:
            self.bouncer.loop.add_reader(listener, self._accept, listener)

    # ---- the run

    async def run(self, tasks: Iterable[asyncio.Task[None]] = ()) -> None:
        """Serve until the end; returns when everything is closed."""
        bouncer = self.bouncer
        for listener in self.listeners:
            bouncer.loop.add_reader(listener, self._accept, listener)
        own = [
            bouncer.loop.create_task(janitor.sweep_forever(bouncer)),
            bouncer.loop.create_task(janitor.turn_forever(bouncer)),
        ]
        for task in own:
            task.add_done_callback(self._task_ended)
        tasks = tuple(tasks)
        self.watch(tasks)
        self.manager.tell(systemd.READY)
        await self.ended.wait()
        self.manager.tell(systemd.STOPPING)
        for task in (*own, *tasks):
            task.cancel()
        self._close_listeners(everything=True)
        await self._close_connections()

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        """A task of ours that ends by itself is a bug: better no pooler than one without its janitor."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self.bouncer.say(FATAL, f"{type(error).__name__} in a task of our own: {error}")
            self.fail()

    def watch(self, tasks: Iterable[asyncio.Task[None]]) -> None:
        """Say it when one of the fronts ends by itself."""
        for task in tasks:
            task.add_done_callback(self._front_ended)

    def _front_ended(self, task: asyncio.Task[None]) -> None:
        """Clients are worth more than the metrics of them: say it and go on."""
        if not task.cancelled() and (error := task.exception()) is not None:
            for cause in error.exceptions if isinstance(error, BaseExceptionGroup) else (error,):
                self.bouncer.say(ERROR, f"metrics and HTTP have ended: {type(cause).__name__}: {cause}")

    def heed_signals(self) -> None:
        """From now on; before anybody can connect, since who can may as well send a signal."""
        for number, handler in self._signals().items():
            self.bouncer.loop.add_signal_handler(number, handler)

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
        self.bouncer.say(LOG, "got SIGHUP, re-reading config")
        self.manager.tell(systemd.RELOADING)
        reconfigure.reload(self.bouncer)
        self.manager.tell(systemd.READY)
        for listener in self.on_hangup:
            listener()

    def _interrupt(self) -> None:
        if self.bouncer.shutting:
            self.bouncer.say(LOG, "got SIGINT while shutting down, fast exit")
            return self.stop_now()
        words = "got SIGINT, shutting down, waiting for all servers connections to be released"
        self.bouncer.say(LOG, words)
        control.shut_after_servers(self.bouncer)

    def _terminate(self) -> None:
        if self.bouncer.shutting:
            self.bouncer.say(LOG, "got SIGTERM while shutting down, fast exit")
            return self.stop_now()
        self.bouncer.say(LOG, "got SIGTERM, shutting down, waiting for all clients disconnect")
        control.shut_after_clients(self.bouncer)

    def _quit(self) -> None:
        self.bouncer.say(LOG, "got SIGQUIT, fast exit")
        self.stop_now()

    def _pause(self) -> None:
        bouncer = self.bouncer
        if control.halted(bouncer):
            bouncer.say(LOG, "got SIGUSR1, but already paused/suspended")
        else:
            bouncer.say(LOG, "got SIGUSR1, pausing all activity")
            control.pause_all(bouncer)

    def _resume(self) -> None:
        bouncer = self.bouncer
        if bouncer.shutting:
            bouncer.say(LOG, "got SIGUSR2 while shutting down, ignoring")
        elif bouncer.relay.suspended:
            bouncer.say(LOG, "got SIGUSR2, continuing from SUSPEND")
            control.resume_all(bouncer)
        elif bouncer.paused:
            bouncer.say(LOG, "got SIGUSR2, continuing from PAUSE")
            control.resume_all(bouncer)
        else:
            bouncer.say(LOG, "got SIGUSR2, but not paused/suspended")

    # ---- the online restart

    async def _surrender(self, channel: Channel) -> None:
        """Another process takes our place: let those who log in come in, stop the world, hand it over, and go."""
        from pooler import takeover
        from pooler.passing import Line, PassingError

        bouncer = self.bouncer
        bouncer.say(LOG, "a new process wants to take over")
        rest = channel.detach()
        line = Line(socket.socket(fileno=rest.fd), takeover.TIMEOUT)
        for listener in self.listeners:
            bouncer.loop.remove_reader(listener)
        await self._logins_done()
        bouncer.handle_events()
        try:
            line.send(rest.unsent)
            takeover.surrender(bouncer, self.listeners, self._paths, line)
            self._paths.clear()
            self._close_listeners(everything=True)
            line.put({"kind": takeover.GONE})
        except PassingError as error:
            takeover.say_kept(bouncer, error)
            line.sock.close()
            if not self.listeners:
                return self.fail()
            for listener in self.listeners:
                self._accept_again(listener)
            return
        # Open until this process ends, so that the new one notices.
        self._successor = line
        bouncer.say(LOG, "the new process has taken over, exiting")
        self.stop_now()

    @property
    def succeeded(self) -> bool:
        """Whether a new process goes on with what was ours."""
        return self._successor is not None

    async def _logins_done(self) -> None:
        """Until nobody is between accept and a pool, or for LOGIN_GRACE seconds."""
        consoles = {console.task for console in self.bouncer.consoles.values()}
        own = asyncio.current_task()
        busy = {*self.door.tasks, *self.bouncer.opener.tasks} - consoles - {own}
        if busy:
            await asyncio.wait(busy, timeout=LOGIN_GRACE)

    # ---- the end

    def fail(self) -> None:
        """Stop, because we cannot go on."""
        self.failed = True
        self.stop_now()

    def stop_now(self) -> None:
        self.bouncer.shutting = "now"
        self.ended.set()

    def _shutting_down(self, how: str) -> None:
        if how == "now":
            self.stop_now()
            return
        self._close_listeners(everything=False)
        self._waiting = self.bouncer.loop.create_task(self._end_when_gone(how))

    async def _end_when_gone(self, how: str) -> None:
        bouncer = self.bouncer
        gone = no_servers if how == "servers" else no_clients
        try:
            async with asyncio.timeout(self.patience):
                await bouncer.until(lambda: gone(bouncer))
            bouncer.say(LOG, f"{how[:-1]} connections dropped, exiting")
            # Who asked for it on the console hears of it first.
            await asyncio.sleep(ANSWER_GRACE)
        except TimeoutError:
            bouncer.say(LOG, f"{how} are still there after {self.patience:g} s, exiting")
        self.ended.set()

    def _close_listeners(self, *, everything: bool) -> None:
        """TCP at once; the Unix socket stays for administrators until the very end."""
        for listener in list(self.listeners):
            if everything or listener.family != socket.AF_UNIX:
                self.bouncer.loop.remove_reader(listener)
                listener.close()
                self.listeners.remove(listener)
        if everything:
            for path, inode in self._paths:
                _remove_own(path, inode)

    async def _close_connections(self) -> None:
        """What is left is told that this is the end."""
        bouncer = self.bouncer
        for pool in bouncer.registry.pools():
            control.kill_pool(bouncer, pool, "pooler is shutting down")
        bouncer.handle_events()
        left = [*self.door.tasks, *bouncer.opener.tasks]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        bouncer.handle_events()


def no_servers(bouncer: Bouncer) -> bool:
    return control.server_count(bouncer) == 0


def no_clients(bouncer: Bouncer) -> bool:
    """Consoles count, as in PgBouncer: who asked for the end can watch it come."""
    return bouncer.client_count == 0 and not bouncer.consoles


def accept_unix(listener: socket.socket) -> socket.socket | None:
    """As the relay accepts on TCP: None when nobody is waiting, or OSError."""
    try:
        return listener.accept()[0]
    except (BlockingIOError, InterruptedError, ConnectionAbortedError):
        return None


def listen_hosts(addresses: tuple[str, ...]) -> list[str | None]:
    """The hosts of listen_addr; None stands for all of them (*)."""
    return [None if name == "*" else name for name in addresses]


def _host(address: str | int) -> str:
    return f"[{address}]" if ":" in str(address) else str(address)


def _remove_stale(path: str) -> None:
    """A socket file that nobody answers at is of a process that is gone. Raises OSError when somebody does."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
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
        if os.stat(path).st_ino == inode:
            os.unlink(path)
    except FileNotFoundError:
        return


def _set_access(path: str, settings: Settings) -> None:
    import grp

    if settings.unix_socket_group:
        try:
            group = grp.getgrnam(settings.unix_socket_group).gr_gid
        except KeyError:
            raise ServiceError(f"could not find group '{settings.unix_socket_group}'") from None
        os.chown(path, -1, group)
    os.chmod(path, settings.unix_socket_mode)


def raise_file_limit(clients: int, servers: int) -> tuple[int, int]:
    """Let this process have as many descriptors as it may need; (limit now, need)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = clients + servers + SPARE_FILES
    if soft < wanted and soft != hard:
        soft = wanted if hard == resource.RLIM_INFINITY else min(hard, max(wanted, soft))
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft, wanted
