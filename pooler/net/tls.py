"""TLS from settings: what clients are offered, and how servers are spoken to.

No handshake happens here; `channel` does it. A `Tls` is what is in force, its modes too: it is made whole or not at all
(TlsProblem says why, in PgBouncer's words), and whoever cannot make a new one goes on with the one they have. The rule
is PgBouncer's: the clients' side is read when it is made, at a start or a RELOAD; the files of the servers' side
whenever a server is dialled, so that a certificate replaced in place counts, and a start does without them."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import ssl
import warnings as python_warnings
from collections.abc import Callable

from pooler.config.databases import OwnTls
from pooler.config.files import load_regular
from pooler.config.kinds import SslMode
from pooler.config.settings import SETTINGS, Settings
from pooler.config.whole import tls_problems
from pooler.net.channel import tls_reason
from pooler.relay.engine import demand_protocol, set_ciphersuites, share_tickets
from pooler.values import dataclass

ALPN = ["postgresql"]
VERSIONS = {
    "tlsv1.0": ssl.TLSVersion.TLSv1,
    "tlsv1.1": ssl.TLSVersion.TLSv1_1,
    "tlsv1.2": ssl.TLSVersion.TLSv1_2,
    "tlsv1.3": ssl.TLSVersion.TLSv1_3,
}
"""Oldest first."""
SECURE = frozenset(("tlsv1.2", "tlsv1.3"))
GROUPS = {
    "secure": SECURE,
    "default": SECURE,
    "all": frozenset(VERSIONS),
    "tlsv1": frozenset(VERSIONS),
}
"""Words of *_tls_protocols that stand for several versions."""
SYSTEM_CIPHERS = ("default", "secure", "fast", "normal", "")
"""Words of *_tls_ciphers that leave OpenSSL's own choice."""
SYSTEM_CHOICE = ("auto", "none", "")
"""Words of client_tls_dheparams, which knows no others, and of client_tls_ecdhcurve."""
TICKET_KEYS = 80
"""Random bytes by which sessions are taken up again: the name of the keys, what tickets are signed and hidden with."""
SERVER_KEYS = tuple(key for key in SETTINGS if key.startswith("server_tls"))
FILES = ("ca_file", "cert_file", "key_file")
KEYS = frozenset(key for key in SETTINGS if key.startswith(("client_tls", "server_tls"))) | {"auth_type"}
"""Settings that TLS is made of."""


class TlsProblem(Exception):
    """TLS cannot be set up as the settings say. `message` is why, and names the setting."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    @property
    def log(self) -> str:
        """The line for the log."""
        return self.message


class FileProblem(TlsProblem):
    """The settings may be right, but not with what the files hold now or with this OpenSSL."""

    @property
    def log(self) -> str:
        return f"TLS setup failed: {self.message}"


@dataclass(frozen=True, slots=True)
class ClientTls:
    """For connections from clients. `context` is None when TLS is off."""

    mode: SslMode = SslMode.disable
    context: ssl.SSLContext | None = None

    def share_tickets(self, keys: bytes) -> None:
        """Take up sessions again of all processes that have these."""
        if self.context is not None:
            share_tickets(self.context, keys)


class ServerTls:
    """For connections to servers. `problem` is why there is no context, when there should be one."""

    __slots__ = ("_context", "_settings", "_stamps", "facts", "mode", "problem")

    def __init__(self, settings: Settings) -> None:
        """Raises TlsProblem for settings that no file can mend."""
        self.mode = settings.server_tls_sslmode
        self.problem = ""
        self._settings = settings
        self._context: ssl.SSLContext | None = None
        self._stamps: object = None
        self.facts: tuple[object, ...] = (self.mode,)
        """What servers are dialled with: those that were dialled with something else are outdated."""
        if self.mode is not SslMode.disable:
            self.facts = (*(getattr(settings, key) for key in SERVER_KEYS), *map(_digest, self._files()))
        self.look()

    @classmethod
    def of(cls, own: OwnTls) -> ServerTls:
        """For the servers of a database that has its own. Raises TlsProblem."""
        try:
            mode = SETTINGS["server_tls_sslmode"].kind.parse(own.mode)
        except ValueError as error:
            raise TlsProblem(f"server_tls_sslmode: {error}") from None
        return cls(dataclasses.replace(Settings(), server_tls_sslmode=mode, server_tls_ca_file=own.ca_file))

    @property
    def context(self) -> ssl.SSLContext | None:
        """As the files were at the last look; None with server_tls_sslmode=disable, or with a `problem`."""
        return self._context

    def look(self) -> str:
        """If the files hold something else now, that counts from now on. What is wrong with it, said once; what was
        made of them before goes on then."""
        stamps = tuple(map(_stamp, self._files()))
        if self.mode is SslMode.disable or stamps == self._stamps:
            return ""
        self._stamps = stamps
        try:
            self._context = server_context(self._settings)
        except FileProblem as problem:
            self.problem = "" if self._context else problem.message
            return problem.message
        self.problem = ""
        return ""

    def _files(self) -> list[str]:
        """Those that are read in this mode, and are named."""
        names = [name for name in FILES if name != "ca_file" or self.mode.rank >= SslMode.verify_ca.rank]
        return [path for path in (getattr(self._settings, f"server_tls_{name}") for name in names) if path]


@dataclass(frozen=True, slots=True)
class Tls:
    """What is in force."""

    client: ClientTls
    server: ServerTls

    @classmethod
    def off(cls) -> Tls:
        """No TLS on either side."""
        return cls(ClientTls(), ServerTls(dataclasses.replace(Settings(), server_tls_sslmode=SslMode.disable)))


def start(settings: Settings) -> Tls:
    """For a start. Raises TlsProblem; the files of the server's side may come later."""
    return Tls(client_side(settings), ServerTls(settings))


