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

SHAPE = re.compile(
    r"postgres(?:ql)?://"
    r"(?P<user>[^:@/?#]+)(?::(?P<password>.*?))?@"
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\[\]:@/?#,]+)(?::(?P<port>[0-9]{1,5}))?"
    r"(?:/(?P<dbname>[^/?#@]*))?(?:\?(?P<query>[^#]*))?\Z",
    re.DOTALL,
)

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
    match = SHAPE.match(text.strip())
    if match is None:
        raise invalid(f"That is not a database URL. {ADVICE}")
    try:
        parts = {name: unquote(value or "", errors="strict") for name, value in match.groupdict().items()}
    except UnicodeDecodeError:
        raise invalid(f"A database URL's escapes must be UTF-8. {ADVICE}") from None
    port = int(parts["port"] or "5432")
    if not 0 < port < 65536:
        raise invalid(f"The port of a database URL is between 1 and 65535, not {port}.")
    if any("\0" in value for value in parts.values()):
        raise invalid(f"A database URL cannot hold a NUL byte. {ADVICE}")
    options = tuple(parse_qsl(match["query"] or "", keep_blank_values=True))
    host = parts["host"].strip("[]")
    return DatabaseUrl(parts["user"], parts["password"], host, port, parts["dbname"] or parts["user"], options)
