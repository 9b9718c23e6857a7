"""What an operator can do to a running pooler: one function per verb of the console, in a table.

Grammar and rights were checked by the console; here is the effect, and the waiting, as PgBouncer has them. A verb
returns when PgBouncer would answer and raises CommandError with PgBouncer's words. Signals use the same functions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from pooler import reconfigure
from pooler.auth import LoginError
from pooler.databases import RESERVED
from pooler.labels import Arrival
from pooler.log import LOG
from pooler.registry import Database, PoolState
from pooler.relay import Conn
from pooler.verbs import CommandError, Verb

if TYPE_CHECKING:
    from pooler.bouncer import Bouncer

CONFIG_FILE_ERROR = "F0000"
FORCED = "admin forced disconnect"


HOLDING = ("PAUSE", "SUSPEND", "KILL")
"""What cannot be asked, not even for one database, while everything stands still."""


def halted(bouncer: Bouncer) -> bool:
    """Whether a PAUSE, SUSPEND or KILL of everything lasts."""
    return bouncer.paused or bouncer.relay.suspended


async def perform(bouncer: Bouncer, verb: Verb) -> None:
    """Do it. Raises CommandError."""
    if verb.name not in VERBS:
        raise CommandError(f"invalid command '{verb.name}', use SHOW HELP;")
    if verb.name in HOLDING and halted(bouncer):
        raise CommandError("already suspended/paused")
    if verb.name != "SET":
        bare = verb.name == "SHUTDOWN"
        argument = (verb.argument or "").upper() if bare else f"'{verb.argument}'"
        what = f"{verb.name} {argument}" if verb.argument else verb.name
        bouncer.say(LOG, f"{what} command issued")
    await VERBS[verb.name](bouncer, verb)


def find(bouncer: Bouncer, name: str, action: str) -> Database:
    """The database a command names, made if it is configured and not yet in use. Raises CommandError."""
    if name == RESERVED:
        raise CommandError(f"cannot {action} admin db: {name}")
    config = bouncer.find_database(name)
    if config is None:
        raise CommandError(f"no such database: {name}")
    return bouncer.database(config)


# ---- configuration


async def reload(bouncer: Bouncer, verb: Verb) -> None:
    if not reconfigure.reload(bouncer):
        raise CommandError("RELOAD failed, see logs for additional details", CONFIG_FILE_ERROR)


async def set_value(bouncer: Bouncer, verb: Verb) -> None:
    if not reconfigure.change_setting(bouncer, verb.argument or "", verb.value or ""):
        raise CommandError("SET failed")


# ---- pause and resume


def begin_pause(bouncer: Bouncer, databases: list[Database]) -> None:
    """Hold back new work of `databases` and close their idle servers."""
    for database in databases:
        for pool in database.pools.values():
            pool.engine.paused = True
            for server in pool.engine.idle_servers.all() + pool.engine.used_servers.all():
                bouncer.relay.drop(server, "pause mode")


def end_pause(bouncer: Bouncer, databases: list[Database]) -> None:
    """Let those of `databases` go on that nothing else holds."""
    for database in databases:
        if database.paused or bouncer.paused:
            continue
        for pool in database.pools.values():
            pool.engine.paused = False
            pool.engine.full = False
            pool.engine.resume()
            bouncer.opener.consider(pool)


def all_databases(bouncer: Bouncer) -> list[Database]:
    return list(bouncer.registry.databases.values())


def pause_all(bouncer: Bouncer) -> None:
    bouncer.paused = True
    begin_pause(bouncer, all_databases(bouncer))


async def pause(bouncer: Bouncer, verb: Verb) -> None:
    if verb.argument:
        database = find(bouncer, verb.argument, "pause")
        database.paused = True
        begin_pause(bouncer, [database])
        await bouncer.until(lambda: database.servers == 0 or not database.paused)
        return
    pause_all(bouncer)
    await bouncer.until(lambda: server_count(bouncer) == 0 or not bouncer.paused)


def server_count(bouncer: Bouncer) -> int:
    return sum(pool.servers for pool in bouncer.registry.pools())


async def resume(bouncer: Bouncer, verb: Verb) -> None:
    if verb.argument:
        known = bouncer.find_database(verb.argument)
        if known is None and verb.argument != RESERVED:
            raise CommandError(f"no such database: {verb.argument}")
        database = bouncer.registry.databases.get(verb.argument)
        if database is None or not database.paused:
            raise CommandError(f"database {verb.argument} is not paused")
        database.paused = False
        end_pause(bouncer, [database])
    elif bouncer.shutting:
        raise CommandError("pooler is shutting down")
    elif not resume_all(bouncer):
        raise CommandError("pooler is not paused/suspended")
    bouncer.changed.set()


def resume_all(bouncer: Bouncer) -> bool:
    """End PAUSE, SUSPEND and KILL of everything; what was paused by its name stays so. False when there was nothing
    to end."""
    if not halted(bouncer):
        return False
    bouncer.paused = False
    end_suspend(bouncer)
    end_pause(bouncer, all_databases(bouncer))
    return True


async def suspend(bouncer: Bouncer, verb: Verb) -> None:
    if any(database.paused for database in all_databases(bouncer)):
        raise CommandError("cannot suspend with paused databases")
    bouncer.relay.suspended = True
    try:
        async with asyncio.timeout(bouncer.config.settings.suspend_timeout or None):
            while unsent(bouncer):
                await asyncio.sleep(0.01)
    except TimeoutError:
        for connection in unsent(bouncer):
            bouncer.relay.drop(connection, "suspend_timeout")


def console_gone(bouncer: Bouncer) -> None:
    """A console has ended. With nobody left to say RESUME, a SUSPEND ends too."""
    if bouncer.relay.suspended and not bouncer.consoles:
        bouncer.say(LOG, "admin disappeared when suspended, doing RESUME")
        resume_all(bouncer)
    bouncer.changed.set()


def unsent(bouncer: Bouncer) -> list[Conn]:
    """Connections whose peer has not taken everything yet."""
    connections: list[Conn] = []
    for pool in bouncer.registry.pools():
        connections += pool.engine.clients()
        connections += pool.engine.servers()
    return [connection for connection in connections if connection.pending[2]]


def end_suspend(bouncer: Bouncer) -> None:
    if bouncer.relay.suspended:
        bouncer.relay.suspended = False
        for pool in bouncer.registry.pools():
            for connection in (*pool.engine.clients(), *pool.engine.servers()):
                connection.carry_on()


# ---- one database


async def disable(bouncer: Bouncer, verb: Verb) -> None:
    find(bouncer, _required(verb), "disable").disabled = True


async def enable(bouncer: Bouncer, verb: Verb) -> None:
    find(bouncer, _required(verb), "enable").disabled = False


def _required(verb: Verb) -> str:
    if not verb.argument:
        raise CommandError("a database is required")
    return verb.argument


async def reconnect(bouncer: Bouncer, verb: Verb) -> None:
    if verb.argument:
        find(bouncer, verb.argument, "reconnect")
    reconfigure.condemn(bouncer, verb.argument)


async def wait_close(bouncer: Bouncer, verb: Verb) -> None:
    if verb.argument:
        find(bouncer, verb.argument, "wait in")

    def gone() -> bool:
        pools = (p for p in bouncer.registry.pools() if not verb.argument or p.database.name == verb.argument)
        return not any(server.close_needed for pool in pools for server in pool.engine.servers())

    await bouncer.until(gone)


async def kill(bouncer: Bouncer, verb: Verb) -> None:
    if verb.argument:
        databases = [find(bouncer, verb.argument, "kill")]
        databases[0].paused = True
    else:
        bouncer.paused = True
        databases = all_databases(bouncer)
    begin_pause(bouncer, databases)
    for database in databases:
        for pool in database.pools.values():
            kill_pool(bouncer, pool, reconfigure.REMOVED)


def kill_pool(bouncer: Bouncer, pool: PoolState, reason: str) -> None:
    """Drop all clients and servers at once."""
    for client in pool.engine.clients():
        bouncer.relay.drop(client, reason)
    bouncer.end_newcomers(pool, reason)
    reconfigure.end_servers(bouncer, pool.engine, reason)


async def kill_client(bouncer: Bouncer, verb: Verb) -> None:
    text = verb.argument or ""
    if not (text.isascii() and text.isdigit()):
        raise CommandError("invalid client pointer supplied")
    number = int(text)
    for pool in bouncer.registry.pools():
        for client in pool.engine.clients():
            if client.id == number:
                bouncer.relay.drop(client, FORCED)
                return
        for waiter in pool.newcomers.values():
            if isinstance(waiter.arrival, Arrival) and waiter.arrival.number == number:
                waiter.give_up(LoginError(FORCED))
                return
    raise CommandError("client not found")


# ---- the end


async def shutdown(bouncer: Bouncer, verb: Verb) -> None:
    modes: dict[str, Callable[[Bouncer], None]] = {
        "WAIT_FOR_SERVERS": shut_after_servers,
        "WAIT_FOR_CLIENTS": shut_after_clients,
    }
    if verb.argument:
        if bouncer.shutting:
            raise CommandError("pooler is shutting down")
        modes[verb.argument.upper()](bouncer)
    else:
        bouncer.shut_down("now")
        await asyncio.Event().wait()


def shut_after_servers(bouncer: Bouncer) -> None:
    """Stop when every server has been released; nothing new begins."""
    bouncer.shut_down("servers")
    pause_all(bouncer)


def shut_after_clients(bouncer: Bouncer) -> None:
    """Stop when the last client has left; nobody new comes in."""
    bouncer.shut_down("clients")


VERBS: dict[str, Callable[[Bouncer, Verb], Awaitable[None]]] = {
    "RELOAD": reload,
    "SET": set_value,
    "PAUSE": pause,
    "RESUME": resume,
    "SUSPEND": suspend,
    "DISABLE": disable,
    "ENABLE": enable,
    "RECONNECT": reconnect,
    "WAIT_CLOSE": wait_close,
    "KILL": kill,
    "KILL_CLIENT": kill_client,
    "SHUTDOWN": shutdown,
}