def renew(settings: Settings) -> Tls:
    """To take the place of one at work: all of it must be usable now. Raises TlsProblem."""
    made = start(settings)
    if made.server.problem:
        raise FileProblem(made.server.problem)
    return made


def client_side(settings: Settings) -> ClientTls:
    """Raises TlsProblem."""
    return ClientTls(settings.client_tls_sslmode, client_context(settings))


def client_context(settings: Settings) -> ssl.SSLContext | None:
    """For connections from clients, where we are the TLS server; None with client_tls_sslmode=disable."""
    mode = settings.client_tls_sslmode
    for problem in tls_problems(settings):
        raise TlsProblem(problem)
    if mode is SslMode.disable:
        return None
    making = _Making(ssl.PROTOCOL_TLS_SERVER, "client_tls", settings)
    making.take_words()
    making.take_curve()
    making.take_files(authorities=True)
    context = making.context
    if mode.rank >= SslMode.verify_ca.rank:
        context.verify_mode = ssl.CERT_REQUIRED
        if not settings.client_tls_ca_file:
            context.load_default_certs(ssl.Purpose.CLIENT_AUTH)
    elif settings.client_tls_ca_file:
        # Asked for and judged when it is given, so that an HBA rule can demand one. Where no authorities are named
        # nobody is asked: PgBouncer takes the system's then, and turns away who shows any other certificate.
        context.verify_mode = ssl.CERT_OPTIONAL
    else:
        context.verify_mode = ssl.CERT_NONE
    demand_protocol(context)
    return context


def server_context(settings: Settings) -> ssl.SSLContext | None:
    """For connections to servers, where we are the TLS client; None with server_tls_sslmode=disable. It looks at no
    names: `channel` does, where it is told to."""
    mode = settings.server_tls_sslmode
    if mode is SslMode.disable:
        return None
    making = _Making(ssl.PROTOCOL_TLS_CLIENT, "server_tls", settings)
    context = making.context
    context.check_hostname = False
    making.take_words()
    verify = mode.rank >= SslMode.verify_ca.rank
    context.verify_mode = ssl.CERT_REQUIRED if verify else ssl.CERT_NONE
    making.take_files(authorities=verify)
    if verify and not settings.server_tls_ca_file:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    return context


def protocols(text: str) -> frozenset[str]:
    """The TLS versions that a *_tls_protocols setting names. Raises ValueError."""
    chosen: set[str] = set()
    for word in re.split("[,:]", text or "default"):
        word = word.lstrip(" \t").lower()
        name = word.removeprefix("!")
        versions = GROUPS.get(name) or frozenset((name,)) & frozenset(VERSIONS)
        if not versions:
            raise ValueError(f"unknown TLS version {word}")
        if word.startswith("!"):
            chosen = (chosen or set(VERSIONS)) - versions
        else:
            chosen |= versions
    if not chosen:
        raise ValueError("no TLS version is left")
    return frozenset(chosen)


def span(chosen: frozenset[str]) -> tuple[str, str]:
    """The oldest and the newest of those versions that may be offered: OpenSSL knows no list with a gap, so what is
    older than one is left out."""
    ordered = list(VERSIONS)
    last = max(map(ordered.index, chosen))
    first = last
    while first and ordered[first - 1] in chosen:
        first -= 1
    return ordered[first], ordered[last]


# ---- building


