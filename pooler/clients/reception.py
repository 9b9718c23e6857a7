"""The reception: what logins ask (`login.LoginQuestions`), answered out of what is running.

Each port has one. It knows databases by their names; by their aliases where clients come by a port of theirs, and a
port that is open for those alone knows no others. The rule: whoever is known beside the auth_file, by the secrets of a
database of its own, gets into that database and the console, and nowhere else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Coroutine, Mapping
from ssl import SSLContext
from typing import Any

from pooler.clients.login import UNGUARDED, Grounds
from pooler.clients.lookup import Lookup
from pooler.clients.strangers import Strangers
from pooler.config.databases import DatabaseConfig
from pooler.config.kinds import AuthType, SslMode
from pooler.config.users import Likeness, Secret
from pooler.config.whole import Config
from pooler.net.address import Peer
from pooler.net.channel import Channel
from pooler.pools.colleagues import Colleagues
from pooler.pools.connection import ClientFacts, client_label
from pooler.pools.refusal import LoginError
from pooler.pools.registry import Registry
from pooler.pools.running import Running
from pooler.relay import Footing

TLS_ONLY = tuple(mode for mode in SslMode if mode.rank >= SslMode.require.rank)


class Reception:
    """Answers logins on one port."""

    def __init__(
        self,
        running: Running,
        lookup: Lookup,
        strangers: Strangers,
        *,
        aliases_only: bool = False,
        plain_on_loopback_only: bool = False,
    ) -> None:
        self._running = running
        self._lookup = lookup
        self._strangers = strangers
        self.aliases: Mapping[str, str] = {}
        """What databases are called here -> their names."""
        self._aliases_only = aliases_only
        """No other databases are found, and whatever the pooler's own auth_type, a password is asked for."""
        self._plain_on_loopback_only = plain_on_loopback_only

    @property
    def config(self) -> Config:
        config = self._running.registry.config
        if not self._aliases_only or config.settings.auth_type not in UNGUARDED:
            return config
        settings = dataclasses.replace(config.settings, auth_type=AuthType.scram_sha_256)
        return dataclasses.replace(config, settings=settings)

    @property
    def tls_context(self) -> SSLContext | None:
        return self._running.tls.client.context

    def tls_required(self, peer: Peer) -> bool:
        if self._running.tls.client.mode in TLS_ONLY:
            return True
        return self._plain_on_loopback_only and not peer.is_loopback

    @property
    def lets_all_in_alike(self) -> bool:
        """Whether nothing but what is in force decides about who comes in: not the address, nor other names."""
        only = self._aliases_only or self._plain_on_loopback_only or self.aliases
        return not only and self._running.tls.client.mode not in TLS_ONLY

    def find_database(self, name: str) -> DatabaseConfig | None:
        if self.aliases or self._aliases_only:
            known = self.aliases.get(name)
            if known is None and self._aliases_only:
                return None
            name = known or name
        return self._running.registry.find(name)

    def grounds(self, database: DatabaseConfig | None, user: str) -> Grounds:
        own = database is not None and database.secrets is not None
        secret = self._listed(database, user)
        return Grounds(own, self._known_elsewhere(user) if secret is None and database is None else secret)

    def footing(self, config: Config, name: str, database: DatabaseConfig | None) -> Footing | None:
        running, registry, settings = self._running, self._running.registry, config.settings
        alike = self.lets_all_in_alike and config is registry.config and config.find_database(name) is database
        if not alike or settings.auth_type is AuthType.hba or running.colleagues is not None:
            return None
        facts: tuple[tuple[object, str, object], ...] = (
            (registry, "config", config),
            (running, "tls", running.tls),
            (running, "colleagues", None),
            (running.log_file, "wordy", False),
            (self, "aliases", self.aliases),
        )
        quiet = not settings.log_connections
        return Footing(facts, registry, settings.max_client_conn, self._strangers, name, database, quiet)

    def likeness(self, user: str) -> Likeness:
        return self._lookup.likeness(user)

    def must_ask(self, database: DatabaseConfig | None, user: str) -> bool:
        own = database is not None and database.secrets is not None
        return self._lookup.asks and not own and self._listed(database, user) is None

    async def find_secret(
        self, database: DatabaseConfig | None, attempt: ClientFacts, channel: Channel
    ) -> Secret | None:
        if not self.must_ask(database, attempt.user):
            return self.grounds(database, attempt.user).secret
        found = await self._lookup.secret(database, attempt, channel)
        return self._known_elsewhere(attempt.user) if found is None and database is None else found

    def _listed(self, database: DatabaseConfig | None, user: str) -> Secret | None:
        """Of the database's own users, if it has such, else from auth_file."""
        own = None if database is None else database.secrets
        return (self._running.registry.config.secrets if own is None else own).get(user)

    def _known_elsewhere(self, user: str) -> Secret | None:
        """For the console: by the secrets of a database."""
        own = (entry.secrets for entry in self._running.config.databases.values() if entry.secrets)
        return next((secrets[user] for secrets in own if user in secrets), None)

    def check_room(self, channel: Channel) -> Coroutine[Any, Any, None] | None:
        self._check_clients()
        registry, colleagues = self._running.registry, self._running.colleagues
        most = registry.config.settings.max_client_conn
        if colleagues is not None and registry.clients + colleagues.clients >= most:
            return self._check_all(colleagues, most, channel)
        return self._strangers.check(channel)

    async def _check_all(self, colleagues: Colleagues, most: int, channel: Channel) -> None:
        """Some of the others' may have gone since it was told how many there are."""
        await colleagues.check_room(most)
        if (room := self._strangers.check(channel)) is not None:
            await room

    def _check_clients(self) -> None:
        """max_client_conn is of those who have logged in: strangers, who are bounded by themselves, keep nobody out.
        Those that other workers have are counted when one is let in (Colleagues.admit)."""
        registry = self._running.registry
        if registry.clients >= registry.config.settings.max_client_conn:
            raise LoginError("no more connections allowed (max_client_conn)")

    def check_limits(self, database: DatabaseConfig | None, user: str) -> None:
        registry = self._running.registry
        if database is None:
            limit, clients = registry.config.settings.max_db_client_connections, len(self._running.consoles)
        else:
            limit, clients = self._check_open(database, registry)
        if limit and clients >= limit:
            raise LoginError("client connections exceeded (max_db_client_connections)")
        owner = registry.user(user)
        limit = registry.user_client_limit(owner)
        if limit and owner.clients >= limit:
            raise LoginError("client connections exceeded (max_user_client_connections)")

    def _check_open(self, database: DatabaseConfig, registry: Registry) -> tuple[int, int]:
        """(how many clients it may have, how many it has), unless nobody new comes in at all."""
        if self._running.shutting:
            raise LoginError("pooler is shutting down")
        self._check_clients()
        found = registry.databases.get(database.name)
        if found is None:
            return 0, 0
        if found.disabled:
            raise LoginError(f'database "{database.name}" is disabled')
        return registry.database_client_limit(found), found.clients

    @property
    def wordy(self) -> bool:
        return self._running.log_file.wordy

    def log(self, attempt: ClientFacts, level: str, text: str) -> None:
        self._running.say(level, f"{client_label(attempt)} {text}")
