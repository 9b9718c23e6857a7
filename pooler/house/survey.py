"""Asks each database for its own code, so that what a function or a trigger leaves in a session is looked for as well.

One question at a time for a database, by whichever of its servers comes free, where the policy keeps or refuses session
state: when the first server is there, after a transaction that has made something, and once a minute while anybody is
here. The rule: as long as it is not known what may be called, everything is looked at (`Pool.unread`).
"""

from __future__ import annotations

from collections.abc import Sequence

from pooler.config.kinds import PoolMode
from pooler.log import LOG, WARNING
from pooler.pools.registry import Database, PoolState
from pooler.pools.running import Running
from pooler.relay.engine import CALLED, WRITES, WRITTEN, Names
from pooler.routines import Code, Inquiry, patterns
from pooler.sessions import Row
from pooler.touches import WRITERS

PERIOD = 60.0
"""Between two surveys, if nobody has made anything here."""
AFTER_FAILURE = 600.0
"""Behind one that has failed: it may be much work for the server."""
REST = 1.0
"""After a survey, if somebody has."""
PATIENCE = 30.0
"""A question that nobody has answered for so long is asked again: its server is gone."""


class Survey:
    """What is known of all databases' code."""

    def __init__(self, running: Running) -> None:
        self._running = running

    def look_after(self, pool: PoolState, now: float) -> None:
        """Ask, if it is time."""
        engine, inquiry = pool.engine, pool.database.inquiry
        if not self._cares(pool):
            engine.unread = False
            return
        self._tell(pool)
        if inquiry.question is not None:
            if now - inquiry.asked < PATIENCE:
                return
        elif now - inquiry.finished < _period(inquiry):
            return
        if engine.server_count:
            engine.ask(inquiry.begin(now))

    def _cares(self, pool: PoolState) -> bool:
        shared = self._running.registry.pool_mode(pool) is not PoolMode.session
        return shared and bool(pool.engine.kept | pool.engine.refused)

    def made(self, pool: PoolState, now: float) -> None:
        """There may be other code now: in every entry that leads there."""
        place = _place(pool.database)
        self.made_at(place, now)
        if self._running.colleagues is not None:
            self._running.colleagues.code_made(place)

    def made_at(self, place: tuple[object, ...], now: float) -> None:
        """The same, by somebody of whom nothing else is known here."""
        for database in self._running.registry.databases.values():
            if _place(database) == place:
                database.inquiry.made()
                for each in database.pools.values():
                    self.look_after(each, now)

    def answered(self, pool: PoolState, question: bytes | None, rows: Sequence[Row], error: str | None) -> None:
        """A server has answered, or cannot."""
        database, now = pool.database, self._running.now()
        inquiry = database.inquiry
        if question is None or question != inquiry.question:
            return
        before = inquiry.code if inquiry.finished > float("-inf") else None
        if error is not None:
            inquiry.failed(error, now)
        else:
            following = inquiry.answered(rows, now, self._running.relay.pace)
            if following is not None:
                return pool.engine.ask(following)
        if inquiry.code != before:
            self._say(database, inquiry.code)
        for each in database.pools.values():
            if self._cares(each):
                self._tell(each)

    def _tell(self, pool: PoolState) -> None:
        """The relay's pool watches for the names."""
        inquiry, engine = pool.database.inquiry, pool.engine
        effects = inquiry.code.effects or None
        if engine.effects is not effects:
            engine.know(effects, automaton(inquiry.code))
        engine.unread = bool(inquiry.code.obstacle or not inquiry.current)

    def _say(self, database: Database, code: Code) -> None:
        if code.obstacle:
            said = "every transaction is looked at for session state, since it is not known what it calls"
            self._running.say(WARNING, f"{database.name}: {said}: {code.obstacle}")
        else:
            self._running.say(LOG, f"{database.name}: {len(code.effects)} names of its own may leave session state")


def _period(inquiry: Inquiry) -> float:
    if inquiry.failing:
        return AFTER_FAILURE
    return PERIOD if inquiry.current or inquiry.code.obstacle else REST


def automaton(code: Code) -> Names | None:
    """What finds the names in a text."""
    if not code.effects:
        return None
    names = [(name, WRITTEN if written else CALLED) for name, written in patterns(code.effects)]
    return Names(names + [(word.encode(), WRITES) for word in sorted(WRITERS)])


def _place(database: Database) -> tuple[object, ...]:
    config = database.config
    return config.hosts, config.port, config.dbname or config.name
