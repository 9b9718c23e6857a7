"""The values of [databases], [users] and [peers]: connection strings -> DatabaseConfig, UserConfig,
PeerConfig.

Reading is PgBouncer's: `key=value` pairs, values bare or in '...' with '' for a quote, an empty value is a
syntax error, the last of a repeated key counts. What is not given stays None: the pooler takes the global
setting then. The rule: a bad string gives all its reasons (`BadValue`), and no password shows in one.
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from pooler.kinds import (
    BLANKS,
    PORT,
    TEXT,
    TIME,
    Kind,
    LoadBalanceHosts,
    PoolMode,
    integer,
    masked,
    names,
    word,
)
from pooler.values import dataclass
from pooler.wire import encode

RESERVED = "pgbouncer"
"""The admin database: no entry may have its name."""
RESERVED_AUTH_DBNAME = f'cannot use the reserved "{RESERVED}" database as an auth_dbname'
MAX_DBNAME = 64
"""In bytes with the ending NUL, as in PgBouncer."""
MAX_USERNAME = 128
PEER_IDS = range(1, 16384)


class BadValue(Exception):
    """An entry that cannot be used; `reasons` are PgBouncer's sentences where it has them."""

    def __init__(self, *reasons: str) -> None:
        self.reasons = reasons
        super().__init__("; ".join(reasons))


def pairs(text: str) -> list[tuple[str, str]]:
    """The key=value pairs of a connection string. Raises ValueError when it is none."""
    found: list[tuple[str, str]] = []
    at, end = _skip(text, 0), len(text)
    while at < end:
        equals = text.find("=", at)
        key = text[at:equals].rstrip(BLANKS) if equals >= 0 else ""
        if not key or any(c in BLANKS for c in key):
            raise ValueError("key=value is needed")
        value, at = _value(text, _skip(text, equals + 1))
        if not value:
            raise ValueError(f"{key} is empty")
        found.append((key, value))
        at = _skip(text, at)
    return found


def quote(value: str) -> str:
    """`value` as it stands in a connection string."""
    return "'" + value.replace("'", "''") + "'"


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in BLANKS:
        at += 1
    return at


def _value(text: str, at: int) -> tuple[str, int]:
    if text[at : at + 1] != "'":
        start = at
        while at < len(text) and text[at] not in BLANKS:
            at += 1
        return text[start:at], at
    parts = []
    while True:
        close = text.find("'", at + 1)
        if close < 0:
            raise ValueError("a quote is missing")
        parts.append(text[at + 1 : close])
        at = close + 1
        if text[at : at + 1] != "'":
            break
    if at < len(text) and text[at] not in BLANKS:
        raise ValueError("a blank is missing after a quote")
    return "'".join(parts), at


def _optional_int(text: str) -> int | None:
    number = integer(-1).parse(text)
    return None if number < 0 else number


HOSTS: Kind[tuple[str, ...]] = Kind("hosts", names, ",".join, str)
SIZE: Kind[int | None] = Kind("int", _optional_int, str, str)
"""A size or limit; -1 is as good as none, as in PgBouncer."""
REMOTE_PORT = dataclasses.replace(PORT, parse=integer(1, 65535).parse)


@dataclass(frozen=True, slots=True)
class Key:
    """How one key of an entry is read. `complaint` is PgBouncer's sentence for a bad value, before the
    value."""

    kind: Kind[Any]
    complaint: str = ""
    old: tuple[str, ...] = ()
    """Older spellings."""


def _key(
    kind: Kind[Any], default: Any = None, *, complaint: str = "", old: tuple[str, ...] = (), **more: Any
) -> Any:
    return dataclasses.field(default=default, metadata={"key": Key(kind, complaint, old)}, **more)


POOL_MODE = word(PoolMode)


