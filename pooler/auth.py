"""How a client proves who it is: one function per method, in a table. They speak on the client's Channel.

Nothing is decided here about databases, limits or rules. The rule: a user that does not exist takes the
same steps as one with a wrong password (`stand_in`), fails with the same words at the same step, and
comparisons take the same time. What a login teaches (password or SCRAM keys) is returned, so that servers
can be shown it."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import hmac
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import field
from typing import TYPE_CHECKING, ParamSpec

from pooler import scram, wire
from pooler.channel import Channel
from pooler.kinds import AuthType
from pooler.settings import Settings
from pooler.users import MAX_PASSWORD, ScramSecret, Secret, SecretKind
from pooler.values import dataclass

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

P = ParamSpec("P")

BLOCKING_CHECKS = 8
"""How many logins PAM and LDAP judge at once; further ones wait."""
MAX_AUTH_MESSAGE = 10_000
"""Longest message of a client during authentication; a password's own limit is lower."""

ASK_SCRAM = wire.authentication_sasl([scram.MECHANISM])
_PROCESS_SECRET = os.urandom(32)


class LoginError(Exception):
    """A client is not let in. `message` goes to the client as FATAL and into the log as `closing because: …`;
    `log` is a further line for the log that says more. Without `notify` the client is told nothing."""

    def __init__(
        self, message: str, sqlstate: str = wire.PROTOCOL_VIOLATION, *, log: str = "", notify: bool = True
    ) -> None:
        super().__init__(message)
        self.message = message
        self.sqlstate = sqlstate
        self.log = log
        self.notify = notify


@dataclass(frozen=True, slots=True)
class Credentials:
    """What can be shown to a server on a user's behalf; any part may be unknown."""

    password: str | None = field(default=None, repr=False)
    md5: str | None = field(default=None, repr=False)
    """`md5` and 32 hexadecimal digits, as stored by PostgreSQL."""
    keys: scram.Keys | None = field(default=None, repr=False)

    @classmethod
    def of(cls, secret: Secret | None) -> Credentials:
        """What a stored secret is good for. A SCRAM verifier is good for nothing by itself."""
        if secret is None or not secret.text:
            return NOTHING
        if secret.kind is SecretKind.plain:
            return cls(password=secret.text)
        return cls(md5=secret.text) if secret.kind is SecretKind.md5 else NOTHING

    def joined(self, other: Credentials) -> Credentials:
        """These, and from `other` what these lack."""
        password = other.password if self.password is None else self.password
        return Credentials(password, self.md5 or other.md5, self.keys or other.keys)


NOTHING = Credentials()


@dataclass(frozen=True, slots=True)
class Claim:
    """Somebody claims to be `user`. `secret` is what is stored of them, or a stand-in when they are not
    `known`."""

    channel: Channel
    user: str
    secret: Secret
    known: bool
    settings: Settings
    may_be: Callable[[str], bool]
    """Whether a system name (of a certificate, of a Unix user) may log in as `user`."""
    options: str = ""
    """What the HBA rule says behind the method ldap."""


@dataclass(frozen=True, slots=True)
class Proof:
    """The claim holds. `farewell` is the last message of the exchange, to be sent before AuthenticationOk."""

    credentials: Credentials = NOTHING
    farewell: bytes = b""


def stand_in(user: str, kind: SecretKind, iterations: int) -> Secret:
    """A secret for a user that does not exist, of the kind other users have; nobody can meet it."""
    if kind is SecretKind.scram:
        return Secret(user, scram.verifier_text(scram.mock_verifier(_PROCESS_SECRET, user, iterations)))
    unguessable = os.urandom(16).hex()
    return Secret(user, f"md5{unguessable}" if kind is SecretKind.md5 else unguessable)


def authenticate(method: AuthType, claim: Claim) -> Awaitable[Proof]:
    """Raises LoginError unless the claim holds."""
    if method is AuthType.md5 and claim.secret.kind is SecretKind.scram:
        method = AuthType.scram_sha_256
    return METHODS.get(method, _reject)(claim)


# ---- without a password


async def _any(claim: Claim) -> Proof:
    return Proof()


async def _trust(claim: Claim) -> Proof:
    if not claim.known:
        raise LoginError('"trust" authentication failed')
    return Proof()


async def _reject(claim: Claim) -> Proof:
    raise LoginError("login rejected")


async def _cert(claim: Claim) -> Proof:
    certificate = claim.channel.peer_certificate()
    if certificate is None:
        raise LoginError("certificate authentication failed", log="TLS client certificate required")
    if not claim.known or not any(claim.may_be(name) for name in common_names(certificate)):
        raise LoginError("certificate authentication failed", log="TLS certificate name mismatch")
    return Proof()


def common_names(certificate: Mapping[str, object]) -> list[str]:
    """commonName entries of the subject, as `ssl` describes it."""
    subject = certificate.get("subject", ())
    assert isinstance(subject, tuple)
    return [value for part in subject for name, value in part if name == "commonName"]


async def _peer(claim: Claim) -> Proof:
    import pwd

    peer = claim.channel.peer
    try:
        name = pwd.getpwuid(peer.uid).pw_name if peer.is_unix and peer.uid >= 0 else ""
    except KeyError:
        name = ""
    if not claim.known or not name or not claim.may_be(name):
        raise LoginError("unix socket login rejected")
    return Proof()


# ---- with a clear password


