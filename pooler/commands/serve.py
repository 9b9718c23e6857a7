"""`pooler serve`: from arguments to a running process, and to its exit status.

The order matters: read the configuration, become who we shall be, bind the sockets, and only then load what the common
path does not need. Every failure on the way is one line on stderr that says what to do.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import resource
import socket
import sys
import threading
from contextlib import ExitStack
from importlib import import_module
from typing import TYPE_CHECKING

from pooler import __version__, daemon, tls
from pooler.channel import Channel
from pooler.commands import flags as arguments
from pooler.commands.flags import Flags
from pooler.config import Config, ConfigError, load
from pooler.log import FATAL, LOG, WARNING, Bridge, Log, LogError
from pooler.relay import Relay
from pooler.service import Service, ServiceError, raise_file_limit
from pooler.settings import Settings
from pooler.startup import TRACKED
from pooler.stats import Snapshot
from pooler.verbs import ConsoleSession, House

if TYPE_CHECKING:
    from pooler.bouncer import Bouncer
    from pooler.commands.fronts import Fronts
    from pooler.takeover import Inheritance

PGBOUNCER = str(Snapshot.__dataclass_fields__["pgbouncer_version"].default)
PYTHON = ".".join(map(str, sys.version_info[:3]))
FAILED = 1
CONSOLE = "admin.console"
SWITCH = 0.0005
"""Seconds for which a thread may keep Python to itself while traffic waits; Python's own 5 ms are too long for it."""
PATIENCE = 5.0
"""Without an ini nobody expects a stop to wait for the last client to leave."""


def main(words: list[str]) -> int:
    """Exit status: 0 stopped as told, 1 cannot start, 2 wrong usage."""
    given = arguments.parse(words)
    if given.version:
        print(f"{PGBOUNCER}\npooler {__version__}, Python {PYTHON}")
        return 0
    with ExitStack() as stack:
        log = Log(stderr=not given.quiet, verbose=given.verbose)
        stack.callback(log.close)
        try:
            return run(given, log, stack)
        except ConfigError as error:
            log.stderr = True
            for problem in error.problems:
                for line in problem.explained:
                    log.line(problem.level, line)
            log.line(FATAL, "cannot load config file")
        except (ServiceError, LogError, tls.TlsProblem) as error:
            print(f"pooler: {error}", file=sys.stderr)
            # The terminal has been told; in the background only the log can tell.
            log.stderr = False
            log.line(FATAL, str(error))
        except KeyboardInterrupt:
            return 0
        except Exception as error:
            if not is_for_user(error):
                raise
            print(f"pooler: {error}", file=sys.stderr)
    return FAILED


def is_for_user(error: Exception) -> bool:
    """Failures of the parts that are loaded late; their messages are sentences for the user."""
    from metrics.listener import HttpError
    from metrics.sink import DrainError
    from pooler.certificate import CertificateError
    from pooler.commands.sources import SourceError

    return isinstance(error, HttpError | DrainError | CertificateError | SourceError)


def run(given: Flags, log: Log, stack: ExitStack) -> int:
    if given.ini:
        config = load(given.ini)
        return serve(config, given, log, stack)
    from pooler.commands import sources

    source = sources.find(given)
    if source.embedded is not None:
        stack.callback(source.embedded.stop)
    with asyncio.Runner() as runner:
        config = sources.configure(source, given, runner.get_loop())
    return serve(config, given, log, stack, source)


def serve(config: Config, given: Flags, log: Log, stack: ExitStack, source: object = None) -> int:
    """Serve `config` until told to stop."""
    settings = config.settings
    user = given.user or settings.user
    if user:
        daemon.become(user)
    log.configure(settings)
    logging.getLogger().addHandler(Bridge(log))
    for problem in config.warnings:
        log.line(problem.level, str(problem))
    contexts = tls.client_context(settings), tls.server_context(settings)
    pidfile = daemon.Pidfile(settings.pidfile)
    old = old_process(settings, log) if given.reboot else None
    if old is None:
        alone(settings)
        if settings.pidfile and pidfile.check():
            log.line(LOG, "stale pidfile, removing")
    if given.daemon:
        if not settings.pidfile:
            raise ServiceError("daemon needs pidfile configured")
        log.stderr = False
        daemon.detach()
    if settings.pidfile and old is None:
        pidfile.write()
    stack.callback(pidfile.remove)
    report_limits(config, log)
    tracked = [name.encode() for name in (*TRACKED, *settings.track_extra_parameters)]
    selector = Relay(tracked, config.own.io_uring)
    loop = asyncio.SelectorEventLoop(selector)
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(_serve(config, given, log, selector, contexts, source, old, pidfile))
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def old_process(settings: Settings, log: Log) -> socket.socket | None:
    """For -R: a connection to the process whose place we take; None when there is none. Raises ServiceError."""
    if not settings.unix_socket_dir:
        raise ServiceError("cannot reboot if unix dir not configured")
    if os.environ.get("LISTEN_FDS"):
        raise ServiceError("cannot reboot under service manager")
    if settings.unix_socket_dir.startswith("@"):
        raise ServiceError("cannot reboot with abstract Unix socket")
    old = daemon.knock(settings)
    if old is None:
        log.line(LOG, "old process not found, try to continue normally")
    return old


