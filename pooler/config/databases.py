"""The values of [databases], [users] and [peers]: connection strings -> DatabaseConfig, UserConfig,
PeerConfig.

Reading is PgBouncer's: `key=value` pairs, values bare or in '...' with '' for a quote, an empty value is a
syntax error, the last of a repeated key counts. What is not given stays None: the pooler takes the global
setting then. The rule: a bad string gives all its reasons (`BadValue`), and no password shows in one.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from pooler.config.kinds import (
    BLANKS,
    TEXT,
    Kind,
    LoadBalanceHosts,
    PoolMode,
    atoi,
    entry_number,
    masked,
    names,
    understood,
    word,
)
from pooler.config.policy import POLICY, Policy
from pooler.config.users import MAX_USERNAME, Secret
from pooler.hints import did_you_mean
from pooler.stats import ADMIN_DATABASE
from pooler.values import dataclass
from pooler.wire import encode

NEVER = -1.0
"""A time that does not come, where a setting of the same name would say 0."""
RESERVED = ADMIN_DATABASE
"""No entry may have its name."""
RESERVED_AUTH_DBNAME = f'cannot use the reserved "{RESERVED}" database as an auth_dbname'
MAX_DBNAME = 64
"""In bytes with the ending NUL, as in PgBouncer."""
PEER_IDS = range(1, 65536)


class BadValue(Exception):
    """An entry that cannot be used; `reasons` are PgBouncer's sentences where it has them, `why` says more of one,
    `unknown` tells that there are keys in it that are none."""

    def __init__(self, *reasons: str, why: Mapping[str, str] | None = None, unknown: bool = False) -> None:
        self.reasons = reasons
        self.why = why or {}
        self.unknown = unknown
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


def _port(number: int) -> int:
    if not number:
        raise ValueError("must not be 0")
    return number


def _reads_port(text: str) -> str:
    number = atoi(text)
    tcp = number & 0xFFFF
    return f"{tcp} over TCP" if tcp != number else "" if text.lstrip("+0") == str(number) else str(number)


def _told(value: float | None) -> str:
    return "not set" if value is None else "never" if value < 0 else f"{value:g}"


HOSTS: Kind[tuple[str, ...]] = Kind("hosts", names, ",".join, str)
SIZE: Kind[int | None] = entry_number(lambda n: None if n < 0 else n, told=_told)
"""Of a pool. 0 is no limit, or none at all; the next level holds where it is not given or negative."""
LIMIT: Kind[int | None] = entry_number(lambda n: n if n > 0 else None, told=_told)
"""0 is as good as not given."""
TIMEOUT: Kind[float | None] = entry_number(lambda n: float(n) if n > 0 else None if n == 0 else NEVER, told=_told)
"""0 is as good as not given, a negative one is never."""
PATIENCE: Kind[float | None] = entry_number(lambda n: float(n) if n > 0 else NEVER, told=_told)
"""0 is never."""
REMOTE_PORT: Kind[int] = dataclasses.replace(entry_number(_port), reads=_reads_port)
"""May be more than 16 bits, of which TCP uses the lower ones: see `dial.tcp_port`."""


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


class Alias(NamedTuple):
    """Clients who come by this port know the database by this name."""

    port: int
    name: str


class OwnTls(NamedTuple):
    """How the servers of one database are spoken to, whatever the settings say of the others'. `mode` is a text as of
    server_tls_sslmode: one that is none is a matter of this database alone."""

    mode: str
    ca_file: str = ""


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
    max_db_connections: int | None = _key(LIMIT)
    max_db_client_connections: int | None = _key(LIMIT)
    connect_query: str | None = _key(TEXT)
    auth_user: str | None = _key(TEXT)
    auth_query: str | None = _key(TEXT)
    auth_dbname: str | None = _key(TEXT)
    application_name: str | None = _key(TEXT)
    client_encoding: str | None = _key(TEXT)
    datestyle: str | None = _key(TEXT)
    timezone: str | None = _key(TEXT)
    server_lifetime: float | None = _key(TIMEOUT)
    load_balance_hosts: LoadBalanceHosts | None = _key(
        word(LoadBalanceHosts), complaint="invalid load_balance_hosts"
    )
    query_wait_timeout: float | None = _key(PATIENCE)
    session_state: Policy | None = _key(POLICY)
    auto: bool = False
    """Made from the `*` entry for a client's database."""
    secrets: Mapping[str, Secret] | None = dataclasses.field(default=None, repr=False)
    """Its own users, beside whom it has no others; None: those of auth_file and auth_query."""
    tls: OwnTls | None = None
    """None: as server_tls_* say."""
    alias: Alias | None = None
    """None: it goes by its name, wherever the pooler's own databases do."""

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
    max_user_connections: int | None = _key(LIMIT)
    max_user_client_connections: int | None = _key(LIMIT)
    query_timeout: float | None = _key(TIMEOUT)
    query_wait_timeout: float | None = _key(PATIENCE)
    idle_transaction_timeout: float | None = _key(TIMEOUT)
    transaction_timeout: float | None = _key(TIMEOUT)
    client_idle_timeout: float | None = _key(TIMEOUT)
    session_state: Policy | None = _key(POLICY)


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


