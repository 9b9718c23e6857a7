"""Startup parameters -> what of them this pooler keeps, or a LoginError. Values in, values out, no I/O.

A client may set only what can follow it from server to server: the tracked parameters, by themselves or
inside `options`. The rule is PgBouncer's: what is in ignore_startup_parameters is dropped, and what is neither
there nor tracked is refused by name, so that no client works in the belief that a setting of its holds; where session
state is kept it holds, and is refused by the server. The admin database takes anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import field
from functools import lru_cache

from pooler import wire
from pooler.config.databases import RESERVED
from pooler.config.kinds import BLANKS
from pooler.config.policy import Fate
from pooler.config.settings import Settings
from pooler.config.users import MAX_USERNAME
from pooler.config.whole import Config
from pooler.pools.connection import Replication
from pooler.pools.refusal import LoginError
from pooler.sessions import Session, startup_session
from pooler.touches import Held
from pooler.values import dataclass

TRACKED = (
    "DateStyle",
    "client_encoding",
    "TimeZone",
    "standard_conforming_strings",
    "application_name",
    "default_transaction_read_only",
    "IntervalStyle",
    "search_path",
    "scram_iterations",
    "session_authorization",
)
"""Parameters that follow a client, beside track_extra_parameters: all that some PostgreSQL reports and a client can
set, in the order in which they are set. A server that does not report one (search_path before 18) tells of no SET of
it: there only the client's startup packet counts."""
PHYSICAL = ("true", "yes", "on", "1")
"""What asks for physical replication, beside the beginnings of the first two, as PostgreSQL reads a boolean."""
NEVER_IGNORED = "application_name"
"""By itself; inside `options` it is ignored like any other."""
REMEMBERED = 64
LONGEST = 512
"""Characters of a startup packet that is remembered."""
BAD_OPTIONS = "unsupported options startup parameter: only '-c config=val' and '--config=val' are allowed"


@dataclass(frozen=True, slots=True)
class Parameters:
    """What a startup packet asks for."""

    user: str
    database: str
    replication: Replication = Replication.NONE
    options: str = ""
    """The text of `options` for replication, whose server connection is the client's own."""
    tracked: dict[str, str] = field(default_factory=dict)
    """Under the names PostgreSQL reports."""
    others: dict[str, str] = field(default_factory=dict)
    """What else is to follow it, as it was named."""
    session: Session = ()
    """That, as the relay has it."""


class Readings:
    """What startup packets ask for under one configuration. Clients of one program say the same each time: short ones
    are remembered, and few of them, since they come from strangers."""

    __slots__ = ("_config", "_known")

    def __init__(self) -> None:
        self._config: Config | None = None
        self._known: dict[tuple[tuple[str, str], ...], Parameters] = {}

    def read(self, given: Mapping[str, str], config: Config) -> Parameters:
        """As `read_parameters`; what it returns is others' as well."""
        asked = tuple(given.items())
        if config is not self._config:
            self._config, self._known = config, {}
        found = self._known.get(asked)
        if found is None:
            found = _read(given, config)
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            if sum(len(name) + len(value) for name, value in asked) <= LONGEST:
                self._known[asked] = found
        return found


def _read(given: Mapping[str, str], config: Config) -> Parameters:
    """The admin database takes anything; elsewhere it depends on what becomes of a session's settings there."""
    user = given.get("user", "")
    database = given.get("database") or user
    follow = config.session_policy(database, user).fate(Held.SETTING) is Fate.keep
    found = read_parameters(given, config.settings, lenient=database == RESERVED, follow=follow)
    if len(wire.encode(user)) >= MAX_USERNAME:
        raise LoginError("username too long")
    return found


def read_parameters(
    given: Mapping[str, str], settings: Settings, *, lenient: bool = False, follow: bool = False
) -> Parameters:
    """Raises LoginError. `lenient`: what is unknown is dropped instead of refused; `follow`: it is kept."""
    names = tracked_names(settings)
    ignored = _lower(settings.ignore_startup_parameters)
    tracked: dict[str, str] = {}
    others: dict[str, str] = {}
    for name, value in given.items():
        if name in ("user", "database", "options", "replication") or name.startswith("_pq_."):
            continue
        known = names.get(name.lower())
        if known and (name not in settings.ignore_startup_parameters or known == NEVER_IGNORED):
            tracked[known] = value
        elif not known and not lenient and name.lower() not in ignored:
            if not follow:
                _refuse("unsupported startup parameter", name, value)
            others[name] = value
    user = given.get("user", "")
    if not user:
        raise LoginError("no username supplied")
    replication = Replication.NONE if lenient else _replication(given.get("replication", ""))
    options = given.get("options", "")
    if options and replication is Replication.NONE:
        tracked.update(_read_options(options, settings, lenient or "options" in ignored, others if follow else None))
        options = ""
    database = given.get("database") or user
    return Parameters(user, database, replication, options, tracked, others, startup_session(others))


