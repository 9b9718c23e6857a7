"""Whom to open: the decisions of a pool that wants a server. Values in, a verdict out; no I/O, no clock.

Linking and queueing are the relay's. The rules are PgBouncer's: one login at a time per pool, no attempt within
server_login_retry of a failed one, pool_size first, then the reserve for clients that have waited long enough, and
the limits of the database and of the user over all their pools, for which an idle server of another pool may go.
"""

from __future__ import annotations

from enum import Enum

from pooler.values import dataclass


class Verdict(Enum):
    """What becomes of the wish for a server."""

    OPEN = "open one"
    RESERVE = "open one of the reserve"
    BUSY = "one is being opened"
    LATER = "the last attempt failed a moment ago"
    FULL = "the pool has all it may have"
    DATABASE_FULL = "the database has all it may have: close an idle server of another of its pools"
    USER_FULL = "the user has all it may have: close an idle server of another of its pools"


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
    known: bool
    """Whether a server of this pool has ever logged in, so that clients can be welcomed."""
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
    if wish.servers >= wish.pool_size and (wish.known or wish.servers):
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
