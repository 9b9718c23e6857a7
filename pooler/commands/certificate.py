"""The certificate the pooler offers its clients when nobody gave it one: self-signed, made on first start.

It lets `sslmode=require` work at once; it proves nothing about who we are, so sslmode=verify-* needs a real
one. Kept beside the rest of the state, used until it expires, then made anew. `cryptography` is imported
only to make one.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import socket
import ssl
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from cryptography import x509

LIFE = datetime.timedelta(days=3650)
RENEW_BEFORE = datetime.timedelta(days=1)
ADDRESSES = ("127.0.0.1", "::1")
CERT, KEY = "server.crt", "server.key"


class CertificateError(Exception):
    """No certificate can be made or read there. The message is one line for the user."""


class Paths(NamedTuple):
    """PEM files; the key is readable by its owner only."""

    cert: Path
    key: Path


def ensure(directory: Path) -> Paths:
    """The certificate and key in `directory`; made if there are none, if they are no pair, if they expire."""
    paths = Paths(directory / CERT, directory / KEY)
    try:
        if not _usable(paths):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            _make(paths)
    except OSError as error:
        raise CertificateError(f"no certificate for TLS can be kept in {directory}: {error}") from error
    return paths


def _usable(paths: Paths) -> bool:
    """Whether both can be loaded, belong together and stay valid for a while."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*paths, password="")
        ends = _ends(paths.cert)
    except (FileNotFoundError, ssl.SSLError):
        return False
    return ends is None or ends - RENEW_BEFORE.total_seconds() > time.time()


def _ends(cert: Path) -> float | None:
    """When a certificate of our making expires, Unix time; None for one that is no authority, so not of ours.

    By `ssl` alone, since importing `cryptography` would cost every start 40 ms.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cert)
    ends = [str(known["notAfter"]) for known in context.get_ca_certs()]
    return ssl.cert_time_to_seconds(ends[0]) if ends else None


def _make(paths: Paths) -> None:
    """EC P-256, which every TLS 1.2 and 1.3 client takes and whose handshakes are the cheapest for us."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    private = ec.generate_private_key(ec.SECP256R1())
    host = socket.gethostname()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[:64] or "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + LIFE)
        .add_extension(_alternatives(host), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(private, hashes.SHA256())
    )
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _write(paths.key, pem, 0o600)
    _write(paths.cert, certificate.public_bytes(serialization.Encoding.PEM), 0o644)


def _alternatives(host: str) -> x509.SubjectAlternativeName:
    """The names a client of this machine may connect by. A host name that is no DNS name is left out."""
    from cryptography import x509

    names = dict.fromkeys(["localhost", *([host] if host.isascii() and host else [])])
    addresses = [x509.IPAddress(ipaddress.ip_address(address)) for address in ADDRESSES]
    return x509.SubjectAlternativeName([*(x509.DNSName(name) for name in names), *addresses])


def _write(path: Path, data: bytes, mode: int) -> None:
    """Whole or not at all, and never readable by more than `mode` says, not even for a moment."""
    unfinished = path.with_suffix(path.suffix + ".new")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as out:
        out.write(data)
    unfinished.replace(path)
