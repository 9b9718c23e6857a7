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
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack
from importlib import import_module
from typing import TYPE_CHECKING

from pooler import __version__
from pooler.aside import aside
from pooler.clients.startup import tracked_names
from pooler.commands import flags as arguments
from pooler.commands.flags import Flags
from pooler.config.settings import Settings
from pooler.config.whole import Config, ConfigError, load, shut_out
from pooler.ending import Ending
from pooler.log import ERROR, FATAL, LOG, WARNING, Bridge, Log, LogError
from pooler.net import descriptors, tls
from pooler.net.channel import Channel
from pooler.outlet import STDERR, announce
from pooler.process import daemon
from pooler.process.service import Service, ServiceError
from pooler.relay import Relay
from pooler.stats import Snapshot
from pooler.values import dataclass
from pooler.verbs import ConsoleSession, House

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

    from admin.platform.plane import Plane
    from pooler.commands.crew import Crew
    from pooler.commands.fronts import Fronts
    from pooler.commands.plane import Following
    from pooler.commands.sources import Source
    from pooler.house.bouncer import Bouncer
    from pooler.house.reconfigure import Reconfiguration
    from pooler.pools.running import Running
    from pooler.process.accepting import Way
    from pooler.process.ports import Ports
    from pooler.process.takeover import Inheritance

PGBOUNCER = str(Snapshot.__dataclass_fields__["pgbouncer_version"].default)
PYTHON = ".".join(map(str, sys.version_info[:3]))
FAILED = 1
CONSOLE = "admin.console.session"
SWITCH = 0.0005
"""Seconds for which a thread may keep Python to itself while traffic waits; Python's own 5 ms are too long for it."""
AS_ROOT = "running as root: name an account to run as, with user in the ini or with -u"
PATIENCE = 5.0
"""Without an ini nobody expects a stop to wait for the last client to leave."""


def main(words: list[str]) -> int:
    """Exit status: 0 stopped as told, 1 cannot start, 2 wrong usage."""
    gc.disable()  # until `freeze`
    given = arguments.parse(words)
    if given.version:
        print(f"{PGBOUNCER}\npooler {__version__}, Python {PYTHON}")
        return 0
    with ExitStack() as stack:
        log = Log(stderr=not given.quiet, verbose=given.verbose, form=given.log_format)
        stack.callback(log.close)
        ending = Ending()
        try:
            return run(given, log, stack, ending)
        except ConfigError as error:
            log.stderr = True
            for problem in error.problems:
                for line in problem.explained:
                    log.line(problem.level, line)
            log.line(FATAL, "cannot load config file")
        except tls.TlsProblem as error:
            log.stderr = True
            log.line(ERROR, error.log)
            log.line(FATAL, "TLS setup failed")
        except (ServiceError, LogError) as error:
            announce(f"pooler: {error}\n", STDERR)
            # The terminal has been told; in the background only the log can tell.
            log.stderr = False
            log.line(FATAL, str(error))
        except KeyboardInterrupt:
            return 0
        except Exception as error:
            if not is_for_user(error):
                raise
            announce(f"pooler: {error}\n", STDERR)
    return FAILED


def is_for_user(error: Exception) -> bool:
    """Failures of the parts that are loaded late; their messages are sentences for the user."""
    from metrics.drains.sink import DrainError
    from metrics.web.listener import HttpError
    from pooler.commands.certificate import CertificateError
    from pooler.commands.sources import SourceError

    return isinstance(error, HttpError | DrainError | CertificateError | SourceError)


def run(given: Flags, log: Log, stack: ExitStack, ending: Ending) -> int:
    if given.ini:
        config = load(given.ini)
        return serve(config, given, log, stack, ending)
    from pooler.commands import sources

    source = sources.find(given)
    if source is not None and source.embedded is not None:
        stack.callback(source.embedded.stop)
        ending.also(source.embedded.tell)
    with asyncio.Runner() as runner:
        found = sources.configure(source, given, runner.get_loop())
    return serve(found.config, given, log, stack, ending, source, found.away)


