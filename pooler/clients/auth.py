"""How a client proves who it is: one function per method, in a table. They speak on the client's Channel.

Nothing is decided here about databases, limits or rules. The rule: a user that does not exist takes the
same steps as one with a wrong password (`StandIn`), in the same time, and fails with the same words at the same
step. What a login teaches (password or SCRAM keys) is returned, so that servers can be shown it."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache, partial
from typing import NamedTuple, Protocol

from pooler import wire
from pooler.clients.startup import REMEMBERED
from pooler.config.kinds import AuthType
from pooler.config.settings import Settings
from pooler.config.users import MAX_PASSWORD, Likeness, ScramSecret, Secret, SecretKind
from pooler.config.whole import Config
from pooler.log import ERROR
from pooler.net import derivation, identity, scram
from pooler.net.channel import Channel, while_there
from pooler.net.credentials import NOTHING, Credentials, md5_secret
from pooler.pools.refusal import LoginError
from pooler.relay.engine import Md5Answer, ScramAnswers, WrongPassword
from pooler.values import dataclass
from pooler.wire import TooLong

MAX_SASL_MESSAGE = 10_000
"""Longest message of a client that answers with a digest."""

MAX_PASSWORD_MESSAGE = MAX_PASSWORD + len(b"\0\0\0\0\0")
"""Longest one with a password, or what stands for it."""
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


def authenticate(method: AuthType, channel: Channel, claim: Claim) -> Awaitable[Proof]:
    """Raises LoginError unless the claim holds."""
    return METHODS.get(asked_by(method, claim), _reject)(channel, claim)


def asked_by(method: AuthType, claim: Claim) -> AuthType:
    """The method by which the secret is asked for."""
    return AuthType.scram_sha_256 if method is AuthType.md5 and claim.secret.kind is SecretKind.scram else method


# ---- without a password


async def _trust(channel: Channel, claim: Claim) -> Proof:
    """Whoever is known is in already."""
    raise LoginError('"trust" authentication failed')


async def _reject(channel: Channel, claim: Claim) -> Proof:
    raise LoginError("login rejected")


async def _cert(channel: Channel, claim: Claim) -> Proof:
    if channel.ssl_object is None:
        raise _bad_certificate("TLS connection required")
    certificate = channel.peer_certificate()
    if certificate is None:
        raise _bad_certificate("TLS client certificate required")
    fits = any([identity.names(certificate, name) for name in claim.names])
    if not fits or not claim.known:
        unmapped = f"ident map: {claim.map} does not have a match"
        raise _bad_certificate(unmapped if claim.map else "TLS certificate name mismatch")
    return PROVED


def _bad_certificate(log: str) -> LoginError:
    return LoginError("certificate authentication failed", log=log, level=ERROR)


async def _peer(channel: Channel, claim: Claim) -> Proof:
    import pwd

    peer = channel.peer
    try:
        name = pwd.getpwuid(peer.uid).pw_name if peer.is_unix and peer.uid >= 0 else ""
    except KeyError:
        name = ""
    fits = bool(name) and name in claim.names
    if not fits or not claim.known:
        raise LoginError("unix socket login rejected")
    return PROVED


# ---- with a clear password


async def _plain(channel: Channel, claim: Claim) -> Proof:
    password = await _ask_password(channel, wire.authentication_cleartext())
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


async def _pam(channel: Channel, claim: Claim) -> Proof:
    from pooler.clients import pam

    password = await _ask_password(channel, wire.authentication_cleartext())
    if not await while_there(channel, pam.check(claim.user, password)):
        raise _wrong_password()
    return Proof(Credentials(password=password))


async def _ldap(channel: Channel, claim: Claim) -> Proof:
    from pooler.clients import ldap

    options = claim.options or claim.settings.auth_ldap_options
    if not options:
        raise LoginError("auth_ldap_options is null")
    password = await _ask_password(channel, wire.authentication_cleartext())
    if not await while_there(channel, ldap.check(options, claim.user, password)):
        raise LoginError(ldap.FAILED)
    return Proof(Credentials(password=password))


# ---- with a digest


class Exchange(Protocol):
    """The messages by which a claim is proved, without the channel that they go by."""

    most: int
    """The longest answer that is read, as its length field has it."""
    proof: Proof | None
    """Once it is proved."""

    def begin(self) -> bytes:
        """What is sent first."""

    def take(self, body: bytes) -> bytes | None:
        """What is sent next; None when the claim is proved. Raises LoginError or ProtocolError."""


class Md5Exchange(Md5Answer):
    """The digest of what is stored and a salt of this login's own."""

    __slots__ = ()
    most = MAX_PASSWORD_MESSAGE
    claim: Claim
    proof: Proof | None

    @classmethod
    def of(cls, claim: Claim) -> Callable[[], Exchange]:
        secret = claim.secret
        stored = secret.text if secret.kind is SecretKind.md5 else md5_secret(secret.text, claim.user)
        good = claim.known and bool(secret.text)
        return partial(cls, claim, stored.encode(), good, Proof(good_for(secret.text)))

    def take_slowly(self, body: bytes) -> None:
        """An answer that is no digest."""
        _password(body)
        raise self.refused()

    def refused(self) -> LoginError:
        return _wrong_password()