FORM = "key=value pairs are needed; a value with blanks stands in '...', with '' for a quote in it"
_ANY_KEY = re.compile(r"(?<![^\s='\"])([^\s='\"]++)\s*+=")


def shown(text: str) -> str:
    """A connection string fit for a log: cut where a password may begin, even a misspelt one."""
    known = {name for table in KEYS.values() for name in table}
    for found in _ANY_KEY.finditer(text):
        if found[1] not in known:
            return masked(text[: found.end()] + "****")
    return masked(text)


Note = Callable[[str], None]
"""Called with a sentence about what is understood otherwise than it may be meant."""


def _ignored(sentence: str) -> None:
    """For who only wants the entry."""


def database(name: str, text: str, note: Note = _ignored) -> DatabaseConfig:
    """The entry `name = text` of [databases]. Raises BadValue."""
    if name == RESERVED:
        raise BadValue(f'database name "{name}" is reserved')
    if len(encode(name)) >= MAX_DBNAME:
        raise BadValue(f"too long db name: {name}")
    entry = _entry(DatabaseConfig(name), text, "connection", note)
    if entry.auth_dbname == RESERVED:
        note(f"{RESERVED_AUTH_DBNAME}: users of {name} who are not in auth_file cannot log in")
    return entry


def user(name: str, text: str, note: Note = _ignored) -> UserConfig:
    """The entry `name = text` of [users]. Raises BadValue."""
    if len(encode(name)) >= MAX_USERNAME:
        raise BadValue(f"too long user name: {name}")
    return _entry(UserConfig(name), text, "user", note)


def peer(name: str, text: str, note: Note = _ignored) -> PeerConfig:
    """The entry `name = text` of [peers]. Raises BadValue."""
    if not name.isascii() or not name.isdigit() or len(name) > 9 or int(name) not in PEER_IDS:
        raise BadValue("ids of peers must be a number larger than 0 and at most 65535")
    entry = _entry(PeerConfig(int(name)), text, "peer", note)
    if not entry.host:
        raise BadValue(f"host was not provided for peer {entry.peer_id}")
    return entry


def _entry(blank: C, text: str, what: str, note: Note) -> C:
    try:
        given = pairs(text)
    except ValueError:
        reason = "syntax error in user settings" if what == "user" else "syntax error in connection string"
        raise BadValue(reason, why={reason: FORM}) from None
    behind_password = False
    keys, values, reasons, why = KEYS[type(blank)], {}, list[str](), dict[str, str]()
    for name, value in given:
        if name not in keys:
            meant = did_you_mean(name, keys)
            # Behind a password, what looks like no key may be the rest of it.
            told = masked(name) if meant or not behind_password else "****"
            behind_password = behind_password or "password" in meant
            reasons.append(f"unrecognized {what} parameter: {told}")
            why[reasons[-1]] = meant
            continue
        behind_password = behind_password or name == "password"
        field, key = keys[name]
        if field in values:
            note(f"{name} is there twice: the last one counts")
        try:
            values[field] = key.kind.parse(value)
            if reads := key.kind.reads(value):
                note(understood(name, value, reads))
        except ValueError as error:
            reasons.append(
                f"{key.complaint}: {masked(value)}" if key.complaint else f"invalid {name}: {masked(value)} ({error})"
            )
    if reasons:
        raise BadValue(*reasons, why=why, unknown=bool(why))
    return dataclasses.replace(blank, **values)