def heard(given: Mapping[str, str], settings: Settings) -> Iterator[str]:
    """What is understood of a startup packet, for who reads much of the log, up to what is refused."""
    names, ignored = tracked_names(settings), _lower(settings.ignore_startup_parameters)
    for name, value in given.items():
        if name.startswith("_pq_."):
            yield f"ignoring protocol extension parameter: {name}={value}"
        elif name == "options":
            yield f"received options: {value}"
        elif name == "application_name":
            yield f"using {name}: {value}"
        elif name in ("user", "database", "replication") or name.lower() in names:
            yield f"got var: {name}={value}"
        elif name.lower() in ignored:
            yield f"ignoring startup parameter: {name}={value}"
        else:
            return


def tracked_names(settings: Settings) -> dict[str, str]:
    """Each tracked parameter by its lower case, under the name PostgreSQL reports, in the order of the relay's."""
    return _by_lower(settings.track_extra_parameters)


@lru_cache(1)
def _by_lower(extra: tuple[str, ...]) -> dict[str, str]:
    known = {name.lower(): name for name in TRACKED}
    for name in extra:
        known.setdefault(name.lower(), name)
    return known


@lru_cache(1)
def _lower(names: tuple[str, ...]) -> frozenset[str]:
    return frozenset(name.lower() for name in names)


def _replication(value: str) -> Replication:
    """What PostgreSQL would refuse is none, as with PgBouncer."""
    if value == "database":
        return Replication.LOGICAL
    word = value.lower()
    yes = word in PHYSICAL or (bool(word) and any(full.startswith(word) for full in PHYSICAL[:2]))
    return Replication.PHYSICAL if yes else Replication.NONE


def _refuse(what: str, name: str, value: str) -> None:
    raise LoginError(f"{what}: {name}", log=f"{what}: {name}={value}")


def _read_options(text: str, settings: Settings, lenient: bool, others: dict[str, str] | None) -> dict[str, str]:
    """The tracked ones; the rest goes to `others`, if there is such a thing."""
    names, ignored = tracked_names(settings), _lower(settings.ignore_startup_parameters)
    tracked: dict[str, str] = {}
    try:
        for name, value in split_options(text):
            known = names.get(name.lower())
            if known and name not in settings.ignore_startup_parameters:
                tracked[known] = value
            elif not known and not lenient and name.lower() not in ignored:
                if others is None:
                    _refuse("unsupported startup parameter in options", name, value)
                else:
                    others[name] = value
    except ValueError:
        if not lenient:
            raise LoginError(BAD_OPTIONS) from None
    return tracked


def split_options(text: str) -> Iterator[tuple[str, str]]:
    """(name, value) of each `-c name=value`, `-cname=value` and `--name=value`, a backslash taking the next
    character as it is; in the last form a dash in the name stands for an underscore. Raises ValueError."""
    at = _skip(text, 0)
    while at < len(text):
        form = text[at : at + 2]
        if form not in ("-c", "--"):
            raise ValueError("neither -c nor --")
        at = _skip(text, at + 2) if form == "-c" else at + 2
        word, at = _word(text, at)
        name, equals, value = word.partition("=")
        if not equals:
            raise ValueError("no name=value")
        yield (name.replace("-", "_") if form == "--" else name), value
        at = _skip(text, at)


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in BLANKS:
        at += 1
    return at


def _word(text: str, at: int) -> tuple[str, int]:
    """The text up to the next blank that has no backslash before it, without the backslashes."""
    letters: list[str] = []
    while at < len(text) and text[at] not in BLANKS:
        if text[at] == "\\" and at + 1 < len(text):
            at += 1
        letters.append(text[at])
        at += 1
    return "".join(letters), at