@dataclass(frozen=True, slots=True)
class DatabaseConfig:
    """One entry of [databases]. None: not given, so the global setting or the client's own value holds."""

    name: str
    hosts: tuple[str, ...] = _key(HOSTS, (), old=("host",))
    """Names, addresses, directories of Unix sockets (/dir) and abstract ones (@name); empty: the Unix
    socket."""
    port: int = _key(REMOTE_PORT, 5432, complaint="invalid port")
    dbname: str | None = _key(TEXT)
    """None: the name the client asked for."""
    user: str | None = _key(TEXT)
    """Forced user: all clients share one pool that logs in so."""
    password: str | None = _key(TEXT, repr=False)
    pool_size: int | None = _key(SIZE)
    min_pool_size: int | None = _key(SIZE)
    reserve_pool_size: int | None = _key(SIZE, old=("reserve_pool",))
    pool_mode: PoolMode | None = _key(POOL_MODE, complaint="invalid pool mode")
    max_db_connections: int | None = _key(SIZE)
    max_db_client_connections: int | None = _key(SIZE)
    connect_query: str | None = _key(TEXT)
    auth_user: str | None = _key(TEXT)
    auth_query: str | None = _key(TEXT)
    auth_dbname: str | None = _key(TEXT)
    application_name: str | None = _key(TEXT)
    client_encoding: str | None = _key(TEXT)
    datestyle: str | None = _key(TEXT)
    timezone: str | None = _key(TEXT)
    server_lifetime: float | None = _key(TIME)
    load_balance_hosts: LoadBalanceHosts | None = _key(
        word(LoadBalanceHosts), complaint="invalid load_balance_hosts"
    )
    query_wait_timeout: float | None = _key(TIME)
    auto: bool = False
    """Made from the `*` entry for a client's database."""

    @property
    def host(self) -> str | None:
        """The hosts as SHOW DATABASES has them."""
        return ",".join(self.hosts) or None


@dataclass(frozen=True, slots=True)
class UserConfig:
    """One entry of [users]. None: not given, so the database's or the global setting holds."""

    name: str
    pool_size: int | None = _key(SIZE)
    reserve_pool_size: int | None = _key(SIZE)
    pool_mode: PoolMode | None = _key(POOL_MODE, complaint="invalid pool mode")
    max_user_connections: int | None = _key(SIZE)
    max_user_client_connections: int | None = _key(SIZE)
    query_timeout: float | None = _key(TIME)
    query_wait_timeout: float | None = _key(TIME)
    idle_transaction_timeout: float | None = _key(TIME)
    transaction_timeout: float | None = _key(TIME)
    client_idle_timeout: float | None = _key(TIME)


@dataclass(frozen=True, slots=True)
class PeerConfig:
    """One entry of [peers]: where the process with this peer_id takes cancel requests."""

    peer_id: int
    host: str = _key(TEXT, "")
    port: int = _key(REMOTE_PORT, 6432, complaint="invalid port")
    pool_size: int | None = _key(SIZE)


C = TypeVar("C", DatabaseConfig, UserConfig, PeerConfig)


def _keys(config: type[Any]) -> dict[str, tuple[str, Key]]:
    table: dict[str, tuple[str, Key]] = {}
    for field in dataclasses.fields(config):
        if "key" in field.metadata:
            key: Key = field.metadata["key"]
            spellings = (*key.old, field.name) if field.name != "hosts" else key.old
            table.update((spelling, (field.name, key)) for spelling in spellings)
    return table


KEYS = {config: _keys(config) for config in (DatabaseConfig, UserConfig, PeerConfig)}


def database(name: str, text: str) -> DatabaseConfig:
    """The entry `name = text` of [databases]. Raises BadValue."""
    if name == RESERVED:
        raise BadValue(f'database name "{name}" is reserved')
    if len(encode(name)) >= MAX_DBNAME:
        raise BadValue(f"too long db name: {name}")
    entry = _entry(DatabaseConfig(name), text, "connection")
    if entry.auth_dbname == RESERVED:
        raise BadValue(RESERVED_AUTH_DBNAME)
    return entry


def user(name: str, text: str) -> UserConfig:
    """The entry `name = text` of [users]. Raises BadValue."""
    if len(encode(name)) >= MAX_USERNAME:
        raise BadValue(f"too long user name: {name}")
    return _entry(UserConfig(name), text, "user")


def peer(name: str, text: str) -> PeerConfig:
    """The entry `name = text` of [peers]. Raises BadValue."""
    if not name.isascii() or not name.isdigit() or len(name) > 9 or int(name) not in PEER_IDS:
        raise BadValue("ids of peers must be a number larger than 0 and at most 16383")
    entry = _entry(PeerConfig(int(name)), text, "peer")
    if not entry.host:
        raise BadValue(f"host was not provided for peer {entry.peer_id}")
    return entry


def _entry(blank: C, text: str, what: str) -> C:
    try:
        given = pairs(text)
    except ValueError:
        raise BadValue(
            "syntax error in user settings" if what == "user" else "syntax error in connection string"
        ) from None
    keys, values, reasons = KEYS[type(blank)], {}, []
    for name, value in given:
        if name not in keys:
            reasons.append(f"unrecognized {what} parameter: {masked(name)}")
            continue
        field, key = keys[name]
        try:
            values[field] = key.kind.parse(value)
        except ValueError as error:
            reasons.append(
                f"{key.complaint}: {value}" if key.complaint else f"invalid {name}: {value} ({error})"
            )
    if reasons:
        raise BadValue(*reasons)
    return dataclasses.replace(blank, **values)
