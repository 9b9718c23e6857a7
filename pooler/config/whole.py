"""Config: all that a configuration says, as one frozen value; made by `load`, `parse` or `compose`.

Nothing is acted upon here and nothing is logged. The rule: a configuration is whole or not at all. Every
problem is found and listed (`ConfigError.problems`); what PgBouncer only logs (an auth_file it cannot read, a
bad HBA line) comes as `Config.warnings`. A RELOAD is `changes(old, new)`, a SET is `with_setting`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import field
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from pooler.config import databases as entries
from pooler.config import ini
from pooler.config.databases import (
    KEYS,
    MAX_DBNAME,
    RESERVED,
    RESERVED_AUTH_DBNAME,
    BadValue,
    DatabaseConfig,
    PeerConfig,
    UserConfig,
)
from pooler.config.hba import Hba, load_hba
from pooler.config.ini import ConfigError, Entry, Ini, Problem, Section
from pooler.config.kinds import AuthType, LoadBalanceHosts, PoolMode, Setting, SslMode, SyslogFacility, masked
from pooler.config.policy import Policy
from pooler.config.settings import OWN, SETTINGS, OwnSettings, Settings
from pooler.config.users import Secret, Users, load_users
from pooler.hints import did_you_mean
from pooler.values import dataclass
from pooler.wire import encode

__all__ = [
    "OWN",
    "SETTINGS",
    "Added",
    "AuthType",
    "BadValue",
    "Changes",
    "Config",
    "ConfigError",
    "ConfigRow",
    "DatabaseConfig",
    "Examined",
    "Hba",
    "LoadBalanceHosts",
    "OwnSettings",
    "PeerConfig",
    "PoolMode",
    "Problem",
    "Secret",
    "Setting",
    "Settings",
    "SslMode",
    "SyslogFacility",
    "UserConfig",
    "changes",
    "compose",
    "config_rows",
    "defaults",
    "every_row",
    "examine",
    "leads_elsewhere",
    "load",
    "own_rows",
    "parse",
    "shut_out",
    "tls_problems",
    "with_setting",
    "with_users",
]

K = TypeVar("K")
V = TypeVar("V")


def _frozen(mapping: Mapping[K, V] | None = None) -> Mapping[K, V]:
    return MappingProxyType(dict(mapping or {}))


@dataclass(frozen=True, slots=True)
class Config:
    """A whole configuration. Mappings cannot be written to."""

    settings: Settings = field(default_factory=Settings)
    own: OwnSettings = field(default_factory=OwnSettings)
    databases: Mapping[str, DatabaseConfig] = field(default_factory=_frozen)
    fallback: DatabaseConfig | None = None
    """The `*` entry."""
    users: Mapping[str, UserConfig] = field(default_factory=_frozen)
    peers: Mapping[int, PeerConfig] = field(default_factory=_frozen)
    secrets: Mapping[str, Secret] = field(default_factory=_frozen, repr=False)
    """Of the auth_file, by user."""
    hba: Hba = field(default_factory=Hba)
    path: str | None = None
    """The ini file; None without one."""
    texts: Mapping[str, str] = field(default_factory=_frozen, repr=False)
    """The settings of [pgbouncer] that were given, as they were written."""
    warnings: tuple[Problem, ...] = ()
    """What is to be logged, and stops nothing."""

    def session_policy(self, database: str, user: str) -> Policy:
        """What becomes of session state there."""
        entry, found = self.users.get(user), self.find_database(database)
        own = entry.session_state if entry else None
        return own or (found.session_state if found else None) or self.own.session_state

    def find_database(self, name: str) -> DatabaseConfig | None:
        """The entry for the database a client asks for; one made of `*` when it has none of its own and might have."""
        found = self.databases.get(name)
        if found is None and self.fallback is not None and name != RESERVED and len(encode(name)) < MAX_DBNAME:
            return dataclasses.replace(self.fallback, name=name, auto=True)
        return found


def defaults() -> Config:
    """PgBouncer's defaults, with no database."""
    return Config()


