"""The kinds of values settings have: text -> typed value or ValueError, and back to the text SHOW CONFIG
gives.

No setting is named here. The rule is PgBouncer's reading: integers as C reads them (0x and 0 prefixes), whole
and trimmed; times are seconds with fractions, shown with %g; words of an enumeration in any case.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from enum import StrEnum
from typing import Any, Generic, TypeVar, cast

from pooler.values import dataclass

BLANKS = " \t\n\v\f\r"
"""What C calls space; a password may well hold another of Unicode's."""

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)


class AuthType(StrEnum):
    """How clients log in."""

    any = "any"
    trust = "trust"
    plain = "plain"
    md5 = "md5"
    scram_sha_256 = "scram-sha-256"
    cert = "cert"
    hba = "hba"
    pam = "pam"
    ldap = "ldap"
    peer = "peer"
    """Only in an HBA file, like reject."""
    reject = "reject"


class PoolMode(StrEnum):
    """When a server goes back to its pool."""

    session = "session"
    transaction = "transaction"
    statement = "statement"


class SslMode(StrEnum):
    """How much TLS is wanted, weakest first; `rank` orders them."""

    disable = "disable"
    allow = "allow"
    prefer = "prefer"
    require = "require"
    verify_ca = "verify-ca"
    verify_full = "verify-full"

    @property
    def rank(self) -> int:
        return _RANKS[self]


_RANKS = {mode: rank for rank, mode in enumerate(SslMode)}


class LoadBalanceHosts(StrEnum):
    """How the hosts of a list are used."""

    disable = "disable"
    round_robin = "round-robin"


class SyslogFacility(StrEnum):
    """syslog's facilities that PgBouncer knows."""

    auth = "auth"
    authpriv = "authpriv"
    daemon = "daemon"
    user = "user"
    local0 = "local0"
    local1 = "local1"
    local2 = "local2"
    local3 = "local3"
    local4 = "local4"
    local5 = "local5"
    local6 = "local6"
    local7 = "local7"


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """A kind of value. `parse` raises ValueError with a reason; `show` gives the text SHOW CONFIG has for a
    value; `normal` the one it has for a text that was read."""

    name: str
    parse: Callable[[str], T]
    show: Callable[[T], str]
    normal: Callable[[str], str]


def _kind(name: str, parse: Callable[[str], T], show: Callable[[T], str]) -> Kind[T]:
    return Kind(name, parse, show, lambda text: show(parse(text)))


_INT = re.compile(r"\s*([+-]?)(0[xX][0-9a-fA-F]+|[0-9]+)", re.ASCII)


def _c_integer(text: str) -> int:
    """strtol(text, 0): decimal, 0x hexadecimal, 0 octal."""
    found = _INT.fullmatch(text)
    if not found or len(text) > 32:
        raise ValueError("an integer is needed")
    digits = found[2].lower()
    base = 16 if digits.startswith("0x") else 8 if digits.startswith("0") else 10
    try:
        number = int(digits, base)
    except ValueError:
        raise ValueError("an integer is needed") from None
    return -number if found[1] == "-" else number


def integer(low: int = 0, high: int = 2**31 - 1, name: str = "int") -> Kind[int]:
    """Integers from `low` to `high`."""

    def parse(text: str) -> int:
        number = _c_integer(text)
        if not low <= number <= high:
            raise ValueError(f"must be from {low} to {high}")
        return number

    return _kind(name, parse, str)


_TIME = re.compile(r"\s*\+?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?", re.ASCII)
MAX_SECONDS = 1e9


def _seconds(text: str) -> float:
    if len(text) > 64 or not _TIME.fullmatch(text):
        raise ValueError("a number of seconds is needed")
    number = float(text)
    if number > MAX_SECONDS:
        raise ValueError(f"must be at most {MAX_SECONDS:g} seconds")
    return number


def _flag(text: str) -> bool:
    return _c_integer(text) != 0


_WORDS = {
    "1": True,
    "yes": True,
    "on": True,
    "true": True,
    "0": False,
    "no": False,
    "off": False,
    "false": False,
}


def _switch(text: str) -> bool:
    try:
        return _WORDS[text.lower()]
    except KeyError:
        raise ValueError("yes or no is needed") from None


def _show_flag(value: bool) -> str:
    return "1" if value else "0"


def names(text: str) -> tuple[str, ...]:
    """The parts of a comma-separated list; blanks around them do not count, empty ones are none."""
    return tuple(part for part in (p.strip(BLANKS) for p in text.split(",")) if part)