def alone(settings: Settings) -> None:
    """Raises ServiceError when another process listens on our Unix socket."""
    if os.environ.get("LISTEN_FDS"):
        return
    old = daemon.knock(settings)
    if old is not None:
        old.close()
        raise ServiceError(f"unix socket is in use, cannot continue ({daemon.socket_name(settings)})")


def report_limits(config: Config, log: Log) -> None:
    settings = config.settings
    clients = settings.max_client_conn
    sizes = (database.pool_size for database in config.databases.values())
    servers = sum(settings.default_pool_size if size is None else size for size in sizes)
    limit, wanted = raise_file_limit(clients, servers)
    level = LOG if limit >= wanted else WARNING
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    kernel = f"kernel file descriptor limit: {limit} (hard: {hard})"
    log.line(level, f"{kernel}; max_client_conn: {clients}, max expected fd use: {wanted}")


async def _serve(
    config: Config, given: Flags, log: Log, selector: Relay, contexts: tuple[object, object], source: object,
    old: socket.socket | None, pidfile: daemon.Pidfile,
) -> int:
    from pooler.bouncer import Bouncer
    from pooler.commands.fronts import Fronts
    from pooler.door import Door

    loop = asyncio.get_running_loop()
    bouncer: Bouncer
    plane = None
    if given.state is not None:
        from pooler.commands.plane import PlaneBouncer, open_plane

        plane = open_plane(given.state)
        bouncer = PlaneBouncer(config, loop, selector, log)
    else:
        bouncer = Bouncer(config, loop, selector, log)
    selector.max_packet = config.settings.max_packet_size
    bouncer.tls_context, bouncer.server_context = contexts  # type: ignore[assignment]
    bouncer.plain_on_loopback_only = source is not None and not given.plain
    service = Service(bouncer, Door(bouncer, console))
    if source is not None:
        service.patience = PATIENCE
    service.heed_signals()
    heir = take_over(service, old, pidfile) if old is not None else None
    service.listen()
    fronts = Fronts(bouncer, service, given, plane)
    fronts.open_sinks()
    if source is not None:
        from pooler.commands.greeting import greet

        greet(bouncer, source)  # type: ignore[arg-type]
    version = f"process up: {PGBOUNCER}, pooler {__version__}, Python {PYTHON}"
    ring = f"no ({bouncer.no_ring})" if bouncer.no_ring else "yes"
    log.line(LOG, f"{version}, tls: {tls_name()}, io_uring: {ring}")
    freeze()
    sys.setswitchinterval(SWITCH)
    try:
        await service.run([loop.create_task(open_fronts(fronts, bouncer, heir))])
    finally:
        if service.succeeded:
            pidfile.leave()
        await fronts.close()
    return 1 if service.failed else 0


def take_over(service: Service, old: socket.socket, pidfile: daemon.Pidfile) -> Inheritance:
    """Raises ServiceError when the old process goes on."""
    from pooler.passing import PassingError
    from pooler.takeover import receive

    try:
        heir = receive(old)
    except PassingError as error:
        raise ServiceError(f"cannot take over from the old process: {error}") from None
    if pidfile.path:
        pidfile.write()
    service.inherit(heir)
    return heir


async def open_fronts(fronts: Fronts, bouncer: Bouncer, heir: Inheritance | None) -> None:
    """An old process has its HTTP port until it ends."""
    if heir is not None:
        await heir.old_process_gone(bouncer)
    await fronts.run()


async def load_console() -> None:
    """Load the console's code for the first session beside the traffic, which 40 ms would hold up. In a thread that
    ends: while a process has several, each of its system calls costs a little more."""
    loaded, loop = asyncio.Event(), asyncio.get_running_loop()

    def load() -> None:
        with contextlib.suppress(ImportError):  # whoever imports it next hears of it
            import_module(CONSOLE)
        loop.call_soon_threadsafe(loaded.set)

    threading.Thread(target=load, daemon=True).start()
    await loaded.wait()
    gc.freeze()


async def console(channel: Channel, session: ConsoleSession, house: House) -> None:
    """A session on the admin database."""
    if CONSOLE not in sys.modules:
        await load_console()
    from admin.console import serve

    await serve(channel, session, house)


def tls_name() -> str:
    import ssl

    return ssl.OPENSSL_VERSION


def freeze() -> None:
    """What is loaded by now stays: the garbage collector need not look at it again."""
    gc.collect()
    gc.freeze()
