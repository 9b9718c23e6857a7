"""How a client proves who it is: one function per method, in a table. They speak on the client's Channel.

Nothing is decided here about databases, limits or rules. The rule: a user that does not exist takes the
same steps as one with a wrong password (`StandIn`), in the same time, and fails with the same words at the same
step. What a login teaches (password or SCRAM keys) is returned, so that servers can be shown it."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from typing import NamedTuple

from pooler import wire
from pooler.clients.startup import REMEMBERED
from pooler.config.kinds import AuthType
from pooler.config.settings import Settings
from pooler.config.users import MAX_PASSWORD, Likeness, ScramSecret, Secret, SecretKind
from pooler.config.whole import Config
from pooler.log import ERROR
from pooler.net import derivation, identity, scram
from pooler.net.channel import Channel, while_there
from pooler.net.credentials import NOTHING, Credentials, md5_answer, md5_secret
from pooler.pools.refusal import LoginError
from pooler.relay.engine import WrongPassword, random_bytes
from pooler.values import dataclass
from pooler.wire import TooLong

MAX_SASL_MESSAGE = 10_000
"""Longest message of a client that answers with a digest."""

ANSWER = ord("p")
"""Type of a client's messages here."""
ASK_SCRAM = wire.authentication_sasl([scram.MECHANISM])
_PROCESS_SECRET = os.urandom(32)
NOBODYS_KEYS = scram.Keys(os.urandom(32), os.urandom(32))
OWN_KEYS = derivation.Memory()
"""Of the passwords in auth_file, and those that auth_query has found."""


class StandIn:
    """The secret of a user that does not exist, the same each time they are asked for; nobody can meet it."""

    __slots__ = ("kind", "salt", "scram", "text", "user")

    def __init__(self, user: str, like: Likeness) -> None:
        digest = hashlib.blake2b(wire.encode(user), key=_PROCESS_SECRET).digest()
        self.user = user
        self.kind = like.kind
        self.salt = digest[: like.salt_bytes]
        self.text = digest.hex()
        self.scram: ScramSecret | None = None
        if like.kind is SecretKind.scram:
            self.scram = ScramSecret(like.iterations, self.salt, NOBODYS_KEYS.client_key, NOBODYS_KEYS.server_key)
        elif like.kind is SecretKind.md5:
            self.text = f"md5{self.text[:32]}"

    def stored(self) -> Secret:
        """As it would be stored."""
        return Secret(self.user, scram.verifier_text(self.scram) if self.scram else self.text)


NOBODYS = StandIn("", Likeness(SecretKind.plain))
"""Where no secret is asked for."""


@dataclass(slots=True)
class Claim:
    """Somebody claims to be `user`. `secret` is what is stored of them, if they are `known`, else their
    `stand_in`."""

    channel: Channel
    user: str
    secret: Secret | StandIn
    stand_in: StandIn
    known: bool
    settings: Settings
    names: tuple[str, ...]
    """Names outside the database (in a certificate, of a Unix user) that may log in as `user`."""
    map: str | None = None
    """The user name map that says so, if one does."""
    options: str = ""
    """What the HBA rule says behind the method ldap."""


class Proof(NamedTuple):
    """The claim holds. `farewell` is the last message of the exchange, to be sent before AuthenticationOk."""

    credentials: Credentials = NOTHING
    farewell: bytes = b""


PROVED = Proof()
"""Nothing was learnt of it."""


def authenticate(method: AuthType, claim: Claim) -> Awaitable[Proof]:
    """Raises LoginError unless the claim holds."""
    if method is AuthType.md5 and claim.secret.kind is SecretKind.scram:
        method = AuthType.scram_sha_256
    return METHODS.get(method, _reject)(claim)


# ---- without a password


async def _trust(claim: Claim) -> Proof:
    """Whoever is known is in already."""
    raise LoginError('"trust" authentication failed')


async def _reject(claim: Claim) -> Proof:
    raise LoginError("login rejected")


async def _cert(claim: Claim) -> Proof:
    if claim.channel.ssl_object is None:
        raise _bad_certificate("TLS connection required")
    certificate = claim.channel.peer_certificate()
    if certificate is None:
        raise _bad_certificate("TLS client certificate required")
    fits = any([identity.names(certificate, name) for name in claim.names])
    if not fits or not claim.known:
        unmapped = f"ident map: {claim.map} does not have a match"
        raise _bad_certificate(unmapped if claim.map else "TLS certificate name mismatch")
    return PROVED


def _bad_certificate(log: str) -> LoginError:
    return LoginError("certificate authentication failed", log=log, level=ERROR)


async def _peer(claim: Claim) -> Proof:
    import pwd

    peer = claim.channel.peer
    try:
        name = pwd.getpwuid(peer.uid).pw_name if peer.is_unix and peer.uid >= 0 else ""
    except KeyError:
        name = ""
    fits = bool(name) and name in claim.names
    if not fits or not claim.known:
        raise LoginError("unix socket login rejected")
    return PROVED


# ---- with a clear password


async def _plain(claim: Claim) -> Proof:
    password = await _ask_password(claim.channel, wire.authentication_cleartext())
    fits = await password_fits(password, claim.secret)
    if not fits or not claim.known:
        raise _wrong_password()
    return Proof(Credentials(password=password))


async def password_fits(password: str, secret: Secret | StandIn) -> bool:
    """Whether a clear password is the one that a secret of any kind was made from."""
    if secret.scram is not None:
        return await derivation.fits(password, secret.scram)
    if secret.kind is SecretKind.md5:
        return _same(md5_secret(password, secret.user), secret.text)
    return bool(secret.text) and _same(password, secret.text)