class ScramExchange(ScramAnswers):
    """SCRAM-SHA-256; the verifier is what the secret is verified by."""

    __slots__ = ()
    most = MAX_SASL_MESSAGE
    claim: Claim
    proof: Proof | None

    def begin(self) -> bytes:
        return ASK_SCRAM

    def initial(self, body: bytes) -> bytes:
        mechanism, data = wire.read_sasl_initial_response(body)
        if mechanism != scram.MECHANISM:
            raise LoginError("client selected an invalid SASL authentication mechanism")
        return data

    def failed(self, error: scram.ScramError) -> LoginError:
        return _sasl_failed(error)

    def finish(self, key: bytes, farewell: bytes) -> None:
        claim = self.claim
        if not claim.known or not claim.secret.text:
            raise WrongPassword("nobody's password")
        stored = claim.secret.scram
        credentials = good_for(claim.secret.text) if stored is None else _keys(key, stored.server_key)
        self.proof = Proof(credentials, farewell)


def exchange_at_hand(method: AuthType, claim: Claim) -> Callable[[], Exchange] | None:
    """What begins the exchange of a claim; None where there is none, or keys have to be derived for it first."""
    method = asked_by(method, claim)
    if method is AuthType.md5:
        return Md5Exchange.of(claim)
    verifier = _verifier_at_hand(claim) if method is AuthType.scram_sha_256 else None
    return None if verifier is None else partial(ScramExchange, claim, verifier)


async def carry_on(channel: Channel, exchange: Exchange) -> Proof:
    """The rest of an exchange in which an answer is due."""
    while (proof := exchange.proof) is None:
        said = exchange.take(await _read_answer(channel, exchange.most))
        if said is not None:
            await channel.send(said)
    return proof


async def _md5(channel: Channel, claim: Claim) -> Proof:
    return await _prove(channel, Md5Exchange.of(claim)())


async def _scram(channel: Channel, claim: Claim) -> Proof:
    return await _prove(channel, ScramExchange(claim, await _verifier(claim)))


async def _prove(channel: Channel, exchange: Exchange) -> Proof:
    await channel.send(exchange.begin())
    return await carry_on(channel, exchange)


@lru_cache(REMEMBERED)
def _keys(client_key: bytes, server_key: bytes) -> Credentials:
    """The same for the same keys: nothing new is learnt of who comes again."""
    return Credentials(keys=scram.Keys(client_key, server_key))


@lru_cache(REMEMBERED)
def good_for(text: str) -> Credentials:
    """What a secret is good for that was met."""
    return Credentials.of(Secret("", text))


def _verifier_at_hand(claim: Claim) -> ScramSecret | None:
    """The stored verifier, or one made from a plain secret, its salt the same as long as we run; None when its keys
    have yet to be derived. Nobody meets what those get who have none: a user that does not exist, and an md5 secret,
    which cannot do SCRAM."""
    if claim.secret.scram is not None:
        return claim.secret.scram
    work = _work(claim)
    keys = OWN_KEYS.recall(work)
    if keys is None and not _can_derive(claim):
        keys = NOBODYS_KEYS
    return None if keys is None else scram.verifier(keys, work.salt, work.iterations)


async def _verifier(claim: Claim) -> ScramSecret:
    found = _verifier_at_hand(claim)
    if found is None:
        work = _work(claim)
        found = scram.verifier(await OWN_KEYS.derive(work), work.salt, work.iterations)
    return found


def _work(claim: Claim) -> derivation.Work:
    return derivation.Work(claim.secret.text, claim.stand_in.salt, claim.settings.scram_iterations)


def _can_derive(claim: Claim) -> bool:
    return claim.known and claim.secret.kind is SecretKind.plain


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
    return _password(await _read_answer(channel, MAX_PASSWORD_MESSAGE))


def _password(body: bytes) -> str:
    """The text of a PasswordMessage."""
    password = wire.read_password(body)
    if not password:
        raise LoginError("empty password returned by client")
    return wire.decode(password)


async def _read_answer(channel: Channel, most: int = MAX_SASL_MESSAGE) -> bytes:
    """Body of the next message, which must be of type `p`, with a length of at most `most`."""
    while (kind := channel.next_byte()) < 0:
        await channel.more()
    if kind == ANSWER:
        try:
            body = channel.packet(1, 4, most)
            return await channel.read_body(most) if body is None else body
        except TooLong:
            if most == MAX_PASSWORD_MESSAGE:
                raise LoginError("password too long") from None
            raise
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


METHODS: Mapping[AuthType, Callable[[Channel, Claim], Awaitable[Proof]]] = {
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
