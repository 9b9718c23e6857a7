"""Connections as facts: who is at the other end of one, and what the log and the views call it.

Plain values without I/O; the bytes are the relay's and a login's. A client has its facts from the first byte to the
last, a server from the moment it is ours. The names are PgBouncer's: a prefix with a pointer, a name and an address.
"""

from __future__ import annotations

from enum import Enum, StrEnum

from pooler.net.address import Address, Peer
from pooler.values import dataclass

NO_DATABASE = "(nodb)"
NOBODY = "(nouser)"
"""Who has not said yet whom it wants to be."""


class Replication(Enum):
    """What a client wants replicated, and so what its server connection is for; the value is SHOW CLIENTS' word."""

    NONE = "none"
    LOGICAL = "logical"
    PHYSICAL = "physical"


class ServerState(StrEnum):
    """What a server is at, in the relay's words, which are those of SHOW SERVERS."""

    NEW = "new"
    """It logs in: the relay knows nothing of it yet."""
    IDLE = "idle"
    USED = "used"
    TESTED = "tested"
    ACTIVE = "active"
    BEING_CANCELED = "being_canceled"


@dataclass(slots=True)
class ClientFacts:
    """What is known so far of a client, and the number it goes by (0: none yet)."""

    peer: Peer
    database: str = NO_DATABASE
    user: str = NOBODY
    tls: str = ""
    replicates: Replication = Replication.NONE
    number: int = 0

    @property
    def replication(self) -> str:
        """For the views."""
        return self.replicates.value


@dataclass(slots=True)
class QuestionFacts(ClientFacts):
    """A client of ours that puts auth_query on behalf of one that logs in, under whose address it is shown."""

    lost: str = ""
    """Why the pooler ended it."""


@dataclass(slots=True)
class ServerFacts:
    """A server connection: whom it was logged in as, and where."""

    peer: Peer
    database: str
    user: str
    tls: str = ""
    replicates: Replication = Replication.NONE
    host: str = ""
    """As configured: what a certificate is checked for."""
    address: Address | None = None

    @property
    def place(self) -> tuple[str, int]:
        """Where its process id is one."""
        return self.host, self.peer.port

    @property
    def replication(self) -> str:
        """For the views."""
        return self.replicates.value


def pointer(number: int) -> str:
    """The name of a connection in SHOW CLIENTS and the log, in the form of the addresses that PgBouncer shows."""
    return f"0x{0x55D0_C800_0000 + number * 0x2C0:x}"


def client_label(client: ClientFacts) -> str:
    return f"C-{pointer(client.number)}: {client.database}/{client.user}@{client.peer}"


def server_label(pool: str, peer: Peer, number: int) -> str:
    """`pool` by its name, database/user."""
    return f"S-{pointer(number)}: {pool}@{peer}"