class _Making:
    """A context in the making, from the settings that begin with `prefix`."""

    def __init__(self, protocol: int, prefix: str, settings: Settings) -> None:
        self.context = ssl.SSLContext(protocol)
        self.context.options |= ssl.OP_NO_RENEGOTIATION
        self.context.set_alpn_protocols(ALPN)
        self._prefix = prefix
        self._settings = settings

    def _value(self, name: str) -> str:
        text: str | None = getattr(self._settings, f"{self._prefix}_{name}")
        return text or ""

    def take_words(self) -> None:
        """Protocols and ciphers."""
        self._take("protocols", lambda text: _set_protocols(self.context, text))
        if self._value("ciphers").lower() not in SYSTEM_CIPHERS:
            self._take("ciphers", self.context.set_ciphers)
        self._take_suites(f"{self._prefix}13_ciphers")

    def take_curve(self) -> None:
        """The key exchange, which is the TLS server's choice."""
        if self._value("dheparams").lower() not in SYSTEM_CHOICE:
            raise TlsProblem(f"invalid {self._prefix}_dheparams: {self._value('dheparams')}")
        if self._value("ecdhcurve").lower() not in SYSTEM_CHOICE:
            self._take("ecdhcurve", self.context.set_ecdh_curve)

    def _take(self, name: str, action: Callable[[str], object]) -> None:
        text = self._value(name)
        try:
            action(text)
        except ValueError:
            # libtls has another word for the curve.
            word = name.replace("ecdhcurve", "ecdhecurve")
            raise TlsProblem(f"invalid {self._prefix}_{word}: {text}") from None
        except ssl.SSLError as error:
            if name == "ecdhcurve":
                raise FileProblem(f"failed to set ECDHE curve: {_reason(error)} ({self._prefix}_{name})") from None
            raise TlsProblem(f"invalid {self._prefix}_{name}: {text}") from None

    def _take_suites(self, key: str) -> None:
        text: str | None = getattr(self._settings, key)
        if text and (why := _set_suites(self.context, text)):
            raise FileProblem(f"failed to set the TLSv1.3 cipher suites: {why} ({key})")

    def take_files(self, *, authorities: bool) -> None:
        """The pair, and if wanted the `authorities`. Raises FileProblem."""
        self._take_pair(self._value("cert_file"), self._value("key_file"))
        ca = self._value("ca_file")
        if authorities and ca:
            self._read(ca, "ca_file", "failed to load CA")
            try:
                self.context.load_verify_locations(cafile=ca)
            except ssl.SSLError as error:
                raise FileProblem(f"failed to load CA: {_reason(error)} ({self._prefix}_ca_file)") from None

    def _take_pair(self, cert: str, key: str) -> None:
        if not cert and not key:
            return
        for name, path in (("cert_file", cert), ("key_file", key)):
            if not path:
                raise FileProblem(f"private/public key mismatch: {self._prefix}_{name} is not set")
        self._read(cert, "cert_file", f'failed to load certificate file "{cert}"')
        self._read(key, "key_file", f'failed to load private key file "{key}"')
        try:
            self.context.load_cert_chain(cert, key, password=_no_password)
        except (ssl.SSLError, ValueError) as error:
            name, what, path = ("key_file", "private key", key)
            if not _holds_certificate(cert):
                name, what, path = ("cert_file", "certificate", cert)
            # Of a file without what is looked for Python says nothing but [SSL] PEM lib.
            found = not isinstance(error, ssl.SSLError) or getattr(error, "reason", None)
            why = _reason(error) if found else f"there is no {what} in it"
            raise FileProblem(f'failed to load {what} file "{path}": {why} ({self._prefix}_{name})') from None

    def _read(self, path: str, name: str, failed: str) -> None:
        """Whether the file can be read at all: `ssl` does not say which of two cannot."""
        try:
            load_regular(path)
        except OSError as error:
            raise FileProblem(f"{failed}: {_reason(error)} ({self._prefix}_{name})") from None


def _set_protocols(context: ssl.SSLContext, text: str) -> None:
    first, last = span(protocols(text))
    with python_warnings.catch_warnings():
        # The old versions are deprecated; whoever writes them into the ini file wants them.
        python_warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version, context.maximum_version = VERSIONS[first], VERSIONS[last]


def _set_suites(context: ssl.SSLContext, text: str) -> str | None:
    """TLS 1.3 ciphers; None, or why it cannot be done. Python can by itself from 3.15 on."""
    if not hasattr(context, "set_ciphersuites"):
        return set_ciphersuites(context, text.encode())
    try:
        context.set_ciphersuites(text)
    except ssl.SSLError as error:
        return _reason(error)
    return None


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return tls_reason(error)
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


def _no_password() -> str:
    raise ValueError("the key is encrypted, and nobody is here to ask for its password")


def _holds_certificate(path: str) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
    except (OSError, ValueError):
        return False
    return True


def _stamp(path: str) -> tuple[int, ...]:
    """What changes when the file does."""
    try:
        found = os.stat(path)
    except OSError as error:
        return (error.errno or 0,)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _digest(path: str) -> bytes:
    try:
        return hashlib.sha256(load_regular(path)).digest()
    except OSError:
        return b""