def serve(
    config: Config,
    given: Flags,
    log: Log,
    stack: ExitStack,
    ending: Ending,
    source: Source | None = None,
    away: str = "",
) -> int:
    """Serve `config` until told to stop. `source` is the database when there is no ini, `away` why it could not be
    asked for its limit."""
    settings = config.settings
    user = given.user or settings.user
    if user:
        daemon.become(user)
    log.write_as(config.own.log_format)
    log.configure(settings)
    logging.getLogger().addHandler(Bridge(log))
    for problem in config.warnings:
        log.line(problem.level, str(problem))
    for sentence in filter(None, (AS_ROOT if os.geteuid() == 0 else "", away, given.ini and shut_out(config))):
        log.line(WARNING, sentence)
    secured = tls.start(settings)
    if secured.server.problem:
        log.line(WARNING, f"TLS setup failed: {secured.server.problem}")
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
    ending.also(pidfile.remove)
    log.line(*descriptors.provide(config))
    tracked = [name.encode() for name in tracked_names(settings).values()]
    selector = Relay(tracked, config.own.io_uring)
    loop = asyncio.SelectorEventLoop(selector)
    asyncio.set_event_loop(loop)
    try:
        start = Start(config, given, log, selector, secured, source, bool(away), old, pidfile, ending)
        return loop.run_until_complete(_serve(start))
    finally:
        loop.close()  # without its threads: one that looks up a name may never come back
        ending.heed_signals()


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


@dataclass(frozen=True, slots=True)
class Start:
    """All that is there before the loop runs."""

    config: Config
    given: Flags
    log: Log
    selector: Relay
    secured: tls.Tls
    source: Source | None
    away: bool
    old: socket.socket | None
    pidfile: daemon.Pidfile
    ending: Ending


async def _serve(start: Start) -> int:
    from pooler.commands.fronts import Fronts
    from pooler.house.bouncer import Bouncer

    config, given, log, ending = start.config, start.given, start.log, start.ending
    plane = None
    if given.state is not None:
        from pooler.commands.plane import open_plane

        plane = open_plane(given.state)
    loop = asyncio.get_running_loop()
    plain = not (given.ini or given.plain)
    bouncer = Bouncer(config, loop, start.selector, log, console, plain_on_loopback_only=plain)
    running = bouncer.running
    running.instruct_relay()
    running.tls = start.secured
    running.rounds.watch_over(loop)
    crew = staffed(bouncer, start, plain) if workers(config, given) > 1 else None
    service = Service(
        running,
        bouncer.opener,
        bouncer.events,
        bouncer.control,
        bouncer.strangers,
        crew.way() if crew is not None else bouncer.door(),
        ending,
        listeners=bouncer.listeners,
        always=(bouncer.janitor.sweep_forever, bouncer.periods.turn_forever, *bouncer.neighbours.always),
    )
    if not given.ini:
        service.patience = PATIENCE
    service.heed_signals()
    fronts = Fronts(
        running, crew.desk.figures if crew is not None else bouncer.source, bouncer.history, service, given, plane
    )
    fronts.sessions = crew.union.session_state if crew is not None else bouncer.session_state
    follows = None
    if plane is not None:
        new_door = crew.way if crew is not None else lambda port: bouncer.door(aliases_only=True)
        ports = aliased(running, service, new_door)
        follows = following(plane, running, bouncer.reconfiguration, ports, fronts)
        fronts.follow = follows.run
    heir = None
    if start.old is not None:
        if follows is not None:
            await follows.foresee()
        heir = await succeed(service, start.old, start, crew)
    service.listen()
    fronts.open_sinks()
    bouncer.reconfiguration.on_change.append(fronts.changed)
    bouncer.figures.drain_sources.append(fronts.drains)
    if not given.ini:
        from pooler.commands.greeting import greet

        greet(config.settings, start.source, fronts.http_address(), secure=given.http_cert is not None)
    version = f"process up: {PGBOUNCER}, pooler {__version__}, Python {PYTHON}"
    ring = f"no ({start.selector.no_ring})" if start.selector.no_ring else "yes"
    log.line(LOG, f"{version}, tls: {tls_name()}, io_uring: {ring}")
    freeze()
    sys.setswitchinterval(SWITCH)
    beside = [lambda: fronts.run(heir), *learning(start, bouncer.reconfiguration, running)]
    try:
        if crew is not None and heir is None:
            await crew.begin(service, ending)
        await service.run(*beside)
    finally:
        if crew is not None:
            await crew.desk.close()
        if service.succeeded:
            start.pidfile.leave()
        await fronts.close(hurry=ending.near)
    return 1 if service.failed else 0


