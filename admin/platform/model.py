"""The control plane's nouns: apps, releases, add-ons with their credentials, attachments, log drains, tokens.

Plain frozen values as read from the state; nothing here reads, writes or decides. Times are whole Unix
seconds. An attachment's namespace says which URL it stands for: None the database's own,
`connection-pooling:default` the pooled one, `credential:x` that of another credential, `connection-pooling:x`
the pooled one of another credential, `connection-pooling:x:y` the same in a pool of its own named y.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from admin.platform.plans import Plan, plan_named
from admin.platform.urls import DatabaseUrl

DEFAULT = "default"
POOLING = "connection-pooling"
POOLING_DEFAULT = f"{POOLING}:{DEFAULT}"
CREDENTIAL = "credential"


@dataclass(frozen=True, slots=True)
class App:
    id: str
    name: str
    created_at: int
    updated_at: int


@dataclass(frozen=True, slots=True)
class Release:
    """One change of an app's config. `version` counts from 1 within the app."""

    id: str
    app_id: str
    version: int
    description: str
    user: str
    created_at: int


@dataclass(frozen=True, slots=True)
class Credential:
    """A role of a database, and the name under which it is attached."""

    addon_id: str
    name: str
    user: str
    password: str = field(repr=False)
    created_at: int = 0


@dataclass(frozen=True, slots=True)
class Addon:
    """A database. `following` is the add-on id of its leader; `pool_host` and `pool_port` are None for "the
    same host, port + 1". `exposed` is the name under which the pooler serves it: dbname, or the add-on's name
    where two would share one address."""

    id: str
    name: str
    plan_name: str
    connection_limit: int
    app_id: str
    app_name: str
    host: str
    port: int
    dbname: str
    options: str = field(repr=False)
    following: str | None
    pool_host: str | None
    pool_port: int | None
    exposed: str
    created_at: int

    @property
    def plan(self) -> Plan:
        return plan_named(self.plan_name)

    @property
    def server_limit(self) -> int:
        """Server connections that all pools of this database may use together: three quarters of its limit,
        at least one."""
        return max(1, self.connection_limit * 3 // 4)

    def exposed_as(self, pool: str | None) -> str:
        """The name under which the pooler serves this pool of it; None: the default one."""
        return self.exposed if pool is None else f"{self.exposed}.{pool}"

    def served_as(self, pool: str | None) -> str:
        """The pooler's own name for this pool of it, which nothing else has."""
        return self.name if pool is None else f"{self.name}.{pool}"

    @property
    def pool_address(self) -> tuple[str, int]:
        return self.pool_host or self.host, self.pool_port or self.port + 1


@dataclass(frozen=True, slots=True)
class Attachment:
    """A name under which an app holds a database. With its add-on's and app's names, since nobody wants one
    without them."""

    id: str
    name: str
    app_id: str
    app_name: str
    addon_id: str
    namespace: str | None
    created_at: int
    updated_at: int

    @property
    def credential(self) -> str:
        """The credential whose user and password this attachment's URL carries."""
        return credential_of(self.namespace)

    @property
    def pooling(self) -> bool:
        return self.namespace is not None and self.namespace.startswith(f"{POOLING}:")

    @property
    def pool(self) -> str | None:
        """The named pool that it stands for; None: the default one, or none at all."""
        return named_pool(self.namespace)


@dataclass(frozen=True, slots=True)
class NamedPool:
    """A pool of its own of a database: `size` server connections of its `server_limit`, which the default pool does
    without. It is there as long as an attachment names it. `mode`: session or transaction."""

    addon_id: str
    name: str
    mode: str
    size: int


def credential_of(namespace: str | None) -> str:
    return DEFAULT if namespace is None else namespace.split(":")[1]


def named_pool(namespace: str | None) -> str | None:
    return None if namespace is None else (*namespace.split(":"), "", "")[2] or None


@dataclass(frozen=True, slots=True)
class LogDrain:
    """Where an app's log lines go. The URL may hold a password; `token` is what to call the drain without it."""

    id: str
    app_id: str
    url: str = field(repr=False)
    token: str
    created_at: int


@dataclass(frozen=True, slots=True)
class Token:
    """An authorization. `apps` are the ids of the apps it reaches; None reaches all. The secret itself is
    never kept."""

    id: str
    description: str
    apps: frozenset[str] | None
    created_at: int


def direct_url(addon: Addon, credential: Credential) -> DatabaseUrl:
    from urllib.parse import parse_qsl

    options = tuple(parse_qsl(addon.options, keep_blank_values=True))
    return DatabaseUrl(credential.user, credential.password, addon.host, addon.port, addon.dbname, options)


def pooled_url(addon: Addon, credential: Credential, pool: str | None = None) -> DatabaseUrl:
    """Same user and password at the pooler's address; never a query string, since clients append their
    own."""
    host, port = addon.pool_address
    return DatabaseUrl(credential.user, credential.password, host, port, addon.exposed_as(pool))


def url_vars(attachment: Attachment, addon: Addon, credential: Credential) -> dict[str, str]:
    """The config vars that an attachment sets. One of another credential sets two where the plan pools: the
    direct URL as Heroku does, and beside it `NAME_CONNECTION_POOL_URL`."""
    if attachment.pooling:
        return {f"{attachment.name}_URL": pooled_url(addon, credential, attachment.pool).text()}
    found = {f"{attachment.name}_URL": direct_url(addon, credential).text()}
    if attachment.namespace is not None and addon.plan.pooling:
        found[f"{attachment.name}_CONNECTION_POOL_URL"] = pooled_url(addon, credential).text()
    return found


def opens_pool(attachment: Attachment, addon: Addon) -> bool:
    """Whether this attachment keeps a pool open on the pooler."""
    return addon.plan.pooling and attachment.namespace is not None
