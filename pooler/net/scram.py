"""SCRAM-SHA-256 (RFC 5802, RFC 7677) for both roles, as PostgreSQL speaks it: the exchange only, no I/O.

The server role needs a verifier (`ScramSecret`, PostgreSQL's `SCRAM-SHA-256$...`), the client role the keys: derived
from a password, or learnt at a client's login: whoever logs in here shows its ClientKey, with which we can log in as
that user elsewhere without ever knowing a password. User names inside the messages are ignored (libpq sends none). No
channel binding. The rule: every failure is a ScramError, and comparisons take the same time.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
from dataclasses import field

from pooler.config.users import ScramSecret
from pooler.relay.engine import ScramError as ScramError
from pooler.relay.engine import ScramServer
from pooler.values import dataclass

MECHANISM = "SCRAM-SHA-256"
DEFAULT_ITERATIONS = 4096
MAX_ITERATIONS = 1_000_000
"""Who asks for more wants our processor, not our password. PgBouncer has the same bound."""
SALT_BYTES = 16
MAX_SALT_BYTES = 1024
NONCE_BYTES = 18

_PRINTABLE = re.compile(rb"[\x21-\x2b\x2d-\x7e]+")
"""A nonce: printable ASCII without the comma."""


class BadSignature(ScramError):
    """The server does not know what it should know of the password."""


@dataclass(frozen=True, slots=True)
class Keys:
    """What a client can do without the password: log in to any server that holds the same verifier."""

    client_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)


def make_verifier(password: str, iterations: int = DEFAULT_ITERATIONS, salt: bytes | None = None) -> ScramSecret:
    salt = os.urandom(SALT_BYTES) if salt is None else salt
    return verifier(derive_keys(password, salt, iterations), salt, iterations)


def verifier(keys: Keys, salt: bytes, iterations: int) -> ScramSecret:
    """What a server has to know of who has these keys."""
    return ScramSecret(iterations, salt, _sha256(keys.client_key), keys.server_key)


def verifier_text(verifier: ScramSecret) -> str:
    """As PostgreSQL stores it in pg_authid.rolpassword."""
    salt, stored, server = map(_base64, (verifier.salt, verifier.stored_key, verifier.server_key))
    return f"{MECHANISM}${verifier.iterations}:{salt}${stored}:{server}"


def derive_keys(password: str, salt: bytes, iterations: int) -> Keys:
    """The expensive step; `derivation` takes it out of the event loop."""
    salted = hashlib.pbkdf2_hmac("sha256", prepare(password), salt, iterations)
    return Keys(_hmac(salted, b"Client Key"), _hmac(salted, b"Server Key"))


def prepare(password: str) -> bytes:
    """SASLprep (RFC 4013); a password it refuses is used as it is, as PostgreSQL does."""
    raw = password.encode("utf-8", "surrogateescape")
    if raw.isascii():
        return raw
    from scramp.utils import ScramException, saslprep

    try:
        prepared: str = saslprep(password)
        return prepared.encode() or raw
    except (ScramException, UnicodeEncodeError):
        return raw


ServerExchange = ScramServer
"""The side that asks."""


class ClientExchange:
    """The side that proves. Each message of the server is taken once, in its turn."""

    __slots__ = ("_auth_message", "_bare", "_keys", "_nonce", "_server_first", "_server_nonce")

    def __init__(self) -> None:
        self._nonce = base64.b64encode(os.urandom(NONCE_BYTES))
        self._bare = b"n=,r=" + self._nonce
        self._server_first = b""
        self._server_nonce = b""
        self._auth_message = b""
        self._keys: Keys | None = None

    def first(self) -> bytes:
        """client-first-message."""
        return b"n,," + self._bare

    def take(self, data: bytes) -> tuple[bytes, int]:
        """Salt and iteration count of server-first-message, by which the keys are derived from a password."""
        if self._server_first:
            raise ScramError("received second AuthenticationSASLContinue")
        salt, iterations, nonce = self._read_server_first(data)
        self._server_first, self._server_nonce = data, nonce
        return salt, iterations

    def final(self, keys: Keys) -> bytes:
        """client-final-message."""
        without_proof = b"c=biws,r=" + self._server_nonce
        self._auth_message = b",".join((self._bare, self._server_first, without_proof))
        self._keys = keys
        proof = _xor(keys.client_key, _hmac(_sha256(keys.client_key), self._auth_message))
        return without_proof + b",p=" + base64.b64encode(proof)

    def finish(self, data: bytes) -> None:
        """Check server-final-message: does the server know us too?"""
        fields = _fields(data)
        if fields[0][0] == b"e":
            raise ScramError(f"server refused: {fields[0][1].decode('ascii', 'replace')}")
        if fields[0][0] != b"v" or self._keys is None or not self._auth_message:
            raise ScramError("malformed server-final-message")
        expected = _hmac(self._keys.server_key, self._auth_message)
        if not hmac.compare_digest(_decode(fields[0][1]), expected):
            raise BadSignature("invalid server signature")

    def _read_server_first(self, data: bytes) -> tuple[bytes, int, bytes]:
        fields = _fields(data)
        if [name for name, _ in fields[:3]] != [b"r", b"s", b"i"]:
            raise ScramError("malformed server-first-message")
        nonce, salt, count = _nonce(fields[0]), _decode(fields[1][1]), fields[2][1]
        if not nonce.startswith(self._nonce) or len(nonce) == len(self._nonce):
            raise ScramError("server's nonce does not continue ours")
        if not count.isdigit() or len(count) > 9 or not 0 < int(count) <= MAX_ITERATIONS:
            raise ScramError("malformed SCRAM message (invalid iteration count)")
        if not 0 < len(salt) <= MAX_SALT_BYTES:
            raise ScramError("unacceptable salt")
        return salt, int(count), nonce


def _fields(data: bytes) -> list[tuple[bytes, bytes]]:
    """`a=…,b=…` in order."""
    pairs = []
    for part in data.split(b","):
        name = part[:1]
        if part[1:2] != b"=" or not name.isalpha():
            raise ScramError("malformed attribute")
        if name == b"m":
            raise ScramError("unsupported mandatory extension")
        pairs.append((name, part[2:]))
    return pairs


def _nonce(field: tuple[bytes, bytes]) -> bytes:
    name, value = field
    if name != b"r" or not _PRINTABLE.fullmatch(value):
        raise ScramError("malformed nonce")
    return value


def _decode(text: str | bytes) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ScramError("malformed base64") from None


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")


def _xor(one: bytes, other: bytes) -> bytes:
    return (int.from_bytes(one, "big") ^ int.from_bytes(other, "big")).to_bytes(len(one), "big")
