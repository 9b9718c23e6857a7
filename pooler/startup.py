"""Startup parameters -> what of them this pooler keeps, or a LoginError. Values in, values out, no I/O.

A client may set only what can follow it from server to server: the tracked parameters, by themselves or
inside `options`. The rule is PgBouncer's: what is neither tracked nor in ignore_startup_parameters is
refused by name, so that no client works in the belief that a setting of its holds. The admin database takes
anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import field
from functools import lru_cache

from pooler.auth import LoginError
from pooler.settings import Settings
from pooler.values import dataclass

TRACKED = ("client_encoding", "DateStyle", "TimeZone", "standard_conforming_strings", "application_name")
"""Parameters that PostgreSQL reports and that follow a client, beside track_extra_parameters."""
REPLICATION = {
    **dict.fromkeys(("true", "on", "yes", "1"), "physical"),
    **dict.fromkeys(("false", "off", "no", "0"), "none"),
    "database": "logical",
}
BAD_OPTIONS = "unsupported options startup parameter: only '-c config=val' and '--config=val' are allowed"
_BLANKS = " \t\n\v\f\r"


@dataclass(frozen=True, slots=True)
class Parameters:
    """What a startup packet asks for."""

    user: str
    database: str
    replication: str = "none"
    """none, logical or physical."""
    options: str = ""
    """The text of `options` for replication, whose server connection is the client's own."""
    tracked: dict[str, str] = field(default_factory=dict)
    """Under the names PostgreSQL reports."""


def read_parameters(given: Mapping[str, str], settings: Settings, *, lenient: bool = False) -> Parameters:
    """Raises LoginError. `lenient`: what is unknown is dropped instead of refused."""
    names = tracked_names(settings)
    ignored = _lower(settings.ignore_startup_parameters)
    tracked: dict[str, str] = {}
    for name, value in given.items():
        if name in ("user", "database", "options", "replication") or name.startswith("_pq_."):
            continue
        if known := names.get(name.lower()):
            tracked[known] = value
        elif not lenient and name.lower() not in ignored:
            _refuse("unsupported startup parameter", name, value)
    user = given.get("user", "")
    if not user:
        raise LoginError("no username supplied")
    replication = "none" if lenient else _replication(given.get("replication", "false"))
    options = given.get("options", "")
    if options and replication == "none":
        lenient = lenient or "options" in ignored
        tracked.update(_read_options(options, names, ignored, lenient))
        options = ""
    return Parameters(user, given.get("database") or user, replication, options, tracked)


def tracked_names(settings: Settings) -> dict[str, str]:
    """Reported name of each tracked parameter by its lower case."""
    return _by_lower(settings.track_extra_parameters)


@lru_cache(1)
def _by_lower(extra: tuple[str, ...]) -> dict[str, str]:
    return {name.lower(): name for name in (*TRACKED, *extra)}


@lru_cache(1)
def _lower(names: tuple[str, ...]) -> frozenset[str]:
    return frozenset(name.lower() for name in names)


def _replication(value: str) -> str:
    try:
        return REPLICATION[value.lower()]
    except KeyError:
        raise LoginError(f'invalid value for parameter "replication": "{value}"') from None


def _refuse(what: str, name: str, value: str) -> None:
    raise LoginError(f"{what}: {name}", log=f"{what}: {name}={value}")


def _read_options(text: str, names: Mapping[str, str], ignored: frozenset[str], lenient: bool) -> dict[str, str]:
    tracked: dict[str, str] = {}
    try:
        for name, value in split_options(text):
            if known := names.get(name.lower()):
                tracked[known] = value
            elif not lenient and name.lower() not in ignored:
                _refuse("unsupported startup parameter in options", name, value)
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
        if not equals or not name:
            raise ValueError("no name=value")
        yield (name.replace("-", "_") if form == "--" else name), value
        at = _skip(text, at)


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in _BLANKS:
        at += 1
    return at


def _word(text: str, at: int) -> tuple[str, int]:
    """The text up to the next blank that has no backslash before it, without the backslashes."""
    letters: list[str] = []
    while at < len(text) and text[at] not in _BLANKS:
        if text[at] == "\\" and at + 1 < len(text):
            at += 1
        letters.append(text[at])
        at += 1
    return "".join(letters), at
