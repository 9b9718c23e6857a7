"""The account of a pool: what its servers count for, and whether it may have one more. Values in, a verdict out; no
I/O, no clock.

Linking and queueing are the relay's. The rules are PgBouncer's: one login at a time per pool, no attempt within
server_login_retry of a failed one, pool_size first, then the reserve for clients that have waited long enough, and
the limits of the database and of the user over all their pools, for which a spare server of another pool may go.
Whoever counts servers, and for whatever, goes by STANDING.
"""

from __future__ import annotations

from enum import Enum, Flag, auto
from typing import TYPE_CHECKING

from pooler.pools.connection import ServerState
from pooler.values import dataclass

if TYPE_CHECKING:
    from pooler.relay import Pool, Server


class Standing(Flag):
    """What a server counts for."""

    ROOM = auto()
    """It has a place under pool_size, max_db_connections and max_user_connections."""
    SPARE = auto()
    """It is nobody's: PAUSE and RECONNECT close it at once, and it may go for a neighbour."""
    COMING = auto()
    """It is not free yet, but whoever waits can have it soon: none is opened for them. (A login under way is as good: a
    pool opens one at a time.)"""


STANDING: dict[str, Standing] = {
    ServerState.IDLE: Standing.ROOM | Standing.SPARE,
    ServerState.USED: Standing.ROOM | Standing.SPARE | Standing.COMING,
    ServerState.TESTED: Standing.ROOM | Standing.SPARE | Standing.COMING,
    ServerState.ACTIVE: Standing.ROOM,
    ServerState.BEING_CANCELED: Standing.ROOM,
    ServerState.NEW: Standing.ROOM | Standing.COMING,
}
"""The relay's `server_count` and `missing` are sums of it."""


def standing_of(server: Server) -> Standing:
    return STANDING[server.state_name]


def standing(engine: Pool, what: Standing) -> list[Server]:
    """The servers of a pool that count for `what`, but for those that log in."""
    lists = engine.server_lists
    return [server for state, found in lists.items() if what in STANDING[state] for server in found.all()]


class Verdict(Enum):
    """What becomes of the wish for a server."""

    OPEN = "open one"
    RESERVE = "open one of the reserve"
    BUSY = "one is being opened"
    LATER = "the last attempt failed a moment ago"
    FULL = "the pool has all it may have"
    DATABASE_FULL = "the database has all it may have: close a spare server of another of its pools"
    USER_FULL = "the user has all it may have: close a spare server of another of its pools"
    ELSEWHERE = "the other workers have what there is: they were told that one is wanted"


ALLOWED = (Verdict.OPEN, Verdict.RESERVE)
SHARED = (Verdict.DATABASE_FULL, Verdict.USER_FULL)


@dataclass(frozen=True, slots=True)
class Wish:
    """The facts a verdict rests on. Limits of 0 are no limits; times in seconds."""

    servers: int
    """Of this pool, logging in included."""
    opening: int
    retry_in: float
    """Until the next attempt may be made; 0 or less: now."""
    pool_size: int
    reserve_size: int
    reserve_timeout: float
    oldest_wait: float
    greets: bool
    """Whether it is known what to tell who comes in. If not, pool_size keeps no server from being asked."""
    database_servers: int
    database_limit: int
    user_servers: int
    user_limit: int


def verdict(wish: Wish) -> Verdict:
    if wish.opening:
        return Verdict.BUSY
    if wish.retry_in > 0:
        return Verdict.LATER
    answer = Verdict.OPEN
    if wish.greets and wish.pool_size and wish.servers >= wish.pool_size:
        if not _reserve_may_open(wish):
            return Verdict.FULL
        answer = Verdict.RESERVE
    if wish.database_limit and wish.database_servers >= wish.database_limit:
        return Verdict.DATABASE_FULL
    if wish.user_limit and wish.user_servers >= wish.user_limit:
        return Verdict.USER_FULL
    return answer


def _reserve_may_open(wish: Wish) -> bool:
    waited = wish.reserve_timeout > 0 and wish.oldest_wait >= wish.reserve_timeout
    return waited and wish.servers < wish.pool_size + wish.reserve_size
