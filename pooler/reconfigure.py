"""RELOAD and SET at work: a new configuration takes over from the running one, whole or not at all.

`config` says what changed; here each change meets the objects that live by it. Servers logged in under facts that no
longer hold are condemned (closed when they come free); clients stay, unless their database is gone.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from pooler import tls
from pooler.config import Changes, Config, ConfigError, changes, load, with_setting
from pooler.databases import DatabaseConfig
from pooler.kinds import PoolMode
from pooler.log import ERROR, LOG, WARNING, LogError
from pooler.registry import MODES, Database
from pooler.relay import Pool, Server
from pooler.settings import SETTINGS

if TYPE_CHECKING:
    from pooler.bouncer import Bouncer

TLS_KEYS = frozenset(key for key in SETTINGS if "_tls" in key)
OUTDATED = "database configuration changed"
REMOVED = "database removed"
"""What is told to the clients of a database that has left the configuration, or was hit by KILL."""


def reload(bouncer: Bouncer) -> bool:
    """Read the configuration file again; False, and the log says why, when it cannot be used."""
    path = bouncer.config.settings.conffile
    if not path:
        bouncer.say(ERROR, "RELOAD Failed, see logs for more details: no configuration file")
        return False
    try:
        new = load(path, bouncer.config)
    except ConfigError as error:
        for problem in error.problems:
            for line in problem.explained:
                bouncer.say(problem.level, line)
        bouncer.say(WARNING, "config file loading failed")
        bouncer.say(ERROR, "RELOAD Failed, see logs for more details")
        return False
    adopt(bouncer, new)
    return True


def change_setting(bouncer: Bouncer, key: str, value: str) -> bool:
    """SET key = value; False, and the log says why, when it is refused."""
    try:
        new = with_setting(bouncer.config, key, value)
    except ConfigError as error:
        for problem in error.problems:
            bouncer.say(problem.level, str(problem))
        return False
    adopt(bouncer, new)
    return True


def adopt(bouncer: Bouncer, new: Config) -> None:
    """Make `new` the configuration, but for what takes a restart."""
    found = changes(bouncer.config, new)
    for warning in found.warnings:
        bouncer.say(WARNING, warning)
    for problem in new.warnings:
        bouncer.say(problem.level, str(problem))
    found = _renew_tls(bouncer, found)
    bouncer.config = found.config
    bouncer.registry.config = found.config
    _reopen_log(bouncer)
    _users(bouncer)
    _databases(bouncer, found)
    for pool in bouncer.registry.pools():
        bouncer.registry.apply(pool)
        bouncer.opener.consider(pool)
    bouncer.relay.max_packet = found.config.settings.max_packet_size
    for listener in bouncer.on_change:
        listener(found)


def _reopen_log(bouncer: Bouncer) -> None:
    try:
        bouncer.log_file.configure(bouncer.config.settings)
    except LogError as error:
        bouncer.say(ERROR, str(error))


def _renew_tls(bouncer: Bouncer, found: Changes) -> Changes:
    """Build the contexts anew: their files may have changed even if the settings have not. When they cannot be built,
    the settings of TLS stay as they were too: a mode without its context would lock everybody out."""
    settings = found.config.settings
    try:
        client, server = tls.client_context(settings), tls.server_context(settings)
    except tls.TlsProblem as error:
        bouncer.say(ERROR, f"TLS setup failed: {error}")
        bouncer.say(ERROR, "TLS configuration could not be reloaded, keeping old configuration")
        kept = {key: getattr(bouncer.config.settings, key) for key in TLS_KEYS}
        config = dataclasses.replace(found.config, settings=dataclasses.replace(settings, **kept))
        return dataclasses.replace(found, config=config, settings=found.settings - TLS_KEYS)
    bouncer.tls_context, bouncer.server_context = client, server
    return found


def _users(bouncer: Bouncer) -> None:
    for user in bouncer.registry.users.values():
        user.config = bouncer.config.users.get(user.name)


def _databases(bouncer: Bouncer, found: Changes) -> None:
    for database in list(bouncer.registry.databases.values()):
        config = bouncer.config.find_database(database.name)
        database.removed = config is None
        if config is None:
            _remove(bouncer, database)
        elif config != database.config:
            _change(bouncer, database, config, elsewhere=bool({database.name, "*"} & found.reconnect))
    if "server_tls_sslmode" in found.settings:
        condemn(bouncer, None)


def _change(bouncer: Bouncer, database: Database, config: DatabaseConfig, *, elsewhere: bool) -> None:
    other_user = config.user != database.config.user
    database.config = config
    if elsewhere:
        bouncer.say(LOG, f"database configuration changed: {database.name}")
        condemn(bouncer, database.name)
        for pool in database.pools.values():
            pool.failure = pool.engine.failing = None
            pool.welcome = None if not pool.engine.server_count else pool.welcome
    if other_user:
        for pool in list(database.pools.values()):
            if not pool.clients:
                end_servers(bouncer, pool.engine, "connect string changed")


def _remove(bouncer: Bouncer, database: Database) -> None:
    bouncer.say_dropping(database)
    for pool in list(database.pools.values()):
        for client in pool.engine.clients():
            bouncer.relay.drop(client, REMOVED)
        end_servers(bouncer, pool.engine, REMOVED)
        bouncer.end_newcomers(pool, REMOVED)
    bouncer.loop.call_soon(bouncer.forget_removed, database)


def may_go_now(server: Server) -> bool:
    """Whether a condemned server is free, or with server_fast_close its session is between transactions."""
    if server.linked is None:
        return server.state_name in ("idle", "used")
    pool = server.pool
    return pool.fast_close and pool.mode == MODES[PoolMode.session] and server.is_clean


def condemn(bouncer: Bouncer, name: str | None) -> None:
    """Mark the servers of a database, or all, to be closed as soon as they are free."""
    for pool in bouncer.registry.pools():
        if name is None or pool.database.name == name:
            for server in pool.engine.servers():
                server.close_needed = True
                if may_go_now(server):
                    bouncer.relay.drop(server, OUTDATED)
    for attempt in bouncer.opener.attempts:
        if name is None or attempt.pool.database.name == name:
            attempt.close_needed = True


def end_servers(bouncer: Bouncer, engine: Pool, reason: str) -> None:
    for server in engine.servers():
        bouncer.relay.drop(server, reason)