async def _pam(claim: Claim) -> Proof:
    from pooler.clients import pam

    password = await _ask_password(claim.channel, wire.authentication_cleartext())
    if not await while_there(claim.channel, pam.check(claim.user, password)):
        raise _wrong_password()
    return Proof(Credentials(password=password))


async def _ldap(claim: Claim) -> Proof:
    from pooler.clients import ldap

    options = claim.options or claim.settings.auth_ldap_options
    if not options:
        raise LoginError("auth_ldap_options is null")
    password = await _ask_password(claim.channel, wire.authentication_cleartext())
    if not await while_there(claim.channel, ldap.check(options, claim.user, password)):
        raise LoginError(ldap.FAILED)
    return Proof(Credentials(password=password))


# ---- with a digest


async def _md5(claim: Claim) -> Proof:
    salt = random_bytes(4)
    answer = await _ask_password(claim.channel, wire.authentication_md5(salt))
    secret = claim.secret
    stored = secret.text if secret.kind is SecretKind.md5 else md5_secret(secret.text, claim.user)
    if not _same(answer, md5_answer(stored, salt)) or not claim.known or not secret.text:
        raise _wrong_password()
    return Proof(good_for(secret.text))


async def _scram(claim: Claim) -> Proof:
    exchange = scram.ServerExchange(await _verifier(claim))
    await claim.channel.send(ASK_SCRAM)
    mechanism, data = wire.read_sasl_initial_response(await _read_answer(claim.channel))
    if mechanism != scram.MECHANISM:
        raise LoginError("client selected an invalid SASL authentication mechanism")
    try:
        await claim.channel.send(wire.authentication_sasl_continue(exchange.first(data)))
        last = exchange.final(await _read_answer(claim.channel))
    except scram.ScramError as error:
        raise _sasl_failed(error) from None
    if not claim.known or exchange.client_key is None or not claim.secret.text:
        raise _sasl_failed(WrongPassword("nobody's password"))
    shown = exchange.client_key, exchange.verifier.server_key
    credentials = _keys(*shown) if claim.secret.scram is not None else good_for(claim.secret.text)
    return Proof(credentials, wire.authentication_sasl_final(last))


@lru_cache(REMEMBERED)
def _keys(client_key: bytes, server_key: bytes) -> Credentials:
    """The same for the same keys: nothing new is learnt of who comes again."""
    return Credentials(keys=scram.Keys(client_key, server_key))


@lru_cache(REMEMBERED)
def good_for(text: str) -> Credentials:
    """What a secret is good for that was met."""
    return Credentials.of(Secret("", text))


async def _verifier(claim: Claim) -> ScramSecret:
    """The stored verifier, or one made from a plain secret, its salt the same as long as we run. Nobody meets what
    those get who have none: a user that does not exist, and an md5 secret, which cannot do SCRAM."""
    if claim.secret.scram is not None:
        return claim.secret.scram
    work = derivation.Work(claim.secret.text, claim.stand_in.salt, claim.settings.scram_iterations)
    keys = OWN_KEYS.recall(work)
    if keys is None:
        can = claim.known and claim.secret.kind is SecretKind.plain
        keys = await OWN_KEYS.derive(work) if can else NOBODYS_KEYS
    return scram.verifier(keys, work.salt, work.iterations)


def prepare_keys(config: Config) -> None:
    """Where SCRAM may be asked for plain secrets: derive the keys before they are needed."""
    methods = {rule.method for rule in config.hba.rules} | {config.settings.auth_type}
    if AuthType.scram_sha_256 not in methods:
        return
    iterations, like = config.settings.scram_iterations, Likeness(SecretKind.plain)
    plain = [secret for secret in config.secrets.values() if secret.kind is SecretKind.plain and secret.text]
    if plain:
        OWN_KEYS.prepare(derivation.Work(one.text, StandIn(one.user, like).salt, iterations) for one in plain)


# ---- the client's answers


async def _ask_password(channel: Channel, request: bytes) -> str:
    """The text of the PasswordMessage that answers `request`."""
    await channel.send(request)
    try:
        body = await _read_answer(channel, MAX_PASSWORD + len(b"\0\0\0\0\0"))
    except TooLong:
        raise LoginError("password too long") from None
    password = wire.read_password(body)
    if not password:
        raise LoginError("empty password returned by client")
    return wire.decode(password)


async def _read_answer(channel: Channel, most: int = MAX_SASL_MESSAGE) -> bytes:
    """Body of the next message, which must be of type `p`, with a length of at most `most`."""
    while (kind := channel.next_byte()) < 0:
        await channel.more()
    if kind == ANSWER:
        body = channel.packet(1, 4, most)
        return await channel.read_body(most) if body is None else body
    if kind == 0:
        raise LoginError("client re-sent startup pkt")
    if kind == ord("X"):
        raise LoginError("client close request", notify=False)
    raise LoginError("bad packet")


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(wire.encode(one), wire.encode(other))


def _wrong_password() -> LoginError:
    return LoginError("password authentication failed")


def _sasl_failed(error: scram.ScramError) -> LoginError:
    wrong = isinstance(error, WrongPassword)
    log = "password authentication failed" if wrong else f"malformed SCRAM message ({error.message})"
    return LoginError("SASL authentication failed", log=log, level="ERROR")


METHODS: Mapping[AuthType, Callable[[Claim], Awaitable[Proof]]] = {
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
