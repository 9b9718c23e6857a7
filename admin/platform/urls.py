"""Database URLs: read what people paste, write what drivers read, and never show a password by accident.

Shape: postgres://user:password@host:port/dbname[?key=value&…]. The reader is forgiving in one place: a
password may hold `@ : / ? #` unescaped, as long as what follows still reads as a host. The writer escapes
everything. `repr` and `str` hide the password.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from urllib.parse import parse_qsl, quote, unquote, urlencode

from admin.platform.errors import invalid

LONGEST = 4096
"""Characters of a URL."""

HEAD = re.compile(r"postgres(?:ql)?://(?P<user>[^:@/?#]++)(?P<colon>:)?+")
PLACE = re.compile(
    r"(?P<host>\[[0-9A-Fa-f:.]++\]|[^\[\]:@/?#,]++)(?::(?P<port>[0-9]{1,5}+))?+"
    r"(?:/(?P<dbname>[^/?#@]*+))?+(?:\?(?P<query>[^#]*+))?+\Z"
)
"""What may stand behind the `@`. Where it does not match, the next `@` may be the one: no more is read than up to it,
since the query alone may hold one, and with no `#` behind it is the end."""

ADVICE = "Give a database URL of the form postgres://user:password@host:port/dbname."


@dataclass(frozen=True, slots=True)
class DatabaseUrl:
    """The parts of a database URL, unescaped. `options` are its query parameters in order."""

    user: str
    password: str = field(repr=False)
    host: str
    port: int
    dbname: str
    options: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        return self.with_password("***").text()

    def text(self) -> str:
        """The whole URL, password included: for config vars and drivers only."""
        password = f":{quote(self.password, safe='')}" if self.password else ""
        host = f"[{self.host}]" if ":" in self.host else quote(self.host, safe="")
        query = f"?{urlencode(self.options, quote_via=quote)}" if self.options else ""
        user, dbname = quote(self.user, safe=""), quote(self.dbname, safe="")
        return f"postgres://{user}{password}@{host}:{self.port}/{dbname}{query}"

    def with_password(self, password: str) -> DatabaseUrl:
        return replace(self, password=password)

    def as_user(self, user: str, password: str) -> DatabaseUrl:
        return replace(self, user=user, password=password)

    def option(self, name: str) -> str | None:
        return dict(self.options).get(name)


def parse_url(text: str) -> DatabaseUrl:
    """Read a database URL; invalid_params (which does not repeat the text) when it is none."""
    found = _taken_apart(text.strip())
    if found is None:
        raise invalid(f"That is not a database URL. {ADVICE}")
    try:
        parts = {name: unquote(value or "", errors="strict") for name, value in found.items()}
    except UnicodeDecodeError:
        raise invalid(f"A database URL's escapes must be UTF-8. {ADVICE}") from None
    port = int(parts["port"] or "5432")
    if not 0 < port < 65536:
        raise invalid(f"The port of a database URL is between 1 and 65535, not {port}.")
    if any("\0" in value for value in parts.values()):
        raise invalid(f"A database URL cannot hold a NUL byte. {ADVICE}")
    options = tuple(parse_qsl(found["query"] or "", keep_blank_values=True))
    host = parts["host"].strip("[]")
    return DatabaseUrl(parts["user"], parts["password"], host, port, parts["dbname"] or parts["user"], options)


def _taken_apart(text: str) -> dict[str, str | None] | None:
    """The parts as they are written; None when it is no URL."""
    head = HEAD.match(text) if len(text) <= LONGEST else None
    if head is None:
        return None
    at = text.find("@", max(head.end(), text.rfind("#")))
    if head["colon"] is None and at != head.end():
        return None
    while at >= 0:
        if (place := PLACE.match(text, at + 1)) is not None:
            password = text[head.end() : at] if head["colon"] else None
            return {"user": head["user"], "password": password, **place.groupdict()}
        at = text.find("@", at + 1) if head["colon"] else -1
    return None
