"""Passwords checked by an LDAP server (auth_type ldap), through the optional package `ldap3`.

The options are those of pg_hba.conf, in auth_ldap_options or behind the method in an HBA rule, apart by blanks or
commas. Simple bind:
the user's name between ldapprefix and ldapsuffix. Search and bind (ldapbasedn): find the one entry of the
user, then bind as it. The rule: what a client sends is escaped before it becomes part of a name or a
filter, an empty password never reaches the server, which would take it for an anonymous bind, and with TLS
no password goes to a server that cannot prove its name, unless OpenLDAP's configuration says that it need not
(`ldapconf`). Each check runs in a thread."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import unquote, urlsplit

from pooler.clients.ldapconf import tls_options
from pooler.clients.threads import in_thread
from pooler.pools.refusal import LoginError
from pooler.values import dataclass

FAILED = "LDAP authentication failed"
MISSING = "auth_type=ldap needs the Python package ldap3: pip install ldap3"
TIMEOUT = 10
"""Seconds for connecting and for each answer; client_login_timeout may be over before."""
SCOPES = {"base": "BASE", "one": "LEVEL", "sub": "SUBTREE"}
PLACE = "$username"
_COMMAS = re.compile(r"""("[^"]*"|'[^']*')|,[\s,]*+(?="?([a-z]++)"?=|)""")
"""Those that may stand between two options, and the name after them; but none within quotes."""


@dataclass(frozen=True, slots=True)
class LdapOptions:
    """pg_hba.conf's options of the same names, without `ldap` before them."""

    servers: tuple[str, ...] = ()
    port: int = 0
    """0: the scheme's own."""
    scheme: str = "ldap"
    starttls: bool = False
    prefix: str = ""
    suffix: str = ""
    base: str = ""
    bind_name: str = ""
    bind_password: str = ""
    attribute: str = "uid"
    filter: str = ""
    scope: str = "sub"

    def __repr__(self) -> str:
        return f"LdapOptions(servers={self.servers!r})"


def missing() -> str:
    """What is wrong with a configuration that wants LDAP here; empty when nothing is."""
    return "" if importlib.util.find_spec("ldap3") else MISSING


async def check(text: str, user: str, password: str) -> bool:
    """Whether the LDAP server of the options in `text` accepts the password. Raises LoginError when it
    cannot be asked."""
    problem = missing()
    if problem:
        raise LoginError("bouncer config error", log=problem)
    try:
        options = parse_options(text)
    except ValueError as error:
        raise LoginError(FAILED, log=str(error)) from None
    return await in_thread(_check, options, user, password)


# ---- options


def parse_options(text: str) -> LdapOptions:
    """`name=value` pairs, a value with blanks in double quotes. Raises ValueError."""
    given: dict[str, Any] = {}
    for word in shlex.split(_COMMAS.sub(_apart, text)):
        name, equals, value = word.partition("=")
        if not equals or name not in _READERS:
            # What does not even look like one may be the rest of a password.
            raise ValueError(f'invalid LDAP option: "{name if name.startswith("ldap") else "****"}"')
        given.update(_READERS[name](value))
    options = LdapOptions(**given)
    if not options.servers:
        raise ValueError("ldapserver or ldapurl is needed")
    if options.base and (options.prefix or options.suffix):
        raise ValueError("ldapprefix and ldapsuffix do not go with ldapbasedn")
    if not (options.base or options.prefix or options.suffix):
        names = '"ldapbasedn", "ldapprefix", or "ldapsuffix"'
        raise ValueError(f'authentication method "ldap" requires argument {names} to be set')
    return options


def _apart(found: re.Match[str]) -> str:
    """A blank for commas before the name of an option (in dc=example,dc=net is none), or before nothing more."""
    between = not found[1] and (found[2] in _READERS or found.end() == len(found.string))
    return " " if between else found[0]


def _port(value: str) -> dict[str, Any]:
    if not value.isdecimal() or not 0 < int(value) < 65536:
        raise ValueError("ldapport is no port")
    return {"port": int(value)}


def _scheme(value: str) -> dict[str, Any]:
    if value not in ("ldap", "ldaps"):
        raise ValueError("ldapscheme is ldap or ldaps")
    return {"scheme": value}


