"""The kinds of values settings have: text -> typed value or ValueError, and back to the text SHOW CONFIG
gives.

No setting is named here. The rule is PgBouncer's reading: integers as C's strtol reads them (0x and 0 prefixes, 32
bits), whole and trimmed; times are seconds with fractions, shown with %g; words of an enumeration in any case. What
PgBouncer starts with we start with, too: a number that says something else than it seems to is read as the number that
it amounts to, and `reads` tells.
"""

from __future__ import annotations

import dataclasses
import os
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

    __hash__ = str.__hash__
    # An Enum's own is written in Python, and each login looks for its method.

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


class LogFormat(StrEnum):
    """How a line of the log is written."""

    text = "text"
    json = "json"


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
    value; `normal` the one it has for a text that was read; `reads` what a text is taken for that seems to say
    something else, empty for any other."""

    name: str
    parse: Callable[[str], T]
    show: Callable[[T], str]
    normal: Callable[[str], str]
    reads: Callable[[str], str] = lambda text: ""
    words: tuple[str, ...] = ()
    """All there are, of an enumeration."""


def _kind(name: str, parse: Callable[[str], T], show: Callable[[T], str]) -> Kind[T]:
    return Kind(name, parse, show, lambda text: show(parse(text)))


def wrapped(number: int, bits: int = 32) -> int:
    """A number as C's int holds it."""
    half = 1 << bits - 1
    return (number + half) % (2 * half) - half


_INT = re.compile(r"\s*+([+-]?)(0[xX][0-9a-fA-F]++|[0-9]++)", re.ASCII)


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


def integer(low: int = 0, high: int | None = None, *, below: int | None = None, above: int | None = None) -> Kind[int]:
    """Integers from `low` to `high`. A smaller one is taken for `below`, by default `low`; a larger one is refused, or
    taken for `above`."""
    beneath = low if below is None else below

    def parse(text: str) -> int:
        number = wrapped(_c_integer(text))
        if number < low:
            return beneath
        if high is not None and number > high:
            if above is None:
                raise ValueError(f"must be from {low} to {high}")
            return above
        return number

    def reads(text: str) -> str:
        return "" if parse(text) == _c_integer(text) else str(parse(text))

    return Kind("int", parse, str, lambda text: str(wrapped(_c_integer(text))), reads)


MOST_WORKERS = 64


def _workers(text: str) -> int:
    if text.strip() == "auto":
        return min(len(os.sched_getaffinity(0)), MOST_WORKERS)
    number = _c_integer(text)
    if not 1 <= number <= MOST_WORKERS:
        raise ValueError(f"must be from 1 to {MOST_WORKERS}, or auto")
    return number


WORKERS: Kind[int] = Kind("int", _workers, str, lambda text: str(_workers(text)))
"""Processes; auto: as many as cores that this one may use."""


def masking(bits: int, *, negative: bool = True) -> Kind[int]:
    """Integers of which the system sees `bits` bits only."""

    def parse(text: str) -> int:
        number = wrapped(_c_integer(text))
        if number < 0 and not negative:
            raise ValueError(f"must be from 0 to {(1 << bits) - 1}")
        return number & (1 << bits) - 1

    def reads(text: str) -> str:
        return "" if parse(text) == _c_integer(text) else str(parse(text))

    return Kind("int", parse, str, lambda text: str(wrapped(_c_integer(text))), reads)


def _unsigned(text: str) -> int:
    return _c_integer(text) % 2**32


_TIME = re.compile(
    r"\s*+\+?(?:([0-9]++(?:\.[0-9]*+)?+|\.[0-9]++)([eE][+-]?[0-9]{1,3})?|0[xX][0-9a-fA-F]++)", re.ASCII
)
_NO_NUMBER = re.compile(r"\s*+\+?(inf|infinity|nan)", re.ASCII | re.IGNORECASE)
MAX_SECONDS = 1e9
"""More is as long as for ever."""