async def _plain(claim: Claim) -> Proof:
    password = await _ask_password(claim.channel, wire.authentication_cleartext())
    fits = password_fits(password, claim.secret)
    if not fits or not claim.known:
        raise _wrong_password()
    return Proof(Credentials(password=password))


def password_fits(password: str, secret: Secret) -> bool:
    """Whether a clear password is the one that a secret of any kind was made from."""
    if secret.scram is not None:
        return scram.password_matches(password, secret.scram)
    if secret.kind is SecretKind.md5:
        return _same(md5_secret(password, secret.user), secret.text)
    return bool(secret.text) and _same(password, secret.text)


async def in_thread(check: Callable[P, bool], *args: P.args, **kwargs: P.kwargs) -> bool:
    """The result of a check that blocks. Its threads are apart from the loop's own, which look up names."""
    return await asyncio.wrap_future(_threads().submit(check, *args, **kwargs))


@functools.cache
def _threads() -> ThreadPoolExecutor:
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(BLOCKING_CHECKS, "authentication")


async def _pam(claim: Claim) -> Proof:
    from pooler import pam

    password = await _ask_password(claim.channel, wire.authentication_cleartext())
    if not await pam.check(claim.user, password):
        raise _wrong_password()
    return Proof(Credentials(password=password))


async def _ldap(claim: Claim) -> Proof:
    from pooler import ldap

    options = claim.options or claim.settings.auth_ldap_options
    if not options:
        raise LoginError("auth_ldap_options is null")
    password = await _ask_password(claim.channel, wire.authentication_cleartext())
    if not await ldap.check(options, claim.user, password):
        raise _wrong_password()
    return Proof(Credentials(password=password))


# ---- with a digest


async def _md5(claim: Claim) -> Proof:
    salt = os.urandom(4)
    answer = await _ask_password(claim.channel, wire.authentication_md5(salt))
    secret = claim.secret
    stored = secret.text if secret.kind is SecretKind.md5 else md5_secret(secret.text, claim.user)
    if not _same(answer, md5_answer(stored, salt)) or not claim.known or not secret.text:
        raise _wrong_password()
    return Proof(Credentials.of(secret))


def md5_secret(password: str, user: str) -> str:
    """What PostgreSQL stores: `md5` and the digest of password and user name."""
    return "md5" + hashlib.md5(wire.encode(password + user)).hexdigest()


def md5_answer(stored: str, salt: bytes) -> str:
    """What a client answers to AuthenticationMD5Password, from the stored form."""
    return "md5" + hashlib.md5(stored[3:].encode() + salt).hexdigest()


async def _scram(claim: Claim) -> Proof:
    exchange = scram.ServerExchange(_verifier(claim))
    await claim.channel.send(ASK_SCRAM)
    mechanism, data = wire.read_sasl_initial_response(await _read_answer(claim.channel))
    if mechanism != scram.MECHANISM:
        raise LoginError("client selected an invalid SASL authentication mechanism")
    try:
        await claim.channel.send(wire.authentication_sasl_continue(exchange.first(data)))
        last = exchange.final(await _read_answer(claim.channel))
    except scram.ScramError as error:
        raise _sasl_failed(error.message) from None
    if not claim.known or exchange.keys is None or not claim.secret.text:
        raise LoginError("SASL authentication failed", log="password authentication failed")
    stored = claim.secret.kind is SecretKind.scram
    credentials = Credentials(keys=exchange.keys) if stored else Credentials.of(claim.secret)
    return Proof(credentials, wire.authentication_sasl_final(last))


def _verifier(claim: Claim) -> ScramSecret:
    """The stored verifier, or one made from a plain secret, its salt the same as long as we run. An md5
    secret cannot do SCRAM: nobody meets the mock verifier it gets."""
    if claim.secret.scram is not None:
        return claim.secret.scram
    iterations = claim.settings.scram_iterations
    mock = scram.mock_verifier(_PROCESS_SECRET, claim.user, iterations)
    if claim.secret.kind is SecretKind.md5:
        return mock
    return scram.make_verifier(claim.secret.text, iterations, mock.salt)


# ---- the client's answers


async def _ask_password(channel: Channel, request: bytes) -> str:
    """The text of the PasswordMessage that answers `request`."""
    await channel.send(request)
    password = wire.read_password(await _read_answer(channel))
    if not password:
        raise LoginError("empty password returned by client")
    if len(password) >= MAX_PASSWORD:
        raise LoginError("password too long")
    return wire.decode(password)


async def _read_answer(channel: Channel) -> bytes:
    """Body of the next message, which must be of type `p`."""
    if await channel.peek() == 0:
        raise LoginError("client re-sent startup pkt")
    kind, body = await channel.read_message(MAX_AUTH_MESSAGE)
    if kind == b"p":
        return body
    if kind == b"X":
        raise LoginError("client close request", notify=False)
    raise LoginError("bad packet")


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(wire.encode(one), wire.encode(other))


def _wrong_password() -> LoginError:
    return LoginError("password authentication failed")


def _sasl_failed(why: str) -> LoginError:
    log = f"SCRAM authentication failed: {why}"
    return LoginError("SASL authentication failed", log=log)


METHODS: Mapping[AuthType, Callable[[Claim], Awaitable[Proof]]] = {
    AuthType.any: _any,
    AuthType.trust: _trust,
    AuthType.plain: _plain,
    AuthType.md5: _md5,
    AuthType.scram_sha_256: _scram,
    AuthType.cert: _cert,
    AuthType.peer: _peer,
    AuthType.pam: _pam,
    AuthType.ldap: _ldap,
    AuthType.reject: _reject,
}
