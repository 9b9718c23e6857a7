"""TLS contexts from settings: one for the clients that come here, one for the servers we dial.

No handshake happens here; `channel` does it. Built anew at every RELOAD, so that new certificates count for
new connections and old ones keep what they have. The rule: a context is built whole or not at all
(TlsProblem names the setting), and what Python's ssl module cannot do is said in `warnings`, never silently
left out."""

from __future__ import annotations

import re
import ssl
import warnings as python_warnings
from collections.abc import Callable
from pathlib import Path

from pooler.channel import tls_reason
from pooler.config import tls_problems
from pooler.kinds import SslMode
from pooler.settings import Settings

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
    "legacy": frozenset(VERSIONS),
    "tlsv1": frozenset(VERSIONS),
}
"""Words of *_tls_protocols that stand for several versions."""
FORBIDDEN = {
    "tlsv1.1": ssl.OP_NO_TLSv1_1,
    "tlsv1.2": ssl.OP_NO_TLSv1_2,
}
"""For a list with a gap; the ends are minimum_version and maximum_version."""
SYSTEM_CIPHERS = ("default", "secure", "fast", "normal", "")
"""Words of *_tls_ciphers that leave OpenSSL's own choice."""
DH_WORDS = ("auto", "none", "legacy")


class TlsProblem(Exception):
    """A context cannot be built. `message` is in PgBouncer's words and names the setting."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


def client_context(settings: Settings) -> ssl.SSLContext | None:
    """For connections from clients, where we are the TLS server; None with client_tls_sslmode=disable."""
    mode = settings.client_tls_sslmode
    for problem in tls_problems(settings):
        raise TlsProblem(problem)
    if mode is SslMode.disable:
        return None
    verify = mode.rank >= SslMode.verify_ca.rank
    context = _context(ssl.PROTOCOL_TLS_SERVER, "client_tls", settings)
    context.verify_mode = ssl.CERT_REQUIRED if verify else ssl.CERT_NONE
    if verify and not settings.client_tls_ca_file:
        context.load_default_certs(ssl.Purpose.CLIENT_AUTH)
    # A session ticket costs memory and a packet, and a pooler's clients stay.
    context.num_tickets = 0
    return context


def server_context(settings: Settings) -> ssl.SSLContext | None:
    """For connections to servers, where we are the TLS client; None with server_tls_sslmode=disable."""
    mode = settings.server_tls_sslmode
    if mode is SslMode.disable:
        return None
    context = _context(ssl.PROTOCOL_TLS_CLIENT, "server_tls", settings)
    context.check_hostname = mode is SslMode.verify_full
    verify = mode.rank >= SslMode.verify_ca.rank
    context.verify_mode = ssl.CERT_REQUIRED if verify else ssl.CERT_NONE
    if verify and not settings.server_tls_ca_file:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    return context


def warnings(settings: Settings) -> tuple[str, ...]:
    """What the settings ask for and this Python's ssl module cannot do."""
    if hasattr(ssl.SSLContext, "set_ciphersuites"):
        return ()
    asked = [name for name in ("client_tls13_ciphers", "server_tls13_ciphers") if getattr(settings, name)]
    return tuple(f"{name} has no effect: Python before 3.15 cannot set TLS 1.3 ciphers" for name in asked)


def protocols(text: str) -> frozenset[str]:
    """The TLS versions that a *_tls_protocols setting names. Raises ValueError."""
    chosen: set[str] = set()
    for word in re.split(r"[\s,:]+", text.strip().lower()):
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


# ---- building


def _context(protocol: int, prefix: str, settings: Settings) -> ssl.SSLContext:
    """What both sides have in common, from the settings that begin with `prefix`."""

    def value(name: str) -> str:
        text: str | None = getattr(settings, f"{prefix}_{name}")
        return text or ""

    def step(name: str, action: Callable[[], object]) -> None:
        try:
            action()
        except (OSError, ValueError) as error:
            raise TlsProblem(f"invalid {prefix}_{name}: {_reason(error)}") from None

    context = ssl.SSLContext(protocol)
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(ALPN)
    step("protocols", lambda: _set_protocols(context, value("protocols")))
    if value("ciphers").lower() not in SYSTEM_CIPHERS:
        step("ciphers", lambda: context.set_ciphers(_cipher_text(value("ciphers"))))
    if value("ca_file"):
        step("ca_file", lambda: context.load_verify_locations(cafile=value("ca_file")))
    _set_pair(context, prefix, value("cert_file"), value("key_file"))
    if prefix == "client_tls":
        step("dheparams", lambda: _set_dh(context, value("dheparams")))
        step("ecdhcurve", lambda: _set_curve(context, value("ecdhcurve")))
    tls13 = getattr(settings, f"{prefix[:6]}_tls13_ciphers")
    if tls13 and hasattr(context, "set_ciphersuites"):
        step("tls13_ciphers", lambda: context.set_ciphersuites(tls13))
    return context


def _cipher_text(text: str) -> str:
    return "ALL" if text.lower() == "all" else text


def _set_protocols(context: ssl.SSLContext, text: str) -> None:
    chosen = protocols(text)
    ordered = [name for name in VERSIONS if name in chosen]
    with python_warnings.catch_warnings():
        # The old versions are deprecated; whoever writes them into the ini file wants them.
        python_warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = VERSIONS[ordered[0]]
        context.maximum_version = VERSIONS[ordered[-1]]
        for name, option in FORBIDDEN.items():
            if ordered[0] < name < ordered[-1] and name not in chosen:
                context.options |= option


def _set_pair(context: ssl.SSLContext, prefix: str, cert_file: str, key_file: str) -> None:
    if not cert_file and not key_file:
        return
    for name, path in (("cert_file", cert_file), ("key_file", key_file)):
        try:
            Path(path).read_bytes()
        except OSError as error:
            raise TlsProblem(f"invalid {prefix}_{name}: {_reason(error)}") from None
    try:
        context.load_cert_chain(cert_file, key_file, password=_no_password)
    except (OSError, ValueError) as error:
        raise TlsProblem(f"invalid {prefix}_key_file: {_reason(error)}") from None


def _no_password() -> str:
    raise ValueError("the key is encrypted; a pooler cannot ask for its password")


def _set_dh(context: ssl.SSLContext, text: str) -> None:
    if text.lower() not in DH_WORDS and text:
        context.load_dh_params(text)


def _set_curve(context: ssl.SSLContext, text: str) -> None:
    if text.lower() not in ("auto", "none", ""):
        context.set_ecdh_curve(text)


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return tls_reason(error)
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