def workers(config: Config, given: Flags) -> int:
    """How many processes share the work."""
    return given.workers or config.own.workers


def staffed(bouncer: Bouncer, start: Start, plain: bool) -> Crew:
    """The workers of this process."""
    from pooler.commands.crew import Crew

    given = start.given
    return Crew(bouncer, workers(start.config, given), (plain, given.verbose), os.urandom(16).hex(), console)


def learning(
    start: Start, reconfiguration: Reconfiguration, running: Running
) -> list[Callable[[], Coroutine[Any, Any, None]]]:
    """What goes on until a database that was away has told how many connections it allows."""
    source = start.source
    if source is None or not start.away:
        return []
    from pooler.commands.sources import learn_limit

    return [lambda: learn_limit(source, start.given, reconfiguration, running.say)]


def aliased(running: Running, service: Service, door: Callable[[int], Way]) -> Ports:
    """The ports that the state's databases have of their own."""
    from pooler.process.ports import Ports

    return Ports(running, service, door)


def following(
    plane: Plane, running: Running, reconfiguration: Reconfiguration, ports: Ports, fronts: Fronts
) -> Following:
    """Who follows the state's attachments."""
    from pooler.commands.plane import Following

    return Following(plane, running, reconfiguration, ports, fronts.drain_apps)


async def succeed(service: Service, old: socket.socket, start: Start, crew: Crew | None) -> Inheritance:
    """Take the place of the old process, and go on with what it has had. Raises ServiceError when that goes on."""
    if crew is None:
        heir = take_over(service, old, start.pidfile)
        heir.adopt(service.running, service.opener, service.events.hubs)
        return heir
    try:
        # They take long to start: before anybody stands still.
        await crew.begin(service, start.ending, succeeds=True)
        heir = take_over(service, old, start.pidfile)
    except BaseException:
        await crew.desk.close()
        raise
    await crew.go_on_with(heir, service)
    return heir


def take_over(service: Service, old: socket.socket, pidfile: daemon.Pidfile) -> Inheritance:
    """Raises ServiceError when the old process goes on."""
    from pooler.process.passing import PassingError
    from pooler.process.takeover import receive

    try:
        heir = receive(old)
    except PassingError as error:
        raise ServiceError(f"cannot take over from the old process: {error}") from None
    service.inherit(heir)
    if pidfile.path:
        try:
            pidfile.write()
        except ServiceError as error:
            # Everybody is with us by now.
            service.running.say(ERROR, str(error))
    return heir


async def load_console() -> None:
    """Load the console's code for the first session beside the traffic, which 40 ms would hold up."""
    # What goes wrong, as with no descriptors left, whoever imports it next hears of.
    with contextlib.suppress(Exception):
        await aside(lambda: import_module(CONSOLE))
    gc.freeze()


async def console(channel: Channel, session: ConsoleSession, house: House) -> None:
    """A session on the admin database."""
    if CONSOLE not in sys.modules:
        await load_console()
    from admin.console.session import serve

    await serve(channel, session, house)


def tls_name() -> str:
    import ssl

    return ssl.OPENSSL_VERSION


def freeze() -> None:
    """What is loaded by now stays: the garbage collector, which has not looked at it, need not do so ever."""
    gc.freeze()
    gc.enable()