def _url(value: str) -> dict[str, Any]:
    """`scheme://host:port/base?attribute?scope?filter` (RFC 4516)."""
    url = urlsplit(value)
    if url.scheme not in ("ldap", "ldaps") or not url.hostname:
        raise ValueError("ldapurl is no LDAP URL")
    fields = [unquote(part) for part in (*url.query.split("?"), "", "", "")]
    if fields[1] and fields[1] not in SCOPES:
        raise ValueError("ldapurl has an unknown scope")
    found = {
        "servers": (url.hostname,),
        "port": url.port or 0,
        "scheme": url.scheme,
        "base": unquote(url.path.removeprefix("/")),
        "attribute": fields[0],
        "scope": fields[1],
        "filter": fields[2],
    }
    return {name: part for name, part in found.items() if part}


_READERS = {
    "ldapserver": lambda value: {"servers": tuple(value.split())},
    "ldapport": _port,
    "ldapscheme": _scheme,
    "ldaptls": lambda value: {"starttls": value == "1"},
    "ldapprefix": lambda value: {"prefix": value},
    "ldapsuffix": lambda value: {"suffix": value},
    "ldapbasedn": lambda value: {"base": value},
    "ldapbinddn": lambda value: {"bind_name": value},
    "ldapbindpasswd": lambda value: {"bind_password": value},
    "ldapsearchattribute": lambda value: {"attribute": value},
    "ldapsearchfilter": lambda value: {"filter": value},
    "ldapurl": _url,
}


# ---- asking the server (in a thread)


def _check(options: LdapOptions, user: str, password: str) -> bool:
    from ldap3.core.exceptions import LDAPException

    try:
        name = _find(options, user) if options.base else _simple_name(options, user)
        if not name:
            return False
        with _bound(options, name, password) as connection:
            return connection is not None
    except (LDAPException, OSError) as error:
        raise LoginError(FAILED, log=f"LDAP: {error}") from None


def _simple_name(options: LdapOptions, user: str) -> str:
    from ldap3.utils.dn import escape_rdn

    return f"{options.prefix}{escape_rdn(user) if options.suffix else user}{options.suffix}"


def search_filter(options: LdapOptions, user: str) -> str:
    """The filter that finds a user's entry."""
    from ldap3.utils.conv import escape_filter_chars

    escaped = escape_filter_chars(user)
    if not options.filter:
        return f"({options.attribute}={escaped})"
    chosen = options.filter.replace(PLACE, escaped)
    return chosen if chosen.startswith("(") else f"({chosen})"


def _find(options: LdapOptions, user: str) -> str:
    """The distinguished name of the user's one entry; empty when there is none, or more than one."""
    with _bound(options, options.bind_name, options.bind_password) as connection:
        if connection is None:
            return ""
        connection.search(options.base, search_filter(options, user), search_scope=SCOPES[options.scope])
        names = [entry["dn"] for entry in connection.response or () if entry["type"] == "searchResEntry"]
    return names[0] if len(names) == 1 else ""


@contextmanager
def _bound(options: LdapOptions, name: str, password: str) -> Iterator[Any]:
    """A connection bound as `name` (empty: anonymous); None when the server refuses the password."""
    from ldap3.core.exceptions import LDAPException

    connection = _connect(options, name, password)
    try:
        if options.starttls:
            connection.start_tls()
        yield connection if connection.bind() else None
    finally:
        # Where TLS failed there is nobody to say goodbye to, and what failed is the news.
        with suppress(LDAPException, OSError):
            connection.unbind()


def _tls() -> Any:
    """TLS by Python's own check of certificate and name: that of ldap3 is off by default, and gone from Python 3.12."""
    import ldap3

    class Verified(ldap3.Tls):  # type: ignore[misc]
        def wrap_socket(self, connection: Any, do_handshake: bool = False) -> None:
            connection.socket = tls_options().context().wrap_socket(
                connection.socket, server_hostname=connection.server.host, do_handshake_on_connect=do_handshake
            )

    return Verified()


def _connect(options: LdapOptions, name: str, password: str) -> Any:
    """Open at the first server that answers; not bound yet."""
    import ldap3
    from ldap3.core.exceptions import LDAPSocketOpenError

    secure = options.scheme == "ldaps"
    port = options.port or (636 if secure else 389)
    for place, host in enumerate(options.servers, 1):
        server = ldap3.Server(host, port, use_ssl=secure, tls=_tls(), connect_timeout=TIMEOUT, get_info=ldap3.NONE)
        connection = ldap3.Connection(server, name or None, password or None, receive_timeout=TIMEOUT)
        try:
            connection.open()
            break
        except LDAPSocketOpenError:
            if connection.socket is not None:
                connection.socket.close()
            if place == len(options.servers):
                raise
    return connection
