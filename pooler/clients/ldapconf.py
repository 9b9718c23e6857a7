"""What OpenLDAP's configuration says of TLS: ldap.conf, the files that LDAPCONF and LDAPRC name, LDAPTLS_* variables.

Whoever has used PgBouncer with LDAP has said there which authorities to trust, and that holds here as well. Read in
the order of ldap.conf(5), the last word counts; LDAPNOINIT turns all of it off. The rule: a directory has to prove its
name, unless this configuration says in so many words that it need not.
"""

from __future__ import annotations

import dataclasses
import os
import ssl
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from pooler.values import dataclass

SYSTEM = ("/etc/ldap/ldap.conf", "/etc/openldap/ldap.conf")
PREFIX = "TLS_"
VARIABLES = "LDAPTLS_"
OF_USERS = ("CERT", "KEY")
"""What counts only where a user says it, not in a system's file."""
UNPROVEN = ("never", "allow")
"""Words of TLS_REQCERT that let a directory in whose certificate nobody vouches for."""


@dataclass(frozen=True, slots=True)
class LdapTls:
    """The TLS_* options that matter here; empty where nothing is said."""

    cacert: str = ""
    cacertdir: str = ""
    cert: str = ""
    key: str = ""
    reqcert: str = ""

    def context(self) -> ssl.SSLContext:
        """Raises OSError, ssl.SSLError when a file that is named cannot be used."""
        context = ssl.create_default_context(cafile=self.cacert or None, capath=self.cacertdir or None)
        if self.cert:
            context.load_cert_chain(self.cert, self.key or None)
        if self.reqcert.lower() in UNPROVEN:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def tls_options(environ: Mapping[str, str] | None = None, system: Iterable[str] = SYSTEM) -> LdapTls:
    """What holds for this process."""
    given = os.environ if environ is None else environ
    if "LDAPNOINIT" in given:
        return LdapTls()
    found: dict[str, str] = {}
    for path, is_system in _files(given, system):
        found.update((name, value) for name, value in _said(path) if not (is_system and name in OF_USERS))
    found.update((name.removeprefix(VARIABLES), text) for name, text in given.items() if name.startswith(VARIABLES))
    known = (field.name for field in dataclasses.fields(LdapTls))
    return LdapTls(**{name: found[name.upper()] for name in known if name.upper() in found})


def _files(environ: Mapping[str, str], system: Iterable[str]) -> Iterator[tuple[str, bool]]:
    """The files in the order in which they are read, and whether each is a system's."""
    home = environ.get("HOME", "")

    def of_user(name: str) -> Iterator[tuple[str, bool]]:
        places = (f"{home}/{name}", f"{home}/.{name}") if home else ()
        return ((place, False) for place in (*places, name))

    yield from ((path, True) for path in system)
    yield from of_user("ldaprc")
    if path := environ.get("LDAPCONF"):
        yield path, True
    if name := environ.get("LDAPRC"):
        yield from of_user(name)


def _said(path: str) -> Iterator[tuple[str, str]]:
    """The TLS options of a file, without their prefix; none of one that cannot be read."""
    try:
        text = Path(path).read_text(errors="replace")
    except OSError:
        return
    for line in text.splitlines():
        name, *rest = line.split(None, 1)[:2] or [""]
        if rest and name.upper().startswith(PREFIX):
            yield name.upper().removeprefix(PREFIX), rest[0].strip()