def load(path: str, old: Config | None = None) -> Config:
    """The configuration in the file at `path`. `old` is what a RELOAD replaces: its users stay when the
    auth_file cannot be read, and databases that are the same are the very objects. Raises ConfigError."""
    new = _build(ini.read(path), path, old)
    if old is None:
        return new
    kept = ((old.databases.get(name), entry) for name, entry in new.databases.items())
    same = [before if before == entry else entry for before, entry in kept]
    return dataclasses.replace(new, databases=_frozen(dict(zip(new.databases, same, strict=True))))


class Examined(NamedTuple):
    """All that can be said of a configuration. `problems` stop a start; `config` is what there would be without
    them."""

    config: Config
    problems: tuple[Problem, ...]


def examine(path: str) -> Examined:
    """What is wrong with the configuration in the file at `path`, and in the files that it names, all at once."""
    draft = _drafted(ini.read(path), path)
    problems, draft.problems = draft.problems, []
    return Examined(_with_files(draft.finish(path), None), tuple(problems))


def parse(text: str, file: str = "") -> Config:
    """The configuration in the text of an ini file; `file` is the name that problems carry. Raises
    ConfigError."""
    return _build(ini.parse(text, file), None, None)


def compose(
    settings: Mapping[str, str] | None = None,
    databases: Iterable[DatabaseConfig] = (),
    *,
    own: Mapping[str, str] | None = None,
    users: Iterable[UserConfig] = (),
    secrets: Iterable[Secret] = (),
) -> Config:
    """A configuration without a file: settings as texts, checked as those of a file are. A database named `*`
    is the fallback. Raises ConfigError."""
    draft = _Draft()
    for name, given in (("pgbouncer", settings), ("pooler", own)):
        draft.take(Section(name, "", 0))
        for key, value in (given or {}).items():
            draft.take(Entry(key, value, "", 0))
    for database in databases:
        if database.name == RESERVED:
            draft.problems.append(Problem("", 0, f'database name "{RESERVED}" is reserved'))
        draft.databases[database.name] = database
    draft.users.update((user.name, user) for user in users)
    config = draft.finish(None)
    return _with_files(dataclasses.replace(config, secrets=_frozen({s.user: s for s in secrets})), None)


def _build(source: Ini, path: str | None, old: Config | None) -> Config:
    return _with_files(_drafted(source, path).finish(path), old)


def _drafted(source: Ini, path: str | None) -> _Draft:
    draft = _Draft()
    for item in source.items:
        draft.take(item)
    if not draft.has_main and not source.problems:
        draft.problems.append(Problem(path or "", 0, "load_init_file: main section missing from config file"))
    draft.problems = source.problems + draft.problems
    if path is not None:
        draft.texts.setdefault("conffile", path)
    return draft


