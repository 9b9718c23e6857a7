"""Colleagues: the other workers of a service, as one worker sees them.

Who counts, opens servers or looks for a query asks here what it cannot know by itself. The rule: with no colleagues
there is none of this, and nothing is asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pooler.pools.registry import PoolState


class Colleagues(Protocol):
    @property
    def clients(self) -> int:
        """How many clients they had, when it was last told."""

    async def admit(self, database: str | None, user: str, *, bounded: bool = True) -> None:
        """Count one more client for all of them; None: of the console. `bounded`: the limits hold for it. Raises
        LoginError where one says no."""

    async def check_room(self, limit: int) -> None:
        """Raises LoginError where all together have as many clients as `limit`."""

    def left(self, database: str | None, user: str) -> None:
        """That client is gone."""

    def may_open(self, pool: PoolState, *, sized: bool, needed: bool, own: bool) -> bool:
        """Whether the limits of all leave room for one more server of `pool`. If not, that it is wanted is told, and
        the pool is considered again when there is. `sized`: pool_size counts; `needed`: nobody waits for it, so none
        goes for it elsewhere; `own`: it is to be opened for one alone, so that no other server is of use."""

    def count(self, pool: PoolState) -> int | None:
        """How many servers of `pool` all have together, as was told last; None until that is. The pool is stirred when
        there are others."""

    async def have(self, pool: PoolState) -> bool:
        """Whether they have servers of `pool` that can come here, where none is opened just now. What has failed is
        tried again when one was opened elsewhere."""

    def seek(self, pool: PoolState) -> None:
        """Somebody waits here, where none can be opened: a server that they have is wanted."""

    def settle(self, pool: PoolState) -> None:
        """A server of `pool` is gone: its place is everybody's."""

    def yields(self, pool: PoolState) -> bool:
        """A server of `pool` has come free: whether it has gone for somebody who has waited for longer elsewhere."""

    def learned(self, pool: PoolState, reported: Mapping[str, str]) -> None:
        """What a server has said of itself, for who comes in elsewhere."""

    def unanswered(self, pool: PoolState) -> None:
        """No server can be asked here what to tell who comes in: what one has said elsewhere will do."""

    def opened(self, place: tuple[str, int], pid: int) -> None:
        """There is a server here, of this process id at that place: what it notifies is of our clients."""

    def code_made(self, place: tuple[object, ...]) -> None:
        """There may be other code in the database at that place."""

    def texts_changed(self) -> None:
        """Texts may mean something else, by what was committed here."""

    async def cancel(self, key: bytes) -> str | None:
        """Have the query cancelled that this key belongs to; what became of it, None when nobody knows the key."""
