"""Regulars: logins of the ordinary kind, of which all but the proof is decided when the startup packet has come.

Clients of one program say the same each time: what a packet came to is kept as long as the configuration and the
database are the ones it was decided by. It is decided by the functions of `login`, and kept for whom nobody knows as
well, so that time tells no more than before. The rule: a regular is never turned away here. Whatever is not ordinary,
and whatever speaks against somebody before the proof, is left to `login`, which finds it again.
"""

from __future__ import annotations

from collections.abc import Callable

from pooler.clients.auth import Claim, Exchange, Proof, exchange_at_hand
from pooler.clients.login import (
    HBA,
    READINGS,
    Admitted,
    Grounds,
    LoginQuestions,
    admitted_by,
    claim_of,
    log_attempt,
    method_of,
    name_in,
    startup_of,
    unchanged,
)
from pooler.clients.startup import REMEMBERED, Parameters
from pooler.config.databases import RESERVED, DatabaseConfig
from pooler.config.kinds import AuthType
from pooler.config.whole import Config
from pooler.net.channel import Channel
from pooler.pools.connection import ClientFacts, Replication
from pooler.pools.refusal import LoginError
from pooler.relay import Footing, Place
from pooler.values import dataclass
from pooler.wire import ProtocolError, Startup

ORDINARY = (AuthType.trust, AuthType.md5, AuthType.scram_sha_256)
"""Methods of which a part is done at once. With trust only who is known."""


@dataclass(slots=True)
class Regular:
    """What has been decided of a login."""

    config: Config
    name: str
    """Of the database, as the client has it."""
    user: str
    database: DatabaseConfig | None
    grounds: Grounds
    claim: Claim
    parameters: Parameters
    exchange: Callable[[], Exchange] | None
    """None: there is nothing to prove."""
    footing: Footing | None = None
    """What that stands on, if it can be looked at without a call."""
    admitted: Admitted | None = None
    """How the last one came in."""
    place: Place | None = None
    """Where it went."""

    def admit(self, asked: LoginQuestions, attempt: ClientFacts, proof: Proof) -> Admitted:
        """It is who it claims to be: raises LoginError unless it may come in."""
        last, database = self.admitted, self.database
        if (
            last is not None
            and database is not None
            and last.credentials is proof.credentials
            and self.is_as_it_was(asked)
        ):
            asked.check_limits(database, attempt.user)
            return last
        grounds = None if self.exchange is None else self.grounds
        database = unchanged(asked, attempt, self.user, database, grounds)
        self.admitted = admitted_by(asked, attempt, database, self.parameters, self.parameters.tracked, proof)
        return self.admitted

    def is_as_it_was(self, asked: LoginQuestions) -> bool:
        """What it was decided by: whatever else counts is a part of these two."""
        return asked.config is self.config and asked.find_database(self.name) is self.database


class Regulars:
    """Those of one reception, by their packets: few, since they come from strangers."""

    def __init__(self, asked: LoginQuestions) -> None:
        self._asked = asked
        self.known: dict[bytes | tuple[bytes, str], Regular] = {}
        """Those for whom the address counts, too, are here by both."""
        self._config: Config | None = None
        """By which they were decided."""

    def find(self, packet: bytes, channel: Channel, attempt: ClientFacts) -> Regular | None:
        """Who says this is one, and may try to come in; the attempt is named. None: `login` has to see to it."""
        asked = self._asked
        if asked.wordy or asked.tls_required(attempt.peer):
            return None
        by_address = asked.config.settings.auth_type is HBA
        key = (packet, attempt.peer.addr) if by_address else packet
        found = self.known.get(key)
        if found is None or not found.is_as_it_was(asked):
            found = self._meet(key, packet, attempt)
            if found is None:
                return None
        try:
            if (room := asked.check_room(channel)) is not None:
                # Who has to wait for it does so over there.
                room.close()
                return None
        except LoginError:
            return None
        attempt.database, attempt.user = found.name, found.user
        if found.config.settings.log_connections:
            log_attempt(asked, attempt)
        return found

    def _meet(self, key: bytes | tuple[bytes, str], packet: bytes, attempt: ClientFacts) -> Regular | None:
        try:
            found = _decide(self._asked, packet, attempt)
        except (LoginError, ProtocolError):
            found = None
        if found is not None:
            if found.config is not self._config or len(self.known) >= REMEMBERED:
                self._config = found.config
                self.known.clear()
            self.known[key] = found
        return found


def _decide(asked: LoginQuestions, packet: bytes, attempt: ClientFacts) -> Regular | None:
    startup, config = startup_of(packet), asked.config
    if not isinstance(startup, Startup) or startup.minor or startup.protocol_options:
        return None
    parameters = READINGS.read(startup.params, config)
    strange = parameters.replication is not Replication.NONE or parameters.database == RESERVED
    if strange or config.settings.application_name_add_host:
        return None
    name_in(attempt, startup.params)
    user, name = attempt.user, attempt.database
    database = asked.find_database(name)
    method, rule = method_of(config, attempt, database)
    if method not in ORDINARY or asked.must_ask(database, user):
        return None
    grounds = asked.grounds(database, user)
    claim = claim_of(asked, config, user, grounds.secret, method, rule)
    exchange = exchange_at_hand(method, claim)
    if exchange is None and (method is not AuthType.trust or grounds.secret is None):
        return None
    footing = asked.footing(config, name, database)
    return Regular(config, name, user, database, grounds, claim, parameters, exchange, footing)