class _Draft:
    """A configuration being read, item by item."""

    def __init__(self) -> None:
        self.section = ""
        self.has_main = False
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []
        self.texts: dict[str, str] = {}
        self.values: dict[str, Any] = {}
        self.own: dict[str, Any] = {}
        self.databases: dict[str, DatabaseConfig] = {}
        self.users: dict[str, UserConfig] = {}
        self.peers: dict[int, PeerConfig] = {}
        self._seen: dict[tuple[str, str], Entry] = {}
        """What was set last, by section and key."""
        self._readers: dict[str, Callable[[Entry], None]] = {
            "pgbouncer": self._setting,
            "databases": self._database,
            "users": self._user,
            "peers": self._peer,
            "pooler": self._own,
        }

    def take(self, item: Section | Entry) -> None:
        if isinstance(item, Section):
            self._begin(item)
        elif not self.section:
            reason = f"load_init_file: value without section: {item.key}"
            self.problems.append(_bad(item, reason))
        elif self.section in self._readers:
            self._again(item)
            self._readers[self.section](item)

    def _again(self, entry: Entry) -> None:
        """Two lines of one file that say the same thing differently. That of an including file over that of an
        included one is what %include is for."""
        before, self._seen[self.section, entry.key] = self._seen.get((self.section, entry.key)), entry
        if before is not None and before.file == entry.file and before.line:
            self._note(entry, f"{entry.key} is there twice: this line counts, and not line {before.line}")

    def _begin(self, section: Section) -> None:
        self.section = section.name or " "
        if section.name not in self._readers:
            message = f'invalid section "{section.name}" in configuration'
            why = did_you_mean(section.name, self._readers)
            self.problems.append(Problem(section.file, section.line, message, why=why))
        elif section.name == "pgbouncer":
            if self.has_main:
                self._start_over(section)
            self.has_main = True

    def _start_over(self, section: Section) -> None:
        """PgBouncer fills in the defaults whenever [pgbouncer] begins: what was set before is lost, except
        where the default is nothing at all."""
        lost = sorted(key for key in self.texts if SETTINGS[key].default is not None)
        for key in lost:
            del self.texts[key]
            self.values.pop(key, None)
            self._seen.pop((section.name, key), None)
        if lost:
            message = f"section [pgbouncer] begins again, back to their defaults: {', '.join(lost)}"
            self.warnings.append(Problem(section.file, section.line, message, level="WARNING"))

    def _setting(self, entry: Entry) -> None:
        value = self._value(SETTINGS, entry)
        if entry.key == "auth_dbname" and value == RESERVED:
            self.problems.append(_bad(entry, RESERVED_AUTH_DBNAME))
        elif value is not None:
            self.values[entry.key], self.texts[entry.key] = value, entry.value

    def _own(self, entry: Entry) -> None:
        value = self._value(OWN, entry)
        if value is not None or entry.key in OWN:
            self.own[entry.key] = value

    def _value(self, table: Mapping[str, Setting], entry: Entry) -> Any:
        row = table.get(entry.key)
        if row is None:
            self.problems.append(_unknown(entry, self.section))
            return None
        try:
            value = row.kind.parse(entry.value)
        except ValueError as error:
            self.problems.append(_bad(entry, "", str(error)))
            return None
        if remark := row.remark(entry.value):
            self._note(entry, remark)
        return value

    def _note(self, entry: Entry, sentence: str) -> None:
        """It stops nothing, but may be meant otherwise."""
        self.warnings.append(Problem(entry.file, entry.line, sentence, level="WARNING"))

    def _database(self, entry: Entry) -> None:
        found = self._entry(entry, entries.database)
        if found is not None:
            self.databases[found.name] = found

    def _user(self, entry: Entry) -> None:
        found = self._entry(entry, entries.user)
        if found is not None:
            self.users[found.name] = found

    def _peer(self, entry: Entry) -> None:
        found = self._entry(entry, entries.peer)
        if found is not None:
            self.peers[found.peer_id] = found

    def _entry(self, entry: Entry, read: Callable[[str, str, entries.Note], V]) -> V | None:
        try:
            return read(entry.key, entry.value, lambda sentence: self._note(entry, f"{entry.key}: {sentence}"))
        except BadValue as error:
            self.problems += _bad_entry(entry, error)
            return None

    def finish(self, path: str | None) -> Config:
        """The configuration without its files. Raises ConfigError with all problems."""
        if "conffile" in self.texts:
            self.values["conffile"] = self.texts["conffile"]
        if self.problems:
            raise ConfigError(self.problems)
        return Config(
            settings=dataclasses.replace(Settings(), **self.values),
            own=dataclasses.replace(OwnSettings(), **self.own),
            databases=_frozen({name: db for name, db in self.databases.items() if name != "*"}),
            fallback=self.databases.get("*"),
            users=_frozen(self.users),
            peers=_frozen(self.peers),
            path=path,
            texts=_frozen(self.texts),
            warnings=tuple(self.warnings),
        )


def _bad(entry: Entry, message: str, why: str = "") -> Problem:
    return Problem(entry.file, entry.line, message, entry.key, masked(entry.value), why=why)