def word(enum: type[E], *, refused: tuple[E, ...] = ()) -> Kind[E]:
    """One word of an enumeration, in any case."""
    words = {str(member): member for member in enum if member not in refused}

    def parse(text: str) -> E:
        member = words.get(text.lower())
        if member is None:
            raise ValueError(f"must be one of {', '.join(words)}")
        return member

    return _kind("enum", parse, str)


def _http_address(text: str) -> tuple[str, int] | None:
    if not text:
        return None
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError("HOST:PORT is needed")
    return host or "127.0.0.1", int(port)


def _show_address(value: tuple[str, int] | None) -> str:
    if value is None:
        return ""
    host, port = value
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


OUTPUT_SCHEMES = ("syslog", "syslog+tls", "https", "http", "file", "statsd", "otlp+http", "otlp+https")


def _output(text: str) -> str:
    if text == "stdout" or "://" not in text:
        return text
    from urllib.parse import urlsplit

    parts = urlsplit(text)
    if parts.scheme not in OUTPUT_SCHEMES:
        raise ValueError(f"must be stdout, a file name, or a URL of {', '.join(OUTPUT_SCHEMES)}")
    if parts.scheme != "file" and not parts.hostname:
        raise ValueError("the URL names no host")
    if parts.port == 0:
        raise ValueError("port 0 cannot be sent to")
    return text


def _outputs(text: str) -> tuple[str, ...]:
    return tuple(_output(part) for part in names(text))


def _text(text: str) -> str:
    return text


INT = integer()
PORT = integer(0, 65535)
UINT = integer(0, 2**32 - 1, "uint")
TEXT: Kind[str] = Kind("text", _text, _text, _text)
MAYBE: Kind[str | None] = Kind("text", _text, lambda value: value or "", _text)
"""Text that is None while nobody has set it: SHOW CONFIG gives NULL then."""
NAMES: Kind[tuple[str, ...]] = Kind("list", names, ",".join, _text)
TIME: Kind[float] = _kind("seconds", _seconds, lambda value: f"{value:g}")
FLAG: Kind[bool] = Kind("int", _flag, _show_flag, lambda text: str(_c_integer(text)))
"""0 or 1, where PgBouncer has an int and shows the number it was given."""
SWITCH: Kind[bool] = _kind("bool", _switch, lambda value: "yes" if value else "no")
ADDRESS: Kind[tuple[str, int] | None] = _kind("address", _http_address, _show_address)
OUTPUTS: Kind[tuple[str, ...]] = Kind("list", _outputs, ",".join, _text)
"""Where lines go: stdout, file names, syslog://, syslog+tls:// and https:// addresses."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of a table of settings: what PgBouncer and its documentation know of it."""

    key: str
    kind: Kind[Any]
    default: str | None
    """As text; None where PgBouncer shows NULL."""
    live: bool
    """May change while running, by SET or RELOAD."""
    help: str
    since: str
    """The first PgBouncer to have it; empty when it is ours."""
    hidden: bool
    """Accepted, but no row of SHOW CONFIG."""
    secret: bool
    """May hold a password: not in a repr, and masked where it is shown."""


_PASSWORD = re.compile(r"ldapbindpasswd|password", re.IGNORECASE)
_USERINFO = re.compile(r"(//[^/@:\s]*+:)[^/@\s]*+@")


def masked(text: str) -> str:
    """`text` fit for a log: cut where a password may begin, URLs without theirs."""
    found = _PASSWORD.search(text)
    if found:
        text = text[: found.end()] + "=****"
    return _USERINFO.sub(r"\1****@", text)


def setting(
    kind: Kind[T],
    default: str | None,
    help: str,
    *,
    live: bool = True,
    since: str = "1.0",
    hidden: bool = False,
    unset: T | None = None,
    secret: bool = False,
) -> T:
    """A field of a settings dataclass whose metadata is its row of the table; `unset` is the value without
    default."""
    value = unset if default is None else kind.parse(default)
    row = Setting("", kind, default, live, help, since, hidden, secret)
    return cast(T, dataclasses.field(default=value, repr=not secret, metadata={"setting": row}))


def table(settings: type[Any]) -> dict[str, Setting]:
    """The rows of a settings dataclass by key, in alphabetical order."""
    rows = (dataclasses.replace(f.metadata["setting"], key=f.name) for f in dataclasses.fields(settings))
    return {row.key: row for row in sorted(rows, key=lambda row: row.key)}