def _strtod(text: str) -> float:
    """Infinity is 0, and what is no number a very large one: as PgBouncer's microseconds overflow."""
    if found := _NO_NUMBER.fullmatch(text):
        return float(2**63 // 10**6) if found[1].lower() == "nan" else 0.0
    if len(text) > 64 or not _TIME.fullmatch(text):
        raise ValueError("a number of seconds is needed")
    number = float.fromhex(text) if "x" in text.lower() else float(text)
    if number == float("inf"):
        raise ValueError("a number of seconds is needed")
    return number


def _seconds(text: str) -> float:
    return min(_strtod(text), MAX_SECONDS)


def _reads_seconds(text: str) -> str:
    return f"{_strtod(text):g}" if _NO_NUMBER.fullmatch(text) else ""


def _flag(text: str) -> bool:
    return wrapped(_c_integer(text)) != 0


_ATOI = re.compile(r"\s*([+-]?[0-9]{1,64})", re.ASCII)


def atoi(text: str) -> int:
    """The number a text begins with, or 0: how PgBouncer reads those of its entries."""
    found = _ATOI.match(text)
    return wrapped(int(found[1])) if found else 0


def entry_number(meaning: Callable[[int], T], *, told: Callable[[T], str] = str) -> Kind[T]:
    """Numbers in the entries of [databases], [users] and [peers]; `told` says what a value means. `meaning` may raise
    ValueError."""

    def parse(text: str) -> T:
        return meaning(atoi(text))

    def reads(text: str) -> str:
        number = atoi(text)
        return "" if number >= 0 and text.lstrip("+").lstrip("0") in (str(number), "") else told(meaning(number))

    return Kind("int", parse, told, lambda text: told(parse(text)), reads)


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

    return Kind("enum", parse, str, lambda text: str(parse(text)), words=tuple(words))


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
PORT = masking(16, negative=False)
UINT: Kind[int] = Kind(
    "uint", _unsigned, str, lambda text: str(_unsigned(text)), lambda text: str(_unsigned(text)) if "-" in text else ""
)
TEXT: Kind[str] = Kind("text", _text, _text, _text)
MAYBE: Kind[str | None] = Kind("text", _text, lambda value: value or "", _text)
"""Text that is None while nobody has set it: SHOW CONFIG gives NULL then."""
NAMES: Kind[tuple[str, ...]] = Kind("list", names, ",".join, _text)
TIME: Kind[float] = Kind(
    "seconds", _seconds, lambda value: f"{value:g}", lambda text: f"{_strtod(text):g}", _reads_seconds
)
FLAG: Kind[bool] = Kind("int", _flag, _show_flag, lambda text: str(wrapped(_c_integer(text))))
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
    hidden: bool
    """Accepted, but no row of SHOW CONFIG."""
    secret: bool
    """May hold a password: not in a repr, and masked where it is shown."""
    idle: str = ""
    """Why it has no effect here, of one that is accepted all the same."""

    def remark(self, text: str) -> str:
        """What is to be said of this value: that it is understood otherwise than it seems, or has no effect."""
        if reads := self.kind.reads(text):
            return understood(self.key, text, reads)
        return f"{self.key} has no effect: {self.idle}" if self.idle and text != self.default else ""


def understood(key: str, text: str, reads: str) -> str:
    """What is said of a number that is taken for another than it seems."""
    return f"{key} = {masked(text)} is understood as {reads}"


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
    hidden: bool = False,
    unset: T | None = None,
    secret: bool = False,
    idle: str = "",
) -> T:
    """A field of a settings dataclass whose metadata is its row of the table; `unset` is the value without
    default."""
    value = unset if default is None else kind.parse(default)
    row = Setting("", kind, default, live, help, hidden, secret, idle)
    return cast(T, dataclasses.field(default=value, repr=not secret, metadata={"setting": row}))


def table(settings: type[Any]) -> dict[str, Setting]:
    """The rows of a settings dataclass by key, in alphabetical order."""
    rows = (dataclasses.replace(f.metadata["setting"], key=f.name) for f in dataclasses.fields(settings))
    return {row.key: row for row in sorted(rows, key=lambda row: row.key)}