def _bad_entry(entry: Entry, error: BadValue) -> list[Problem]:
    """Of [databases], [users] or [peers]. Where a key is not known it is the key that is wrong, and not the value: what
    stands behind it may be a misspelt password."""
    if error.unknown:
        return [Problem(entry.file, entry.line, reason, why=error.why.get(reason, "")) for reason in error.reasons]
    *others, last = error.reasons
    found = [Problem(entry.file, entry.line, reason, why=error.why.get(reason, "")) for reason in others]
    shown = entries.shown(entry.value)
    return [*found, Problem(entry.file, entry.line, last, entry.key, shown, why=error.why.get(last, ""))]


def _unknown(entry: Entry, section: str) -> Problem:
    """There is no such setting in this section."""
    return Problem(entry.file, entry.line, f"unknown parameter: {section}/{entry.key}", why=_meant(entry.key, section))


HOMES = {"[databases]": KEYS[DatabaseConfig], "[users]": KEYS[UserConfig], "[peers]": KEYS[PeerConfig]}


def _meant(key: str, section: str) -> str:
    """Where a setting that is unknown here belongs, or what it may have been meant for."""
    here, there, elsewhere = (SETTINGS, OWN, "[pooler]") if section == "pgbouncer" else (OWN, SETTINGS, "[pgbouncer]")
    if key in there:
        return f"it belongs in {elsewhere}"
    if homes := [name for name, keys in HOMES.items() if key in keys]:
        common = f", and what holds for all of them is {COMMON[key]}" if key in COMMON else ""
        return f"it belongs to an entry of {' or '.join(homes)}{common}"
    if hint := did_you_mean(key, here):
        return hint
    return f"{hint.removesuffix('?')} of {elsewhere}?" if (hint := did_you_mean(key, there)) else ""


COMMON = {"pool_size": "default_pool_size", "reserve_pool": "reserve_pool_size", "user": "auth_user"}
"""What holds for those entries that say nothing of a key, where it has another name."""


def _with_files(config: Config, old: Config | None) -> Config:
    """`config` with the users and rules of the files it names. PAM needs no auth_file."""
    settings = config.settings
    if settings.auth_file and settings.auth_type is not AuthType.pam:
        config = with_users(config, load_users(settings.auth_file), old)
    if settings.auth_type is AuthType.hba:
        found = load_hba(settings.auth_hba_file, settings.auth_ident_file)
        hba = found if found.readable or old is None else old.hba
        config = dataclasses.replace(config, hba=hba, warnings=config.warnings + found.problems)
    return config


BY_SECRET = (AuthType.trust, AuthType.plain, AuthType.md5, AuthType.scram_sha_256)
"""How only those log in who are known from auth_file or auth_query."""


def shut_out(config: Config) -> str:
    """Why no client of a pool can ever log in; empty when some may."""
    settings, databases = config.settings, [*config.databases.values(), *([config.fallback] if config.fallback else [])]
    asks = settings.auth_user or any(database.auth_user for database in databases)
    if settings.auth_type not in BY_SECRET or config.secrets or asks:
        return ""
    where = f"auth_file {settings.auth_file} names nobody" if settings.auth_file else "there is no auth_file"
    return f"no client can log in: auth_type is {settings.auth_type}, {where}, and there is no auth_user"


def with_users(config: Config, users: Users, old: Config | None = None) -> Config:
    """`config` with what its auth_file says now; one that cannot be read leaves the users as they were in
    `old`."""
    secrets = users.secrets if users.readable else (old or config).secrets
    return dataclasses.replace(config, secrets=_frozen(secrets), warnings=config.warnings + users.problems)


class ConfigRow(NamedTuple):
    """A row of SHOW CONFIG; None travels as NULL."""

    key: str
    value: str | None
    default: str | None
    changeable: str


def config_rows(config: Config) -> tuple[ConfigRow, ...]:
    """SHOW CONFIG: what PgBouncer 1.26 lists, by key."""
    listed = (row for row in SETTINGS.values() if not row.hidden)
    return tuple(_config_row(row, config.settings, config.texts.get(row.key, row.default)) for row in listed)


