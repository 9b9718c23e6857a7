"""What the log and the views call a connection: PgBouncer's prefix with a pointer, a name and an address."""

from __future__ import annotations

from pooler.channel import Peer
from pooler.dial import Address
from pooler.login import Attempt
from pooler.registry import PoolState
from pooler.values import dataclass


@dataclass(slots=True)
class Arrival(Attempt):
    """A client from its first byte to its last: what is known of it, and the number it goes by."""

    number: int = 0


@dataclass(slots=True)
class Asker(Arrival):
    """A client of ours that puts auth_query on behalf of one that logs in, under whose address it is shown."""

    lost: str = ""
    """Why the pooler ended it."""


@dataclass(slots=True)
class Dial(Attempt):
    """A server connection: whom it was dialled as, and where."""

    host: str = ""
    """As configured: what a certificate is checked for."""
    address: Address | None = None


def pointer(number: int) -> str:
    """The name of a connection in SHOW CLIENTS and the log, in the form of the addresses that PgBouncer shows."""
    return f"0x{0x55D0_C800_0000 + number * 0x2C0:x}"


def client_label(attempt: Attempt) -> str:
    number = attempt.number if isinstance(attempt, Arrival) else 0
    return f"C-{pointer(number)}: {attempt.database}/{attempt.user}@{attempt.peer}"


def server_label(pool: PoolState, peer: Peer, number: int) -> str:
    return f"S-{pointer(number)}: {pool.database.name}/{pool.user.name}@{peer}"