def own_rows(config: Config) -> tuple[ConfigRow, ...]:
    """The settings of [pooler] in the same way."""
    return tuple(_config_row(row, config.own, row.default) for row in OWN.values())


def every_row(config: Config) -> Iterator[tuple[str, ConfigRow]]:
    """Both of them, each row with its section's name."""
    for section, rows in (("pgbouncer", config_rows(config)), ("pooler", own_rows(config))):
        yield from ((section, row) for row in rows)


def _config_row(row: Setting, settings: object, text: str | None) -> ConfigRow:
    value = getattr(settings, row.key)
    if text is not None and row.kind.parse(text) == value:
        shows: str | None = row.kind.normal(text)
    else:
        shows = None if value is None else row.kind.show(value)
    if row.secret and shows:
        shows = masked(shows)
    return ConfigRow(row.key, shows, row.default, "yes" if row.live else "no")


def with_setting(config: Config, key: str, value: str) -> Config:
    """`config` after SET key = value, of [pgbouncer] or of [pooler]. Raises ConfigError when there is
    no such setting, it needs a restart, or the value is bad."""
    row = SETTINGS.get(key) or OWN.get(key)
    if row is None:
        raise ConfigError([Problem("", 0, f"unknown parameter: pgbouncer/{key}", why=_meant(key, "pgbouncer"))])
    if not row.live:
        raise ConfigError([Problem("", 0, f"{key} cannot be changed without a restart")])
    try:
        parsed = row.kind.parse(value)
    except ValueError as error:
        raise ConfigError([Problem("", 0, "", key, masked(value), why=str(error))]) from None
    if key == "auth_dbname" and value == RESERVED:
        raise ConfigError([Problem("", 0, RESERVED_AUTH_DBNAME)])
    remark = row.remark(value)
    warnings = (Problem("", 0, remark, level="WARNING"),) if remark else ()
    if key in OWN:
        own = dataclasses.replace(config.own, **{key: parsed})
        return dataclasses.replace(config, own=own, warnings=warnings)
    changed = dataclasses.replace(
        config,
        settings=dataclasses.replace(config.settings, **{key: parsed}),
        texts=_frozen({**config.texts, key: value}),
        warnings=warnings,
    )
    return _with_files(changed, config) if key.startswith("auth_") else changed


@dataclass(frozen=True, slots=True)
class Added:
    """What is in force beside whatever is written, through each RELOAD and SET."""

    databases: Mapping[str, DatabaseConfig] = field(default_factory=_frozen)
    stats_users: frozenset[str] = frozenset()

    def to(self, written: Config) -> Config:
        """The configuration with this in it."""
        if not self.databases:
            return written
        settings = written.settings
        users = self.stats_users - {*settings.stats_users, *settings.admin_users}
        stats = (*settings.stats_users, *sorted(users))
        return dataclasses.replace(
            written,
            databases=_frozen({**written.databases, **self.databases}),
            settings=dataclasses.replace(settings, stats_users=stats),
        )


@dataclass(frozen=True, slots=True)
class Changes:
    """What a RELOAD changes. `config` is the new configuration with what needs a restart left as it was."""

    config: Config
    settings: frozenset[str] = frozenset()
    """Live settings of [pgbouncer] with another value."""
    own: frozenset[str] = frozenset()
    """Live settings of [pooler] with another value."""
    added: frozenset[str] = frozenset()
    """Databases; `*` stands for the fallback."""
    changed: frozenset[str] = frozenset()
    removed: frozenset[str] = frozenset()
    users: frozenset[str] = frozenset()
    """Entries of [users] that came, went or changed."""
    secrets: frozenset[str] = frozenset()
    """Users of the auth_file whose secret came, went or changed."""
    peers: frozenset[int] = frozenset()
    hba: bool = False
    restart: frozenset[str] = frozenset()
    """Settings whose new value waits for a restart."""
    warnings: tuple[str, ...] = ()
    """A sentence for each of `restart`."""


def changes(old: Config, new: Config, kept: frozenset[str] = frozenset()) -> Changes:
    """What differs between the running configuration and a new one. Settings of [pgbouncer] in `kept` stay as they
    were: the new value cannot be had."""
    settings, restart = _split(SETTINGS, old.settings, new.settings)
    settings, kept = settings - kept, restart | kept
    own, own_kept = _split(OWN, old.own, new.own)
    before, after = _with_fallback(old), _with_fallback(new)
    added, removed = frozenset(after.keys() - before.keys()), frozenset(before.keys() - after.keys())
    changed = _differing(before, after) - added - removed
    texts = {key: text for key, text in new.texts.items() if key not in kept}
    texts.update((key, old.texts[key]) for key in kept if key in old.texts)
    config = dataclasses.replace(
        new,
        settings=dataclasses.replace(new.settings, **{key: getattr(old.settings, key) for key in kept}),
        own=dataclasses.replace(new.own, **{key: getattr(old.own, key) for key in own_kept}),
        texts=_frozen(texts),
    )
    return Changes(
        config,
        settings,
        own,
        added,
        changed,
        removed,
        users=_differing(old.users, new.users),
        secrets=_differing(old.secrets, new.secrets),
        peers=_differing(old.peers, new.peers),
        hba=(old.hba.rules, old.hba.maps) != (new.hba.rules, new.hba.maps),
        restart=restart | own_kept,
        warnings=tuple(
            f"{key} is changed in the configuration; it takes a restart" for key in sorted(restart | own_kept)
        ),
    )


SERVER_KEYS = (
    *("hosts", "port", "dbname", "user", "connect_query", "auth_dbname", "auth_query"),
    *("application_name", "client_encoding", "datestyle", "timezone", "tls"),
)
"""What a server connection was made with; a new value makes it an outdated one."""


def leads_elsewhere(old: DatabaseConfig, new: DatabaseConfig) -> bool:
    """Whether servers made for the one are of no use to the other."""
    return made_with(old) != made_with(new)


def made_with(config: DatabaseConfig) -> tuple[Any, ...]:
    """What servers are made with for this entry, in the order of SERVER_KEYS."""
    return tuple(getattr(config, key) for key in SERVER_KEYS)


def _split(table: Mapping[str, Setting], old: object, new: object) -> tuple[frozenset[str], frozenset[str]]:
    """Keys with another value: those that may change now, and those that may not."""
    differing = [row for row in table.values() if getattr(old, row.key) != getattr(new, row.key)]
    live = frozenset(row.key for row in differing if row.live)
    return live, frozenset(row.key for row in differing) - live


def _with_fallback(config: Config) -> dict[str, DatabaseConfig]:
    return dict(config.databases) | ({"*": config.fallback} if config.fallback else {})


def _differing(old: Mapping[K, V], new: Mapping[K, V]) -> frozenset[K]:
    """Keys that came, went, or have another value; after a SET most values are the very same."""
    if old is new:
        return frozenset()
    both = ((key, old.get(key), new.get(key)) for key in old.keys() | new.keys())
    return frozenset(key for key, before, after in both if before is not after and before != after)


def tls_problems(settings: Settings) -> tuple[str, ...]:
    """Why TLS cannot be set up with these settings: stops a start, while a RELOAD keeps the old contexts."""
    problems = []
    mode = settings.client_tls_sslmode
    if mode is not SslMode.disable and not (settings.client_tls_key_file and settings.client_tls_cert_file):
        problems.append(
            "To allow TLS connections from clients, client_tls_key_file and client_tls_cert_file must be set."
        )
    if settings.auth_type is AuthType.cert:
        if mode is not SslMode.verify_full:
            problems.append("auth_type=cert requires client_tls_sslmode=SSLMODE_VERIFY_FULL")
        if not settings.client_tls_ca_file:
            problems.append("auth_type=cert requires client_tls_ca_file")
    elif mode is SslMode.verify_full and not settings.client_tls_ca_file:
        problems.append("client_tls_sslmode requires client_tls_ca_file")
    return tuple(problems)
